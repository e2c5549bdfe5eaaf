//! One connection of a client, from hello to its end: requests and answers, sends and acks, heartbeats.

use std::{collections::VecDeque, time::Duration};

use im_protocol::{ErrorBody, ErrorCode, Event, Op, ServerFrame, ok, op};
use rand::RngExt;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use crate::{
    client::{Change, Client, Task},
    link::{Link, Over, Step},
};

/// How long any answer may take; then the connection is taken for dead.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a request is asked again that the server cannot serve at the moment.
const AGAIN: Duration = Duration::from_secs(30);
/// The first pause before a request is asked again, where the server does not name one; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a client looks after what is due.
const TICK: Duration = Duration::from_millis(200);
/// How many messages a client sends ahead of their acks.
const WINDOW: usize = 8;
/// How many events may wait while an answer is awaited; then entries are left aside and pulled.
const BACKLOG: usize = 64;
/// After how many frames from the server a connection is cut, when connections are cut.
const CUT_FRAMES: std::ops::Range<u32> = 1..100;
/// How probable it is that a client reads, each tick.
const READS: f64 = 0.05;

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    pub(crate) client: &'c mut Client,
    link: Link,
    /// Events that came while an answer was awaited.
    backlog: VecDeque<Utf8Bytes>,
    /// Entries of signals are left aside until a pull was answered.
    pub(crate) aside: bool,
    /// Some were.
    pub(crate) passed_over: bool,
    pub(crate) owes_ack: bool,
    heartbeat: Duration,
    next_ping: Instant,
    /// How many more frames it takes before it is cut.
    cut_in: Option<u32>,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer(Utf8Bytes);

impl Answer {
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Step<T> {
        let wrong = |error| Over::Wrong(format!("{error} in {}", self.0));
        match ServerFrame::decode(&self.0).map_err(wrong)? {
            ServerFrame::Ok { ok, .. } => serde_json::from_str(ok.get()).map_err(wrong),
            _ => Err(Over::Wrong(format!("no answer: {}", self.0))),
        }
    }
}

/// Why a request was not served.
#[derive(Debug, Clone)]
struct Problem {
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
}

impl From<ErrorBody<'_>> for Problem {
    fn from(error: ErrorBody<'_>) -> Self {
        let retry_after = error.retry_after_ms.map(|ms| Duration::from_millis(ms.get()));
        Self { code: error.code, message: error.message.to_string(), retry_after }
    }
}

/// What a frame was.
enum Sorted {
    Event(Utf8Bytes),
    Answer(u64, Result<Answer, Problem>),
    /// The ack of a send, or nothing of interest.
    Taken,
}

impl<'c> Session<'c> {
    /// Connects and says hello.
    pub(crate) async fn open(client: &'c mut Client, token: String) -> Step<Self> {
        let link = Link::open(client.run.host()).await?;
        let cut_in = client.run.cuts.then(|| client.dice.random_range(CUT_FRAMES));
        let mut session = Self {
            client,
            link,
            backlog: VecDeque::new(),
            aside: false,
            passed_over: false,
            owes_ack: false,
            heartbeat: ANSWER,
            next_ping: Instant::now(),
            cut_in,
        };
        session.hello(token).await?;
        Ok(session)
    }

    async fn hello(&mut self, token: String) -> Step<()> {
        let (cursor, state, device) =
            (self.client.cursor.clone(), self.client.state.clone(), self.client.device.clone());
        let hello = op::Hello {
            token: token.into(),
            device: device.into(),
            platform: Some("replay".into()),
            cursor: cursor.map(Into::into),
            state: state.map(Into::into),
        };
        let answer = self.ask(hello).await?;
        let welcome: ok::Hello<'_> = answer.read()?;
        self.heartbeat = Duration::from_millis(welcome.heartbeat_ms.get());
        self.next_ping = Instant::now() + self.heartbeat;
        self.client.clock.set(welcome.time.get());
        if welcome.resync {
            self.client.cursor = None;
        }
        self.follow(welcome.end.as_deref(), &welcome.state).await?;
        for head in &welcome.heads {
            self.head(&head.conversation, head.seq.get()).await?;
        }
        Ok(())
    }

    /// Does everything that a client does, until the connection is over.
    pub(crate) async fn live(&mut self) -> Over {
        match self.run().await {
            Ok(()) => Over::Done,
            Err(over) => over,
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        self.link.close().await;
    }

    async fn run(&mut self) -> Step<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.change_members().await?;
            self.send_waiting().await?;
            if let Some(frame) = self.backlog.pop_front() {
                self.event(&frame).await?;
                continue;
            }
            if self.aside {
                self.pull().await?;
                continue;
            }
            tokio::select! {
                frame = self.link.frame() => {
                    if let Sorted::Event(frame) = self.sort(frame?)? {
                        self.event(&frame).await?;
                    }
                }
                task = self.client.tasks.recv(), if !self.client.ended => self.task(task),
                _ = ticks.tick() => if self.tick().await? { return Ok(()) },
            }
        }
    }

    fn task(&mut self, task: Option<Task>) {
        match task {
            Some(task) => self.client.take_up(task),
            None => self.client.ended = true,
        }
    }

    /// What is due; true when the client has done everything.
    async fn tick(&mut self) -> Step<bool> {
        let now = Instant::now();
        let finishing = self.client.has_nothing_to_do();
        if self.owes_ack {
            self.ack().await?;
        }
        self.client.outbox.forget_unanswered(now, ANSWER);
        if self.next_ping <= now || finishing {
            let level = self.ping().await?;
            if level && finishing && self.conclude().await? {
                return Ok(true);
            }
        }
        if !finishing && self.client.dice.random_bool(READS) {
            self.read_something().await?;
        }
        Ok(false)
    }

    async fn ack(&mut self) -> Step<()> {
        self.owes_ack = false;
        let Some(cursor) = self.client.cursor.clone() else { return Ok(()) };
        self.link.tell(op::Ack { cursor: cursor.into() }.into()).await
    }

    /// A heartbeat; whether the client had everything that the server has.
    async fn ping(&mut self) -> Step<bool> {
        let answer = self.ask(op::Ping {}).await?;
        self.next_ping = Instant::now() + self.heartbeat;
        let beat: ok::Ping<'_> = answer.read()?;
        self.client.clock.set(beat.time.get());
        let level = beat.end.as_deref() == self.client.cursor.as_deref()
            && self.client.state.as_deref() == Some(&*beat.state)
            && beat.heads.is_empty()
            && self.backlog.is_empty();
        self.follow(beat.end.as_deref(), &beat.state).await?;
        for head in &beat.heads {
            self.head(&head.conversation, head.seq.get()).await?;
        }
        Ok(level)
    }

    async fn event(&mut self, frame: &str) -> Step<()> {
        let Ok(ServerFrame::Event(event)) = ServerFrame::decode(frame) else {
            return Err(Over::Wrong(format!("no event: {frame}")));
        };
        match event {
            Event::Signal(signal) => self.signal(signal).await,
            Event::State(state) => self.state(&state.version).await,
            Event::Heads(heads) => {
                for head in &heads.heads {
                    self.head(&head.conversation, head.seq.get()).await?;
                }
                Ok(())
            }
            Event::Kicked(kicked) => Err(Over::Wrong(format!("kicked: {}", &*kicked.reason))),
            _ => Ok(()),
        }
    }

    /// Asks until there is an answer other than that the server cannot serve it at the moment.
    pub(crate) async fn ask<'a>(&mut self, op: impl Into<Op<'a>>) -> Step<Answer> {
        match self.try_ask(op.into()).await? {
            Ok(answer) => Ok(answer),
            Err((name, code, message)) => Err(Over::Wrong(format!("{name} was refused: {code}, {message}"))),
        }
    }

    /// As [`Self::ask`], but what the server refuses is an answer.
    pub(crate) async fn try_ask(
        &mut self,
        op: Op<'_>,
    ) -> Step<Result<Answer, (&'static str, ErrorCode, String)>> {
        let (until, mut pause) = (Instant::now() + AGAIN, PAUSE);
        while Instant::now() < until {
            let id = self.link.request(op.clone()).await?;
            match self.answer(id).await? {
                Ok(answer) => return Ok(Ok(answer)),
                Err(problem) if problem.code.is_transient() => {
                    sleep(problem.retry_after.unwrap_or(pause)).await;
                    pause *= 2;
                }
                // The server failed; who comes again may find it mended.
                Err(problem) if problem.code == ErrorCode::Internal => break,
                Err(problem) => return Ok(Err((op.name(), problem.code, problem.message))),
            }
        }
        Err(Over::Lost)
    }

    async fn answer(&mut self, id: u64) -> Step<Result<Answer, Problem>> {
        let until = Instant::now() + ANSWER;
        loop {
            let frame = timeout_at(until, self.link.frame()).await.map_err(|_| Over::Lost)??;
            match self.sort(frame)? {
                Sorted::Answer(re, answer) if re == id => return Ok(answer),
                Sorted::Event(frame) => self.keep(frame),
                _ => {}
            }
        }
    }

    /// Events wait while an answer is awaited. Where too many do, entries are left aside.
    fn keep(&mut self, frame: Utf8Bytes) {
        let full = self.backlog.len() >= BACKLOG;
        let signal = matches!(ServerFrame::decode(&frame), Ok(ServerFrame::Event(Event::Signal(_))));
        if signal && (full || self.aside) {
            (self.aside, self.passed_over, self.owes_ack) = (true, true, true);
        } else if !full {
            self.backlog.push_back(frame);
        }
    }

    /// Cuts the connection when it is time: whatever the frame was, an ack or a page in the midst of a bootstrap, it is lost.
    fn cut(&mut self) -> Step<()> {
        match &mut self.cut_in {
            Some(0) if !self.client.has_nothing_to_do() => Err(Over::Lost),
            Some(left) => {
                *left = left.saturating_sub(1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sort(&mut self, frame: Utf8Bytes) -> Step<Sorted> {
        self.cut()?;
        let decoded = ServerFrame::decode(&frame);
        let decoded = decoded.map_err(|error| Over::Wrong(format!("no frame: {error} in {frame}")))?;
        Ok(match decoded {
            ServerFrame::Event(_) => Sorted::Event(frame),
            ServerFrame::Ok { re, ok } if self.client.outbox.is_under_way(re.get()) => {
                let ack: ok::Send<'_> = serde_json::from_str(ok.get())
                    .map_err(|error| Over::Wrong(format!("no ack: {error} in {frame}")))?;
                self.client.acked(re.get(), ack.seq.get());
                Sorted::Taken
            }
            ServerFrame::Ok { re, .. } => Sorted::Answer(re.get(), Ok(Answer(frame))),
            ServerFrame::Error { re: Some(re), error } if self.client.outbox.is_under_way(re.get()) => {
                self.not_sent(re.get(), &error.into());
                Sorted::Taken
            }
            ServerFrame::Error { re: Some(re), error } => Sorted::Answer(re.get(), Err(error.into())),
            // Only an ack has no id.
            ServerFrame::Error { re: None, error } if error.code.is_transient() => {
                self.owes_ack = true;
                Sorted::Taken
            }
            ServerFrame::Error { re: None, error } => {
                return Err(Over::Wrong(format!("refused: {}, {}", error.code, &*error.message)));
            }
            _ => Sorted::Taken,
        })
    }

    fn not_sent(&mut self, re: u64, problem: &Problem) {
        if problem.code.is_transient() || problem.code == ErrorCode::Internal {
            let pause = problem.retry_after.unwrap_or(PAUSE);
            self.client.outbox.again(re, Instant::now() + pause);
        } else {
            self.client.refused(re, &format!("{}, {}", problem.code, problem.message));
        }
    }

    /// Creates and joins groups. Once it is answered, the user is a member.
    async fn change_members(&mut self) -> Step<()> {
        while let Some(Change { day, create, id }) = self.client.changes.front().cloned() {
            let conversation = self.client.run.days[day].conversation.clone();
            if create {
                let create = op::CreateGroup {
                    conversation: Some(conversation.into()),
                    name: None,
                    members: Vec::new(),
                    client_msg_id: id.into(),
                };
                self.ask(create).await?;
                self.client.run.days[day].open.close();
            } else {
                let join =
                    op::Join { conversation: conversation.into(), users: None, client_msg_id: id.into() };
                self.ask(join).await?;
            }
            self.client.changes.pop_front();
            self.client.run.progress();
        }
        Ok(())
    }

    /// Sends what waits, as far as the window allows.
    async fn send_waiting(&mut self) -> Step<()> {
        let now = Instant::now();
        while let Some(message) = self.client.outbox.next(now, WINDOW) {
            let id = match &message.id {
                Some(id) => id.clone(),
                None => {
                    let id = self.client.clock.uuid().to_string();
                    self.client.run.history().sent(message.day, &self.client.name, &id);
                    message.id = Some(id.clone());
                    id
                }
            };
            let send = op::Send {
                conversation: self.client.run.days[message.day].conversation.as_str().into(),
                client_msg_id: id.as_str().into(),
                content_type: im_core::ContentType::Text,
                content: message.text.as_str().into(),
                ack: None,
            };
            message.under_way = Some((self.link.request(send.into()).await?, now));
        }
        Ok(())
    }
}

/// The time as the server has it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    told: Option<(u64, Instant)>,
}

impl Clock {
    fn set(&mut self, time: u64) {
        self.told = Some((time, Instant::now()));
    }

    pub(crate) fn uuid(&self) -> Uuid {
        let Some((time, at)) = self.told else { return Uuid::now_v7() };
        let time = Duration::from_millis(time) + at.elapsed();
        let context = uuid::NoContext;
        Uuid::new_v7(uuid::Timestamp::from_unix(context, time.as_secs(), time.subsec_nanos()))
    }
}
