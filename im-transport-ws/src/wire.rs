//! A WebSocket over a byte stream: frames in by tungstenite, frames out by [`Outgoing`].
//!
//! tungstenite's own writer copies every frame into a buffer per connection that never shrinks: one page of history would be
//! kept for ever by each of thousands of idle connections. So it only reads here; what it has to say itself (pongs, the answer
//! to a close) goes into [`Outgoing`] like everything else, and its limits can change after hello.

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
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::outgoing::Outgoing;

/// A WebSocket, as a server has it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    io: S,
    context: WebSocketContext,
    pub(crate) out: Outgoing,
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
    pub(crate) fn new(io: S, read: Bytes, read_buffer: usize, limit: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(0)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        // A copy: the bytes as they are would keep hyper's whole read buffer.
        let context = WebSocketContext::from_partially_read(read.to_vec(), Role::Server, Some(config));
        Self { io, context, out: Outgoing::default() }
    }

    /// Another limit of messages, in bytes.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.context.set_config(|config| {
            (config.max_message_size, config.max_frame_size) = (Some(limit), Some(limit));
        });
    }

    /// The next thing that comes. After an error nothing does.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Broken>> {
        let mut stream = Blocking { io: &mut self.io, cx, out: &mut self.out };
        let read = self.context.read(&mut stream);
        if let Ok(Message::Close(_)) = read {
            // Queues the answer; that this ends the WebSocket is known.
            let _ = self.context.flush(&mut stream);
        }
        Poll::Ready(match read {
            Ok(Message::Text(text)) => Ok(Incoming::Text(text)),
            Ok(Message::Binary(_)) => Ok(Incoming::Binary),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(Incoming::Control),
            Ok(Message::Close(_)) => Err(Broken::Gone),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(Error::Capacity(_)) => Err(Broken::TooLarge),
            Err(Error::Utf8(_)) => Err(Broken::Fault),
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                Err(Broken::Gone)
            }
            Err(Error::Protocol(_)) => Err(Broken::Fault),
            Err(_) => Err(Broken::Gone),
        })
    }

    /// Adds a frame to what is to be written.
    pub(crate) fn push(&mut self, frame: Bytes) {
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
        let mut stream = Blocking { io: &mut self.io, cx: &mut cx, out: &mut self.out };
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
    cx: &'a mut Context<'b>,
    out: &'a mut Outgoing,
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
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
