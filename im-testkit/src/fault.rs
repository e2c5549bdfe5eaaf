//! Wrappers that make right backends misbehave as networks and servers do: late, failing before or after the effect, dropping,
//! doubling and reordering signals, frozen, dead.
//!
//! One [`Faults`] belongs to one node: it holds the dice of that node's calls and can [freeze](Faults::freeze) or
//! [kill](Faults::kill) it. A frozen node that is thawed is a zombie: it goes on with what it was about to do.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use im_core::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, mpsc};

/// How often something goes wrong, in calls of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Odds {
    /// A call is late, by up to [`Odds::delay`].
    pub late: u32,
    /// How late at most.
    pub delay: Duration,
    /// A call fails and has no effect.
    pub fail_before: u32,
    /// A call fails although it had its effect.
    pub fail_after: u32,
    /// A notice is dropped.
    pub drop: u32,
    /// A notice comes twice.
    pub double: u32,
    /// A notice comes after those that are sent later.
    pub reorder: u32,
}

/// The faults of one node.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

struct Inner {
    dice: Mutex<StdRng>,
    odds: Mutex<Odds>,
    gate: Mutex<Gate>,
    moved: Notify,
    /// Notices that let others pass.
    held: Mutex<Vec<(NodeId, Notice)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Frozen,
    Dead,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("gate", &self.gate()).finish_non_exhaustive()
    }
}

impl Faults {
    /// Faults that replay with the seed.
    #[must_use]
    pub fn new(seed: u64, odds: Odds) -> Self {
        Self(Arc::new(Inner {
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            odds: Mutex::new(odds),
            gate: Mutex::new(Gate::Open),
            moved: Notify::new(),
            held: Mutex::default(),
        }))
    }

    /// Other odds from now on.
    pub fn set(&self, odds: Odds) {
        *self.0.odds.lock().unwrap_or_else(PoisonError::into_inner) = odds;
    }

    /// The node's calls stand still from now on, also those under way: their effects are there, their answers are not.
    pub fn freeze(&self) {
        self.turn(Gate::Open, Gate::Frozen);
    }

    /// A frozen node goes on where it stood.
    pub fn thaw(&self) {
        self.turn(Gate::Frozen, Gate::Open);
    }

    /// The node is dead: none of its calls ever has an effect or an answer again.
    pub fn kill(&self) {
        self.turn(self.gate(), Gate::Dead);
    }

    fn held(&self) -> MutexGuard<'_, Vec<(NodeId, Notice)>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> Gate {
        *self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, from: Gate, to: Gate) {
        let mut gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if *gate == from {
            *gate = to;
        }
        drop(gate);
        self.0.moved.notify_waiters();
    }

    /// All parts of a node behind these faults.
    #[must_use]
    pub fn wrap(&self, parts: Parts) -> Parts {
        Parts {
            log: parts.log.map(|part| LogPart { log: self.part(part.log), leases: self.part(part.leases) }),
            store: parts.store.map(|part| StorePart {
                messages: self.part(part.messages),
                conversations: self.part(part.conversations),
                states: self.part(part.states),
                outbox: part.outbox,
            }),
            inbox: parts.inbox.map(|inbox| self.part(inbox) as Arc<dyn SyncInbox>),
            presence: parts.presence.map(|presence| self.part(presence) as Arc<dyn Presence>),
            notifier: parts.notifier.map(|notifier| self.part(notifier) as Arc<dyn Notifier>),
        }
    }

    fn part<T: ?Sized>(&self, inner: Arc<T>) -> Arc<Faulty<T>> {
        Arc::new(Faulty { inner, faults: self.clone() })
    }

    /// Waits until the node runs. By a queue, not a watch: a watch wakes its waiters in a random order.
    async fn open(&self) {
        loop {
            let moved = self.0.moved.notified();
            if self.gate() == Gate::Open {
                return;
            }
            moved.await;
        }
    }

    fn roll(&self, odds: impl Fn(&Odds) -> u32) -> bool {
        let odds = odds(&self.0.odds.lock().unwrap_or_else(PoisonError::into_inner));
        odds > 0 && self.0.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..1000) < odds
    }

    async fn lateness(&self) {
        if self.roll(|odds| odds.late) {
            let most = self.0.odds.lock().unwrap_or_else(PoisonError::into_inner).delay;
            let late = self.0.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.0..1.0);
            tokio::time::sleep(most.mul_f64(late)).await;
        }
    }

    async fn around<R>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<R>> + Send,
    ) -> Result<R> {
        self.open().await;
        self.lateness().await;
        self.open().await;
        if self.roll(|odds| odds.fail_before) {
            return Err(Error::new(ErrorKind::Unavailable, "faulty", operation, "refused by the dice")
                .with_outcome(Outcome::NotDone));
        }
        let result = call.await;
        self.lateness().await;
        self.open().await;
        if self.roll(|odds| odds.fail_after) {
            return Err(Error::new(ErrorKind::Timeout, "faulty", operation, "the answer was lost"));
        }
        result
    }
}

/// A part behind [`Faults`].
#[derive(Debug)]
pub struct Faulty<T: ?Sized> {
    faults: Faults,
    inner: Arc<T>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MessageLog for Faulty<dyn MessageLog> {
    async fn info(&self) -> Result<LogInfo> {
        self.faults.around("log.info", self.inner.info()).await
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        self.faults.around("log.ends", self.inner.ends()).await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.faults.around("log.open_epoch", self.inner.open_epoch(epoch, incarnation)).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        self.faults.around("log.append", self.inner.append(partition, epoch, batch)).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.faults.around("log.find", self.inner.find(keys)).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        self.faults.around("log.read", self.inner.read(partition, after, max, wait)).await
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        self.faults.around("log.hold", self.inner.hold(projection, positions)).await
    }

    async fn trim(&self) -> Result<()> {
        self.faults.around("log.trim", self.inner.trim()).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Leases for Faulty<dyn Leases> {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        self.faults.around("leases.claim", self.inner.claim(name, node, ttl)).await
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        self.faults.around("leases.release", self.inner.release(name, node)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MessageStore for Faulty<dyn MessageStore> {
    async fn info(&self) -> Result<StoreInfo> {
        self.faults.around("store.info", self.inner.info()).await
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.faults.around("store.open_epoch", self.inner.open_epoch(log)).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.faults.around("store.checkpoint", self.inner.checkpoint(partition)).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.faults.around("store.apply", self.inner.apply(batch)).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        self.faults.around("store.history", self.inner.history(query)).await
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.faults.around("store.get", self.inner.get(places)).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.faults.around("store.find", self.inner.find(keys)).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.faults.around("store.last", self.inner.last(conversations)).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        self.faults.around("store.above", self.inner.above(partition, after, max)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ConversationStore for Faulty<dyn ConversationStore> {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        self.faults.around("conversations.create", self.inner.create(conversations)).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        self.faults.around("conversations.get", self.inner.get(ids)).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        self.faults.around("conversations.list", self.inner.list(user, device, after, max)).await
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        self.faults.around("conversations.large_groups", self.inner.large_groups(user, after, max)).await
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        self.faults.around("conversations.memberships", self.inner.memberships(wanted, device)).await
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        self.faults.around("conversations.members", self.inner.members(conversation, at, after, max)).await
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        self.faults.around("conversations.count_members", self.inner.count_members(conversation)).await
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        self.faults.around("conversations.apply_members", self.inner.apply_members(store, changes)).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        self.faults.around("conversations.applied", self.inner.applied(ids)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl UserState for Faulty<dyn UserState> {
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>> {
        self.faults.around("state.mark_read", self.inner.mark_read(marks)).await
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        self.faults.around("state.set", self.inner.set(user, conversation, change)).await
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        self.faults.around("state.state", self.inner.state(user, device, since, max)).await
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        self.faults.around("state.versions", self.inner.versions(users)).await
    }

    async fn forget_devices(&self, before: Timestamp) -> Result<usize> {
        self.faults.around("state.forget_devices", self.inner.forget_devices(before)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SyncInbox for Faulty<dyn SyncInbox> {
    async fn info(&self) -> Result<InboxInfo> {
        self.faults.around("inbox.info", self.inner.info()).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.faults.around("inbox.checkpoint", self.inner.checkpoint(partition)).await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        self.faults.around("inbox.deliver", self.inner.deliver(delivery)).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        self.faults.around("inbox.pull", self.inner.pull(user, after, max)).await
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        self.faults.around("inbox.ends", self.inner.ends(users)).await
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        self.faults.around("inbox.anchor", self.inner.anchor(user)).await
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        self.faults.around("inbox.expire", self.inner.expire(max)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Presence for Faulty<dyn Presence> {
    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        self.faults.around("presence.connect", self.inner.connect(request)).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        self.faults.around("presence.disconnect", self.inner.disconnect(sessions)).await
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        self.faults.around("presence.beat", self.inner.beat(node, held)).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        self.faults.around("presence.sessions", self.inner.sessions(users)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        self.faults.around("presence.nodes", self.inner.nodes()).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Notifier for Faulty<dyn Notifier> {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let mut sent = Vec::with_capacity(notices.len());
        let passed = std::mem::take(&mut *self.faults.held());
        for notice in notices {
            if self.faults.roll(|odds| odds.drop) {
                continue;
            }
            if self.faults.roll(|odds| odds.reorder) {
                self.faults.held().push(notice);
                continue;
            }
            if self.faults.roll(|odds| odds.double) {
                sent.push(notice.clone());
            }
            sent.push(notice);
        }
        sent.extend(passed);
        self.faults.around("notifier.notify", self.inner.notify(sent)).await
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        self.faults.around("notifier.subscribe", self.inner.subscribe(node)).await
    }
}
