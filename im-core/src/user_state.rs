//! Read marks and settings: the user's own state, which lives in the store alone.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ConversationId, DeviceId, Mark, Membership, Result, Seq, SettingsChange, UserId};

/// A version of a user's own state: opaque to clients, bound to the store's incarnation.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateVersion(Arc<str>);

impl StateVersion {
    /// Takes a backend's text; at most 128 bytes.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Read marks and settings.
///
/// # Contract
/// 1. **Forward only.** A read mark never moves back; one that would is answered with the mark that holds, unmoved.
/// 2. **Behind.** A mark above the store's head of the conversation is [`Marked::Behind`] and moves nothing.
/// 3. **With its ordinal.** A mark carries the ordinal of the last record at or below it.
/// 4. **State version.** Each change raises the user's version; what changes nothing raises nothing. Nothing is lost between
///    two versions: the state since *v* holds every conversation changed after *v*.
/// 5. **Durable.** A change survives what the store's durability says: nothing replays it.
/// 6. **Another incarnation.** A version of another incarnation, a version from the future, or too much change since:
///    [`StateChanges::All`].
/// 7. **A device begins at the user's highest marks.** A device that is new to `state` gets marks of its own, as high as the
///    highest of the user's devices; from then on it moves alone.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait UserState: fmt::Debug + Send + Sync + 'static {
    /// Moves read marks.
    ///
    /// # Errors
    /// A transient error leaves the outcome unknown; a repeat is safe.
    ///
    /// # Cancel safety
    /// The outcome is unknown.
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>>;

    /// Changes a user's settings of a conversation; the version after it, or none where the user never was a member.
    ///
    /// # Errors
    /// A transient error leaves the outcome unknown; a repeat is safe.
    ///
    /// # Cancel safety
    /// The outcome is unknown.
    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>>;

    /// What changed in a user's state since a version, in at most `max` conversations; without a version the present one
    /// with [`StateChanges::All`].
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State>;

    /// The present state versions of users.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>>;

    /// Forgets the read marks of devices that were not seen by `state` since `before`; how many devices.
    ///
    /// # Errors
    /// When the store cannot be written.
    ///
    /// # Cancel safety
    /// Safe.
    async fn forget_devices(&self, before: crate::Timestamp) -> Result<usize>;
}

/// A read mark to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// Whose.
    pub user: UserId,
    /// The device, where devices have marks of their own.
    pub device: Option<DeviceId>,
    /// Where.
    pub conversation: ConversationId,
    /// Up to here.
    pub seq: Seq,
}

/// What became of a [`ReadMark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// The mark moved here; the state has this version now.
    Moved(Mark, StateVersion),
    /// The mark stands here, as high or higher.
    Unmoved(Mark),
    /// The store has not applied the record yet; it stands at this head.
    Behind(Mark),
    /// The user never was a member.
    NoMember,
}

/// A user's own state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The version that this leads to.
    pub version: StateVersion,
    /// What changed.
    pub changes: StateChanges,
}

/// What changed since a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChanges {
    /// These conversations, as they are now.
    Since(Vec<Membership>),
    /// Anything may have changed: list the conversations.
    All,
}
