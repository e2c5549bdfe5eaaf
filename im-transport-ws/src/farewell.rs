//! The end of a connection: its close frame goes out, and the other side is given time to take it.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use im_protocol::CloseCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::wire::{Broken, Wire};

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side has closed it, or it broke.
    Gone,
    /// With this code.
    Close(CloseCode),
    /// With this code, in the middle of something that cannot be read on.
    Broken(CloseCode),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Self::Gone,
            Broken::TooLarge => Self::Broken(CloseCode::TooLarge),
            Broken::Fault => Self::Broken(CloseCode::Protocol),
        }
    }
}

/// Closes a connection: what waits is written, then the close frame; then the other side has the rest of `patience` to do its
/// part. Closed at once, a socket in which something stands unread would make some clients lose the close frame.
pub(crate) async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    end: End,
    patience: Duration,
) {
    let rest = async {
        match end {
            End::Gone => {
                let _ = poll_fn(|cx| wire.poll_flush(cx)).await;
                shutdown(wire).await;
            }
            End::Close(code) => {
                wire.push_close(code);
                poll_fn(|cx| poll_last_words(wire, cx)).await;
                poll_fn(|cx| poll_their_close(wire, cx)).await;
                shutdown(wire).await;
            }
            End::Broken(code) => {
                wire.push_close(code);
                let _ = poll_fn(|cx| wire.poll_flush(cx)).await;
                shutdown(wire).await;
                poll_fn(|cx| wire.poll_discard(cx)).await;
            }
        }
    };
    // Whoever does not do its part is left.
    let _ = timeout(patience, rest).await;
}

async fn shutdown<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) {
    // It is over either way.
    let _ = poll_fn(|cx| wire.poll_shutdown(cx)).await;
}

/// Writes what waits, and reads meanwhile: the other side may not read before it has written.
fn poll_last_words<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, cx: &mut Context<'_>) -> Poll<()> {
    let _ = poll_their_close(wire, cx);
    wire.poll_flush(cx).map(drop)
}

/// Reads until the other side has closed too.
fn poll_their_close<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, cx: &mut Context<'_>) -> Poll<()> {
    while ready!(wire.poll_read(cx)).is_ok() {}
    Poll::Ready(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    /// What stands unread when a socket is closed makes its system forget what was sent last.
    #[tokio::test]
    async fn who_is_still_sending_is_heard_out_and_gets_the_close_frame() {
        let (near, mut far) = duplex(1024);
        let end = tokio::spawn(async move {
            let mut wire = Wire::new(near, Bytes::new(), 100);
            farewell(&mut wire, End::Broken(CloseCode::TooLarge), PATIENCE).await;
        });
        far.write_all(&[b'x'; 100_000]).await.unwrap();
        let mut last = Vec::new();
        far.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"\x88\x0b\x11\x99too_large");
        drop(far);
        end.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_do_its_part_is_left() {
        for end in [End::Close(CloseCode::Kicked), End::Broken(CloseCode::Protocol), End::Gone] {
            let (near, far) = duplex(4);
            let mut wire = Wire::new(near, Bytes::new(), 100);
            wire.push(Bytes::from_static(b"more than the other side takes"));
            let begin = tokio::time::Instant::now();
            farewell(&mut wire, end, PATIENCE).await;
            assert_eq!(begin.elapsed(), PATIENCE, "{end:?}");
            drop(far);
        }
    }
}
