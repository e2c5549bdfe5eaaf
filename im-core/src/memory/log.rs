//! The log: a queue per partition, the heads of all conversations, and the send keys within the dedupe window.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{BACKEND, Names, invalid, leases::LeaseTable, lock, other_incarnation};
use crate::{
    Append, AppendOutcome, Clock, ConversationId, Durability, Epoch, Error, ErrorKind, Floor, Found,
    Incarnation, LogInfo, LogRead, LogRecord, Mark, MessageLog, Ordinal, Partition, Position, Receipt,
    Result, SendKey, Seq, Timestamp,
};

/// The log part: [`MessageLog`] and [`Leases`](crate::Leases).
#[derive(Clone)]
pub struct MemoryLog(Arc<Inner>);

pub(super) struct Inner {
    state: Mutex<State>,
    pub(super) leases: Mutex<LeaseTable>,
    appended: Notify,
    pub(super) clock: Arc<dyn Clock>,
    dedupe_window: Option<Duration>,
    loss_window: Duration,
}

impl MemoryLog {
    pub(super) fn new(
        mut names: Names,
        partitions: u16,
        dedupe_window: Option<Duration>,
        loss_window: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let state = State {
            incarnation: names.next(),
            names,
            epoch: None,
            first_epoch: None,
            epoch_began: Timestamp::default(),
            queues: (0..partitions).map(|_| Queue::default()).collect(),
            heads: BTreeMap::new(),
            keys: BTreeMap::new(),
            holds: BTreeMap::new(),
            appended: 0,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            leases: Mutex::default(),
            appended: Notify::new(),
            clock,
            dedupe_window,
            loss_window,
        }))
    }

    /// Loses the newest `n` records of all partitions together, with the heads, send keys and holds that came with them, and
    /// takes a new incarnation: what a failover to a lagging copy does.
    pub fn lose_tail(&self, n: usize) {
        self.state().lose_tail(n);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog").field("incarnation", &self.state().incarnation).finish_non_exhaustive()
    }
}

struct State {
    incarnation: Incarnation,
    names: Names,
    epoch: Option<(Epoch, Incarnation)>,
    first_epoch: Option<Epoch>,
    epoch_began: Timestamp,
    queues: Vec<Queue>,
    heads: BTreeMap<ConversationId, Head>,
    keys: BTreeMap<SendKey, Found>,
    holds: BTreeMap<String, BTreeMap<Partition, Position>>,
    appended: u64,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Stored>,
    /// Everything at or below is trimmed.
    trimmed: Position,
}

struct Stored {
    record: LogRecord,
    /// Place in the order of all partitions' appends.
    number: u64,
    /// The conversation's head before, to go back to.
    before: Option<Head>,
}

/// A conversation's last record and the epoch that numbered it.
#[derive(Clone, Copy)]
struct Head {
    mark: Mark,
    created_at: Timestamp,
    epoch: Epoch,
}

impl Queue {
    fn end(&self) -> Position {
        self.records.back().map_or(self.trimmed, |last| last.record.position)
    }

    fn read(&self, after: Position, max: usize) -> LogRead {
        if after < self.trimmed {
            return LogRead::Trimmed(self.trimmed);
        }
        let first = self.records.partition_point(|stored| stored.record.position <= after);
        LogRead::Records(self.records.range(first..).take(max).map(|stored| stored.record.clone()).collect())
    }
}

impl State {
    fn queue(&self, partition: Partition, operation: &'static str) -> Result<&Queue> {
        self.queues
            .get(usize::from(partition.0))
            .ok_or_else(|| invalid(operation, format!("no partition {}", partition.0)))
    }

    fn open_epoch(&mut self, epoch: Epoch, incarnation: &Incarnation, now: Timestamp) -> Result<()> {
        let operation = "log.open_epoch";
        if *incarnation != self.incarnation {
            return Err(other_incarnation(operation, incarnation, &self.incarnation));
        }
        match &self.epoch {
            Some((open, owner)) if *open == epoch && owner == incarnation => return Ok(()),
            Some((open, _)) if *open >= epoch => return Err(stale(operation, epoch, *open)),
            _ => {}
        }
        self.epoch = Some((epoch, incarnation.clone()));
        self.first_epoch.get_or_insert(epoch);
        self.epoch_began = now;
        Ok(())
    }

    fn check(&self, partition: Partition, epoch: Epoch, batch: &[Append]) -> Result<()> {
        let operation = "log.append";
        self.queue(partition, operation)?;
        let count = self.queues.len() as u16;
        if let Some(stray) =
            batch.iter().find(|append| Partition::of(&append.conversation, count) != partition)
        {
            let message = format!("{} does not belong to partition {}", stray.conversation, partition.0);
            return Err(invalid(operation, message));
        }
        match &self.epoch {
            None => Err(Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, "no epoch is open")),
            Some((open, _)) if *open != epoch => Err(stale(operation, epoch, *open)),
            Some((_, owner)) if *owner != self.incarnation => {
                Err(other_incarnation(operation, owner, &self.incarnation))
            }
            Some(_) => Ok(()),
        }
    }

    fn append(&mut self, partition: Partition, epoch: Epoch, append: &Append, clock: Times) -> AppendOutcome {
        let key = append.key();
        if let Some(found) = self.known(&key, clock) {
            let same = found.hash == append.hash;
            return if same { AppendOutcome::Duplicate(found.receipt) } else { AppendOutcome::Conflict };
        }
        let before = self.heads.get(&append.conversation).copied();
        let Some((mark, earliest, hole_after)) = self.place(append, before, epoch) else {
            return AppendOutcome::Unseeded;
        };
        let created_at = clock.now.max(earliest);
        let queue = &mut self.queues[usize::from(partition.0)];
        let position = Position { epoch, offset: queue.end().offset + 1 };
        let record = LogRecord { position, record: Arc::new(append.at(mark, created_at, hole_after)) };
        self.appended += 1;
        queue.records.push_back(Stored { record, number: self.appended, before });
        let receipt = Receipt { mark, position, created_at };
        self.heads.insert(append.conversation.clone(), Head { mark, created_at, epoch });
        self.keys.insert(key, Found { receipt, hash: append.hash });
        AppendOutcome::Appended(receipt)
    }

    /// Where the next record of a conversation goes: its mark, the earliest time it may bear, the hole it declares.
    fn place(
        &self,
        append: &Append,
        head: Option<Head>,
        epoch: Epoch,
    ) -> Option<(Mark, Timestamp, Option<Seq>)> {
        let counts = u64::from(append.kind.counts());
        let next = |mark: Mark, step: u64| Mark {
            seq: Seq(mark.seq.0 + step),
            ordinal: Ordinal(mark.ordinal.0 + counts),
        };
        if let Some(head) = head.filter(|head| head.epoch == epoch) {
            return Some((next(head.mark, 1), head.created_at, None));
        }
        let own = head.map_or(Floor { direct: true, ..Floor::default() }, |head| Floor {
            mark: head.mark,
            created_at: head.created_at,
            direct: false,
        });
        let floor = append.floor?.max(own);
        if floor.direct && self.first_epoch == Some(epoch) {
            return Some((next(floor.mark, 1), floor.created_at, None));
        }
        let first = epoch.first_seq(floor.mark.seq);
        Some((next(floor.mark, first.0 - floor.mark.seq.0), floor.created_at, Some(floor.mark.seq)))
    }

    fn known(&self, key: &SendKey, clock: Times) -> Option<Found> {
        self.keys.get(key).copied().filter(|found| clock.within_window(found.receipt.created_at))
    }

    fn trim(&mut self, clock: Times) {
        self.keys.retain(|_, found| clock.within_window(found.receipt.created_at));
        for (number, queue) in self.queues.iter_mut().enumerate() {
            let partition = Partition(number as u16);
            // What nobody holds is kept: its reader may not have started yet.
            let held = self.holds.values().filter_map(|positions| positions.get(&partition)).min();
            let Some(held) = held else { continue };
            while let Some(first) = queue.records.front() {
                let LogRecord { position, record } = &first.record;
                if position > held || clock.within_window(record.created_at) {
                    break;
                }
                queue.trimmed = *position;
                queue.records.pop_front();
            }
        }
    }

    fn lose_tail(&mut self, n: usize) {
        for _ in 0..n {
            let newest = |queue: &Queue| queue.records.back().map(|stored| stored.number);
            let Some(queue) = self.queues.iter_mut().max_by_key(|queue| newest(queue)) else { break };
            let Some(lost) = queue.records.pop_back() else { break };
            let record = &lost.record.record;
            match lost.before {
                Some(head) => self.heads.insert(record.conversation.clone(), head),
                None => self.heads.remove(&record.conversation),
            };
            self.keys.remove(&record.key());
        }
        for positions in self.holds.values_mut() {
            for (partition, held) in positions {
                *held = self.queues[usize::from(partition.0)].end().min(*held);
            }
        }
        self.incarnation = self.names.next();
    }
}

fn stale(operation: &'static str, given: Epoch, open: Epoch) -> Error {
    let message = format!("epoch {} given, {} is open", given.0, open.0);
    Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message)
}

/// The time of one call, and how far back send keys reach.
#[derive(Clone, Copy)]
struct Times {
    now: Timestamp,
    window: Option<Duration>,
}

impl Times {
    fn within_window(self, created_at: Timestamp) -> bool {
        self.window.is_none_or(|window| self.now.since(created_at) <= window)
    }
}

impl Inner {
    fn times(&self) -> Times {
        Times { now: self.clock.now(), window: self.dedupe_window }
    }
}

#[async_trait]
impl MessageLog for MemoryLog {
    async fn info(&self) -> Result<LogInfo> {
        let state = self.state();
        Ok(LogInfo {
            backend: BACKEND,
            durability: Durability::Memory,
            incarnation: state.incarnation.clone(),
            loss_window: self.0.loss_window,
            partitions: state.queues.len() as u16,
            epoch: state.epoch.clone(),
            epoch_began: state.epoch_began,
            dedupe_window: self.0.dedupe_window,
        })
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        Ok(self.state().queues.iter().map(Queue::end).collect())
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.state().open_epoch(epoch, incarnation, self.0.clock.now())
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        let outcomes = {
            let mut state = self.state();
            state.check(partition, epoch, batch)?;
            // Under the lock: a later append must not read an earlier time.
            let times = self.0.times();
            batch.iter().map(|append| state.append(partition, epoch, append, times)).collect()
        };
        self.0.appended.notify_waiters();
        Ok(outcomes)
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let (state, times) = (self.state(), self.0.times());
        Ok(keys.iter().map(|key| state.known(key, times)).collect())
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        let read = || Ok(self.state().queue(partition, "log.read")?.read(after, max.max(1)));
        let first = read()?;
        if wait.is_zero() || !is_empty(&first) {
            return Ok(first);
        }
        let waited = async {
            loop {
                let mut appended = pin!(self.0.appended.notified());
                appended.as_mut().enable();
                let next = read()?;
                if !is_empty(&next) {
                    return Ok(next);
                }
                appended.await;
            }
        };
        tokio::time::timeout(wait, waited).await.unwrap_or(Ok(first))
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        let mut state = self.state();
        for (partition, _) in positions {
            state.queue(*partition, "log.hold")?;
        }
        let held = state.holds.entry(projection.to_owned()).or_default();
        for (partition, position) in positions {
            let kept = held.entry(*partition).or_insert(*position);
            *kept = *position.max(kept);
        }
        Ok(())
    }

    async fn trim(&self) -> Result<()> {
        let mut state = self.state();
        let times = self.0.times();
        state.trim(times);
        Ok(())
    }
}

fn is_empty(read: &LogRead) -> bool {
    matches!(read, LogRead::Records(records) if records.is_empty())
}
