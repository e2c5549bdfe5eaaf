//! A server under measurement, in a process of its own, so that its memory is its own. Its clients are another process.
//!
//! The engine's frames are measured from the signal on: what fan-out would tell the node (whose sessions have which new entries
//! under which cursors) goes to the node's notifier, and from there through the engine's sessions and im-transport-ws to the
//! sockets. What comes before it is the work `fanout`.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::extract::ws::Utf8Bytes;
use im_engine::{
    ClientMsgId, ContentHash, ContentType, ConversationId, Cursor, DeviceId, Identity, Notice, Notifier,
    Ordinal, Platform, Record, RecordKind, Seq, Signal, Signals, Timestamp, UserId,
};
use im_protocol::{EncodedRecord, frame};
use im_transport_ws::{AuthError, Authenticated, Authenticator};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket},
};

use crate::{
    Outcome,
    args::{Backend, Kind, Shape, Side},
    backend::{Bed, Place, content},
    bare::Bare,
    drive,
    driver::Driver,
    pace::Timetable,
    process::{allow_sockets, rss_kb},
};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long memory is given to settle after all have connected.
const SETTLE: Duration = Duration::from_secs(1);

/// The first thing a side says: its memory without connections and with all of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) rss_before_kb: u64,
    pub(crate) rss_kb: u64,
}

/// What it is asked: to send one frame to each connection, again and again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// How many such rounds may be under way.
    pub(crate) window: u64,
    pub(crate) seconds: f64,
    /// Rounds per second of an open loop; none: as fast as the window allows.
    pub(crate) rate: Option<f64>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) frames: u64,
    pub(crate) seconds: f64,
    /// From when a round was due until as many frames had come as it and those before it have.
    pub(crate) latencies_us: Vec<u64>,
    pub(crate) rss_kb: u64,
}

pub(crate) async fn run(side: &Side) -> Outcome {
    allow_sockets(side.shape.connections())?;
    let listener = listen()?;
    let addr = listener.local_addr()?;
    let server: Box<dyn Server> = match side.kind {
        Kind::Own => Box::new(Own::start(side, listener).await?),
        Kind::Bare => Box::new(BareServer::start(side.shape, listener)?),
    };
    let cursors = server.cursors();
    let rss_before_kb = rss_kb()?;
    let driver = Driver::connect(addr, side.shape, &cursors).await?;
    drop(cursors);
    tokio::time::sleep(SETTLE).await;
    say(&Ready { rss_before_kb, rss_kb: rss_kb()? }).await?;
    let mut rounds =
        Rounds { server, driver, connections: side.shape.connections() as u64, sent: 0, done: 0 };
    let mut asked = BufReader::new(tokio::io::stdin()).lines();
    while let Some(ask) = asked.next_line().await? {
        let answer = rounds.run(serde_json::from_str(&ask)?).await?;
        say(&answer).await?;
    }
    // Before the server: they would complain of its end.
    rounds.driver.end().await
}

async fn say(what: &impl Serialize) -> Outcome {
    let mut out = tokio::io::stdout();
    out.write_all((serde_json::to_string(what)? + "\n").as_bytes()).await?;
    Ok(out.flush().await?)
}

fn listen() -> Outcome<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket.listen(BACKLOG)?)
}

/// Sends one frame to each connection.
#[async_trait]
trait Server: Send {
    /// With which cursor each client is to say hello.
    fn cursors(&self) -> Vec<String>;

    async fn step(&mut self, number: u64) -> Outcome;
}

struct Rounds {
    server: Box<dyn Server>,
    driver: Driver,
    connections: u64,
    sent: u64,
    done: u64,
}

/// When the next round is due.
enum Pace {
    Closed { until: Instant },
    Open(Timetable),
}

impl Pace {
    fn take(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Closed { until } => (now < *until).then_some(now),
            Self::Open(timetable) => timetable.take(now),
        }
    }

    /// When it is worth to look again, other than after an answer.
    fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { .. } => None,
            Self::Open(timetable) => timetable.next(),
        }
    }
}

impl Rounds {
    async fn run(&mut self, ask: Ask) -> Outcome<Answer> {
        let (start, length) = (Instant::now(), Duration::from_secs_f64(ask.seconds));
        let mut pace = match ask.rate {
            None => Pace::Closed { until: start + length },
            Some(rate) => Pace::Open(Timetable::new(start, rate, length)),
        };
        let (before, mut due, mut latencies_us) = (self.sent, VecDeque::new(), Vec::new());
        loop {
            while self.sent - self.done < ask.window {
                let Some(at) = pace.take() else { break };
                self.sent += 1;
                due.push_back(at);
                self.server.step(self.sent).await?;
            }
            let next = pace.next().filter(|_| self.sent - self.done < ask.window);
            if due.is_empty() && next.is_none() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or(start).into()), if next.is_some() => {}
                done = self.driver.rounds(), if !due.is_empty() => {
                    let done = done?;
                    for _ in self.done..done {
                        let at = due.pop_front().ok_or("more frames came than were sent")?;
                        latencies_us.push(at.elapsed().as_micros() as u64);
                    }
                    self.done = done;
                }
            }
        }
        let frames = (self.sent - before) * self.connections;
        Ok(Answer { frames, seconds: start.elapsed().as_secs_f64(), latencies_us, rss_kb: rss_kb()? })
    }
}

/// The message of a group in a round.
fn record(group: usize, number: u64) -> Outcome<Record> {
    let content = content();
    Ok(Record {
        conversation: ConversationId::group(format!("group-{group:03}"))?,
        seq: Seq(number),
        ordinal: Ordinal(number),
        created_at: Timestamp(1_795_400_000_000),
        sender: UserId::new("somebody")?,
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new("019a5b1e-7c00-7a3b-9d2e-4f5061728394")?,
        hole_after: None,
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        hash: ContentHash::of(RecordKind::Message, ContentType::Text, &content),
        content,
    })
}

/// The engine behind im-transport-ws, both in their defaults.
struct Own {
    bed: Bed,
    notifier: Arc<dyn Notifier>,
    backend: Backend,
    groups: usize,
    /// Who is told, group by group, and where each stands.
    users: Vec<(UserId, Cursor)>,
}

impl Own {
    async fn start(side: &Side, listener: TcpListener) -> Outcome<Self> {
        let bed = Bed::open(Place::new(side.backend, None)?).await?;
        let inbox = bed.parts.inbox.clone().ok_or("no inbox")?;
        let notifier = bed.parts.notifier.clone().ok_or("no notifier")?;
        let mut users = Vec::new();
        for (group, member) in side.shape.places() {
            let user = UserId::new(drive::token(group, member))?;
            let cursor = inbox.anchor(&user).await?;
            users.push((user, cursor));
        }
        let app = axum::Router::new().route("/im", im_transport_ws::socket(bed.engine.clone(), Named));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { bed, notifier, backend: side.backend, groups: side.shape.groups, users })
    }

    /// A cursor as the backend makes them: SQLite's are the same for all users, so that they share a frame; those of the
    /// memory backend are each user's own, so that each has a frame of its own.
    fn cursor(&self, anchor: &Cursor, number: u64, user: usize) -> Outcome<Cursor> {
        let text = anchor.as_str();
        Ok(Cursor::new(match self.backend {
            Backend::Sqlite => {
                let (name, _) = text.split_once('-').ok_or("another cursor than SQLite's")?;
                format!("{name}-{number}")
            }
            Backend::Memory => {
                let (_, name) = text.split_once('/').ok_or("another cursor than the memory's")?;
                format!("{}/{name}", (number << 20) + user as u64)
            }
            Backend::Pg | Backend::Redis => {
                return Err("connections are measured on memory or sqlite".into());
            }
        }))
    }
}

#[async_trait]
impl Server for Own {
    fn cursors(&self) -> Vec<String> {
        self.users.iter().map(|(_, cursor)| cursor.as_str().to_owned()).collect()
    }

    async fn step(&mut self, number: u64) -> Outcome {
        let records = (0..self.groups).map(|group| record(group, number).map(Arc::new));
        let records: Arc<[Arc<Record>]> = records.collect::<Outcome<_>>()?;
        let members = self.users.len() / self.groups;
        let mut signals = Vec::new();
        let mut indices: Arc<[u32]> = Arc::default();
        let mut cursors: Arc<[Cursor]> = Arc::default();
        for at in 0..self.users.len() {
            let is_first = at % members == 0;
            if is_first {
                indices = [(at / members) as u32].into();
            }
            // As SQLite's inbox answers: recipients in a row share the list of their cursors.
            if is_first || self.backend != Backend::Sqlite {
                cursors = [self.cursor(&self.users[at].1, number, at)?].into();
            }
            let (user, stands) = &mut self.users[at];
            let previous = std::mem::replace(stands, cursors[0].clone());
            let user = (user.clone(), Some(previous));
            Signal::push(&mut signals, user, indices.clone(), cursors.clone());
        }
        let notice = Notice::Signals(Signals { records, signals });
        Ok(self.notifier.notify(vec![(self.bed.engine.node().clone(), notice)]).await?)
    }
}

/// Whose token is a name is that user.
#[derive(Debug)]
struct Named;

#[async_trait]
impl Authenticator for Named {
    async fn authenticate(
        &self,
        token: &str,
        device: &DeviceId,
        platform: Option<&Platform>,
    ) -> Result<Authenticated, AuthError> {
        let user = UserId::new(token).map_err(|_| AuthError::Invalid)?;
        let platform = platform.cloned().ok_or(AuthError::Invalid)?;
        Ok(Authenticated { identity: Identity { user, device: device.clone(), platform }, expires: None })
    }
}

/// The axum loop.
struct BareServer {
    bare: Bare,
    shape: Shape,
    records: Vec<EncodedRecord>,
}

impl BareServer {
    fn start(shape: Shape, listener: TcpListener) -> Outcome<Self> {
        let bare = Bare::new(shape);
        tokio::spawn(bare.clone().serve(listener));
        // Of about the length that the engine's have in mid-measurement.
        let records = (0..shape.groups).map(|group| Ok(EncodedRecord::new(&record(group, 1000)?)));
        Ok(Self { bare, shape, records: records.collect::<Outcome<_>>()? })
    }
}

#[async_trait]
impl Server for BareServer {
    fn cursors(&self) -> Vec<String> {
        vec!["0".to_owned(); self.shape.connections()]
    }

    async fn step(&mut self, number: u64) -> Outcome {
        let cursor = format!("0123456789ab-{number}");
        for (group, record) in self.records.iter().enumerate() {
            let frame = frame::signal([(cursor.as_str(), record)]);
            self.bare.send(group, Utf8Bytes::from(frame));
        }
        Ok(())
    }
}
