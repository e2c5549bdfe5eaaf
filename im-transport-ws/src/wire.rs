//! A WebSocket over a byte stream: frames in by tungstenite, frames out by [`Outgoing`].
//!
//! tungstenite keeps a read buffer and a write buffer for each connection, neither of which ever shrinks: one page of history
//! would be kept for ever by each of thousands of idle connections. So it reads from an [`Intake`], and what it has to say itself
//! (pongs, the answer to a close) goes into [`Outgoing`] like everything else.

use std::{
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use im_protocol::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::{
    Error, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::{
    intake::Intake,
    outgoing::{Frame, Outgoing},
};

/// The memory that tungstenite begins with, and how much it copies at once.
const BUFFER: usize = 256;
/// After a message of this length its memory is given back.
const LONG: usize = 1 << 10;

/// A WebSocket, as a server has it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    io: S,
    intake: Intake,
    context: WebSocketContext,
    pub(crate) out: Outgoing,
}

fn context(limit: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    WebSocketContext::new(Role::Server, Some(config))
}

/// What comes from the other side.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary,
    /// A ping or a pong; a ping is answered already.
    Control,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The other side closed the connection, or it broke.
    Gone,
    /// A message is over the limit; what is left of it stands unread.
    TooLarge,
    /// The other side does not speak WebSocket.
    Fault,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A WebSocket on a stream whose handshake is over, and of which `read` was read already. Messages of more than `limit`
    /// bytes are not read.
    pub(crate) fn new(io: S, read: Bytes, limit: usize) -> Self {
        Self { io, intake: Intake::new(&read), context: context(limit), out: Outgoing::default() }
    }

    /// How many frames have come since the last call: a message may be made of many.
    pub(crate) fn take_frames(&mut self) -> u32 {
        self.intake.take_frames()
    }

    /// Another limit of messages, in bytes.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.context.set_config(|config| {
            (config.max_message_size, config.max_frame_size) = (Some(limit), Some(limit));
        });
    }

    /// Gives back the memory of a long message. What of the next one was read is in the intake.
    fn shrink(&mut self) {
        if let Some(limit) = self.context.get_config().max_frame_size.filter(|_| self.context.can_write()) {
            self.context = context(limit);
        }
    }

    /// The next thing that comes. After an error nothing does.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Broken>> {
        self.intake.begin_turn();
        let mut stream = Blocking { io: &mut self.io, intake: &mut self.intake, cx, out: &mut self.out };
        let read = self.context.read(&mut stream);
        if let Ok(Message::Close(_)) = read {
            // Queues the answer; that this ends the WebSocket is known.
            let _ = self.context.flush(&mut stream);
        }
        if read.as_ref().is_ok_and(|message| {
            matches!(message, Message::Text(_) | Message::Binary(_)) && message.len() > LONG
        }) {
            self.shrink();
        }
        Poll::Ready(match read {
            Ok(Message::Text(text)) => Ok(Incoming::Text(text)),
            Ok(Message::Binary(_)) => Ok(Incoming::Binary),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(Incoming::Control),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(Error::Capacity(_)) => Err(Broken::TooLarge),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Err(Broken::Gone),
            Err(Error::Protocol(_) | Error::Utf8(_)) => Err(Broken::Fault),
            Ok(Message::Close(_)) | Err(_) => Err(Broken::Gone),
        })
    }

    /// Adds a frame to what is to be written.
    pub(crate) fn push(&mut self, frame: impl Into<Frame>) {
        self.out.push(frame);
    }

    /// Writes what waits; ready when nothing does.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_write(Pin::new(&mut self.io), cx)
    }

    /// Adds a close frame to what is to be written, if none went before.
    pub(crate) fn push_close(&mut self, code: CloseCode) {
        let frame = CloseFrame { code: code.number().into(), reason: Utf8Bytes::from_static(code.as_str()) };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream =
            Blocking { io: &mut self.io, intake: &mut self.intake, cx: &mut cx, out: &mut self.out };
        // Whatever it says of the state of the WebSocket: this was the last word.
        let _ = self.context.close(&mut stream, Some(frame));
    }

    /// Reads and forgets whatever comes, WebSocket or not; ready at the end.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 2048];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }

    /// Says to the other side that nothing follows.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The stream as tungstenite wants it: reads that would wait fail, writes are queued.
struct Blocking<'a, 'b, S> {
    io: &'a mut S,
    intake: &'a mut Intake,
    cx: &'a mut Context<'b>,
    out: &'a mut Outgoing,
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.intake.has_had_its_turn() {
            self.cx.waker().wake_by_ref();
            return Err(ErrorKind::WouldBlock.into());
        }
        match self.intake.poll_read(Pin::new(self.io), self.cx, buffer) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S> Write for Blocking<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.push(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{SinkExt, StreamExt};
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio_tungstenite::WebSocketStream;

    use super::*;

    const LIMIT: usize = 64 << 10;

    /// The next thing that comes; what is to be written is written meanwhile.
    async fn next<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Incoming, Broken> {
        poll_fn(|cx| {
            let read = wire.poll_read(cx);
            let _ = wire.poll_flush(cx);
            read
        })
        .await
    }

    #[tokio::test]
    async fn messages_of_any_length_come_whole_and_in_order_between_pings() {
        let (near, far) = duplex(3000);
        let mut wire = Wire::new(near, Bytes::new(), LIMIT);
        let lengths: Vec<usize> = (0..200).map(|turn: usize| (turn * turn * 37) % 30_000).collect();
        let sent = lengths.clone();
        let client = tokio::spawn(async move {
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            for (turn, length) in sent.into_iter().enumerate() {
                if turn % 3 == 0 {
                    client.feed(Message::Ping(vec![turn as u8].into())).await.unwrap();
                }
                client.send(Message::text("x".repeat(length))).await.unwrap();
            }
            let mut pongs = 0;
            while let Some(Ok(Message::Pong(_))) = client.next().await {
                pongs += 1;
            }
            pongs
        });
        for expected in lengths {
            loop {
                match next(&mut wire).await {
                    Ok(Incoming::Text(text)) => break assert_eq!(text.len(), expected),
                    Ok(Incoming::Control) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        drop(wire);
        assert!(client.await.unwrap() > 0, "pings were answered");
    }

    #[tokio::test]
    async fn whatever_bytes_come_nothing_panics() {
        for seed in 0..300 {
            let mut dice = StdRng::seed_from_u64(seed);
            let mut bytes = vec![0; 4000];
            dice.fill(&mut bytes[..]);
            // Many beginnings that look like a frame of a client.
            bytes[0] = [0x81, 0x82, 0x01, 0x80, 0x89, 0x88][seed as usize % 6];
            bytes[1] = 0x80 | (seed % 128) as u8;
            let (near, mut far) = duplex(8000);
            far.write_all(&bytes).await.unwrap();
            drop(far);
            let mut wire = Wire::new(near, Bytes::new(), LIMIT);
            while next(&mut wire).await.is_ok() {}
        }
    }
}
