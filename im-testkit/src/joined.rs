//! Memory backends whose log and store are the same data, as those on one file or one database are.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Append, AppendOutcome, Batch, Checkpoint, Conversation, ConversationChange, ConversationId,
    ConversationStore, DeviceId, Epoch, Found, History, HistoryQuery, Incarnation, Lineage, LogInfo, LogPart,
    LogRead, LogRecord, Mark, Member, Membership, MessageLog, MessageStore, NewConversation, Outgoing,
    Partition, Parts, Position, Record, Result, SendKey, Seq, StoreInfo, StorePart, UserId,
};
use tokio::sync::Mutex;

use crate::{Data, Fixture, Host, MemoryFixture, Part, Violation};

/// [`MemoryFixture`] with a log that writes into the store what it appends, in one step as far as anybody can see.
#[derive(Debug, Clone, Copy, Default)]
pub struct JoinedFixture;

#[derive(Debug)]
struct JoinedData {
    right: Box<dyn Data>,
    join: Join,
}

/// Joins the parts of nodes on one set of data.
#[derive(Debug, Default)]
pub(crate) struct Join {
    writing: Arc<Mutex<()>>,
}

#[async_trait]
impl Fixture for JoinedFixture {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(JoinedData { right: MemoryFixture.fresh().await?, join: Join::default() }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Data for JoinedData {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok(self.join.parts(self.right.node().await?))
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        Ok(self.join.parts(self.right.reopen().await?))
    }

    fn own_log(&self) -> Option<&'static str> {
        Some("it shows how an inbox of one log is tested")
    }

    async fn pass(&self, time: Duration) {
        self.right.pass(time).await;
    }

    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        self.right.turn_back(time).await
    }

    async fn save(&self) -> Result<(), Violation> {
        self.right.save().await
    }

    async fn lose_tail(&self, part: Part, n: usize) -> Result<(), Violation> {
        self.right.lose_tail(part, n).await
    }

    async fn host(&self) -> Result<Box<dyn Host>, Violation> {
        self.right.host().await
    }

    async fn refused_sends(&self) -> Result<Vec<(Outgoing, String)>, Violation> {
        self.right.refused_sends().await
    }
}

impl Join {
    pub(crate) fn parts(&self, parts: Parts) -> Parts {
        let (Some(log), Some(store)) = (parts.log.clone(), parts.store.clone()) else { return parts };
        let joined = Arc::new(Joined {
            log: log.log,
            messages: store.messages,
            conversations: store.conversations,
            writing: self.writing.clone(),
        });
        Parts {
            log: Some(LogPart { log: joined.clone(), leases: log.leases }),
            store: Some(StorePart { messages: joined.clone(), conversations: joined, ..store }),
            ..parts
        }
    }
}

/// Both have the log's incarnation; the store's own is for the store alone.
#[derive(Debug)]
struct Joined {
    log: Arc<dyn MessageLog>,
    messages: Arc<dyn MessageStore>,
    conversations: Arc<dyn ConversationStore>,
    writing: Arc<Mutex<()>>,
}

impl Joined {
    /// The store's own incarnation, for who gives the common one.
    async fn inner(&self, given: &Incarnation) -> Result<Incarnation> {
        let common = self.log.info().await?.incarnation;
        Ok(if *given == common { self.messages.info().await?.incarnation } else { given.clone() })
    }

    async fn apply_as_given(&self, batch: &Batch) -> Result<()> {
        let mut batch = batch.clone();
        batch.checkpoint.lineage.store = self.inner(&batch.checkpoint.lineage.store).await?;
        self.messages.apply(&batch).await
    }

    async fn copy(&self, partition: Partition, after: Position) -> Result<()> {
        let LogRead::Records(records) = self.log.read(partition, after, usize::MAX, Duration::ZERO).await?
        else {
            return Ok(());
        };
        let Some(position) = records.last().map(|last| last.position) else { return Ok(()) };
        let log = self.log.info().await?.incarnation;
        let lineage = Lineage { store: log.clone(), log, inbox: Incarnation::new("none") };
        self.apply_as_given(&Batch {
            partition,
            records,
            checkpoint: Checkpoint { position, rewind: position, lineage },
        })
        .await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MessageLog for Joined {
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
        let _writing = self.writing.lock().await;
        let end = self.log.ends().await?.get(usize::from(partition.0)).copied().unwrap_or_default();
        let outcomes = self.log.append(partition, epoch, batch).await?;
        self.copy(partition, end).await?;
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

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MessageStore for Joined {
    async fn info(&self) -> Result<StoreInfo> {
        let incarnation = self.log.info().await?.incarnation;
        Ok(StoreInfo { incarnation, ..self.messages.info().await? })
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.messages.open_epoch(log).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.messages.checkpoint(partition).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.apply_as_given(batch).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        self.messages.history(query).await
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.messages.get(places).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.messages.find(keys).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.messages.last(conversations).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        self.messages.above(partition, after, max).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ConversationStore for Joined {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        self.conversations.create(conversations).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        self.conversations.get(ids).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        self.conversations.list(user, device, after, max).await
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        self.conversations.large_groups(user, after, max).await
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        self.conversations.memberships(wanted, device).await
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        self.conversations.members(conversation, at, after, max).await
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        self.conversations.count_members(conversation).await
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        self.conversations.apply_members(&self.inner(store).await?, changes).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        self.conversations.applied(ids).await
    }
}
