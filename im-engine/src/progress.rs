//! Waiting until a projection has come far enough, on this node or another.

use std::time::Duration;

use im_core::{ConversationId, ConversationStore, MessageStore, Partition, Position, Result, Seq};
use tokio::sync::Notify;

/// How often another node's progress is asked for.
const POLL: Duration = Duration::from_millis(50);

/// Wakes who waits for a projection on this node; who waits for another node's asks the part itself.
#[derive(Debug)]
pub(crate) struct Progress {
    moved: Notify,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { moved: Notify::new() }
    }

    /// The projection applied something.
    pub(crate) fn moved(&self) {
        self.moved.notify_waiters();
    }

    /// Ends when something may have moved since this was called: call it before looking, wait for it after.
    pub(crate) fn turn(&self) -> impl Future<Output = ()> + Send {
        let moved = self.moved.notified();
        async move {
            tokio::select! {
                biased;
                () = moved => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Returns when the store has applied a position of a partition, or one above it: which.
    pub(crate) async fn stored(
        &self,
        messages: &dyn MessageStore,
        partition: Partition,
        position: Position,
    ) -> Result<Position> {
        loop {
            let moved = self.turn();
            // Without a checkpoint nothing is stored; where the log's partition has no record either, that is all there is.
            let stored = messages.checkpoint(partition).await?.map(|at| at.position).unwrap_or_default();
            if stored >= position {
                return Ok(stored);
            }
            moved.await;
        }
    }

    /// Returns when a conversation's changes are applied up to a sequence id, or one above it: which.
    pub(crate) async fn applied(
        &self,
        conversations: &dyn ConversationStore,
        conversation: &ConversationId,
        seq: Seq,
    ) -> Result<Seq> {
        let ids = [conversation.clone()];
        loop {
            let moved = self.turn();
            if let Some(applied) =
                conversations.applied(&ids).await?.first().filter(|applied| applied.seq >= seq)
            {
                return Ok(applied.seq);
            }
            moved.await;
        }
    }
}
