//! Bootstrap: how a client without a cursor that can be served begins afresh.

use im_core::{ConversationId, Cursor, DeviceId, Partition, Position, StateVersion, UserId};

use crate::{engine::Inner, error::ChatResult, reads::ConversationView};

/// Where a bootstrap begins: taken before the first conversation is read, so that nothing lies between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// The inbox end: whatever is delivered from now on comes after it.
    pub cursor: Cursor,
    /// The state version: whatever changes from now on comes after it.
    pub state: StateVersion,
    ends: Vec<Position>,
}

/// A page of a bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapPage {
    /// The conversations, by id, as of the bootstrap's beginning or later.
    pub conversations: Vec<ConversationView>,
    /// Conversations that the store has not applied far enough; ask for them again.
    pub behind: Vec<ConversationId>,
    /// Whether there are more.
    pub more: bool,
}

impl Inner {
    pub(crate) async fn fresh(&self, user: &UserId, device: Option<&DeviceId>) -> ChatResult<Fresh> {
        let device = self.mark_device(device);
        let cursor = self.parts.inbox.anchor(user).await?;
        let state = self.parts.store.states.state(user, &device, &None, 1).await?.version;
        let ends = if self.log_is_store { Vec::new() } else { self.parts.log.log.ends().await? };
        Ok(Fresh { cursor, state, ends })
    }

    pub(crate) async fn bootstrap(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        fresh: &Fresh,
        after: Option<ConversationId>,
        max: usize,
    ) -> ChatResult<BootstrapPage> {
        let late = self.late_partitions(&fresh.ends).await?;
        let (conversations, more) = self.conversations(user, device, after, max).await?;
        Ok(self.without_late(conversations, &late, more))
    }

    /// Some of a user's conversations, without those that it never was in; within a bootstrap without those that are behind.
    pub(crate) async fn some_conversations(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        fresh: Option<&Fresh>,
        ids: &[ConversationId],
    ) -> ChatResult<BootstrapPage> {
        let late = self.late_partitions(fresh.map_or(&[], |fresh| &fresh.ends)).await?;
        let conversations = self.views(user, &self.mark_device(device), ids.to_vec()).await?;
        Ok(self.without_late(conversations, &late, false))
    }

    fn without_late(
        &self,
        mut conversations: Vec<ConversationView>,
        late: &[Partition],
        more: bool,
    ) -> BootstrapPage {
        let mut behind = Vec::new();
        conversations.retain(|view| {
            let id = &view.membership.conversation.id;
            let late = late.contains(&Partition::of(id, self.partitions));
            if late {
                behind.push(id.clone());
            }
            !late
        });
        BootstrapPage { conversations, behind, more }
    }

    /// The partitions that the store has not applied up to these ends, after waiting a little for it.
    async fn late_partitions(&self, ends: &[Position]) -> ChatResult<Vec<Partition>> {
        let deadline = tokio::time::Instant::now() + self.config.bootstrap_wait;
        let mut late = Vec::new();
        for (partition, end) in Partition::all(self.partitions).zip(ends) {
            let stored = self.progress.stored(&*self.parts.store.messages, partition, *end);
            match tokio::time::timeout_at(deadline, stored).await {
                Ok(stored) => drop(stored?),
                Err(_) => late.push(partition),
            }
        }
        Ok(late)
    }
}
