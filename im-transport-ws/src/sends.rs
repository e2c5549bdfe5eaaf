//! Sends that wait for their acks.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

/// The sends of one connection that wait for their acks; without one it takes no memory.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    waiting: Option<FuturesUnordered<BoxFuture<'static, Bytes>>>,
}

impl Sends {
    /// Adds a send; the future brings the frame of its answer.
    pub(crate) fn push(&mut self, answer: BoxFuture<'static, Bytes>) {
        self.waiting.get_or_insert_default().push(answer);
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, FuturesUnordered::len)
    }

    /// The next answer, whichever it is.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        match waiting.poll_next_unpin(cx) {
            Poll::Ready(Some(answer)) => Poll::Ready(answer),
            Poll::Ready(None) => {
                self.waiting = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
