//! A connection with a session: one task, one loop.
//!
//! Each round goes through the same steps: answers that are ready, then events, then requests, then writing. So an answer stands
//! before every event that came after it, and neither a client that asks without end nor one that is told without end starves
//! the other direction. Requests are served one after the other, except that sends wait for their acks side by side; while more
//! waits for the client than it reads, neither requests nor events are taken.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use im_protocol::{CloseCode, ErrorBody, ErrorCode, Int, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::WaitForCancellationFuture;
use tungstenite::Utf8Bytes;

use crate::{
    alarm::Alarm,
    bootstrap::Bootstrap,
    codes, events,
    farewell::End,
    greet::Greeted,
    ops::{self, Asker, Served, error_frame},
    rate::{Bucket, Taken},
    sends::Sends,
    socket::Shared,
    stall::Stall,
    wire::{Incoming, Wire},
};

/// How many frames are taken in one step of a round.
const STEP: usize = 64;
/// How many rounds follow each other before other tasks have their turn.
const ROUNDS: usize = 16;
/// What a frame costs that cannot be read.
const UNREADABLE: f32 = 10.0;

/// A connection with a session.
pub(crate) struct Connection<'a, S> {
    wire: &'a mut Wire<S>,
    shared: &'a Shared,
    asker: Arc<Asker>,
    /// The request that is being served.
    serving: Option<BoxFuture<'static, Served>>,
    sends: Sends,
    bucket: Bucket,
    /// The frames of a message that is not whole yet; paid with it.
    frames: u32,
    alarm: Alarm,
    /// When the token ends.
    expires: Option<Instant>,
    /// When the connection is to close because the server stops.
    leaves: Option<Instant>,
    stall: Stall,
}

type Step = Result<bool, End>;

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    pub(crate) fn new(wire: &'a mut Wire<S>, shared: &'a Shared, greeted: Greeted) -> Self {
        let asker = Asker {
            session: greeted.session,
            page: shared.chat.config().page,
            answer_bytes: shared.config.outgoing_bytes,
            bootstrap: Bootstrap::default(),
        };
        Self {
            wire,
            shared,
            asker: Arc::new(asker),
            serving: None,
            sends: Sends::default(),
            bucket: Bucket::new(shared.config.rate, Instant::now()),
            frames: 0,
            alarm: Alarm::default(),
            expires: greeted.expires,
            leaves: None,
            stall: Stall::default(),
        }
    }

    /// Runs until the connection is to end.
    pub(crate) async fn run(mut self) -> End {
        let mut stop = pin!(self.shared.stop.cancelled());
        poll_fn(|cx| self.poll(cx, stop.as_mut())).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, stop: Pin<&mut WaitForCancellationFuture<'_>>) -> Poll<End> {
        if self.leaves.is_none() && stop.poll(cx).is_ready() {
            self.drain();
        }
        for _ in 0..ROUNDS {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return self.poll_due(cx),
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Goes once through the steps; whether anything moved.
    fn round(&mut self, cx: &mut Context<'_>) -> Step {
        let answered = self.answers(cx)?;
        let told = self.events(cx)?;
        let asked = self.requests(cx)?;
        let written = self.write(cx)?;
        Ok(answered || told || asked || written)
    }

    fn has_room(&self) -> bool {
        self.wire.out.bytes() < self.shared.config.outgoing_bytes
    }

    /// Passes answers on.
    fn answers(&mut self, cx: &mut Context<'_>) -> Step {
        let mut moved = self.served(cx)?;
        while let Poll::Ready(answer) = self.sends.poll_answer(cx) {
            self.wire.push(answer);
            moved = true;
        }
        Ok(moved)
    }

    /// Goes on with the request that is being served.
    fn served(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(serving) = &mut self.serving else { return Ok(false) };
        let Poll::Ready(served) = serving.as_mut().poll(cx) else { return Ok(false) };
        self.serving = None;
        match served {
            Served::Answer(answer) => self.wire.push(answer),
            Served::Sending(answer) => self.sends.push(answer),
            Served::Unreadable(answer) => {
                self.wire.push(answer);
                self.pay(UNREADABLE)?;
            }
            Served::Silent => {}
        }
        Ok(true)
    }

    /// Passes events on; not while a request is being served, whose answer may say where they begin.
    fn events(&mut self, cx: &mut Context<'_>) -> Step {
        let room = self.shared.config.outgoing_bytes.saturating_sub(self.wire.out.bytes());
        if self.serving.is_some() || room == 0 {
            return Ok(false);
        }
        let Poll::Ready(events) = self.asker.session.poll_events(cx, room) else { return Ok(false) };
        for event in events {
            events::tell(self.wire, event, self.asker.page)?;
        }
        Ok(true)
    }

    /// Takes requests, as long as they can be served.
    fn requests(&mut self, cx: &mut Context<'_>) -> Step {
        for taken in 0..STEP {
            if self.serving.is_some() || !self.takes_requests() {
                return Ok(taken > 0);
            }
            let read = self.wire.poll_read(cx);
            self.frames += self.wire.take_frames();
            match read {
                Poll::Ready(incoming) => self.take(incoming?)?,
                Poll::Pending if self.frames as f32 > 2.0 * self.shared.config.rate.burst => {
                    return Err(End::Close(CloseCode::Flood));
                }
                Poll::Pending => return Ok(taken > 0),
            }
            self.served(cx)?;
        }
        Ok(true)
    }

    fn takes_requests(&self) -> bool {
        let leaves = self.leaves.is_some_and(|leaves| leaves <= Instant::now());
        !leaves && self.has_room() && self.sends.len() < self.shared.config.in_flight
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), End> {
        let frames = std::mem::take(&mut self.frames);
        let wait = self.pay(frames as f32)?;
        match incoming {
            Incoming::Control => {}
            Incoming::Text(text) if wait.is_some() => self.refuse(&text, wait.unwrap_or_default()),
            Incoming::Text(text) if text.len() > self.shared.config.frame_bytes => self.refuse_unread(
                ErrorCode::TooLarge,
                format!("a frame may have at most {} bytes", self.shared.config.frame_bytes),
            )?,
            Incoming::Text(text) => {
                self.serving = Some(ops::serve(self.asker.clone(), text));
            }
            Incoming::Binary => {
                self.refuse_unread(ErrorCode::Malformed, "a frame is a text message".into())?;
            }
        }
        Ok(())
    }

    /// Pays for a frame; how long the client should have waited.
    fn pay(&mut self, cost: f32) -> Result<Option<std::time::Duration>, End> {
        match self.bucket.take(cost, self.shared.config.rate, Instant::now()) {
            Taken::Served => Ok(None),
            Taken::TooFast(wait) => Ok(Some(wait)),
            Taken::Flood => Err(End::Close(CloseCode::Flood)),
        }
    }

    fn refuse(&mut self, text: &Utf8Bytes, wait: std::time::Duration) {
        let re: Option<Int> = match Request::decode(text) {
            Ok(request) => request.id,
            Err(undecodable) => undecodable.re,
        };
        let body = ErrorBody::new(ErrorCode::TooFast, "too many frames");
        self.wire.push(error_frame(re, codes::retry_after(body, wait)));
    }

    fn refuse_unread(&mut self, code: ErrorCode, message: String) -> Result<(), End> {
        self.wire.push(error_frame(None, ErrorBody::new(code, message)));
        self.pay(UNREADABLE).map(drop)
    }

    /// Writes what the client takes; whether there is room again.
    fn write(&mut self, cx: &mut Context<'_>) -> Step {
        let full = !self.has_room();
        match self.wire.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.stall.clear(),
            Poll::Ready(Err(_)) => return Err(End::Gone),
            Poll::Pending => {
                let (written, full) = (self.wire.out.written(), !self.has_room());
                self.stall.waits(written, full, self.shared.config.write_timeout);
            }
        }
        Ok(full && self.has_room())
    }

    /// The server stops: says so, and leaves at some moment of the time that there is for it.
    fn drain(&mut self) {
        let share = rand::random_range(0.0..1.0);
        self.leaves = Some(Instant::now() + self.shared.config.drain.mul_f64(share));
        self.wire.push(events::draining());
    }

    /// Ends the connection when something is due.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = Instant::now();
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if is_due(self.expires) {
                return Poll::Ready(End::Close(CloseCode::TokenExpired));
            }
            if is_due(self.stall.due()) {
                return Poll::Ready(End::Close(CloseCode::Slow));
            }
            let idle = self.serving.is_none() && self.sends.len() == 0;
            if is_due(self.leaves) && idle {
                return Poll::Ready(End::Close(CloseCode::Draining));
            }
            // Requests under way wake this task by themselves.
            let leaves = self.leaves.filter(|_| idle);
            let due = [self.expires, self.stall.due(), leaves].into_iter().flatten().min();
            if self.alarm.poll(due, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, future};
    use im_engine::{CloseReason, DeviceId, Engine, Hello, Identity, Platform, UserId, memory::Memory};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::oneshot,
    };

    use super::*;
    use crate::{Transport, WsConfig, auth::Nobody, outgoing::text_frame};

    async fn transport(config: WsConfig) -> (Transport, Greeted) {
        let chat = Engine::builder(Memory::new()).start().await.unwrap();
        let identity = Identity {
            user: UserId::new("alice").unwrap(),
            device: DeviceId::new("a").unwrap(),
            platform: Platform::new("test").unwrap(),
        };
        let (session, _) = chat.connect(identity, Hello::default()).await.unwrap();
        (Transport::new(chat, Nobody, config), Greeted { session, expires: None })
    }

    fn wire() -> (Wire<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1 << 16);
        (Wire::new(near, Bytes::new(), 1 << 16), far)
    }

    /// What has come out so far.
    async fn out(far: &mut DuplexStream) -> String {
        let mut read = vec![0; 1 << 16];
        let count = far.read(&mut read).now_or_never().map_or(0, Result::unwrap);
        String::from_utf8_lossy(&read[..count]).into_owned()
    }

    fn place(text: &str, word: &str) -> usize {
        text.find(word).unwrap_or_else(|| panic!("no {word} in {text}"))
    }

    #[tokio::test]
    async fn an_answer_that_is_ready_stands_before_the_events() {
        let (transport, greeted) = transport(WsConfig::default()).await;
        let (mut wire, mut far) = wire();
        let mut connection = Connection::new(&mut wire, &transport.shared, greeted);
        connection.asker.session.close(CloseReason::Kicked);
        connection.sends.push(future::ready(text_frame("the answer".into())).boxed());
        assert_eq!(connection.run().await, End::Close(CloseCode::Kicked));
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        let text = out(&mut far).await;
        assert!(place(&text, "the answer") < place(&text, "kicked"));
    }

    #[tokio::test]
    async fn no_event_is_told_while_a_request_is_being_served() {
        let (transport, greeted) = transport(WsConfig::default()).await;
        let (mut wire, mut far) = wire();
        let mut connection = Connection::new(&mut wire, &transport.shared, greeted);
        let (answer, answered) = oneshot::channel();
        connection.serving = Some(answered.map(|answer| Served::Answer(text_frame(answer.unwrap()))).boxed());
        connection.asker.session.close(CloseReason::Kicked);
        let mut running = Box::pin(connection.run());
        assert!((&mut running).now_or_never().is_none());
        assert_eq!(out(&mut far).await, "");
        answer.send("the answer".to_owned()).unwrap();
        assert_eq!(running.await, End::Close(CloseCode::Kicked));
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        let text = out(&mut far).await;
        assert!(place(&text, "the answer") < place(&text, "kicked"));
    }

    #[tokio::test]
    async fn no_request_is_read_while_as_many_sends_wait_as_may() {
        let config = WsConfig { in_flight: 1, ..WsConfig::default() };
        let (transport, greeted) = transport(config).await;
        let (mut wire, mut far) = wire();
        let mut connection = Connection::new(&mut wire, &transport.shared, greeted);
        let (ack, acked) = oneshot::channel();
        connection.sends.push(acked.map(|ack| text_frame(ack.unwrap())).boxed());
        far.write_all(b"\x81\x94\0\0\0\0{\"id\":7,\"op\":\"ping\"}").await.unwrap();
        let mut running = Box::pin(connection.run());
        for _ in 0..10 {
            assert!((&mut running).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let early = out(&mut far).await;
        assert!(!early.contains("\"re\""), "{early}");
        ack.send("the ack".to_owned()).unwrap();
        let mut text = String::new();
        while !text.contains("\"re\":7") {
            assert!((&mut running).now_or_never().is_none());
            tokio::task::yield_now().await;
            text += &out(&mut far).await;
        }
        assert!(place(&text, "the ack") < place(&text, "\"re\":7"));
    }

    #[tokio::test]
    async fn connections_leave_at_different_moments_of_the_time_there_is() {
        let mut moments = Vec::new();
        for _ in 0..10 {
            let (transport, greeted) = transport(WsConfig::default()).await;
            let (mut wire, _far) = wire();
            let mut connection = Connection::new(&mut wire, &transport.shared, greeted);
            let before = Instant::now();
            connection.drain();
            moments.push(connection.leaves.unwrap() - before);
        }
        assert!(moments.iter().all(|moment| *moment < WsConfig::default().drain * 2));
        let (first, last) = (moments.iter().min().unwrap(), moments.iter().max().unwrap());
        assert!(*last - *first > WsConfig::default().drain / 10, "{moments:?}");
    }
}
