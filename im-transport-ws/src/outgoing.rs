//! Frames that wait to be written: shared bytes, written many at a time, nothing kept once they are gone.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use im_engine::Entries;
use tokio::io::AsyncWrite;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

use crate::events;

/// How many bytes of small frames one system call takes. They are copied together, which costs less than to name each to the
/// system.
const GATHERED: usize = 32 << 10;

thread_local! {
    /// Where frames are copied together: one for all connections of a thread.
    static GATHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHERED));
}

/// The frame of a WebSocket text message, ready to be written on any number of connections: what a server sends is not masked.
pub(crate) fn text_frame(text: String) -> Bytes {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let mut prefix = Vec::with_capacity(16);
    // A vector takes everything that is written to it.
    let written = header.format(text.len() as u64, &mut prefix);
    debug_assert!(written.is_ok());
    let mut frame = text.into_bytes();
    frame.splice(0..0, prefix);
    frame.into()
}

/// A frame that is ready to be written, header and all; or several, one behind the other.
#[derive(Debug)]
pub(crate) enum Frame {
    /// One that was made for this connection.
    Own(Bytes),
    /// One that is shared with all who are told the same.
    Shared(Arc<Entries>),
}

impl Frame {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(entries) => events::signals(entries),
        }
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self::Own(bytes)
    }
}

impl From<Arc<Entries>> for Frame {
    fn from(entries: Arc<Entries>) -> Self {
        Self::Shared(entries)
    }
}

/// Frames that wait to be written, first in first out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Frame>,
    /// How much of the first frame is written.
    begun: usize,
    bytes: usize,
    written: u64,
    unflushed: bool,
}

impl Outgoing {
    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: impl Into<Frame>) {
        let frame = frame.into();
        self.bytes += frame.bytes().len();
        self.frames.push_back(frame);
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes were ever written: whether the other side reads at all.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes as much as the other side takes; ready when nothing waits.
    pub(crate) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(first) = self.frames.front() {
            let first = &first.bytes()[self.begun..];
            let both = self.frames.get(1).map(|second| first.len() + second.bytes().len());
            let write = if both.is_none_or(|bytes| bytes > GATHERED) {
                io.as_mut().poll_write(cx, first)
            } else {
                GATHER.with_borrow_mut(|gather| {
                    gather.clear();
                    gather.extend_from_slice(first);
                    for frame in self.frames.iter().skip(1).map(Frame::bytes) {
                        if gather.len() + frame.len() > GATHERED {
                            break;
                        }
                        gather.extend_from_slice(frame);
                    }
                    io.as_mut().poll_write(cx, gather)
                })
            };
            match ready!(write)? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        if self.unflushed {
            ready!(io.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.unflushed = true;
        self.bytes -= written;
        self.written += written as u64;
        written += self.begun;
        while let Some(frame) = self.frames.pop_front_if(|frame| frame.bytes().len() <= written) {
            written -= frame.bytes().len();
        }
        self.begun = written;
        if self.frames.is_empty() {
            // An idle connection keeps no memory for what it once had to write.
            self.frames = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    fn write(outgoing: &mut Outgoing, io: &mut (impl AsyncWrite + Unpin)) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        outgoing.poll_write(pin!(io), &mut cx).map(Result::unwrap).is_ready()
    }

    #[test]
    fn a_text_frame_has_its_length_in_the_shortest_form() {
        assert_eq!(&text_frame("hi".into())[..], b"\x81\x02hi");
        assert_eq!(&text_frame("x".repeat(125))[..3], b"\x81\x7dx");
        assert_eq!(&text_frame("x".repeat(126))[..5], b"\x81\x7e\x00\x7ex");
        assert_eq!(&text_frame("x".repeat(65_535))[..5], b"\x81\x7e\xff\xffx");
        assert_eq!(&text_frame("x".repeat(65_536))[..11], b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00x");
    }

    #[tokio::test]
    async fn frames_go_out_in_order_however_little_the_other_side_takes() {
        let (mut near, mut far) = duplex(7);
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for number in 0..200 {
            let frame = text_frame(format!("frame {number}"));
            expected.extend_from_slice(&frame);
            outgoing.push(frame);
        }
        assert_eq!(outgoing.bytes(), expected.len());
        let mut read = Vec::new();
        while !write(&mut outgoing, &mut near) {
            let mut some = [0; 5];
            let count = far.read(&mut some).await.unwrap();
            read.extend_from_slice(&some[..count]);
        }
        drop(near);
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, expected);
        assert_eq!((outgoing.bytes(), outgoing.written()), (0, expected.len() as u64));
    }

    #[tokio::test]
    async fn long_frames_among_short_ones_keep_their_places() {
        let (mut near, mut far) = duplex(1 << 20);
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for bytes in [3, GATHERED, 5, 7, GATHERED - 20, 40, 2 * GATHERED, 1] {
            let frame = text_frame("x".repeat(bytes - 1) + &(bytes % 10).to_string());
            expected.extend_from_slice(&frame);
            outgoing.push(frame);
        }
        assert!(write(&mut outgoing, &mut near));
        drop(near);
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert!(read == expected);
    }

    #[tokio::test]
    async fn nothing_is_kept_once_everything_is_written() {
        let (mut near, _far) = duplex(1 << 20);
        let mut outgoing = Outgoing::default();
        (0..1000).for_each(|_| outgoing.push(text_frame("x".into())));
        assert!(write(&mut outgoing, &mut near));
        assert_eq!(outgoing.frames.capacity(), 0);
    }
}
