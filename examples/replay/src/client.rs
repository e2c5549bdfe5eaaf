//! A client: what it keeps while connections come and go, and its life.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use im_protocol::MarkView;
use im_testkit::client::Marks;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep},
};

use crate::{
    error::ReplayError,
    link::{Over, Step},
    login::{NoToken, token},
    run::Run,
    session::{Clock, Session},
};

/// The longest pause before the first attempt to connect again, in milliseconds; it doubles up to the last one.
const FIRST_PAUSE_MS: u64 = 50;
const LAST_PAUSE_MS: u64 = 1_000;

/// What a client is to do for a day.
#[derive(Debug)]
pub(crate) enum Task {
    /// Create its group.
    Create(usize),
    /// Join it.
    Join(usize),
    /// Say something there.
    Say(usize, String),
}

/// A group to create or to join.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) day: usize,
    pub(crate) create: bool,
    /// The client message id: the same for each attempt.
    pub(crate) id: String,
}

/// What a client knows of a conversation beside its mark.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) joined: MarkView,
    pub(crate) read: MarkView,
    pub(crate) head: MarkView,
}

/// A client: one device of one user.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) run: Arc<Run>,
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) dice: StdRng,
    pub(crate) clock: Clock,
    pub(crate) cursor: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) marks: Marks,
    pub(crate) held: HashMap<String, Held>,
    pub(crate) changes: VecDeque<Change>,
    pub(crate) outbox: Outbox,
    /// What it is to do. It ends when the client's last day is over; permits of the run bound how much waits.
    pub(crate) tasks: UnboundedReceiver<Task>,
    /// There will be no more of them.
    pub(crate) ended: bool,
    /// When it last showed something.
    pub(crate) last_news: Instant,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(run: Arc<Run>, name: String, tasks: UnboundedReceiver<Task>) -> Self {
        Self {
            name,
            device: format!("replay-{}", run.id),
            dice: StdRng::seed_from_u64(rand::random()),
            clock: Clock::default(),
            cursor: None,
            state: None,
            marks: Marks::default(),
            held: HashMap::new(),
            changes: VecDeque::new(),
            outbox: Outbox::default(),
            tasks,
            ended: false,
            last_news: Instant::now(),
            token: None,
            run,
        }
    }

    /// Connects, again and again, until everything is done.
    pub(crate) async fn live(mut self) -> Result<(), ReplayError> {
        let mut tries = 0_u32;
        loop {
            let before = Instant::now();
            match self.connection().await {
                Over::Done => return Ok(()),
                Over::Wrong(why) => return Err(ReplayError::Client { nick: self.name, why }),
                Over::Lost => {}
            }
            tries = if before.elapsed() < Duration::from_secs(1) { tries + 1 } else { 0 };
            let most = (FIRST_PAUSE_MS << tries.min(8)).min(LAST_PAUSE_MS);
            sleep(Duration::from_millis(self.dice.random_range(0..most))).await;
        }
    }

    async fn connection(&mut self) -> Over {
        let token = match self.token().await {
            Ok(token) => token,
            Err(over) => return over,
        };
        self.outbox.forget_all();
        let run = self.run.clone();
        let mut session = match Session::open(self, token).await {
            Ok(session) => session,
            Err(over) => return over,
        };
        let over = session.live().await;
        match over {
            Over::Done => session.close().await,
            Over::Lost | Over::Wrong(_) => run.count_reconnect(),
        }
        over
    }

    async fn token(&mut self) -> Step<String> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        match token(self.run.host(), &self.name).await {
            Ok(token) => Ok(self.token.insert(token).clone()),
            Err(NoToken::Away) => Err(Over::Lost),
            Err(NoToken::Refused(why)) => Err(Over::Wrong(format!("no token: {why}"))),
        }
    }

    pub(crate) fn take_up(&mut self, task: Task) {
        let change = |day, create| Change { day, create, id: self.clock.uuid().to_string() };
        match task {
            Task::Create(day) => self.changes.push_back(change(day, true)),
            Task::Join(day) => self.changes.push_back(change(day, false)),
            Task::Say(day, text) => self.outbox.push(day, text),
        }
    }

    /// Nothing is left to say, and nothing will come; or the run gave up.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.run.given_up() || (self.ended && self.changes.is_empty() && self.outbox.is_empty())
    }

    /// A send was acked.
    pub(crate) fn acked(&mut self, request: u64, seq: u64) {
        if let Some(Message { day, id: Some(id), .. }) = self.outbox.remove(request) {
            self.run.acked(day, &self.name, &id, seq);
        }
    }

    /// A send was refused for good.
    pub(crate) fn refused(&mut self, request: u64, why: &str) {
        if let Some(message) = self.outbox.remove(request) {
            self.run.refused(message.day, &format!("{}: {why}", self.name));
        }
    }
}

/// A message to send.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) day: usize,
    pub(crate) text: String,
    /// The client message id, from the first attempt on.
    pub(crate) id: Option<String>,
    /// The request of this connection, and when it was sent.
    pub(crate) under_way: Option<(u64, Instant)>,
    not_before: Option<Instant>,
}

/// Messages that are not acked, in their order.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<Message>);

impl Outbox {
    fn push(&mut self, day: usize, text: String) {
        self.0.push_back(Message { day, text, id: None, under_way: None, not_before: None });
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, request: u64) -> Option<usize> {
        self.0.iter().position(|message| message.under_way.is_some_and(|(id, _)| id == request))
    }

    /// Whether it is the request of a message.
    pub(crate) fn is_under_way(&self, request: u64) -> bool {
        self.place(request).is_some()
    }

    fn remove(&mut self, request: u64) -> Option<Message> {
        self.0.remove(self.place(request)?)
    }

    /// The next one to send, of the first few; it keeps its place before those that follow, also when it has to wait.
    pub(crate) fn next(&mut self, now: Instant, window: usize) -> Option<&mut Message> {
        let message = self.0.iter_mut().take(window).find(|message| message.under_way.is_none())?;
        message.not_before.is_none_or(|at| at <= now).then_some(message)
    }

    /// It is to be sent again, from then on.
    pub(crate) fn again(&mut self, request: u64, at: Instant) {
        if let Some(place) = self.place(request) {
            (self.0[place].under_way, self.0[place].not_before) = (None, Some(at));
        }
    }

    /// What was not answered for so long is to be sent again.
    pub(crate) fn forget_unanswered(&mut self, now: Instant, patience: Duration) {
        for message in &mut self.0 {
            message.under_way = message.under_way.filter(|(_, at)| *at + patience > now);
        }
    }

    /// The connection is over: everything is to be sent again.
    fn forget_all(&mut self) {
        for message in &mut self.0 {
            (message.under_way, message.not_before) = (None, None);
        }
    }
}
