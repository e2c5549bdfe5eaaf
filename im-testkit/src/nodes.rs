//! A backend whose calls are spread over several nodes, as those of an engine behind a load balancer are.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use im_core::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Data, Fixture, Host, Part, Violation};

/// Another fixture's data, seen by several nodes at once: each call of each part goes to another of them than the call before, by a
/// seeded chance. The suite then passes only if every node sees at once what any other did: nothing may be answered from what one
/// node remembers alone.
///
/// No call is kept at one node. Leases and presence name their node in each call, and a subscription goes on where it was made.
#[derive(Debug)]
pub struct NodesFixture<F> {
    right: F,
    nodes: usize,
}

impl<F: Fixture> NodesFixture<F> {
    /// Spreads the calls over so many nodes, at least two.
    pub fn new(right: F, nodes: usize) -> Self {
        Self { right, nodes: nodes.max(2) }
    }
}

#[async_trait]
impl<F: Fixture> Fixture for NodesFixture<F> {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        self.spread(self.right.fresh().await?).await
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        self.spread(self.right.short_lived().await?).await
    }
}

impl<F> NodesFixture<F> {
    async fn spread(&self, right: Box<dyn Data>) -> Result<Box<dyn Data>, Violation> {
        let mut nodes = Vec::new();
        for _ in 0..self.nodes {
            nodes.push(right.node().await?);
        }
        Ok(Box::new(NodesData { right, parts: Mutex::new(spread(nodes)) }))
    }
}

#[derive(Debug)]
struct NodesData {
    right: Box<dyn Data>,
    parts: Mutex<Spread<Parts>>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Data for NodesData {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok(self.parts.lock().unwrap_or_else(PoisonError::into_inner).parts())
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        let count = self.parts.lock().unwrap_or_else(PoisonError::into_inner).nodes.len();
        let mut nodes = vec![self.right.reopen().await?];
        while nodes.len() < count {
            nodes.push(self.right.node().await?);
        }
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = spread(nodes);
        self.node().await
    }

    fn own_log(&self) -> Option<&'static str> {
        self.right.own_log()
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

/// Who is called next, for all parts together.
#[derive(Debug)]
struct Turn {
    dice: Mutex<StdRng>,
    last: AtomicUsize,
}

impl Turn {
    /// Another than the last one.
    fn next(&self, count: usize) -> usize {
        let step = self.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(1..count);
        (self.last.fetch_add(step, Ordering::SeqCst) + step) % count
    }
}

/// One part of several nodes.
#[derive(Debug)]
struct Spread<T> {
    nodes: Vec<T>,
    turn: Arc<Turn>,
}

fn spread(nodes: Vec<Parts>) -> Spread<Parts> {
    Spread {
        nodes,
        turn: Arc::new(Turn { dice: Mutex::new(StdRng::seed_from_u64(4)), last: AtomicUsize::new(0) }),
    }
}

impl<T> Spread<T> {
    fn next(&self) -> &T {
        &self.nodes[self.turn.next(self.nodes.len())]
    }
}

impl Spread<Parts> {
    fn parts(&self) -> Parts {
        let first = &self.nodes[0];
        Parts {
            log: first.log.as_ref().map(|_| LogPart {
                log: self.part(|node| Some(node.log.as_ref()?.log.clone())),
                leases: self.part(|node| Some(node.log.as_ref()?.leases.clone())),
            }),
            store: first.store.as_ref().map(|store| StorePart {
                messages: self.part(|node| Some(node.store.as_ref()?.messages.clone())),
                conversations: self.part(|node| Some(node.store.as_ref()?.conversations.clone())),
                states: self.part(|node| Some(node.store.as_ref()?.states.clone())),
                outbox: store
                    .outbox
                    .as_ref()
                    .map(|_| self.part(|node| node.store.as_ref()?.outbox.clone()) as Arc<dyn Outbox>),
            }),
            inbox: first.inbox.as_ref().map(|_| self.part(|node| node.inbox.clone()) as Arc<dyn SyncInbox>),
            presence: first
                .presence
                .as_ref()
                .map(|_| self.part(|node| node.presence.clone()) as Arc<dyn Presence>),
            notifier: first
                .notifier
                .as_ref()
                .map(|_| self.part(|node| node.notifier.clone()) as Arc<dyn Notifier>),
        }
    }

    fn part<T: ?Sized>(&self, of: impl Fn(&Parts) -> Option<Arc<T>>) -> Arc<Spread<Arc<T>>> {
        Arc::new(Spread { nodes: self.nodes.iter().filter_map(of).collect(), turn: self.turn.clone() })
    }
}

/// Hands each call of a trait to the next node.
macro_rules! hand_on {
    ($trait:ident { $(fn $name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)* } $($rest:tt)*) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl $trait for Spread<Arc<dyn $trait>> {
            $(async fn $name(&self, $($arg: $of),*) -> Result<$answer> {
                self.next().$name($($arg),*).await
            })*
            $($rest)*
        }
    };
}

hand_on! { MessageLog {
    fn info() -> LogInfo;
    fn ends() -> Vec<Position>;
    fn open_epoch(epoch: Epoch, incarnation: &Incarnation) -> ();
    fn append(partition: Partition, epoch: Epoch, batch: &[Append]) -> Vec<AppendOutcome>;
    fn find(keys: &[SendKey]) -> Vec<Option<Found>>;
    fn read(partition: Partition, after: Position, max: usize, wait: Duration) -> LogRead;
    fn hold(projection: &str, positions: &[(Partition, Position)]) -> ();
    fn trim() -> ();
} }

hand_on! { Leases {
    fn claim(name: &str, node: &NodeId, ttl: Duration) -> bool;
    fn release(name: &str, node: &NodeId) -> ();
} }

hand_on! { MessageStore {
    fn info() -> StoreInfo;
    fn open_epoch(log: &Incarnation) -> Epoch;
    fn checkpoint(partition: Partition) -> Option<Checkpoint>;
    fn apply(batch: &Batch) -> ();
    fn history(query: &HistoryQuery) -> History;
    fn get(places: &[(ConversationId, Seq)]) -> Vec<Option<Arc<Record>>>;
    fn find(keys: &[SendKey]) -> Vec<Option<Found>>;
    fn last(conversations: &[ConversationId]) -> Vec<Option<Arc<Record>>>;
    fn above(partition: Partition, after: Position, max: usize) -> Vec<LogRecord>;
} }

hand_on! { ConversationStore {
    fn create(conversations: &[NewConversation]) -> Vec<Option<Conversation>>;
    fn get(ids: &[ConversationId]) -> Vec<Option<Conversation>>;
    fn list(user: &UserId, device: &Option<DeviceId>, after: &Option<ConversationId>, max: usize) -> Vec<Membership>;
    fn large_groups(user: &UserId, after: &Option<ConversationId>, max: usize) -> Vec<ConversationId>;
    fn memberships(wanted: &[(ConversationId, UserId)], device: &Option<DeviceId>) -> Vec<Option<Membership>>;
    fn members(conversation: &ConversationId, at: Seq, after: &Option<UserId>, max: usize) -> Vec<Member>;
    fn count_members(conversation: &ConversationId) -> usize;
    fn apply_members(store: &Incarnation, changes: &[ConversationChange]) -> ();
    fn applied(ids: &[ConversationId]) -> Vec<Mark>;
} }

hand_on! { UserState {
    fn mark_read(marks: &[ReadMark]) -> Vec<Marked>;
    fn set(user: &UserId, conversation: &ConversationId, change: &SettingsChange) -> Option<StateVersion>;
    fn state(user: &UserId, device: &Option<DeviceId>, since: &Option<StateVersion>, max: usize) -> State;
    fn versions(users: &[UserId]) -> Vec<StateVersion>;
    fn forget_devices(before: Timestamp) -> usize;
} }

hand_on! { Outbox {
    fn waiting(after: Option<Place>, max: usize) -> Vec<Waiting>;
    fn done(places: &[Place]) -> ();
    fn refuse(refused: &[(Place, Refusal)]) -> ();
    fn pass_on() -> bool;
} }

hand_on! { SyncInbox {
    fn info() -> InboxInfo;
    fn checkpoint(partition: Partition) -> Option<Checkpoint>;
    fn deliver(delivery: &Delivery) -> Vec<Result<Delivered>>;
    fn pull(user: &UserId, after: &Cursor, max: usize) -> Pull;
    fn ends(users: &[UserId]) -> Vec<Option<Cursor>>;
    fn anchor(user: &UserId) -> Cursor;
    fn expire(max: usize) -> bool;
} }

hand_on! { Presence {
    fn connect(request: &Connect) -> Connected;
    fn disconnect(sessions: &[(UserId, SessionId)]) -> ();
    fn beat(node: &NodeId, held: &[(UserId, SessionId)]) -> Vec<(SessionId, Gone)>;
    fn sessions(users: &[UserId]) -> Vec<Vec<SessionRef>>;
    fn nodes() -> Vec<NodeId>;
}
    fn ttl(&self) -> Duration {
        self.next().ttl()
    }
}

hand_on! { Notifier {
    fn notify(notices: Vec<(NodeId, Notice)>) -> ();
    fn subscribe(node: &NodeId) -> tokio::sync::mpsc::Receiver<Noticed>;
} }
