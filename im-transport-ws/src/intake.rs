//! Bytes that came from a socket, handed on one frame at a time.
//!
//! Much is read at once, into the stack; what does not make a whole frame yet is kept, nothing else. An idle connection has no
//! read buffer. And tungstenite, which never gives back the memory of its longest frame, never holds more than one frame: after
//! a long one it can be put in place anew.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;

/// How many bytes one system call takes.
const READ: usize = 8 << 10;
/// How many frames are handed on without a pause: a message may be made of any number, which nobody else would see.
const TURN: u32 = 64;

/// Bytes that were read and not handed on yet.
#[derive(Debug)]
pub(crate) struct Intake {
    bytes: BytesMut,
    /// How many of the present frame, header included, are still to be handed on.
    frame: u64,
    /// How many frames have begun since the last time that somebody asked.
    frames: u32,
    /// How many have begun in this turn.
    turn: u32,
}

impl Intake {
    /// Begins with what was read already.
    pub(crate) fn new(read: &Bytes) -> Self {
        Self { bytes: BytesMut::from(&read[..]), frame: 0, frames: 0, turn: 0 }
    }

    /// How many frames have begun since the last call.
    pub(crate) fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    /// From here on frames are handed on until the turn is over.
    pub(crate) fn begin_turn(&mut self) {
        self.turn = 0;
    }

    /// Whether so many frames were handed on that it is somebody else's turn.
    pub(crate) fn has_had_its_turn(&self) -> bool {
        self.frame == 0 && self.turn >= TURN
    }

    /// Hands on bytes of the present frame, or of the next one once its header is there; none: the stream has ended.
    pub(crate) fn poll_read(
        &mut self,
        mut io: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while self.bytes.is_empty() || !self.knows_frame() {
            if ready!(self.poll_fill(io.as_mut(), cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let rest = usize::try_from(self.frame).unwrap_or(usize::MAX);
        let count = into.len().min(self.bytes.len()).min(rest);
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        self.frame -= count as u64;
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        Poll::Ready(Ok(count))
    }

    /// Whether it is known how long the present frame is.
    fn knows_frame(&mut self) -> bool {
        if self.frame == 0 {
            let mut cursor = io::Cursor::new(&self.bytes[..]);
            self.frame = match FrameHeader::parse(&mut cursor) {
                Ok(Some((_, payload))) => payload.saturating_add(cursor.position()),
                Ok(None) => 0,
                // Whoever reads the frame will find the same fault.
                Err(_) => self.bytes.len() as u64,
            };
            let begins = u32::from(self.frame > 0);
            self.frames = self.frames.saturating_add(begins);
            self.turn += begins;
        }
        self.frame > 0
    }

    fn poll_fill(&mut self, io: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(io.poll_read(cx, &mut buffer))?;
        self.bytes.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// Masked text frames, as a client sends them.
    fn frame(payload: usize) -> Vec<u8> {
        use tungstenite::protocol::frame::coding::{Data, OpCode};
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            mask: Some([1, 2, 3, 4]),
            ..FrameHeader::default()
        };
        let mut frame = Vec::new();
        header.format(payload as u64, &mut frame).unwrap();
        frame.resize(frame.len() + payload, b'x');
        frame
    }

    async fn take(intake: &mut Intake, io: &mut (impl AsyncRead + Unpin), most: usize) -> Vec<u8> {
        let mut into = vec![0; most];
        let count = poll_fn(|cx| intake.poll_read(Pin::new(&mut *io), cx, &mut into)).await.unwrap();
        into.truncate(count);
        into
    }

    #[tokio::test]
    async fn no_read_goes_beyond_the_end_of_a_frame() {
        let frames: Vec<_> = [0, 1, 125, 126, 65_535, 65_536, 3].map(frame).into();
        let (mut near, mut far) = duplex(1 << 20);
        far.write_all(&frames.concat()).await.unwrap();
        drop(far);
        let mut intake = Intake::new(&Bytes::new());
        for expected in frames {
            let mut read = Vec::new();
            while read.len() < expected.len() {
                read.extend(take(&mut intake, &mut near, 1 << 20).await);
            }
            assert!(read == expected, "{} bytes for {}", read.len(), expected.len());
        }
        assert!(take(&mut intake, &mut near, 10).await.is_empty(), "the end");
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_nothing_is_kept_at_rest() {
        let whole = frame(5);
        let (mut near, mut far) = duplex(64);
        let mut intake = Intake::new(&Bytes::copy_from_slice(&whole[..3]));
        far.write_all(&whole[3..]).await.unwrap();
        let mut read = take(&mut intake, &mut near, 4).await;
        read.extend(take(&mut intake, &mut near, 100).await);
        assert_eq!(read, whole);
        assert_eq!((intake.bytes.capacity(), intake.frame), (0, 0));
    }

    #[tokio::test]
    async fn a_header_that_makes_no_sense_is_handed_on() {
        let mut intake = Intake::new(&Bytes::from_static(b"\x83\x80junk"));
        let (mut near, _far) = duplex(64);
        assert_eq!(take(&mut intake, &mut near, 100).await, b"\x83\x80junk");
    }
}
