//! Group commit: the sends of one partition become appends of many records.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use im_core::{
    Append, AppendOutcome, Epoch, Error, ErrorKind, Floor, Found, LogRecord, Mark, Ordinal, Outcome,
    Partition, Receipt, Result,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    Refusal,
    builder::Complete,
    config::Config,
    epoch::Numbering,
    error::{ChatResult, unknown},
};

/// One committer per partition.
#[derive(Debug)]
pub(crate) struct Commit {
    queues: Vec<mpsc::Sender<Job>>,
    patience: Duration,
}

#[derive(Debug)]
struct Job {
    append: Append,
    looked_up: Option<Epoch>,
    answer: oneshot::Sender<Result<AppendOutcome>>,
    /// Nobody waits any longer than until then.
    until: Instant,
}

impl Job {
    /// The caller was told that the outcome is unknown, and may have come again since: nothing is gained by an append.
    fn is_given_up(&self) -> bool {
        self.answer.is_closed() && Instant::now() >= self.until
    }
}

/// What a committed send got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) receipt: Receipt,
    pub(crate) duplicate: bool,
}

impl Commit {
    /// The committers and the tasks that run them; a task ends when the [`Commit`] is gone and its queue is empty.
    pub(crate) fn new(
        parts: &Complete,
        numbering: &Arc<Numbering>,
        config: &Config,
        partitions: u16,
    ) -> (Self, Vec<BoxFuture<'static, ()>>) {
        let (queues, tasks) = Partition::all(partitions)
            .map(|partition| {
                let (queue, jobs) = mpsc::channel(config.commit_queue);
                let committer = Committer {
                    partition,
                    parts: parts.clone(),
                    numbering: numbering.clone(),
                    config: config.clone(),
                };
                (queue, Box::pin(committer.run(jobs)) as BoxFuture<'static, ()>)
            })
            .unzip();
        (Self { queues, patience: config.patience }, tasks)
    }

    pub(crate) fn partition(&self, append: &Append) -> Partition {
        Partition::of(&append.conversation, self.queues.len() as u16)
    }

    /// Puts a send in the queue now; the answer comes later, whether it is waited for or not.
    ///
    /// `looked_up` is the epoch in which it was found that no look-up in the store is needed, or that it finds nothing. Under
    /// any other the log may have lost what it knew then: the committer looks the send up before it appends it.
    pub(crate) fn enqueue(
        &self,
        append: Append,
        looked_up: Option<Epoch>,
    ) -> ChatResult<impl Future<Output = ChatResult<Committed>> + Send + use<>> {
        let (answer, outcome) = oneshot::channel();
        let queue = &self.queues[usize::from(self.partition(&append).0)];
        let job = Job { append, looked_up, answer, until: Instant::now() + self.patience };
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded(Duration::from_millis(100)),
            mpsc::error::TrySendError::Closed(_) => Refusal::ShuttingDown,
        })?;
        let patience = self.patience;
        Ok(async move {
            let outcome = tokio::time::timeout(patience, outcome)
                .await
                .map_err(|_| unknown("log.append", "the log did not answer in time"))?
                .map_err(|_| unknown("log.append", "the append was given up"))??;
            match outcome {
                AppendOutcome::Failed(error) => Err(error.into()),
                AppendOutcome::Appended(receipt) => Ok(Committed { receipt, duplicate: false }),
                AppendOutcome::Duplicate(receipt) => Ok(Committed { receipt, duplicate: true }),
                AppendOutcome::Conflict => Err(Refusal::Conflict.into()),
                AppendOutcome::Unseeded => {
                    Err(Error::new(ErrorKind::Other, "engine", "log.append", "a floor was not taken").into())
                }
            }
        })
    }
}

/// The appends of one batch, and for each the epoch in which it was looked up.
#[derive(Debug, Default)]
struct Appends {
    appends: Vec<Append>,
    looked_up: Vec<Option<Epoch>>,
}

/// What became of a batch, and who waits for it.
#[derive(Debug, Default)]
struct Answers(Vec<(oneshot::Sender<Result<AppendOutcome>>, Result<AppendOutcome>)>);

impl Answers {
    fn give(self) {
        for (waiting, outcome) in self.0 {
            // Who has given up meanwhile is not there any more.
            let _ = waiting.send(outcome);
        }
    }
}

struct Committer {
    partition: Partition,
    parts: Complete,
    numbering: Arc<Numbering>,
    config: Config,
}

impl Committer {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let (mut waiting, mut done) = (Vec::new(), Answers::default());
        loop {
            if waiting.is_empty() && jobs.is_empty() {
                std::mem::take(&mut done).give();
            }
            if waiting.is_empty() && jobs.recv_many(&mut waiting, self.config.commit_records).await == 0 {
                return;
            }
            let rest = waiting.split_off(self.fitting(&waiting));
            let batch = std::mem::replace(&mut waiting, rest);
            let answers = std::mem::take(&mut done);
            // The log is at work while those of the batch before get their answers.
            (done, ()) = futures::join!(self.commit(batch), async { answers.give() });
        }
    }

    /// How many of the first jobs fit into one append.
    fn fitting(&self, jobs: &[Job]) -> usize {
        let mut bytes = 0;
        let over = jobs.iter().position(|job| {
            bytes += job.append.content.len();
            bytes > self.config.commit_bytes
        });
        over.unwrap_or(jobs.len()).max(1)
    }

    async fn commit(&self, mut jobs: Vec<Job>) -> Answers {
        jobs.retain(|job| !job.is_given_up());
        if jobs.is_empty() {
            return Answers::default();
        }
        let mut batch = Appends::default();
        let mut waiting = Vec::with_capacity(jobs.len());
        for job in jobs {
            batch.appends.push(job.append);
            batch.looked_up.push(job.looked_up);
            waiting.push(job.answer);
        }
        let outcomes = match self.append_with_patience(batch).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); waiting.len()],
        };
        Answers(waiting.into_iter().zip(outcomes).collect())
    }

    /// Appends; repeats after a transient error as long as anybody waits, which is safe because appends are idempotent.
    async fn append_with_patience(&self, mut batch: Appends) -> Result<Vec<AppendOutcome>> {
        let deadline = Instant::now() + self.config.patience;
        let mut pause = Duration::from_millis(20);
        // What an attempt may have done no later one takes back.
        let mut is_unknown = false;
        loop {
            let outcome = self.append_in_epoch(&mut batch).await.map_err(|error| {
                is_unknown |= error.outcome() == Outcome::Unknown;
                if is_unknown { error.with_outcome(Outcome::Unknown) } else { error }
            });
            match outcome {
                Err(error) if error.is_transient() && Instant::now() + pause < deadline => {
                    tracing::warn!(%error, "append failed; again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    /// Appends under the epoch of now, or under the one that follows it if it is over.
    async fn append_in_epoch(&self, batch: &mut Appends) -> Result<Vec<AppendOutcome>> {
        let epoch = self.numbering.current().epoch;
        match self.append_once(epoch, batch).await {
            Err(error) if matches!(error.kind(), ErrorKind::StaleEpoch | ErrorKind::OtherIncarnation) => {
                self.numbering.renew(&self.parts, epoch).await?;
                self.append_once(self.numbering.current().epoch, batch).await
            }
            outcome => outcome,
        }
    }

    /// Appends what the store does not have.
    async fn append_once(&self, epoch: Epoch, batch: &mut Appends) -> Result<Vec<AppendOutcome>> {
        let found = self.look_up(epoch, batch).await?;
        let appends = &mut batch.appends;
        // A floor belongs to the epoch that it was asked in.
        appends.iter_mut().for_each(|append| append.floor = None);
        if found.is_empty() {
            return self.append_seeded(epoch, appends).await;
        }
        let unknown = appends.iter().enumerate().filter(|(at, _)| !found.contains_key(at));
        let mut unknown: Vec<Append> = unknown.map(|(_, append)| append.clone()).collect();
        let mut appended = self.append_seeded(epoch, &mut unknown).await?.into_iter();
        let outcome = |(at, append): (usize, &Append)| match found.get(&at) {
            Some(found) if found.hash == append.hash => Some(AppendOutcome::Duplicate(found.receipt)),
            Some(_) => Some(AppendOutcome::Conflict),
            None => appended.next(),
        };
        Ok(appends.iter().enumerate().filter_map(outcome).collect())
    }

    /// What the store has of the appends that were not looked up in this epoch, by their place: the log may have lost the keys
    /// of what it had when they were.
    async fn look_up(&self, epoch: Epoch, batch: &Appends) -> Result<BTreeMap<usize, Found>> {
        let old: Vec<usize> =
            (0..batch.appends.len()).filter(|at| batch.looked_up[*at] != Some(epoch)).collect();
        if old.is_empty() {
            return Ok(BTreeMap::new());
        }
        let keys: Vec<_> = old.iter().map(|at| batch.appends[*at].key()).collect();
        let found = self.parts.store.messages.find(&keys).await?;
        Ok(old.into_iter().zip(found).filter_map(|(at, found)| Some((at, found?))).collect())
    }

    /// Appends; what comes back unseeded is appended again with its floor.
    async fn append_seeded(&self, epoch: Epoch, appends: &mut [Append]) -> Result<Vec<AppendOutcome>> {
        let log = &self.parts.log.log;
        let mut outcomes = log.append(self.partition, epoch, appends).await?;
        let unseeded: Vec<usize> =
            (0..outcomes.len()).filter(|at| matches!(outcomes[*at], AppendOutcome::Unseeded)).collect();
        if unseeded.is_empty() {
            return Ok(outcomes);
        }
        // The others are in the log by now, and one answer is for all.
        let is_in_part = unseeded.len() < outcomes.len();
        let in_part = |error: Error| if is_in_part { error.with_outcome(Outcome::Unknown) } else { error };
        self.seed(appends, &unseeded).await.map_err(in_part)?;
        let again: Vec<Append> = unseeded.iter().map(|at| appends[*at].clone()).collect();
        let seeded = log.append(self.partition, epoch, &again).await.map_err(in_part)?;
        for (at, outcome) in unseeded.into_iter().zip(seeded) {
            outcomes[at] = outcome;
        }
        Ok(outcomes)
    }

    /// Gives unseeded appends the highest place that store and applied memberships know of.
    async fn seed(&self, appends: &mut [Append], unseeded: &[usize]) -> Result<()> {
        let ids: Vec<_> = unseeded.iter().map(|at| appends[*at].conversation.clone()).collect();
        let store = &self.parts.store;
        let (last, applied) =
            futures::try_join!(store.messages.last(&ids), store.conversations.applied(&ids))?;
        let direct = self.numbering.current().first;
        for ((at, last), applied) in unseeded.iter().zip(last).zip(applied) {
            let (stored, created_at) =
                last.map(|record| (record.mark(), record.created_at)).unwrap_or_default();
            let stored = Floor { mark: stored, created_at, direct };
            let applied = Floor { mark: applied, created_at, direct };
            appends[*at].floor = Some(stored.max(applied));
        }
        Ok(())
    }
}

/// The ordinal of the record before this one.
pub(crate) fn ordinal_before(record: &LogRecord) -> Ordinal {
    let Mark { ordinal, .. } = record.record.mark();
    Ordinal(ordinal.0 - u64::from(record.record.kind.counts()).min(ordinal.0))
}

#[cfg(test)]
pub(crate) mod tests {
    use im_core::{
        ClientMsgId, ContentHash, ContentType, LogRead, MockMessageLog, Position, RecordKind, UserId,
        memory::Memory,
    };

    use super::*;

    pub(crate) fn append(name: &str) -> Append {
        let (kind, content_type) = (RecordKind::Message, ContentType::Text);
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        Append {
            conversation: im_core::ConversationId::single(&alice, &bob).unwrap(),
            sender: alice,
            device: None,
            send_to: Some(bob),
            client_msg_id: ClientMsgId::new(name).unwrap(),
            kind,
            content_type,
            content: name.into(),
            hash: ContentHash::of(kind, content_type, name),
            floor: None,
        }
    }

    pub(crate) async fn committer(memory: &Memory, config: &Config) -> (Commit, BoxFuture<'static, ()>) {
        let parts = Complete::try_from(im_core::Parts::from(memory)).unwrap();
        let numbering = Arc::new(Numbering::open(&parts).await.unwrap());
        let (commit, mut tasks) = Commit::new(&parts, &numbering, config, 1);
        (commit, tasks.pop().unwrap())
    }

    pub(crate) async fn logged(memory: &Memory) -> Vec<String> {
        let log: Arc<dyn im_core::MessageLog> = Arc::new(memory.log());
        let read = log.read(Partition(0), Position::START, 100, Duration::ZERO).await.unwrap();
        let LogRead::Records(records) = read else { panic!("trimmed") };
        records.iter().map(|record| record.record.content.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_everybody_has_given_up_is_not_appended() {
        let memory = Memory::new();
        let (commit, task) = committer(&memory, &Config::default()).await;
        let late = commit.enqueue(append("late"), None).unwrap();
        let answer = late.await;
        assert!(
            matches!(answer, Err(crate::ChatError::Failed(error)) if error.outcome() == Outcome::Unknown)
        );
        drop(commit.enqueue(append("not waited for"), None).unwrap());
        let waiting = commit.enqueue(append("waited for"), None).unwrap();
        drop(commit);
        let (committed, ()) = tokio::join!(waiting, task);
        committed.unwrap();
        assert_eq!(logged(&memory).await, ["not waited for", "waited for"]);
    }

    /// The first answer got lost, and then there was no way to the log.
    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_appended_is_not_said_to_be_undone_by_what_comes_after_it() {
        let memory = Memory::new();
        let mut log = MockMessageLog::new();
        let mut tries = 0;
        log.expect_append().returning(move |_, _, _| {
            tries += 1;
            let outcome = if tries == 1 { Outcome::Unknown } else { Outcome::NotDone };
            Err(Error::new(ErrorKind::Unavailable, "mock", "log.append", "no way").with_outcome(outcome))
        });
        let mut parts = Complete::try_from(im_core::Parts::from(&memory)).unwrap();
        let numbering = Arc::new(Numbering::open(&parts).await.unwrap());
        parts.log.log = Arc::new(log);
        let config = Config::default();
        let (commit, mut tasks) = Commit::new(&parts, &numbering, &config, 1);
        let begun = Instant::now();
        let answer = commit.enqueue(append("sent"), None).unwrap();
        drop(commit);
        let (failed, ()) = tokio::join!(answer, tasks.pop().unwrap());
        assert!(begun.elapsed() < config.patience, "it was the caller who gave up");
        assert!(
            matches!(failed, Err(crate::ChatError::Failed(error)) if error.outcome() == Outcome::Unknown)
        );
    }
}
