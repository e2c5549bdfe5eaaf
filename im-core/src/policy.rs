//! What a host may forbid.

use std::fmt;

use async_trait::async_trait;

use crate::{ContentType, ConversationId, Result, UserId};

/// Narrows what members may do; asked after membership has been checked, never instead.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Whether a request may go on.
    ///
    /// # Errors
    /// When it cannot be decided; the request then fails.
    ///
    /// # Cancel safety
    /// Must be safe.
    async fn check(&self, request: &PolicyRequest) -> Result<Verdict>;
}

/// What a user is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyRequest {
    /// Send a message.
    Send {
        /// Who.
        user: UserId,
        /// Where.
        conversation: ConversationId,
        /// What kind of content.
        content_type: ContentType,
        /// The length of the content, in bytes.
        bytes: usize,
    },
    /// Open the SINGLE conversation with another user.
    OpenSingle {
        /// Who.
        user: UserId,
        /// With whom.
        other: UserId,
    },
    /// Create a group.
    CreateGroup {
        /// Who.
        user: UserId,
        /// With how many members.
        members: usize,
    },
    /// Add users to a group, or join it oneself.
    Join {
        /// Who asks.
        user: UserId,
        /// The group.
        conversation: ConversationId,
        /// Who is to join.
        joining: Vec<UserId>,
    },
}

/// The answer to a [`PolicyRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Refuse, with a reason for people.
    Deny(String),
}

/// Allows everything that membership allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

#[async_trait]
impl Policy for Open {
    async fn check(&self, _: &PolicyRequest) -> Result<Verdict> {
        Ok(Verdict::Allow)
    }
}
