//! Frames that wait to be written: shared bytes, written many at a time, nothing kept once they are gone.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

/// How many frames one system call takes.
const VECTORED: usize = 64;

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

/// Frames that wait to be written, first in first out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Bytes>,
    bytes: usize,
    written: u64,
    unflushed: bool,
}

impl Outgoing {
    /// Adds a frame, header and all.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
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
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); VECTORED];
            let count = self.frames.len().min(VECTORED);
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(frame);
            }
            match ready!(io.as_mut().poll_write_vectored(cx, &slices[..count]))? {
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
        while let Some(frame) = self.frames.front_mut() {
            let taken = written.min(frame.len());
            frame.advance(taken);
            written -= taken;
            if !frame.is_empty() {
                break;
            }
            self.frames.pop_front();
        }
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
    async fn nothing_is_kept_once_everything_is_written() {
        let (mut near, _far) = duplex(1 << 20);
        let mut outgoing = Outgoing::default();
        (0..1000).for_each(|_| outgoing.push(text_frame("x".into())));
        assert!(write(&mut outgoing, &mut near));
        assert_eq!(outgoing.frames.capacity(), 0);
    }
}
