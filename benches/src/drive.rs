//! The clients of a server under measurement, in a process of their own.
//!
//! They do as little as clients can: count the signals that come in, ack the newest one a second at most, ping now and then. The
//! same for both servers; the bare one reads what they say and passes over it. Each line of the output is how many frames came,
//! in whole rounds of one to each connection.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Stdin, stdin},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, interval_at},
};

use crate::{
    Outcome,
    args::{Drive, Shape},
    backend::CONTENT_BYTES,
    process::allow_sockets,
};

/// How many connections are being made at a time.
const CONNECTING: usize = 256;
/// How often a client says what it has, if that is more than before.
const ACK: Duration = Duration::from_secs(1);
/// Every how many acks a client pings.
const PING: u64 = 20;
/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(30);

const HANDSHAKE: &str = "GET /im HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: im.v1.json\r\n\r\n";

pub(crate) async fn run(drive: &Drive) -> Outcome {
    allow_sockets(drive.shape.connections())?;
    let mut lines = BufReader::new(stdin()).lines();
    let counter = Arc::new(Counter::new(drive.shape.connections() as u64));
    let mut clients = JoinSet::new();
    for client in connect(drive, &mut lines).await? {
        clients.spawn(client.run(counter.clone()));
    }
    let mut rounds = counter.rounds.subscribe();
    let mut out = tokio::io::stdout();
    out.write_all(b"ready\n").await?;
    loop {
        out.flush().await?;
        tokio::select! {
            changed = rounds.changed() => changed?,
            ended = clients.join_next() => return ended.unwrap_or(Ok(Ok(())))?,
            // The server's process is gone or done.
            _ = lines.next_line() => return Ok(()),
        }
        let line = format!("{}\n", *rounds.borrow_and_update());
        out.write_all(line.as_bytes()).await?;
    }
}

/// Signs all connections in, each with the cursor that the next line of the input names.
async fn connect(drive: &Drive, lines: &mut Lines<BufReader<Stdin>>) -> Outcome<Vec<Client>> {
    let mut hellos = Vec::new();
    for (group, member) in drive.shape.places() {
        let cursor = lines.next_line().await?.ok_or("a cursor is missing")?;
        let token = token(group, member);
        hellos.push(format!(
            r#"{{"id":1,"op":"hello","token":"{token}","device":"bench","platform":"bench","cursor":"{cursor}"}}"#
        ));
    }
    stream::iter(hellos)
        .map(|hello| async move {
            tokio::time::timeout(PATIENCE, Client::connect(drive, &hello))
                .await
                .map_err(|_| "no answer to a hello")?
        })
        .buffer_unordered(CONNECTING)
        .try_collect()
        .await
}

/// The token of a place, which is also its user: in the order of its groups.
pub(crate) fn token(group: usize, member: usize) -> String {
    format!("u{group:04}-{member:06}")
}

/// The place of a token.
pub(crate) fn place(token: &str) -> Option<(usize, usize)> {
    let (group, member) = token.strip_prefix('u')?.split_once('-')?;
    Some((group.parse().ok()?, member.parse().ok()?))
}

/// Whether a place is one of the shape's.
pub(crate) fn holds(shape: Shape, (group, member): (usize, usize)) -> bool {
    group < shape.groups && member < shape.members
}

/// More rounds than can be under way.
const SLOTS: u64 = 256;

/// How many connections have got so many frames. Not just how many frames came in all: then a connection that is left behind
/// would be made up for by others, and would not be waited for.
#[derive(Debug)]
struct Counter {
    connections: u64,
    /// How many connections have got the frame of a round, for the rounds under way.
    slots: Vec<AtomicU64>,
    /// How many rounds are whole.
    rounds: watch::Sender<u64>,
}

impl Counter {
    fn new(connections: u64) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { connections, slots, rounds: watch::Sender::new(0) }
    }

    /// A connection that had `seen` frames has got some more.
    fn add(&self, seen: u64, frames: u64) {
        for round in seen + 1..=seen + frames {
            let slot = &self.slots[(round % SLOTS) as usize];
            if slot.fetch_add(1, Ordering::AcqRel) + 1 == self.connections {
                slot.store(0, Ordering::Release);
                self.rounds.send_if_modified(|known| {
                    let more = round > *known;
                    *known = round.max(*known);
                    more
                });
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Client {
    socket: TcpStream,
    /// The beginning of a frame whose rest has not come.
    part: Vec<u8>,
    /// The cursor of the newest signal.
    cursor: Vec<u8>,
    acked: Vec<u8>,
}

impl Client {
    async fn connect(drive: &Drive, hello: &str) -> Outcome<Self> {
        let mut socket = TcpStream::connect(drive.addr).await?;
        socket.set_nodelay(true)?;
        socket.write_all(HANDSHAKE.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await?);
        }
        if !answer.starts_with(b"HTTP/1.1 101") {
            return Err(String::from_utf8_lossy(&answer).into());
        }
        socket.write_all(&masked(hello)).await?;
        let mut answer = Vec::new();
        loop {
            if let Some(frame) = Frame::read(&answer) {
                let welcome = frame.payload.starts_with(br#"{"re":1,"ok":"#)
                    && !contains(frame.payload, br#""resync":true"#);
                if !welcome {
                    return Err(format!("not welcome: {}", String::from_utf8_lossy(frame.payload)).into());
                }
                answer.drain(..frame.bytes);
                return Ok(Self { socket, part: answer, cursor: Vec::new(), acked: Vec::new() });
            }
            if socket.read_buf(&mut answer).await? == 0 {
                return Err("closed during hello".into());
            }
        }
    }

    async fn run(mut self, counter: Arc<Counter>) -> Outcome {
        let mut seen = 0;
        // Not all in the same moment.
        let phase = Duration::from_millis(u64::from(self.socket.local_addr()?.port()) % 1000);
        let mut acks = interval_at(Instant::now() + phase, ACK);
        for turn in 1.. {
            loop {
                tokio::select! {
                    biased;
                    _ = acks.tick() => break,
                    ready = self.socket.readable() => ready?,
                }
                match self.read()? {
                    0 => {}
                    frames => {
                        counter.add(seen, frames);
                        seen += frames;
                    }
                }
            }
            self.speak(turn).await?;
        }
        Ok(())
    }

    /// Reads what is there, on the stack: thousands of clients keep no buffers.
    fn read(&mut self) -> Outcome<u64> {
        let mut buffer = [0; 32 << 10];
        let mut frames = 0;
        loop {
            let count = match self.socket.try_read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error.into()),
            };
            frames += if self.part.is_empty() {
                let (taken, frames) = self.take(&buffer[..count])?;
                self.part.extend_from_slice(&buffer[taken..count]);
                frames
            } else {
                let mut all = std::mem::take(&mut self.part);
                all.extend_from_slice(&buffer[..count]);
                let (taken, frames) = self.take(&all)?;
                all.drain(..taken);
                self.part = all;
                frames
            };
            if count < buffer.len() {
                return Ok(frames);
            }
        }
    }

    /// Takes the whole frames: how many bytes they are, and how many of them are signals with entries.
    fn take(&mut self, bytes: &[u8]) -> Outcome<(usize, u64)> {
        let (mut taken, mut frames, mut newest) = (0, 0, None);
        while let Some(frame) = Frame::read(&bytes[taken..]) {
            taken += frame.bytes;
            match frame.opcode {
                1 if frame.payload.starts_with(SIGNAL) => {
                    if frame.payload.len() < CONTENT_BYTES {
                        return Err("a signal without entries: the server gave up its queue".into());
                    }
                    frames += 1;
                    newest = Some(frame.payload);
                }
                8 => return Err("the server closed a connection".into()),
                _ => {}
            }
        }
        if let Some(newest) = newest {
            let cursor = &newest[SIGNAL.len()..];
            let end = cursor.iter().position(|byte| *byte == b'"').ok_or("a signal without an end")?;
            self.cursor.clear();
            self.cursor.extend_from_slice(&cursor[..end]);
        }
        Ok((taken, frames))
    }

    async fn speak(&mut self, turn: u64) -> Outcome {
        if self.cursor != self.acked {
            let ack = format!(r#"{{"op":"ack","cursor":"{}"}}"#, String::from_utf8_lossy(&self.cursor));
            self.socket.write_all(&masked(&ack)).await?;
            self.acked.clone_from(&self.cursor);
        }
        if turn.is_multiple_of(PING) {
            self.socket.write_all(&masked(r#"{"id":2,"op":"ping"}"#)).await?;
        }
        Ok(())
    }
}

/// How a signal begins, up to its end's cursor.
const SIGNAL: &[u8] = br#"{"ev":"signal","end":""#;

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A frame of a server, which does not mask.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    opcode: u8,
    payload: &'a [u8],
    /// Header and all.
    bytes: usize,
}

impl<'a> Frame<'a> {
    /// The first frame; none while it is not whole.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<2>()?;
        let (length, header) = match head[1] {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let end = header + length as usize;
        Some(Self { opcode: head[0] & 0x0f, payload: bytes.get(header..end)?, bytes: end })
    }
}

/// A text frame of a client. The mask is zero, so the text stands as it is.
fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        _ => {
            frame.push(0xfe);
            frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let mut long = vec![0x81, 126, 1, 0];
        long.extend_from_slice(&[b'x'; 256]);
        for cut in 0..long.len() {
            assert_eq!(Frame::read(&long[..cut]), None);
        }
        long.extend_from_slice(b"\x81\x02hi");
        let first = Frame::read(&long).unwrap();
        assert_eq!((first.payload.len(), first.bytes), (256, 260));
        let second = Frame { opcode: 1, payload: b"hi", bytes: 4 };
        assert_eq!(Frame::read(&long[first.bytes..]), Some(second));
    }

    #[test]
    fn a_token_names_its_place() {
        assert_eq!(place(&token(99, 7999)), Some((99, 7999)));
        assert_eq!(place("x"), None);
    }

    #[test]
    fn a_round_is_whole_when_the_last_connection_has_its_frame() {
        let counter = Counter::new(3);
        let mut had = [0; 3];
        let mut add = |connection: usize, frames| {
            counter.add(had[connection], frames);
            had[connection] += frames;
            *counter.rounds.borrow()
        };
        assert_eq!([add(0, 5), add(1, 2), add(2, 1), add(2, 3), add(1, 3)], [0, 0, 1, 2, 4]);
        for _ in 0..1000 {
            for connection in 0..3 {
                add(connection, 1);
            }
        }
        assert_eq!(add(2, 1), 1005);
    }
}
