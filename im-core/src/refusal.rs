//! What a caller of the engine is told, and a host that sends inside its own transaction.

use std::time::Duration;

use crate::{Error, InvalidId, Mark, Outcome, Timestamp};

/// The result of an engine call.
pub type ChatResult<T> = Result<T, ChatError>;

/// Why a call did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChatError {
    /// The engine refused; nothing was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A backend failed; see [`Error::outcome`] for whether something was done.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl ChatError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Failed(error) => error.is_transient(),
        }
    }

    /// Whether something may have been done.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::NotDone,
            Self::Failed(error) => error.outcome(),
        }
    }
}

impl From<InvalidId> for ChatError {
    fn from(error: InvalidId) -> Self {
        Refusal::Invalid(error.to_string()).into()
    }
}

/// A refusal: nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An argument cannot be served.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Something is over its limit.
    #[error("too large: {what} may have at most {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit, in the unit of `what`.
        limit: usize,
    },
    /// No such conversation.
    #[error("there is no such conversation")]
    UnknownConversation,
    /// The user has no right to it.
    #[error("the user is not a member")]
    NotMember,
    /// The user's role does not suffice.
    #[error("the user's role does not allow this")]
    NotAllowed,
    /// The host's policy denies it.
    #[error("denied: {0}")]
    Denied(String),
    /// The client message id names another message, or the id another conversation.
    #[error("the same id names something else already")]
    Conflict,
    /// The client message id is from the future, by the server's clock.
    #[error("the client's clock is ahead of the server's")]
    ClientClock {
        /// The server's time.
        now: Timestamp,
    },
    /// A queue is full; try again after this time.
    #[error("overloaded; try again in {0:?}")]
    Overloaded(Duration),
    /// The store has not applied this yet; it stands at this head.
    #[error("the store has not applied this yet")]
    Behind {
        /// The head.
        head: Mark,
    },
    /// The slot of the session is full and the newer one is refused.
    #[error("the user has as many sessions as are allowed")]
    SessionsFull,
    /// The session was closed.
    #[error("the session is closed")]
    Closed,
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Refusal {
    /// The stable code of this refusal, as on the wire and in tables.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::TooLarge { .. } => "too_large",
            Self::UnknownConversation => "unknown_conversation",
            Self::NotMember => "not_member",
            Self::NotAllowed | Self::Denied(_) => "denied",
            Self::Conflict => "conflict",
            Self::ClientClock { .. } => "client_clock",
            Self::Overloaded(_) => "overloaded",
            Self::Behind { .. } => "behind",
            Self::SessionsFull => "sessions_full",
            Self::Closed | Self::ShuttingDown => "unavailable",
        }
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Overloaded(_) | Self::Behind { .. } | Self::ShuttingDown)
    }
}
