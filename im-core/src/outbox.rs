//! Messages that a host sends inside a transaction of its own.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{ClientMsgId, ContentType, ConversationId, Refusal, Result, UserId};

/// A message that a host sends inside a transaction of its own: there if and only if that commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Who sends; must be a member.
    pub sender: UserId,
    /// Where to.
    pub conversation: ConversationId,
    /// Names the message for ever: a transaction that is tried again carries the same.
    pub client_msg_id: ClientMsgId,
    /// How the content is to be read; not [`ContentType::System`].
    pub content_type: ContentType,
    /// The content, at most 64 KiB by default.
    pub content: Arc<str>,
}

impl Outgoing {
    /// A text with a fresh client message id.
    #[must_use]
    pub fn text(sender: &UserId, conversation: &ConversationId, text: impl Into<Arc<str>>) -> Self {
        Self {
            sender: sender.clone(),
            conversation: conversation.clone(),
            client_msg_id: ClientMsgId::fresh(),
            content_type: ContentType::Text,
            content: text.into(),
        }
    }
}

/// Where a message stands in an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Of the transaction that sent it.
    pub transaction: u64,
    /// Of the message.
    pub number: u64,
}

/// A message that waits to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Where it stands.
    pub place: Place,
    /// What is to be sent.
    pub message: Outgoing,
}

/// Messages of committed transactions of hosts, until they are in the store. The engine appends them as it appends any other: by
/// append and removal each is there once, because a send key names one message for ever.
///
/// # Contract
/// 1. **Committed.** A message waits from the moment at which its transaction commits, and never before.
/// 2. **Never passed.** A look from the beginning finds everything that waits, whatever was found before, and in whatever order
///    transactions commit.
/// 3. **In order.** Pages are in ascending places. The messages of a transaction stand in the order in which they were sent, and after
///    those of every transaction that was over before this one began.
/// 4. **Kept.** A message waits until it is said to be done or refused; to say so again does nothing. A refused one is kept aside, with
///    the refusal, for the host.
///
/// What this version cannot read stops nothing: a page passes over it. The backend puts it aside when no node can be expected to read it
/// any more: long after it was sent, and not before the caller has [let others look](Self::pass_on).
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Outbox: fmt::Debug + Send + Sync + 'static {
    /// The first `max` messages that wait, after a place or from the beginning.
    ///
    /// # Errors
    /// When the backend fails.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>>;

    /// Removes messages that are in the store.
    ///
    /// # Errors
    /// When the backend fails; those that are still there are sent again, which does nothing.
    ///
    /// # Cancel safety
    /// They may have been removed.
    async fn done(&self, places: &[Place]) -> Result<()>;

    /// Puts messages aside that will never be sent.
    ///
    /// # Errors
    /// When the backend fails; those that are still there are tried again.
    ///
    /// # Cancel safety
    /// They may have been put aside.
    async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()>;

    /// Whether something waits that this version cannot read. Then the caller lets other nodes look, which may be of a newer version;
    /// what is still there when it looks again may be put aside.
    ///
    /// # Errors
    /// When the backend fails.
    ///
    /// # Cancel safety
    /// What was passed over may be put aside from then on.
    async fn pass_on(&self) -> Result<bool>;
}
