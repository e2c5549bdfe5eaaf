//! A chat on a server of its own, played while something happens to the server.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use im_core::memory::Memory;
use im_engine::{
    AckLevel, ChatError, ClientMsgId, ConversationId, Cursor, DeviceId, Direction, Engine, Event, Hello,
    HistoryRange, Identity, NewGroup, NewMessage, Parts, Platform, Pull, Record, Seq, Session, UserId,
};
use im_sync_redis::RedisBuilder;
use im_testkit::client::{Marks, Place, Take};
use tokio::task::JoinHandle;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is promised: so long after the server's return everything works again.
const RECOVERY: Duration = Duration::from_secs(5);
const GROUPS: usize = 4;
/// Between two sends of one sender, and between two looks.
const PACE: Duration = Duration::from_millis(5);
/// How often a client that hears nothing asks.
const HEARTBEAT: Duration = Duration::from_millis(500);

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn id(name: impl Into<Arc<str>>) -> ClientMsgId {
    ClientMsgId::new(name).unwrap()
}

fn group(n: usize) -> ConversationId {
    ConversationId::group(format!("g{n}")).unwrap()
}

/// What was acked, shown, and failed so far.
#[derive(Debug, Default)]
struct Story {
    acked: Mutex<Vec<(ConversationId, ClientMsgId, Seq)>>,
    shown: Mutex<HashMap<ClientMsgId, Seq>>,
    resyncs: Mutex<usize>,
    failures: Mutex<Vec<ChatError>>,
    over: AtomicBool,
}

impl Story {
    fn failed(&self, error: ChatError) {
        self.failures.lock().unwrap().push(error);
    }
}

/// What a play came to.
#[derive(Debug)]
pub(crate) struct End {
    /// How many were acked.
    pub(crate) acked: usize,
    /// Those that were acked and are nowhere.
    pub(crate) lost: usize,
    pub(crate) resyncs: usize,
    pub(crate) failures: Vec<ChatError>,
}

pub(crate) struct Play {
    story: Arc<Story>,
    chat: Engine,
    level: AckLevel,
    players: Vec<JoinHandle<()>>,
}

impl Play {
    /// Begins to play; messages are to be acked as this.
    pub(crate) async fn begin(redis: RedisBuilder, level: AckLevel) -> Self {
        let redis = redis.open().await.unwrap();
        // A disk that stands still for a second is nothing to give up for: other tests sync on it, too.
        let chat = loop {
            let store = Parts::from(Memory::new()).store;
            match Engine::builder(Parts { store, ..Parts::from(&redis) }).start().await {
                Ok(chat) => break chat,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        };
        for n in 0..GROUPS {
            let new =
                NewGroup { id: group(n), name: None, members: vec![user("bob")], client_msg_id: id("made") };
            while let Err(error) = chat.create_group(&user("alice"), new.clone()).await {
                assert!(error.is_transient(), "{error:?}");
            }
        }
        let story = Arc::<Story>::default();
        let client = Client::connect(&chat, story.clone()).await;
        let mut players = vec![tokio::spawn(client.run())];
        players.extend((0..GROUPS).map(|n| tokio::spawn(send_on(chat.clone(), story.clone(), n, level))));
        let play = Self { story, chat, level, players };
        play.goes_on(PATIENCE).await;
        play
    }

    /// New messages are acked and shown within this time.
    pub(crate) async fn goes_on(&self, limit: Duration) {
        let begun = Instant::now();
        let probes: Vec<_> = (0..GROUPS).map(|n| (group(n), ClientMsgId::fresh())).collect();
        let goes_on = async {
            let sends = probes.iter().map(|(group, id)| {
                let text = NewMessage::text(&user("alice"), group, "probe");
                send(
                    &self.chat,
                    &self.story,
                    NewMessage { client_msg_id: id.clone(), level: self.level, ..text },
                )
            });
            futures::future::join_all(sends).await;
            let shown =
                |(_, id): &(ConversationId, ClientMsgId)| self.story.shown.lock().unwrap().contains_key(id);
            while !probes.iter().all(shown) {
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::time::timeout(PATIENCE, goes_on).await.expect("it goes on");
        assert!(begun.elapsed() <= limit, "it goes on after {:?}, not {limit:?}", begun.elapsed());
    }

    pub(crate) async fn recovers(&self) {
        self.goes_on(RECOVERY).await;
    }

    /// Ends the play: everything that was shown was shown once and in order, and what was acked stands where the ack says, or nowhere.
    pub(crate) async fn ends(mut self) -> End {
        self.goes_on(PATIENCE).await;
        self.story.over.store(true, Ordering::Relaxed);
        for player in self.players.drain(1..) {
            tokio::time::timeout(PATIENCE, player).await.expect("nobody waits for ever").unwrap();
        }
        // What is acked last as stored comes after everything else.
        self.level = AckLevel::Stored;
        self.goes_on(PATIENCE).await;
        self.players.remove(0).abort();
        let acked = std::mem::take(&mut *self.story.acked.lock().unwrap());
        let mut stored: HashMap<(ConversationId, ClientMsgId), Vec<Seq>> = HashMap::new();
        for n in 0..GROUPS {
            for record in history(&self.chat, n, Seq(1)).await {
                let key = (record.conversation.clone(), record.client_msg_id.clone());
                stored.entry(key).or_default().push(record.seq);
            }
        }
        assert!(stored.values().all(|places| places.len() == 1), "a message is there twice");
        let mut lost = 0;
        let mut places = HashSet::new();
        for (conversation, id, seq) in &acked {
            assert!(
                places.insert((conversation, seq)),
                "{conversation} {seq:?} was given twice, at last to {id}"
            );
            match stored.get(&(conversation.clone(), id.clone())) {
                Some(places) => {
                    assert_eq!(places, &[*seq], "{conversation} {id}: where the ack says");
                    let shown = self.story.shown.lock().unwrap().get(id).copied();
                    assert_eq!(shown, Some(*seq), "{conversation} {id} is shown");
                }
                None => lost += 1,
            }
        }
        tokio::time::timeout(PATIENCE, self.chat.shutdown()).await.expect("a node stops");
        let failures = std::mem::take(&mut *self.story.failures.lock().unwrap());
        for error in &failures {
            assert!(error.is_transient(), "{error:?}");
        }
        let resyncs = *self.story.resyncs.lock().unwrap();
        End { acked: acked.len(), lost, resyncs, failures }
    }
}

/// A group's history from a place on, upwards.
async fn history(chat: &Engine, n: usize, from: Seq) -> Vec<Arc<Record>> {
    let mut all: Vec<Arc<Record>> = Vec::new();
    let mut from = from;
    loop {
        let range = HistoryRange { from, to: None, direction: Direction::Forward, max: 200 };
        let page = loop {
            match chat.history(&user("bob"), &group(n), range).await {
                Ok(page) => break page,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            tokio::time::sleep(PACE).await;
        };
        let Some(last) = page.records.last() else { return all };
        from = Seq(last.seq.0 + 1);
        all.extend(page.records);
    }
}

/// Sends until it is acked.
async fn send(chat: &Engine, story: &Story, message: NewMessage) {
    loop {
        match chat.send(message.clone()).await {
            Ok(ack) => {
                let acked = (message.conversation, message.client_msg_id, ack.seq);
                return story.acked.lock().unwrap().push(acked);
            }
            Err(error) => story.failed(error),
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn send_on(chat: Engine, story: Arc<Story>, n: usize, level: AckLevel) {
    for at in 0.. {
        let text = NewMessage::text(&user("alice"), &group(n), "x");
        send(&chat, &story, NewMessage { client_msg_id: id(format!("{n}-{at}")), level, ..text }).await;
        if story.over.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// A client by the protocol's rule: it shows each record once and in order.
struct Client {
    chat: Engine,
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
        Self { chat: chat.clone(), story, session, cursor, marks }
    }

    async fn run(mut self) {
        loop {
            match tokio::time::timeout(HEARTBEAT, self.session.event()).await {
                Ok(Event::Entries(entries)) => {
                    for entry in entries.as_slice() {
                        self.take(entry).await;
                    }
                    let _ = self.session.ack(&self.cursor);
                }
                Ok(Event::Closed(reason)) => panic!("the session was closed: {reason:?}"),
                Ok(Event::End(_)) => self.catch_up().await,
                Ok(_) => {}
                Err(_) => match self.session.heartbeat().await {
                    Ok(_) => self.catch_up().await,
                    Err(error) => self.story.failed(error),
                },
            }
        }
    }

    async fn take(&mut self, entry: &im_engine::Entry) {
        let record = &entry.record;
        let place = Place { seq: record.seq.0, hole_after: record.hole_after.map(|seq| seq.0) };
        loop {
            match self.marks.take(record.conversation.as_str(), place) {
                Take::Show => self.show(record),
                Take::Drop => {}
                Take::Gap { .. } => {
                    self.page(&record.conversation).await;
                    continue;
                }
                Take::Unknown => panic!("{record:?} of a group that it is not in"),
            }
            self.cursor = entry.cursor.clone();
            return;
        }
    }

    fn show(&self, record: &Record) {
        let mut shown = self.story.shown.lock().unwrap();
        let before = shown.insert(record.client_msg_id.clone(), record.seq);
        // One that was shown, lost, and sent again has another place.
        assert!(
            before != Some(record.seq) || record.client_msg_id.as_str() == "made",
            "{record:?} is shown twice"
        );
    }

    /// Pages a group upwards from its mark.
    async fn page(&mut self, conversation: &ConversationId) {
        let n = (0..GROUPS).find(|n| group(*n) == *conversation).unwrap();
        let mark = self.marks.get(conversation.as_str()).unwrap();
        for record in history(&self.chat, n, Seq(mark + 1)).await {
            if self.marks.take_paged(conversation.as_str(), record.seq.0) {
                self.show(&record);
            }
        }
    }

    /// Pulls what is there. What fails is tried again when the next heartbeat is due.
    async fn catch_up(&mut self) {
        loop {
            match self.session.pull(&self.cursor, 100).await {
                Ok(Pull::Page { entries, more }) => {
                    for entry in &entries {
                        self.take(entry).await;
                    }
                    if !more {
                        break;
                    }
                }
                Ok(Pull::Resync) => {
                    *self.story.resyncs.lock().unwrap() += 1;
                    let fresh = match self.session.fresh().await {
                        Ok(fresh) => fresh,
                        Err(error) => return self.story.failed(error),
                    };
                    // Where the store is not so far yet, the rest comes as a gap before the next entry.
                    let page = match self.session.bootstrap(&fresh, None, 100).await {
                        Ok(page) if page.behind.is_empty() => page,
                        Ok(_) => return,
                        Err(error) => return self.story.failed(error),
                    };
                    for view in page.conversations {
                        self.page(&view.membership.conversation.id).await;
                    }
                    self.cursor = fresh.cursor;
                }
                Err(error) => return self.story.failed(error),
            }
        }
        let _ = self.session.ack(&self.cursor);
    }
}
