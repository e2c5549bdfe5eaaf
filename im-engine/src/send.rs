//! The way of a message in: validate → membership → policy → commit → ack.

use std::{sync::Arc, time::Duration};

use im_core::{
    Append, ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Epoch, Error, ErrorKind, Found,
    Outgoing, PolicyRequest, Receipt, RecordKind, SendKey, Seq, Timestamp, UserId, Verdict,
};

use crate::{
    Refusal,
    commit::Committed,
    engine::Inner,
    epoch::Current,
    error::{ChatError, ChatResult},
    freshness::Freshness,
};

/// The window of a log that forgets nothing but what it loses: a client's clock is taken to be right to a quarter of it.
const UNBOUNDED: Duration = Duration::from_secs(24 * 3600);

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Who sends; must be a member.
    pub sender: UserId,
    /// The device that sends, if a session does.
    pub device: Option<DeviceId>,
    /// Where to.
    pub conversation: ConversationId,
    /// Names the message for ever; a retry carries the same. A UUID of version 7 where the log's memory of ids is limited.
    pub client_msg_id: ClientMsgId,
    /// How the content is to be read; not [`ContentType::System`].
    pub content_type: ContentType,
    /// The content, at most 64 KiB by default.
    pub content: Arc<str>,
    /// What the ack is to say.
    pub level: AckLevel,
}

impl NewMessage {
    /// A text with a fresh client message id, to be acked as *logged*.
    #[must_use]
    pub fn text(sender: &UserId, conversation: &ConversationId, text: impl Into<Arc<str>>) -> Self {
        Self {
            sender: sender.clone(),
            device: None,
            conversation: conversation.clone(),
            client_msg_id: ClientMsgId::fresh(),
            content_type: ContentType::Text,
            content: text.into(),
            level: AckLevel::Logged,
        }
    }
}

impl From<Outgoing> for NewMessage {
    /// To be acked as *logged*.
    fn from(message: Outgoing) -> Self {
        let Outgoing { sender, conversation, client_msg_id, content_type, content } = message;
        let level = AckLevel::Logged;
        Self { sender, device: None, conversation, client_msg_id, content_type, content, level }
    }
}

/// How far a message has come when its send is acked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// It is in the log, with the log's durability.
    #[default]
    Logged,
    /// It is in the store too.
    Stored,
}

/// The answer to a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The conversation.
    pub conversation: ConversationId,
    /// The message's place there.
    pub seq: Seq,
    /// When the log took it.
    pub created_at: Timestamp,
    /// Whether an earlier send of the same message had stored it.
    pub duplicate: bool,
    /// How far it has come.
    pub level: AckLevel,
}

impl Inner {
    /// Checks a message and puts it in the queue of its partition; the future answers once it is committed.
    ///
    /// Messages that are begun one after the other are appended in that order.
    pub(crate) async fn begin_send(
        self: &Arc<Self>,
        message: NewMessage,
    ) -> ChatResult<impl Future<Output = ChatResult<Ack>> + Send + use<>> {
        let admitted = self.admit(&message).await?;
        let level = message.level;
        let conversation = message.conversation.clone();
        let this = self.clone();
        let step = match admitted {
            Admitted::Known(found) => Err(found),
            Admitted::New(append, epoch) => Ok(self.commit()?.enqueue(append, Some(epoch))?),
        };
        Ok(async move {
            let committed = match step {
                Ok(commit) => commit.await?,
                Err(found) => Committed { receipt: found.receipt, duplicate: true },
            };
            this.ack(conversation, committed, level).await
        })
    }

    pub(crate) async fn ack(
        &self,
        conversation: ConversationId,
        committed: Committed,
        level: AckLevel,
    ) -> ChatResult<Ack> {
        let Committed { receipt, duplicate } = committed;
        let level = if self.log_is_store { AckLevel::Stored } else { level };
        if level == AckLevel::Stored {
            self.wait_stored(&conversation, receipt).await?;
        }
        Ok(Ack { conversation, seq: receipt.mark.seq, created_at: receipt.created_at, duplicate, level })
    }

    async fn admit(self: &Arc<Self>, message: &NewMessage) -> ChatResult<Admitted> {
        self.validate(message)?;
        let append = self.append_of(message);
        match self.may_send(message).await {
            Ok(send_to) => self.fresh_or_known(Append { send_to, ..append }).await,
            // A look-up would be one more of what there is too much of.
            Err(ChatError::Refused(refusal @ Refusal::Overloaded(_))) => Err(refusal.into()),
            // A retry gets its ack also after the sender left: a refusal is looked up first.
            Err(ChatError::Refused(refusal)) => match self.find(&append.key()).await? {
                Some(found) => known(&append, found),
                None => Err(refusal.into()),
            },
            Err(failed) => Err(failed),
        }
    }

    fn validate(&self, message: &NewMessage) -> ChatResult<()> {
        if message.content.len() > self.config.content_bytes {
            return Err(Refusal::TooLarge { what: "content bytes", limit: self.config.content_bytes }.into());
        }
        if message.content_type == ContentType::System || message.sender.is_system() {
            return Err(Refusal::Invalid("only the engine makes system records".into()).into());
        }
        Ok(())
    }

    fn append_of(&self, message: &NewMessage) -> Append {
        let kind = RecordKind::Message;
        Append {
            conversation: message.conversation.clone(),
            sender: message.sender.clone(),
            device: self.mark_device(message.device.as_ref()),
            send_to: None,
            client_msg_id: message.client_msg_id.clone(),
            kind,
            content_type: message.content_type,
            content: message.content.clone(),
            hash: ContentHash::of(kind, message.content_type, &message.content),
            floor: None,
        }
    }

    /// Membership, then policy; the other user of a SINGLE conversation.
    async fn may_send(self: &Arc<Self>, message: &NewMessage) -> ChatResult<Option<UserId>> {
        let peer = self.admission(&message.conversation, &message.sender).await?;
        let request = PolicyRequest::Send {
            user: message.sender.clone(),
            conversation: message.conversation.clone(),
            content_type: message.content_type,
            bytes: message.content.len(),
        };
        self.allowed(&request).await?;
        Ok(peer)
    }

    /// Asks the host's policy.
    pub(crate) async fn allowed(&self, request: &PolicyRequest) -> ChatResult<()> {
        match self.policy.check(request).await? {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(Refusal::Denied(reason).into()),
        }
    }

    /// An id that the log may have forgotten, after its window or with a lost tail, is looked up in the store.
    pub(crate) async fn fresh_or_known(&self, append: Append) -> ChatResult<Admitted> {
        // Read before anything is decided: under a later epoch the committer looks the id up itself.
        let Current { epoch, began, first } = self.numbering.current();
        if self.log_is_store || (self.dedupe_window.is_none() && first) {
            return Ok(Admitted::New(append, epoch));
        }
        let window = self.dedupe_window.unwrap_or(UNBOUNDED);
        // Before the first epoch of all there was nothing that the log could have lost.
        let began = if first { Timestamp::default() } else { began };
        let now = self.clock.now();
        match Freshness::of(&append.client_msg_id, now, window, began) {
            Freshness::Fresh => Ok(Admitted::New(append, epoch)),
            // The server's own clock may have been ahead when it took this one.
            Freshness::Future => match self.find(&append.key()).await? {
                Some(found) => known(&append, found),
                None => Err(Refusal::ClientClock { now }.into()),
            },
            Freshness::Unknown => match self.look_up_before_append(&append, window).await? {
                Some(found) => known(&append, found),
                None => Ok(Admitted::New(append, epoch)),
            },
        }
    }

    async fn look_up_before_append(&self, append: &Append, window: Duration) -> ChatResult<Option<Found>> {
        let asked = self.clock.now();
        if let Some(found) = self.find(&append.key()).await? {
            return Ok(Some(found));
        }
        let answer_age = self.clock.now().since(asked);
        if answer_age > window / 4 || self.store_lag(&append.conversation).await? > window / 2 {
            return Err(Refusal::Overloaded(window / 4).into());
        }
        Ok(None)
    }

    /// What became of a send: asked of the log, then of the store.
    pub(crate) async fn find(&self, key: &SendKey) -> im_core::Result<Option<Found>> {
        let keys = std::slice::from_ref(key);
        if let Some(found) = self.parts.log.log.find(keys).await?.pop().flatten() {
            return Ok(Some(found));
        }
        if self.log_is_store {
            return Ok(None);
        }
        Ok(self.parts.store.messages.find(keys).await?.pop().flatten())
    }

    /// Waits until the store has a record; it has it from the beginning if it is the log, too.
    ///
    /// A checkpoint of a later epoch proves nothing: the log may have lost the record before the store took it. No place is given
    /// twice, so whatever lies at this one is the record.
    pub(crate) async fn wait_stored(
        &self,
        conversation: &ConversationId,
        Receipt { mark, position, .. }: Receipt,
    ) -> ChatResult<()> {
        if self.log_is_store {
            return Ok(());
        }
        let partition = im_core::Partition::of(conversation, self.partitions);
        let messages = &*self.parts.store.messages;
        let stored = self.progress.stored(messages, partition, position);
        let reached = tokio::time::timeout(self.config.patience, stored)
            .await
            .map_err(|_| crate::error::unknown("store.apply", "logged, but not stored in time"))??;
        if reached.epoch == position.epoch {
            return Ok(());
        }
        let there = messages.get(&[(conversation.clone(), mark.seq)]).await?.pop().flatten();
        there.map(drop).ok_or_else(|| {
            let lost = "logged, and lost by the log before it was stored";
            Error::new(ErrorKind::Unavailable, "engine", "store.apply", lost).into()
        })
    }
}

/// What is to be done with a send.
pub(crate) enum Admitted {
    /// Append it; it is new as of this epoch.
    New(Append, Epoch),
    /// Answer with what became of it before.
    Known(Found),
}

fn known(append: &Append, found: Found) -> ChatResult<Admitted> {
    if found.hash == append.hash { Ok(Admitted::Known(found)) } else { Err(Refusal::Conflict.into()) }
}
