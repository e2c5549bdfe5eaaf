//! What a session asks beside sending and pulling: the engine's own calls, in the name of the session's user and device.

use im_core::{
    ClientMsgId, Conversation, ConversationId, Mark, Member, ReadMark, Seq, SettingsChange, StateVersion,
    UserId,
};

use crate::{
    Ack, BootstrapPage, ConversationView, Fresh, HistoryPage, HistoryRange, MemberChange, NewGroup, Session,
    StateView, error::ChatResult,
};

impl Session {
    /// See [`Engine::open_single`](crate::Engine::open_single).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn open_single(&self, other: &UserId) -> ChatResult<Conversation> {
        self.open()?;
        self.inner.open_single(self.user(), other).await
    }

    /// See [`Engine::create_group`](crate::Engine::create_group).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn create_group(&self, group: NewGroup) -> ChatResult<Ack> {
        self.open()?;
        self.inner.create_group(self.user(), group).await
    }

    /// See [`Engine::change_members`](crate::Engine::change_members).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn change_members(
        &self,
        conversation: &ConversationId,
        client_msg_id: ClientMsgId,
        change: MemberChange,
    ) -> ChatResult<Ack> {
        self.open()?;
        self.inner.change_members(self.user(), conversation, client_msg_id, change).await
    }

    /// See [`Engine::history`](crate::Engine::history).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> ChatResult<HistoryPage> {
        self.open()?;
        self.inner.history(self.user(), conversation, range).await
    }

    /// See [`Engine::members`](crate::Engine::members).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn members(
        &self,
        conversation: &ConversationId,
        after: Option<UserId>,
        max: usize,
    ) -> ChatResult<Vec<Member>> {
        self.open()?;
        self.inner.members(self.user(), conversation, after, max).await
    }

    /// A page of the user's conversations after an id; and whether there are more.
    ///
    /// # Errors
    /// [`Refusal::Closed`](crate::Refusal::Closed), or the store's failure.
    pub async fn conversations(
        &self,
        after: Option<ConversationId>,
        max: usize,
    ) -> ChatResult<(Vec<ConversationView>, bool)> {
        self.open()?;
        self.inner.conversations(self.user(), Some(self.device()), after, max).await
    }

    /// One of the user's conversations.
    ///
    /// # Errors
    /// [`Refusal::NotMember`](crate::Refusal::NotMember), [`Refusal::Closed`](crate::Refusal::Closed), or the store's failure.
    pub async fn conversation(&self, id: &ConversationId) -> ChatResult<ConversationView> {
        self.open()?;
        self.inner.conversation(self.user(), Some(self.device()), id).await
    }

    /// Begins a bootstrap; what is sent on this session afterwards follows its cursor.
    ///
    /// # Errors
    /// [`Refusal::Closed`](crate::Refusal::Closed), or a part's failure.
    pub async fn fresh(&self) -> ChatResult<Fresh> {
        self.open()?;
        let fresh = self.inner.fresh(self.user(), Some(self.device())).await?;
        self.cell.stands_on(&fresh.cursor);
        Ok(fresh)
    }

    /// A page of a bootstrap, by conversation id.
    ///
    /// # Errors
    /// [`Refusal::Closed`](crate::Refusal::Closed), or the store's failure.
    pub async fn bootstrap(
        &self,
        fresh: &Fresh,
        after: Option<ConversationId>,
        max: usize,
    ) -> ChatResult<BootstrapPage> {
        self.open()?;
        self.inner.bootstrap(self.user(), Some(self.device()), fresh, after, max).await
    }

    /// Some of the user's conversations, without those that it never was in; within a bootstrap those that the store has not
    /// applied far enough are named, not served.
    ///
    /// # Errors
    /// [`Refusal::Closed`](crate::Refusal::Closed), or the store's failure.
    pub async fn some_conversations(
        &self,
        fresh: Option<&Fresh>,
        ids: &[ConversationId],
    ) -> ChatResult<BootstrapPage> {
        self.open()?;
        self.inner.some_conversations(self.user(), Some(self.device()), fresh, ids).await
    }

    /// Moves the read mark; the mark that holds now.
    ///
    /// # Errors
    /// As for [`Engine::mark_read`](crate::Engine::mark_read), and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn mark_read(&self, conversation: &ConversationId, seq: Seq) -> ChatResult<Mark> {
        self.open()?;
        let mark = ReadMark {
            user: self.user().clone(),
            device: Some(self.device().clone()),
            conversation: conversation.clone(),
            seq,
        };
        self.inner.mark_read(mark).await
    }

    /// See [`Engine::set`](crate::Engine::set).
    ///
    /// # Errors
    /// As there, and [`Refusal::Closed`](crate::Refusal::Closed).
    pub async fn set(
        &self,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> ChatResult<StateVersion> {
        self.open()?;
        self.inner.set(self.user(), conversation, change).await
    }

    /// What changed in the user's own state since a version.
    ///
    /// # Errors
    /// [`Refusal::Closed`](crate::Refusal::Closed), or the store's failure.
    pub async fn state(&self, since: Option<StateVersion>) -> ChatResult<StateView> {
        self.open()?;
        self.inner.state(self.user(), Some(self.device()), since).await
    }
}
