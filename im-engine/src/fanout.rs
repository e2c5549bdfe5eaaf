//! The fan-out projection (写扩散): applies memberships, writes every recipient's inbox, then signals.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use im_core::{
    Batch, Checkpoint, ConversationId, Delivery, Error, ErrorKind, LogRecord, Mark, Partition, Projection,
    Recipient, Result, UserId,
};
use tokio::sync::OnceCell;

use crate::{
    builder::Complete,
    members::{Audience, Members},
    signal::Signaller,
    switch::Switch,
};

/// How often, and after which first pause, failed recipients are repeated.
const RETRIES: u32 = 5;
const RETRY: Duration = Duration::from_millis(50);

/// A batch with a record of a kind that this version does not know is not applied: never skipped.
pub(crate) fn known_kinds(batch: &Batch) -> Result<()> {
    match batch.records.iter().find(|record| !record.record.kind.is_known()) {
        None => Ok(()),
        Some(unknown) => {
            let message = format!("{:?} at {:?}", unknown.record.kind, unknown.position);
            Err(Error::new(ErrorKind::NewerVersion, "engine", "projection", message))
        }
    }
}

/// Writes inboxes.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) parts: Complete,
    pub(crate) signaller: Signaller,
    pub(crate) switch: Switch,
    pub(crate) delivery_entries: usize,
    pub(crate) cache_entries: usize,
    /// The member lists that each partition's worker knows; a new run begins without any.
    pub(crate) known: Mutex<HashMap<Partition, Members>>,
    /// How many recipients a delivery may have, once that was asked.
    pub(crate) max_recipients: OnceCell<usize>,
}

#[async_trait]
impl Projection for FanOut {
    fn name(&self) -> &str {
        "fanout"
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.take_known(partition);
        self.parts.inbox.checkpoint(partition).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        known_kinds(batch)?;
        let mut members = self.take_known(batch.partition);
        members.apply(&self.parts, batch).await?;
        let plan = self.plan(&mut members, batch).await?;
        self.deliver(batch, &plan).await?;
        // Who left learns so before anybody hears of a newer head.
        self.signaller.states(members.changed_users()).await;
        self.signaller.heads(&plan.heads).await;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.partition, members);
        Ok(())
    }
}

/// Who gets which records of a batch.
struct Plan {
    recipients: Vec<Recipient>,
    heads: BTreeMap<ConversationId, Mark>,
}

impl FanOut {
    fn take_known(&self, partition: Partition) -> Members {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
        known.unwrap_or_else(|| Members::new(self.cache_entries))
    }

    async fn plan(&self, members: &mut Members, batch: &Batch) -> Result<Plan> {
        let mut shares = Shares::default();
        let mut heads = BTreeMap::new();
        for (index, LogRecord { record, .. }) in (0_u32..).zip(&batch.records) {
            match members.audience(&self.parts, record).await? {
                Audience::Inboxes(users) => {
                    shares.add(index, &users);
                    self.switch.consider(record, users.len());
                }
                Audience::Readers => {
                    heads.insert(record.conversation.clone(), record.mark());
                }
            }
        }
        Ok(Plan { recipients: shares.into_recipients(), heads })
    }

    /// Delivers in bounded chunks; the last one carries the checkpoint. Signals follow each chunk.
    async fn deliver(&self, batch: &Batch, plan: &Plan) -> Result<()> {
        let max_recipients = *self.max_recipients.get_or_try_init(|| self.ask_max_recipients()).await?;
        let mut rest = plan.recipients.as_slice();
        loop {
            let (chunk, after) = rest.split_at(self.chunk(rest, max_recipients));
            rest = after;
            let delivery = Delivery {
                partition: batch.partition,
                inbox: batch.checkpoint.lineage.inbox.clone(),
                records: batch.records.clone(),
                recipients: chunk.to_vec(),
                checkpoint: rest.is_empty().then(|| batch.checkpoint.clone()),
            };
            self.deliver_to_all(delivery).await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    async fn ask_max_recipients(&self) -> Result<usize> {
        Ok(self.parts.inbox.info().await?.max_recipients)
    }

    /// Delivers until nobody has failed: only who failed is repeated, so that one broken inbox does not fill the others with
    /// copies. Gives up after a few times; the worker then comes again with the whole batch.
    async fn deliver_to_all(&self, mut delivery: Delivery) -> Result<()> {
        let mut pause = RETRY;
        for _ in 0..RETRIES {
            let answers = self.parts.inbox.deliver(&delivery).await?;
            let recipients = std::mem::take(&mut delivery.recipients);
            let (mut reached, mut delivered, mut failed) = (Vec::new(), Vec::new(), None);
            for (recipient, answer) in recipients.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        reached.push(recipient);
                        delivered.push(answer);
                    }
                    Err(error) => {
                        delivery.recipients.push(recipient);
                        failed = Some(error);
                    }
                }
            }
            let told = Delivery { recipients: reached, ..delivery.clone() };
            self.signaller.entries(told, delivered).await;
            match failed {
                None => return Ok(()),
                Some(error) if !error.is_transient() => return Err(error),
                Some(error) => tracing::warn!(%error, "an inbox failed; again in {pause:?}"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let message = format!("{} inboxes cannot be written", delivery.recipients.len());
        Err(Error::new(ErrorKind::Unavailable, "engine", "fanout.deliver", message))
    }

    /// How many of the first recipients make a chunk.
    fn chunk(&self, recipients: &[Recipient], max_recipients: usize) -> usize {
        let mut entries = 0;
        let over = recipients.iter().take(max_recipients).position(|recipient| {
            entries += recipient.records.len();
            entries > self.delivery_entries
        });
        over.unwrap_or(recipients.len().min(max_recipients)).max(1).min(recipients.len())
    }
}

/// Collects who gets which records. Records in a row with one list of members are kept as one run, so that the members of a
/// busy group share one list of indices.
#[derive(Default)]
struct Shares {
    runs: Vec<(Arc<[UserId]>, Vec<u32>)>,
    /// The run of a list of members, by its address.
    open: HashMap<usize, usize>,
}

impl Shares {
    fn add(&mut self, index: u32, users: &Arc<[UserId]>) {
        // The lists are kept alive by `runs`, so an address names one of them.
        let run = *self.open.entry(users.as_ptr() as usize).or_insert_with(|| {
            self.runs.push((users.clone(), Vec::new()));
            self.runs.len() - 1
        });
        self.runs[run].1.push(index);
    }

    /// By user, so that backends write in the order of their keys and two workers cannot deadlock.
    fn into_recipients(self) -> Vec<Recipient> {
        let mut shares: Vec<(UserId, Arc<[u32]>)> = Vec::new();
        for (users, records) in self.runs {
            let records: Arc<[u32]> = records.into();
            shares.extend(users.iter().map(|user| (user.clone(), records.clone())));
        }
        shares.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut recipients: Vec<Recipient> = Vec::new();
        for (user, records) in shares {
            match recipients.last_mut().filter(|last| last.user == user) {
                Some(last) => last.records = merged(&last.records, &records),
                None => recipients.push(Recipient { user, records }),
            }
        }
        recipients
    }
}

fn merged(a: &[u32], b: &[u32]) -> Arc<[u32]> {
    let mut all: Vec<u32> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(names: &[&str]) -> Arc<[UserId]> {
        names.iter().map(|name| UserId::new(*name).unwrap()).collect()
    }

    #[test]
    fn every_recipient_stands_once_with_all_its_records_in_order() {
        let (ab, bc) = (users(&["a", "b"]), users(&["b", "c"]));
        let mut shares = Shares::default();
        for (index, list) in [(0, &bc), (1, &ab), (2, &bc)] {
            shares.add(index, list);
        }
        let got: Vec<(String, Vec<u32>)> = shares
            .into_recipients()
            .into_iter()
            .map(|recipient| (recipient.user.to_string(), recipient.records.to_vec()))
            .collect();
        let expected = [("a", vec![1]), ("b", vec![0, 1, 2]), ("c", vec![0, 2])];
        assert_eq!(got, expected.map(|(user, records)| (user.to_owned(), records)));
    }
}
