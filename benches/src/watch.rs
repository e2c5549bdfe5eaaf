//! The engine's log and inbox, watched: which batches they were given, and what is delivered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use im_engine::{
    Append, AppendOutcome, Checkpoint, ClientMsgId, Cursor, Delivered, Delivery, Epoch, Found, InboxInfo,
    Incarnation, LogInfo, LogRead, MessageLog, Partition, Position, Pull, Recipient, Result, SendKey,
    SyncInbox, UserId,
};
use tokio::sync::{oneshot, watch};

/// What one delivery wrote: the messages' places, and who got which.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) partition: Partition,
    pub(crate) messages: Vec<u64>,
    pub(crate) recipients: Vec<Recipient>,
}

/// What is seen.
#[derive(Debug)]
pub(crate) struct Watch {
    records: AtomicBool,
    appends: Mutex<Vec<(Partition, usize)>>,
    writes: Mutex<Vec<Write>>,
    appended: AtomicU64,
    entries: AtomicU64,
    fanned_out: watch::Sender<u64>,
    waiting: Mutex<HashMap<ClientMsgId, oneshot::Sender<()>>>,
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            records: AtomicBool::new(false),
            appends: Mutex::default(),
            writes: Mutex::default(),
            appended: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            fanned_out: watch::Sender::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Begins or ceases to keep the shapes of batches.
    pub(crate) fn record(&self, records: bool) {
        self.records.store(records, Ordering::Relaxed);
    }

    /// The sizes of the appends since the last call.
    pub(crate) fn take_appends(&self) -> Vec<(Partition, usize)> {
        std::mem::take(&mut *lock(&self.appends))
    }

    /// The deliveries since the last call.
    pub(crate) fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut *lock(&self.writes))
    }

    /// How many inbox entries were ever delivered.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// How many records are appended and not yet fanned out.
    pub(crate) fn backlog(&self) -> u64 {
        self.appended.load(Ordering::Relaxed).saturating_sub(*self.fanned_out.borrow())
    }

    /// Waits until everything appended is fanned out.
    pub(crate) async fn settled(&self) {
        let appended = self.appended.load(Ordering::Relaxed);
        // The sender lives as long as this does.
        let _ = self.fanned_out.subscribe().wait_for(|fanned_out| *fanned_out >= appended).await;
    }

    /// Tells when the message is in every inbox. To be called before it is sent.
    pub(crate) fn delivered(&self, message: &ClientMsgId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(message.clone(), sender);
        receiver
    }

    fn saw_append(&self, partition: Partition, outcomes: &[AppendOutcome]) {
        let appended =
            outcomes.iter().filter(|outcome| matches!(outcome, AppendOutcome::Appended(_))).count();
        self.appended.fetch_add(appended as u64, Ordering::Relaxed);
        if self.records.load(Ordering::Relaxed) && appended > 0 {
            lock(&self.appends).push((partition, appended));
        }
    }

    fn saw_delivery(&self, delivery: &Delivery) {
        let entries: usize = delivery.recipients.iter().map(|recipient| recipient.records.len()).sum();
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        if self.records.load(Ordering::Relaxed) {
            let messages = delivery.records.iter().map(|record| record.position.offset).collect();
            let recipients = delivery.recipients.clone();
            lock(&self.writes).push(Write { partition: delivery.partition, messages, recipients });
        }
        // The delivery with the checkpoint is the last one of its batch.
        if delivery.checkpoint.is_some() {
            let mut waiting = lock(&self.waiting);
            for told in
                delivery.records.iter().filter_map(|entry| waiting.remove(&entry.record.client_msg_id))
            {
                let _ = told.send(());
            }
            drop(waiting);
            self.fanned_out.send_modify(|fanned_out| *fanned_out += delivery.records.len() as u64);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log that is watched.
#[derive(Debug)]
pub(crate) struct WatchedLog {
    pub(crate) log: Arc<dyn MessageLog>,
    pub(crate) watch: Arc<Watch>,
}

#[async_trait]
impl MessageLog for WatchedLog {
    async fn info(&self) -> Result<LogInfo> {
        self.log.info().await
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        self.log.ends().await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.log.open_epoch(epoch, incarnation).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        let outcomes = self.log.append(partition, epoch, batch).await?;
        self.watch.saw_append(partition, &outcomes);
        Ok(outcomes)
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.log.find(keys).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        self.log.read(partition, after, max, wait).await
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        self.log.hold(projection, positions).await
    }

    async fn trim(&self) -> Result<()> {
        self.log.trim().await
    }
}

/// An inbox that is watched.
#[derive(Debug)]
pub(crate) struct WatchedInbox {
    pub(crate) inbox: Arc<dyn SyncInbox>,
    pub(crate) watch: Arc<Watch>,
}

#[async_trait]
impl SyncInbox for WatchedInbox {
    async fn info(&self) -> Result<InboxInfo> {
        self.inbox.info().await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.inbox.checkpoint(partition).await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let delivered = self.inbox.deliver(delivery).await?;
        self.watch.saw_delivery(delivery);
        Ok(delivered)
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        self.inbox.pull(user, after, max).await
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        self.inbox.ends(users).await
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        self.inbox.anchor(user).await
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        self.inbox.expire(max).await
    }
}
