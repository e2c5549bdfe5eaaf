//! Group commit: the sends of one partition become appends of many records.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use im_core::{
    Append, AppendOutcome, Epoch, Error, ErrorKind, Floor, Found, LogRecord, Mark, Ordinal, Partition,
    Receipt, Result,
};
use tokio::sync::{mpsc, oneshot};

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
    /// The epoch under which it was found to be new.
    admitted: Epoch,
    answer: oneshot::Sender<Result<AppendOutcome>>,
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

    /// Puts a send in the queue now; the answer comes later, whether it is waited for or not. `admitted`: the epoch under which
    /// it was found to be new.
    pub(crate) fn enqueue(
        &self,
        append: Append,
        admitted: Epoch,
    ) -> ChatResult<impl Future<Output = ChatResult<Committed>> + Send + use<>> {
        let (answer, outcome) = oneshot::channel();
        let queue = &self.queues[usize::from(self.partition(&append).0)];
        queue.try_send(Job { append, admitted, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded(Duration::from_millis(100)),
            mpsc::error::TrySendError::Closed(_) => Refusal::ShuttingDown,
        })?;
        Ok(self.answer(outcome))
    }

    /// The same, but waits for a place in the queue.
    pub(crate) async fn enqueue_patiently(&self, append: Append, admitted: Epoch) -> ChatResult<Committed> {
        let (answer, outcome) = oneshot::channel();
        let queue = &self.queues[usize::from(self.partition(&append).0)];
        match tokio::time::timeout(self.patience, queue.send(Job { append, admitted, answer })).await {
            Ok(Ok(())) => self.answer(outcome).await,
            Ok(Err(_)) => Err(Refusal::ShuttingDown.into()),
            Err(_) => Err(Refusal::Overloaded(Duration::from_millis(100)).into()),
        }
    }

    fn answer(
        &self,
        outcome: oneshot::Receiver<Result<AppendOutcome>>,
    ) -> impl Future<Output = ChatResult<Committed>> + Send + use<> {
        let patience = self.patience;
        async move {
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
        let mut waiting = Vec::new();
        while jobs.recv_many(&mut waiting, self.config.commit_records).await > 0 {
            while !waiting.is_empty() {
                let rest = waiting.split_off(self.fitting(&waiting));
                self.commit(std::mem::replace(&mut waiting, rest)).await;
            }
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

    async fn commit(&self, jobs: Vec<Job>) {
        // Of several the one that is not the current epoch: then all are looked up.
        let current = self.numbering.current().epoch;
        let admitted = jobs.iter().map(|job| job.admitted).find(|admitted| *admitted != current);
        let (appends, answers): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.append, job.answer)).unzip();
        match self.append_with_patience(appends, admitted.unwrap_or(current)).await {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Appends; repeats after a transient error as long as anybody waits, which is safe because appends are idempotent.
    async fn append_with_patience(
        &self,
        mut appends: Vec<Append>,
        admitted: Epoch,
    ) -> Result<Vec<AppendOutcome>> {
        let deadline = tokio::time::Instant::now() + self.config.patience;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.append_seeded(&mut appends, admitted).await {
                Err(error) if error.is_transient() && tokio::time::Instant::now() + pause < deadline => {
                    tracing::warn!(%error, "append failed; again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    /// Appends. Under another epoch than that in which the sends were found to be new everything begins afresh: the log may have
    /// lost their keys, and a floor belongs to the epoch that it was asked in.
    async fn append_seeded(&self, appends: &mut [Append], admitted: Epoch) -> Result<Vec<AppendOutcome>> {
        let epoch = self.numbering.current().epoch;
        let appended = if epoch == admitted {
            self.append_under(epoch, appends).await
        } else {
            self.append_unknown(epoch, appends).await
        };
        match appended {
            Err(error) if matches!(error.kind(), ErrorKind::StaleEpoch | ErrorKind::OtherIncarnation) => {
                self.numbering.renew(&self.parts, epoch).await?;
                let epoch = self.numbering.current().epoch;
                self.append_unknown(epoch, appends).await
            }
            outcome => outcome,
        }
    }

    /// Appends what the store does not have.
    async fn append_unknown(&self, epoch: Epoch, appends: &[Append]) -> Result<Vec<AppendOutcome>> {
        let keys: Vec<_> = appends.iter().map(Append::key).collect();
        let found = self.parts.store.messages.find(&keys).await?;
        let unknown = appends.iter().zip(&found).filter(|(_, found)| found.is_none());
        let mut unknown: Vec<Append> =
            unknown.map(|(append, _)| Append { floor: None, ..append.clone() }).collect();
        let appended = self.append_under(epoch, &mut unknown).await?;
        let mut appended = appended.into_iter();
        let outcome = |(append, found): (&Append, Option<Found>)| match found {
            Some(found) if found.hash == append.hash => Some(AppendOutcome::Duplicate(found.receipt)),
            Some(_) => Some(AppendOutcome::Conflict),
            None => appended.next(),
        };
        Ok(appends.iter().zip(found).filter_map(outcome).collect())
    }

    /// Appends; what comes back unseeded is appended again with its floor.
    async fn append_under(&self, epoch: Epoch, appends: &mut [Append]) -> Result<Vec<AppendOutcome>> {
        let log = &self.parts.log.log;
        let mut outcomes = log.append(self.partition, epoch, appends).await?;
        let unseeded: Vec<usize> =
            (0..outcomes.len()).filter(|at| matches!(outcomes[*at], AppendOutcome::Unseeded)).collect();
        if unseeded.is_empty() {
            return Ok(outcomes);
        }
        self.seed(appends, &unseeded).await?;
        let again: Vec<Append> = unseeded.iter().map(|at| appends[*at].clone()).collect();
        for (at, outcome) in unseeded.into_iter().zip(log.append(self.partition, epoch, &again).await?) {
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
