//! An engine on the reference backends, and what happens between two of its calls to them.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it, and may unwrap")]

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use im_core::{
    Append, AppendOutcome, Batch, Checkpoint, ClientMsgId, Connect, Connected, ConversationId, DeviceId,
    Direction, Epoch, Found, Gone, History, HistoryQuery, Incarnation, LogInfo, LogRead, LogRecord,
    MessageLog, MessageStore, NodeId, Notice, Noticed, Notifier, Partition, Parts, Platform, Position,
    Presence, Record, Result, SendKey, Seq, SessionId, SessionRef, StoreInfo, UserId, memory::Memory,
};
use im_engine::{
    AckLevel, Config, Draft, Engine, Hello, HistoryPage, HistoryRange, Identity, NewGroup, Session,
};

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn id(text: &str) -> ClientMsgId {
    ClientMsgId::new(text).unwrap()
}

pub(crate) fn group_id(name: &str) -> ConversationId {
    ConversationId::group(name).unwrap()
}

pub(crate) async fn engine() -> Engine {
    engine_with(|_| {}).await
}

pub(crate) async fn engine_with(change: impl FnOnce(&mut Config)) -> Engine {
    engine_on(&Memory::builder().partitions(2).build(), change).await
}

pub(crate) async fn engine_on(parts: impl Into<Parts>, change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::default();
    change(&mut config);
    Engine::builder(parts).config(config).start().await.unwrap()
}

pub(crate) fn identity(name: &str, device: &str) -> Identity {
    Identity {
        user: user(name),
        device: DeviceId::new(device).unwrap(),
        platform: Platform::new("test").unwrap(),
    }
}

pub(crate) async fn connect(chat: &Engine, name: &str, device: &str) -> Session {
    let (session, welcome) = chat.connect(identity(name, device), Hello::default()).await.unwrap();
    assert!(welcome.resync, "a client without a cursor must bootstrap");
    session.fresh().await.unwrap();
    session
}

pub(crate) fn text(conversation: &ConversationId, name: &str, content: &str) -> Draft {
    Draft {
        conversation: conversation.clone(),
        client_msg_id: id(name),
        content_type: im_core::ContentType::Text,
        content: content.into(),
        level: AckLevel::Logged,
    }
}

/// The same, to be acked when it is in the store.
pub(crate) fn stored(conversation: &ConversationId, name: &str, content: &str) -> Draft {
    Draft { level: AckLevel::Stored, ..text(conversation, name, content) }
}

pub(crate) fn group(name: &str, members: &[&str], key: &str) -> NewGroup {
    NewGroup {
        id: group_id(name),
        name: None,
        members: members.iter().map(|member| user(member)).collect(),
        client_msg_id: id(key),
    }
}

pub(crate) fn all() -> HistoryRange {
    HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 }
}

/// The contents of a page's messages.
pub(crate) fn contents(page: &HistoryPage) -> Vec<String> {
    page.records.iter().map(|record| record.content.to_string()).collect()
}

/// Something that is done once, just before the engine's next call of a name.
#[derive(Clone, Default)]
pub(crate) struct Between(Arc<Mutex<Option<Planned>>>);

struct Planned {
    call: &'static str,
    work: BoxFuture<'static, ()>,
}

impl Between {
    pub(crate) fn before(&self, call: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap() = Some(Planned { call, work: Box::pin(work) });
    }

    async fn called(&self, call: &'static str) {
        let due = self.0.lock().unwrap().take_if(|planned| planned.call == call);
        if let Some(planned) = due {
            planned.work.await;
        }
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

/// The parts of a memory with something between the calls to log and store.
pub(crate) fn watched(memory: &Memory) -> (Parts, Between) {
    let mut parts = Parts::from(memory);
    let between = Between::default();
    let (log, store) = (parts.log.as_mut().unwrap(), parts.store.as_mut().unwrap());
    log.log = Arc::new(WatchedLog(log.log.clone(), between.clone()));
    store.messages = Arc::new(WatchedStore(store.messages.clone(), between.clone()));
    (parts, between)
}

#[derive(Debug)]
struct WatchedLog(Arc<dyn MessageLog>, Between);

#[async_trait]
impl MessageLog for WatchedLog {
    async fn info(&self) -> Result<LogInfo> {
        self.0.info().await
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        self.0.ends().await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.0.open_epoch(epoch, incarnation).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        self.1.called("append").await;
        self.0.append(partition, epoch, batch).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.0.find(keys).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        self.0.read(partition, after, max, wait).await
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        self.0.hold(projection, positions).await
    }

    async fn trim(&self) -> Result<()> {
        self.0.trim().await
    }
}

#[derive(Debug)]
struct WatchedStore(Arc<dyn MessageStore>, Between);

#[async_trait]
impl MessageStore for WatchedStore {
    async fn info(&self) -> Result<StoreInfo> {
        self.0.info().await
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.0.open_epoch(log).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.0.checkpoint(partition).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.0.apply(batch).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        self.1.called("history").await;
        self.0.history(query).await
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.0.get(places).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.0.find(keys).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.1.called("last").await;
        self.0.last(conversations).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        self.0.above(partition, after, max).await
    }
}

/// A notifier whose notices of heads are late.
#[derive(Debug)]
pub(crate) struct LateHeads(pub(crate) Arc<dyn Notifier>);

#[async_trait]
impl Notifier for LateHeads {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        if notices.iter().any(|(_, notice)| matches!(notice, Notice::Head(..))) {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.0.notify(notices).await
    }

    async fn subscribe(&self, node: &NodeId) -> Result<tokio::sync::mpsc::Receiver<Noticed>> {
        self.0.subscribe(node).await
    }
}

/// A presence that takes its time for the session of one name.
#[derive(Debug)]
pub(crate) struct LatePresence(pub(crate) Arc<dyn Presence>, pub(crate) Mutex<u32>);

#[async_trait]
impl Presence for LatePresence {
    fn ttl(&self) -> Duration {
        self.0.ttl()
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        let is_second = {
            let mut calls = self.1.lock().unwrap();
            *calls += 1;
            *calls == 2
        };
        if is_second {
            // Longer than the distance of two beats.
            tokio::time::sleep(self.ttl() / 2).await;
        }
        self.0.connect(request).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        self.0.disconnect(sessions).await
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        self.0.beat(node, held).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        self.0.sessions(users).await
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        self.0.nodes().await
    }
}
