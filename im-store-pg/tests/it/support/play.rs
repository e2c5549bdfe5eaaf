//! A chat over two nodes, played while something happens to the server or the way to it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use im_engine::{
    Append, AppendOutcome, ChatError, ClientMsgId, ContentHash, ContentType, ConversationId, Cursor,
    DeviceId, Engine, Epoch, Error, Event, Hello, Identity, LogRead, Mark, MessageLog, NewGroup, NewMessage,
    NodeId, Notice, Noticed, Notifier, Ordinal, Outcome, Partition, Platform, Position, Pull, RecordKind,
    Seq, Session, SyncInbox, UserId,
};
use im_store_pg::{PgBackend, PgLog};
use im_testkit::client::{Marks, Place, Take};
use tokio::{sync::mpsc::Receiver, task::JoinHandle};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is promised: so long after the server's return everything works again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(5);
const GROUPS: usize = 4;
/// How many append past the engine.
const RAW: usize = 4;
/// Between two sends of one sender, and between two looks.
const PACE: Duration = Duration::from_millis(5);
/// How often a client that hears nothing asks: so seldom that it has to be told.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a notice is waited for before it is said again.
const NOTICE: Duration = Duration::from_millis(500);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn id(name: impl Into<Arc<str>>) -> ClientMsgId {
    ClientMsgId::new(name).unwrap()
}

fn group(n: usize) -> ConversationId {
    ConversationId::group(format!("g{n}")).unwrap()
}

/// What is said past the engine, straight to the log.
fn raw() -> ConversationId {
    ConversationId::group("raw").unwrap()
}

/// What was acked, shown, and failed so far.
#[derive(Debug, Default)]
struct Story {
    acked: Mutex<Vec<(ConversationId, ClientMsgId, Seq)>>,
    shown: Mutex<HashSet<ClientMsgId>>,
    failures: Mutex<Vec<ChatError>>,
    over: AtomicBool,
}

impl Story {
    fn failed(&self, error: impl Into<ChatError>) {
        self.failures.lock().unwrap().push(error.into());
    }

    fn ack(&self, conversation: &ConversationId, id: &ClientMsgId, seq: Seq) {
        self.acked.lock().unwrap().push((conversation.clone(), id.clone(), seq));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

pub(crate) struct Play {
    story: Arc<Story>,
    sends: Engine,
    receives: Engine,
    parts: PgBackend,
    hears: PgBackend,
    raw: Raw,
    notices: Receiver<Noticed>,
    players: Vec<JoinHandle<()>>,
}

/// How long after the server's return each of them worked.
#[derive(Debug)]
pub(crate) struct Recovered {
    append: Duration,
    pull: Duration,
    send: Duration,
    receive: Duration,
    notice: Duration,
}

impl Play {
    /// Begins to play on four nodes: two of the chat, and two whose parts are used by themselves.
    pub(crate) async fn begin(node: impl AsyncFn() -> PgBackend) -> Self {
        let mut engines = Vec::new();
        for _ in 0..2 {
            engines.push(Engine::builder(&node().await).start().await.unwrap());
        }
        let (receives, sends) = (engines.pop().unwrap(), engines.pop().unwrap());
        let parts = node().await;
        for conversation in (0..GROUPS).map(group).chain([raw()]) {
            let members = vec![user("bob")];
            let new = NewGroup { id: conversation, name: None, members, client_msg_id: id("made") };
            sends.create_group(&user("alice"), new).await.unwrap();
        }
        let hears = node().await;
        let notices = hears.notifier().subscribe(&watcher()).await.unwrap();
        let story = Arc::<Story>::default();
        let client = Client::connect(&receives, story.clone()).await;
        let mut players = vec![tokio::spawn(client.run())];
        players.extend((0..GROUPS).map(|n| tokio::spawn(send_on(sends.clone(), story.clone(), n))));
        let raw = Raw::of(&parts).await;
        players.extend((0..RAW).map(|n| tokio::spawn(raw.clone().appends(story.clone(), n))));
        let play = Self { story, sends, receives, parts, hears, raw, notices, players };
        play.reaches("messages to be acked and shown", || play.shown() > 50).await;
        play
    }

    fn shown(&self) -> usize {
        self.story.shown.lock().unwrap().len()
    }

    async fn reaches(&self, what: &str, is_so: impl Fn() -> bool) {
        let reached = async {
            while !is_so() {
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("waits for {what}"));
    }

    /// Tries everything from the moment on at which the server is there again.
    pub(crate) async fn recovers(&mut self) -> Recovered {
        let returned = Instant::now();
        let recovered = async {
            let (story, probe) = (&self.story, NewMessage::text(&user("alice"), &group(0), "probe"));
            let sent = async {
                let all = (0..GROUPS).map(|n| send(&self.sends, story, probe_of(&probe, n)));
                futures::future::join_all(all).await;
                returned.elapsed()
            };
            let received = async {
                let all: Vec<_> = (0..GROUPS).map(|n| probe_of(&probe, n).client_msg_id).collect();
                let shown = || all.iter().all(|id| story.shown.lock().unwrap().contains(id));
                while !shown() {
                    tokio::time::sleep(PACE).await;
                }
                returned.elapsed()
            };
            let appended = async {
                self.raw.append(story, id("probe")).await;
                returned.elapsed()
            };
            let pulled = async {
                let (inbox, bob) = (self.parts.inbox(), user("bob"));
                let ends = again(story, async || inbox.ends(std::slice::from_ref(&bob)).await).await;
                let end = ends[0].as_ref().unwrap();
                again(story, async || inbox.pull(&bob, end, 10).await).await;
                returned.elapsed()
            };
            let noticed = async {
                hears_again(&self.parts, story, &mut self.notices).await;
                returned.elapsed()
            };
            let (append, pull, send, receive, notice) =
                futures::join!(appended, pulled, sent, received, noticed);
            Recovered { append, pull, send, receive, notice }
        };
        tokio::time::timeout(PATIENCE, recovered).await.expect("everything works again")
    }

    /// Ends the play; everything acked must be there once, and have been shown.
    pub(crate) async fn ends_well(mut self) -> Vec<ChatError> {
        self.story.over.store(true, Ordering::Relaxed);
        for player in self.players.drain(1..) {
            tokio::time::timeout(PATIENCE, player).await.expect("nobody waits for ever").unwrap();
        }
        let acked = self.story.acked.lock().unwrap().clone();
        self.reaches("all that was acked to be shown", || {
            let shown = self.story.shown.lock().unwrap();
            acked.iter().all(|(_, id, _)| shown.contains(id))
        })
        .await;
        self.players.remove(0).abort();
        let stored = stored(&self.parts).await;
        for (conversation, id, seq) in &acked {
            let there = stored.get(&(conversation.clone(), id.clone()));
            assert_eq!(there, Some(&vec![*seq]), "{conversation} {id}: once, where the ack says");
        }
        assert!(stored.values().all(|places| places.len() == 1), "a message is there twice");
        for chat in [&self.sends, &self.receives] {
            tokio::time::timeout(PATIENCE, chat.shutdown()).await.expect("a node stops");
        }
        tokio::time::timeout(PATIENCE, self.hears.close()).await.expect("a pool is closed");
        let failures = std::mem::take(&mut *self.story.failures.lock().unwrap());
        for error in &failures {
            assert!(error.is_transient(), "{error:?}");
        }
        failures
    }
}

impl Recovered {
    pub(crate) fn in_time(&self) {
        let Self { append, pull, send, receive, notice } = self;
        let slowest = append.max(pull).max(send).max(receive).max(notice);
        eprintln!("recovered: {self:?}");
        assert!(*slowest < RECOVERY, "within {RECOVERY:?} of the server's return: {self:?}");
    }
}

fn watcher() -> NodeId {
    NodeId::new("watcher").unwrap()
}

fn probe_of(probe: &NewMessage, n: usize) -> NewMessage {
    let id = id(format!("{}-{n}", probe.client_msg_id));
    NewMessage { conversation: group(n), client_msg_id: id, ..probe.clone() }
}

/// Asks until it is answered.
async fn again<T>(story: &Story, mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => story.failed(error),
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Sends until it is acked.
async fn send(chat: &Engine, story: &Story, message: NewMessage) {
    loop {
        match chat.send(message.clone()).await {
            Ok(ack) => return story.ack(&message.conversation, &message.client_msg_id, ack.seq),
            Err(error) => story.failed(error),
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn send_on(chat: Engine, story: Arc<Story>, n: usize) {
    for at in 0.. {
        let text = NewMessage::text(&user("alice"), &group(n), "x");
        send(&chat, &story, NewMessage { client_msg_id: id(format!("{n}-{at}")), ..text }).await;
        if story.is_over() {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Appends past the engine.
#[derive(Clone)]
struct Raw {
    log: PgLog,
    partition: Partition,
    epoch: Epoch,
}

impl Raw {
    async fn of(parts: &PgBackend) -> Self {
        let log = parts.log();
        let info = log.info().await.unwrap();
        let (epoch, _) = info.epoch.unwrap();
        Self { log, partition: Partition::of(&raw(), info.partitions), epoch }
    }

    /// Appends until it is acked. What was said to be not done must not be found done.
    async fn append(&self, story: &Story, id: ClientMsgId) {
        let append = Append {
            conversation: raw(),
            sender: user("alice"),
            device: None,
            send_to: None,
            client_msg_id: id.clone(),
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: "x".into(),
            hash: ContentHash(1),
            floor: None,
        };
        let mut may_be_done = false;
        loop {
            let answer = self.log.append(self.partition, self.epoch, std::slice::from_ref(&append)).await;
            match answer.as_deref() {
                Ok([AppendOutcome::Appended(receipt)]) => return story.ack(&raw(), &id, receipt.mark.seq),
                Ok([AppendOutcome::Duplicate(receipt)]) => {
                    assert!(may_be_done, "{id} was said to be not done");
                    return story.ack(&raw(), &id, receipt.mark.seq);
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    may_be_done |= error.outcome() == Outcome::Unknown;
                    story.failed(error.clone());
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Without a pause: whatever happens, appends are under way.
    async fn appends(self, story: Arc<Story>, n: usize) {
        for at in 0.. {
            self.append(&story, id(format!("raw-{n}-{at}"))).await;
            if story.is_over() {
                return;
            }
        }
    }
}

/// The subscriber is told that it lags, and then hears notices.
async fn hears_again(parts: &PgBackend, story: &Story, notices: &mut Receiver<Noticed>) {
    let notifier = parts.notifier();
    let next = tokio::time::timeout(PATIENCE, notices.recv()).await.expect("a word");
    assert_eq!(next, Some(Noticed::Lagged));
    let notice = Notice::Head(raw(), Mark { seq: Seq(1), ordinal: Ordinal(1) });
    loop {
        again(story, async || notifier.notify(vec![(watcher(), notice.clone())]).await).await;
        if let Ok(Some(Noticed::Notice(heard))) = tokio::time::timeout(NOTICE, notices.recv()).await {
            return assert_eq!(heard, notice);
        }
    }
}

/// Where each message stands in the log.
async fn stored(parts: &PgBackend) -> HashMap<(ConversationId, ClientMsgId), Vec<Seq>> {
    let log = parts.log();
    let mut stored: HashMap<_, Vec<_>> = HashMap::new();
    for partition in (0..log.info().await.unwrap().partitions).map(Partition) {
        let mut after = Position::START;
        loop {
            let LogRead::Records(records) = log.read(partition, after, 1000, Duration::ZERO).await.unwrap()
            else {
                panic!("trimmed")
            };
            let Some(last) = records.last() else { break };
            after = last.position;
            for record in records {
                let record = record.record;
                let key = (record.conversation.clone(), record.client_msg_id.clone());
                stored.entry(key).or_default().push(record.seq);
            }
        }
    }
    stored
}

/// A client by the protocol's rule: it shows each record once and in order, and must not see a gap.
struct Client {
    story: Arc<Story>,
    session: Session,
    cursor: Cursor,
    marks: Marks,
}

impl Client {
    async fn connect(chat: &Engine, story: Arc<Story>) -> Self {
        let identity = Identity {
            user: user("bob"),
            device: DeviceId::new("device").unwrap(),
            platform: Platform::new("test").unwrap(),
        };
        let (session, _) = chat.connect(identity, Hello::default()).await.unwrap();
        let cursor = session.fresh().await.unwrap().cursor;
        let mut marks = Marks::default();
        (0..GROUPS).for_each(|n| marks.know(group(n).as_str(), 1));
        marks.know(raw().as_str(), 1);
        Self { story, session, cursor, marks }
    }

    async fn run(mut self) {
        loop {
            match tokio::time::timeout(HEARTBEAT, self.session.event()).await {
                Ok(Event::Entries(entries)) => {
                    entries.as_slice().iter().for_each(|entry| self.take(entry));
                    let _ = self.session.ack(&self.cursor);
                }
                Ok(Event::End(end)) => self.catch_up(&end).await,
                Ok(Event::Closed(reason)) => panic!("the session was closed: {reason:?}"),
                Ok(_) => {}
                Err(_) => match self.session.heartbeat().await {
                    Ok(heartbeat) => self.catch_up(&heartbeat.end.unwrap()).await,
                    Err(error) => self.story.failed(error),
                },
            }
        }
    }

    fn take(&mut self, entry: &im_engine::Entry) {
        let record = &entry.record;
        let place = Place { seq: record.seq.0, hole_after: record.hole_after.map(|seq| seq.0) };
        match self.marks.take(record.conversation.as_str(), place) {
            Take::Show => {
                let is_new = self.story.shown.lock().unwrap().insert(record.client_msg_id.clone());
                assert!(is_new || record.client_msg_id.as_str() == "made", "{record:?} is shown twice");
            }
            Take::Drop => {}
            other => panic!("{other:?} at {record:?}"),
        }
        self.cursor = entry.cursor.clone();
    }

    /// Pulls up to an end. What fails is tried again when the next heartbeat is due.
    async fn catch_up(&mut self, end: &Cursor) {
        while self.cursor != *end {
            match self.session.pull(&self.cursor, 100).await {
                Ok(Pull::Page { entries, more }) => {
                    entries.iter().for_each(|entry| self.take(entry));
                    if !more {
                        break;
                    }
                }
                Ok(Pull::Resync) => panic!("a gap at {:?}", self.cursor),
                Err(error) => return self.story.failed(error),
            }
        }
        let _ = self.session.ack(&self.cursor);
    }
}
