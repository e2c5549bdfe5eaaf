//! The one worker: lease → read → apply → hold. It runs every projection; nothing else reads the log.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use im_core::{
    Batch, Checkpoint, Clock, Epoch, Error, ErrorKind, Lineage, LogRead, LogRecord, NodeId, Partition,
    Position, Projection, Result, Timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::{builder::Complete, config::Config, epoch::Numbering, progress::Progress};

/// How long a worker waits at the end of the log before it looks round.
const WAIT: Duration = Duration::from_secs(1);
/// How long a worker stays away after an error that will not pass by itself.
const STOPPED: Duration = Duration::from_secs(30);
/// The shortest and the longest pause after a transient error: so much later everything goes on, once a server is back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Runs one projection on one partition for as long as the node lives.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) projection: Arc<dyn Projection>,
    pub(crate) partition: Partition,
    pub(crate) parts: Complete,
    pub(crate) numbering: Arc<Numbering>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Config,
    pub(crate) node: NodeId,
    pub(crate) stop: CancellationToken,
}

/// Why a run ended.
enum End {
    /// The node stops.
    Stopping,
    /// Another node has the lease.
    LostLease,
}

impl Worker {
    pub(crate) async fn run(self) {
        let lease = format!("{}/{}", self.projection.name(), self.partition.0);
        let mut pause = PAUSES.0;
        while !self.stop.is_cancelled() {
            let rest = match self.turn(&lease, &mut pause).await {
                Ok(End::Stopping) => break,
                Ok(End::LostLease) => {
                    pause = PAUSES.0;
                    self.config.lease / 3
                }
                Err(error) if is_other_data(&error) => {
                    tracing::warn!(%lease, %error, "a part is of another incarnation; going back");
                    self.renew_epoch().await;
                    PAUSES.0
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%lease, %error, "projection failed; again in {pause:?}");
                    let longer = (pause * 2).min(PAUSES.1);
                    std::mem::replace(&mut pause, longer)
                }
                Err(error) => {
                    tracing::error!(%lease, %error, "projection stopped; again in {STOPPED:?}");
                    self.release(&lease).await;
                    STOPPED
                }
            };
            self.rest(rest).await;
        }
        self.release(&lease).await;
    }

    /// A log whose data are not those of its epoch gets a new one, although nobody appends: the store refuses the old one.
    async fn renew_epoch(&self) {
        let epoch = self.numbering.current().epoch;
        if let Err(error) = self.numbering.renew(&self.parts, epoch).await {
            tracing::warn!(%error, "the log's epoch could not be taken");
        }
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn release(&self, lease: &str) {
        if let Err(error) = self.parts.log.leases.release(lease, &self.node).await {
            tracing::warn!(%lease, %error, "the lease could not be released");
        }
    }

    /// From a claim of the lease to its loss. Whatever was wrong is over with the first step that succeeds.
    async fn turn(&self, lease: &str, pause: &mut Duration) -> Result<End> {
        let mut claimed = tokio::time::Instant::now();
        if !self.claim(lease).await? {
            return Ok(End::LostLease);
        }
        let mut run = Run::start(self).await?;
        while !self.stop.is_cancelled() {
            if claimed.elapsed() > self.config.lease / 3 {
                claimed = tokio::time::Instant::now();
                if !self.claim(lease).await? {
                    return Ok(End::LostLease);
                }
            }
            run.step().await?;
            *pause = PAUSES.0;
        }
        Ok(End::Stopping)
    }

    async fn claim(&self, lease: &str) -> Result<bool> {
        self.parts.log.leases.claim(lease, &self.node, self.config.lease).await
    }

    /// The incarnations of the parts now, and the longest of their loss windows.
    async fn lineage(&self) -> Result<(Lineage, Duration)> {
        let (log, store, inbox) = futures::try_join!(
            self.parts.log.log.info(),
            self.parts.store.messages.info(),
            self.parts.inbox.info()
        )?;
        let mut window = log.loss_window.max(store.loss_window).max(inbox.loss_window);
        if !window.is_zero() {
            // A loss may be noticed this much later.
            window += WAIT * 2;
        }
        let lineage = Lineage { log: log.incarnation, store: store.incarnation, inbox: inbox.incarnation };
        Ok((lineage, window))
    }
}

fn is_other_data(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OtherIncarnation | ErrorKind::StaleEpoch)
}

/// A worker between two losses of its lease.
struct Run<'a> {
    worker: &'a Worker,
    lineage: Lineage,
    position: Position,
    trail: Trail,
    held: Option<tokio::time::Instant>,
    checked: tokio::time::Instant,
}

impl<'a> Run<'a> {
    /// Loads the checkpoint; one that was made under other incarnations is taken up at its rewind.
    async fn start(worker: &'a Worker) -> Result<Self> {
        let (lineage, window) = worker.lineage().await?;
        // Else it would wait for ever at the end of an epoch that is over.
        worker.numbering.follow(&worker.parts).await?;
        let (position, rewind) = match worker.projection.checkpoint(worker.partition).await? {
            None => (Position::START, Position::START),
            Some(Checkpoint { position, rewind, lineage: kept }) if kept == lineage => (position, rewind),
            Some(Checkpoint { rewind, .. }) => (rewind, rewind),
        };
        let trail = Trail::new(window, rewind);
        let mut run =
            Self { worker, lineage, position, trail, held: None, checked: tokio::time::Instant::now() };
        run.hold().await?;
        Ok(run)
    }

    /// Applies the next batch, or waits a little for one.
    async fn step(&mut self) -> Result<()> {
        let records = self.next().await?;
        self.check_lineage().await?;
        let Some(position) = records.last().map(|last| last.position).or(self.new_epoch()) else {
            return Ok(());
        };
        self.apply(records, position).await?;
        self.hold().await
    }

    /// Looks now and then whether a part was exchanged. Inbox and store refuse by themselves what is made for another
    /// incarnation; this finds a store that lost members while nobody joins or leaves.
    async fn check_lineage(&mut self) -> Result<()> {
        if self.checked.elapsed() < WAIT {
            return Ok(());
        }
        self.checked = tokio::time::Instant::now();
        if self.worker.lineage().await?.0 == self.lineage {
            return Ok(());
        }
        let message = "a part's incarnation changed";
        Err(Error::new(ErrorKind::OtherIncarnation, "engine", "worker", message))
    }

    /// An empty epoch is entered too, so that its beginning becomes the checkpoint.
    fn new_epoch(&self) -> Option<Position> {
        let epoch = self.worker.numbering.current().epoch;
        (epoch > self.position.epoch).then_some(Position { epoch, offset: 0 })
    }

    async fn apply(&mut self, records: Vec<LogRecord>, position: Position) -> Result<()> {
        let rewind = self.trail.passed(self.worker.clock.now(), position);
        let checkpoint = Checkpoint { position, rewind, lineage: self.lineage.clone() };
        let batch = Batch { partition: self.worker.partition, records, checkpoint };
        self.worker.projection.apply(&batch).await?;
        self.position = position;
        self.worker.progress.moved();
        Ok(())
    }

    /// The next records of one epoch; before a new epoch's first, what only the store still has of the old one.
    async fn next(&mut self) -> Result<Vec<LogRecord>> {
        let mut records = self.read().await?;
        let now = records.first().map_or(self.worker.numbering.current().epoch, |first| first.position.epoch);
        if now > self.position.epoch {
            let left_over = self.left_over(now).await?;
            if !left_over.is_empty() {
                return Ok(left_over);
            }
        }
        records.truncate(records.partition_point(|record| record.position.epoch <= now));
        Ok(records)
    }

    async fn read(&mut self) -> Result<Vec<LogRecord>> {
        let Worker { parts, partition, config, stop, .. } = self.worker;
        loop {
            let read = parts.log.log.read(*partition, self.position, config.batch_records, WAIT);
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Vec::new()),
                read = read => read?,
            };
            match read {
                LogRead::Records(records) => return Ok(records),
                LogRead::Trimmed(first) => self.skip_trimmed(first).await?,
            }
        }
    }

    /// What the log no longer has the store must have, because nothing is trimmed above its hold.
    async fn skip_trimmed(&mut self, first: Position) -> Result<()> {
        let Worker { parts, partition, config, projection, .. } = self.worker;
        tracing::warn!(projection = projection.name(), ?first, "the log is trimmed here; reading the store");
        while self.position < first {
            let mut records =
                parts.store.messages.above(*partition, self.position, config.batch_records).await?;
            records.truncate(records.partition_point(|record| record.position <= first));
            let position = records.last().map_or(first, |last| last.position);
            self.apply(records, position).await?;
        }
        Ok(())
    }

    /// What the store has above the position of epochs before this one. Of one that the log has lost as a whole the position may
    /// not even have been in it.
    async fn left_over(&self, before: Epoch) -> Result<Vec<LogRecord>> {
        let Worker { parts, partition, config, .. } = self.worker;
        let mut records = parts.store.messages.above(*partition, self.position, config.batch_records).await?;
        records.truncate(records.partition_point(|record| record.position.epoch < before));
        Ok(records)
    }

    /// Tells the log now and then what this projection may still need; a late word only delays a trim.
    async fn hold(&mut self) -> Result<()> {
        if self.held.is_none_or(|held| held.elapsed() > WAIT) {
            let Worker { parts, partition, projection, .. } = self.worker;
            parts.log.log.hold(projection.name(), &[(*partition, self.trail.rewind)]).await?;
            self.held = Some(tokio::time::Instant::now());
        }
        Ok(())
    }
}

/// Which position was passed a loss window ago.
#[derive(Debug)]
struct Trail {
    window: Duration,
    steps: VecDeque<(Timestamp, Position)>,
    rewind: Position,
}

impl Trail {
    /// How finely a window is divided.
    const STEPS: u32 = 32;

    /// A trail that begins where the one of the run before was: what that one passed may still be lost.
    fn new(window: Duration, rewind: Position) -> Self {
        Self { window, steps: VecDeque::new(), rewind }
    }

    /// Notes a position; the latest one that was noted at least a window ago.
    fn passed(&mut self, now: Timestamp, position: Position) -> Position {
        if self.window.is_zero() {
            self.rewind = position;
            return position;
        }
        let step = self.window / Self::STEPS;
        if self.steps.back().is_none_or(|(last, _)| now.since(*last) >= step) {
            self.steps.push_back((now, position));
        }
        while self.steps.front().is_some_and(|(then, _)| now.since(*then) >= self.window) {
            if let Some((_, passed)) = self.steps.pop_front() {
                self.rewind = passed;
            }
        }
        self.rewind
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use im_core::{Append, Floor, MockProjection, memory::Memory};
    use tokio::time::Instant;

    use super::*;
    use crate::commit::tests::append;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch(1), offset }
    }

    async fn worker(memory: &Memory, projection: Arc<dyn Projection>) -> Worker {
        let parts = Complete::try_from(im_core::Parts::from(memory)).unwrap();
        Worker {
            projection,
            partition: Partition(0),
            numbering: Arc::new(Numbering::open(&parts).await.unwrap()),
            parts,
            progress: Arc::new(Progress::new()),
            clock: Arc::new(im_core::SystemClock),
            config: Config::default(),
            node: NodeId::new("n").unwrap(),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_run_goes_on_with_the_rewind_of_the_one_before() {
        let mut projection = MockProjection::new();
        projection.expect_name().return_const("p".to_owned());
        let worker = {
            let memory = Memory::new();
            let worker = worker(&memory, Arc::new(MockProjection::new())).await;
            let lineage = worker.lineage().await.unwrap().0;
            let checkpoint = Checkpoint { position: at(9), rewind: at(4), lineage };
            projection.expect_checkpoint().returning(move |_| Ok(Some(checkpoint.clone())));
            Worker { projection: Arc::new(projection), ..worker }
        };
        let mut run = Run::start(&worker).await.unwrap();
        assert_eq!(run.position, at(9));
        assert_eq!(run.trail.passed(worker.clock.now(), at(10)), at(4), "9 may still be lost");
    }

    /// A log that loses its only record, which the store has.
    #[tokio::test(start_paused = true)]
    async fn what_only_the_store_has_of_a_lost_epoch_comes_before_the_next() {
        let memory = Memory::new();
        let worker = worker(&memory, Arc::new(persist(&memory))).await;
        let first = worker.numbering.current().epoch;
        let append = Append { floor: Some(Floor::default()), ..append("m") };
        worker.parts.log.log.append(Partition(0), first, &[append]).await.unwrap();
        Run::start(&worker).await.unwrap().step().await.unwrap();
        memory.log().lose_tail(1);
        worker.numbering.renew(&worker.parts, first).await.unwrap();
        let mut projection = MockProjection::new();
        projection.expect_name().return_const("p".to_owned());
        projection.expect_checkpoint().returning(|_| Ok(None));
        let worker = Worker { projection: Arc::new(projection), ..worker };
        let next = Run::start(&worker).await.unwrap().next().await.unwrap();
        let epochs: Vec<_> = next.iter().map(|record| record.position.epoch).collect();
        assert_eq!(epochs, [first]);
    }

    #[tokio::test]
    async fn a_run_follows_the_epoch_that_another_node_has_opened() {
        let memory = Memory::new();
        let mut projection = MockProjection::new();
        projection.expect_name().return_const("p".to_owned());
        projection.expect_checkpoint().returning(|_| Ok(None));
        let worker = worker(&memory, Arc::new(projection)).await;
        memory.log().lose_tail(1);
        let other = Numbering::open(&worker.parts).await.unwrap().current();
        Run::start(&worker).await.unwrap();
        assert_eq!(worker.numbering.current().epoch, other.epoch);
    }

    fn persist(memory: &Memory) -> crate::persist::Persist {
        crate::persist::Persist { messages: Arc::new(memory.store()) }
    }

    /// Fails where it is told to, and notes when it was asked.
    #[derive(Debug)]
    struct Flaky {
        fails: Mutex<Vec<bool>>,
        asked: Mutex<Vec<Instant>>,
        stop: CancellationToken,
    }

    #[async_trait]
    impl Projection for Flaky {
        fn name(&self) -> &str {
            "flaky"
        }

        async fn checkpoint(&self, _: Partition) -> Result<Option<Checkpoint>> {
            Ok(None)
        }

        async fn apply(&self, _: &Batch) -> Result<()> {
            self.asked.lock().unwrap().push(Instant::now());
            match self.fails.lock().unwrap().pop() {
                Some(true) => Err(Error::new(ErrorKind::Unavailable, "test", "apply", "flaky")),
                Some(false) => Ok(()),
                None => {
                    self.stop.cancel();
                    Ok(())
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_success_the_pauses_are_short_again() {
        // From the last to the first.
        let fails = Mutex::new(vec![true, false, true, true, true]);
        let stop = CancellationToken::new();
        let flaky = Arc::new(Flaky { fails, asked: Mutex::default(), stop: stop.clone() });
        let memory = Memory::new();
        let worker = Worker { stop, ..worker(&memory, flaky.clone()).await };
        let (log, epoch) = (worker.parts.log.log.clone(), worker.numbering.current().epoch);
        let appends = async {
            for name in ["first", "second"] {
                let append = Append { floor: Some(Floor::default()), ..append(name) };
                log.append(Partition(0), epoch, &[append]).await.unwrap();
                // Virtual time: the worker is done with it by then.
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        tokio::join!(worker.run(), appends);
        let asked = flaky.asked.lock().unwrap();
        let pauses: Vec<_> = asked.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
        assert_eq!(pauses[..3], [50, 100, 200]);
        assert_eq!(pauses.last(), Some(&50), "{pauses:?}");
    }

    #[test]
    fn the_rewind_is_a_window_behind() {
        let mut trail = Trail::new(Duration::from_secs(10), at(0));
        for second in 0..30 {
            let rewind = trail.passed(Timestamp(second * 1000), at(second as u64 + 1));
            let expected = if second < 10 { 0 } else { second as u64 - 9 };
            assert_eq!(rewind, at(expected), "in second {second}");
        }
        assert!(trail.steps.len() <= Trail::STEPS as usize + 1);
    }

    #[test]
    fn without_a_window_there_is_nothing_to_go_back_for() {
        let mut trail = Trail::new(Duration::ZERO, at(0));
        assert_eq!(trail.passed(Timestamp(1), at(5)), at(5));
    }
}
