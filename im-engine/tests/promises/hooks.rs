//! Parts whose calls a test can meet: the next call of a name waits for what the test lets happen first.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use im_core::*;

/// What happens before and after the next calls of these names, each once and in the order given.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<Mutex<Vec<Hook>>>);

type Hook = (&'static str, When, BoxFuture<'static, Result<()>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    After,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Before the next call of this name the future runs.
    pub(crate) fn before(&self, call: &'static str, what: impl Future<Output = ()> + Send + 'static) {
        let hook = async move {
            what.await;
            Ok(())
        };
        self.add(call, When::Before, hook);
    }

    /// The next call of this name fails without an effect.
    pub(crate) fn fail(&self, call: &'static str, error: ErrorKind) {
        let error = Error::new(error, "hook", call, "as the test wants");
        self.add(call, When::Before, std::future::ready(Err(error)));
    }

    /// Before the answer of the next call of this name is given the future runs.
    pub(crate) fn after(&self, call: &'static str, what: impl Future<Output = ()> + Send + 'static) {
        let hook = async move {
            what.await;
            Ok(())
        };
        self.add(call, When::After, hook);
    }

    fn add(&self, call: &'static str, when: When, what: impl Future<Output = Result<()>> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((call, when, Box::pin(what)));
    }

    fn take(&self, call: &'static str, when: When) -> BoxFuture<'static, Result<()>> {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match hooks.iter().position(|(wanted, moment, _)| *wanted == call && *moment == when) {
            Some(at) => hooks.remove(at).2,
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    async fn around<T>(&self, call: &'static str, right: impl Future<Output = Result<T>>) -> Result<T> {
        self.take(call, When::Before).await?;
        let answer = right.await;
        self.take(call, When::After).await?;
        answer
    }

    pub(crate) fn wrap(&self, parts: Parts) -> Parts {
        let hooks = self.clone();
        let (log, store) = (parts.log.unwrap(), parts.store.unwrap());
        Parts {
            log: Some(LogPart {
                log: Arc::new(Log { right: log.log, hooks: hooks.clone() }),
                leases: log.leases,
            }),
            store: Some(StorePart {
                messages: Arc::new(Messages { right: store.messages, hooks: hooks.clone() }),
                conversations: Arc::new(Conversations { right: store.conversations, hooks: hooks.clone() }),
                states: store.states,
                outbox: store.outbox,
            }),
            presence: Some(Arc::new(HookedPresence { right: parts.presence.unwrap(), hooks })),
            ..parts
        }
    }
}

#[derive(Debug)]
struct Log {
    right: Arc<dyn MessageLog>,
    hooks: Hooks,
}

#[async_trait]
impl MessageLog for Log {
    async fn info(&self) -> Result<LogInfo> {
        self.hooks.around("log.info", self.right.info()).await
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        self.hooks.around("log.ends", self.right.ends()).await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.hooks.around("log.open_epoch", self.right.open_epoch(epoch, incarnation)).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        self.hooks.around("log.append", self.right.append(partition, epoch, batch)).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.hooks.around("log.find", self.right.find(keys)).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        self.hooks.around("log.read", self.right.read(partition, after, max, wait)).await
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        self.hooks.around("log.hold", self.right.hold(projection, positions)).await
    }

    async fn trim(&self) -> Result<()> {
        self.hooks.around("log.trim", self.right.trim()).await
    }
}

#[derive(Debug)]
struct Messages {
    right: Arc<dyn MessageStore>,
    hooks: Hooks,
}

#[async_trait]
impl MessageStore for Messages {
    async fn info(&self) -> Result<StoreInfo> {
        self.hooks.around("messages.info", self.right.info()).await
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.hooks.around("messages.open_epoch", self.right.open_epoch(log)).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.hooks.around("messages.checkpoint", self.right.checkpoint(partition)).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.hooks.around("messages.apply", self.right.apply(batch)).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        self.hooks.around("messages.history", self.right.history(query)).await
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.hooks.around("messages.get", self.right.get(places)).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.hooks.around("messages.find", self.right.find(keys)).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.hooks.around("messages.last", self.right.last(conversations)).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        self.hooks.around("messages.above", self.right.above(partition, after, max)).await
    }
}

#[derive(Debug)]
struct Conversations {
    right: Arc<dyn ConversationStore>,
    hooks: Hooks,
}

#[async_trait]
impl ConversationStore for Conversations {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        self.hooks.around("conversations.create", self.right.create(conversations)).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        self.hooks.around("conversations.get", self.right.get(ids)).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        self.hooks.around("conversations.list", self.right.list(user, device, after, max)).await
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        self.hooks.around("conversations.large_groups", self.right.large_groups(user, after, max)).await
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        self.hooks.around("conversations.memberships", self.right.memberships(wanted, device)).await
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        self.hooks.around("conversations.members", self.right.members(conversation, at, after, max)).await
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        self.hooks.around("conversations.count_members", self.right.count_members(conversation)).await
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        self.hooks.around("conversations.apply_members", self.right.apply_members(store, changes)).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        self.hooks.around("conversations.applied", self.right.applied(ids)).await
    }
}

#[derive(Debug)]
struct HookedPresence {
    right: Arc<dyn Presence>,
    hooks: Hooks,
}

#[async_trait]
impl Presence for HookedPresence {
    fn ttl(&self) -> Duration {
        self.right.ttl()
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        self.hooks.around("presence.connect", self.right.connect(request)).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        self.hooks.around("presence.disconnect", self.right.disconnect(sessions)).await
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        self.hooks.around("presence.beat", self.right.beat(node, held)).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        self.hooks.around("presence.sessions", self.right.sessions(users)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        self.hooks.around("presence.nodes", self.right.nodes()).await
    }
}
