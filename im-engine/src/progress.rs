//! Waiting until a projection has come far enough, on this node or another.

use std::time::Duration;

use im_core::{ConversationId, ConversationStore, MessageStore, Partition, Position, Result, Seq};
use tokio::sync::watch;

/// How often another node's progress is asked for.
const POLL: Duration = Duration::from_millis(50);

/// Wakes who waits for a projection on this node; who waits for another node's asks the part itself.
#[derive(Debug)]
pub(crate) struct Progress {
    moved: watch::Sender<()>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { moved: watch::Sender::new(()) }
    }

    /// The projection applied something.
    pub(crate) fn moved(&self) {
        self.moved.send_replace(());
    }

    /// Returns when something may have moved.
    async fn turn(moved: &mut watch::Receiver<()>) {
        tokio::select! {
            biased;
            _ = moved.changed() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }

    /// Returns when the store has applied a position of a partition.
    pub(crate) async fn stored(
        &self,
        messages: &dyn MessageStore,
        partition: Partition,
        position: Position,
    ) -> Result<()> {
        let mut moved = self.moved.subscribe();
        while messages.checkpoint(partition).await?.is_none_or(|at| at.position < position) {
            Self::turn(&mut moved).await;
        }
        Ok(())
    }

    /// Returns when a conversation's changes are applied up to a sequence id.
    pub(crate) async fn applied(
        &self,
        conversations: &dyn ConversationStore,
        conversation: &ConversationId,
        seq: Seq,
    ) -> Result<()> {
        let ids = [conversation.clone()];
        let mut moved = self.moved.subscribe();
        while conversations.applied(&ids).await?.first().is_none_or(|applied| applied.seq < seq) {
            Self::turn(&mut moved).await;
        }
        Ok(())
    }
}
