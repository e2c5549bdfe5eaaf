//! Presence: which sessions are alive, and on which node.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{DeviceId, NodeId, Platform, Result, SessionId, UserId};

/// Which sessions are alive, across nodes.
///
/// # Contract
/// 1. **Atomic connect.** However many connect at once, at most `max` sessions stay in a slot; each displaced one is named to
///    exactly one of the connecting ones.
/// 2. **Kick or reject.** A full slot displaces its oldest session, or refuses the new one, as the request says.
/// 3. **Dead nodes vanish.** The sessions of a node that did not beat for the TTL are gone.
/// 4. **Told at the next beat.** A session that was displaced, or forgotten, is in the answer to its node's next beat, as what it is:
///    displaced while another session of its slot lives, else forgotten.
/// 5. **Live nodes.** A node is listed from its first beat or connect until its TTL after the last one ends.
/// 6. **Own disconnect only.** A disconnect removes that session and no later one of the same device.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Presence: fmt::Debug + Send + Sync + 'static {
    /// How long a node may be silent.
    fn ttl(&self) -> Duration;

    /// Adds a session.
    ///
    /// # Errors
    /// A transient error leaves the outcome unknown; disconnect it.
    ///
    /// # Cancel safety
    /// The outcome is unknown; the next beat without the session removes it.
    async fn connect(&self, request: &Connect) -> Result<Connected>;

    /// Removes sessions.
    ///
    /// # Errors
    /// When the outcome is not known; they end with their node anyway.
    ///
    /// # Cancel safety
    /// Safe.
    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()>;

    /// Says that a node lives and holds these sessions; which of them are no longer its own, and why.
    ///
    /// # Errors
    /// When the presence cannot be reached.
    ///
    /// # Cancel safety
    /// Safe.
    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>>;

    /// The live sessions of users.
    ///
    /// # Errors
    /// When the presence cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>>;

    /// The nodes that beat within the TTL, in any order: who is told of large groups.
    ///
    /// # Errors
    /// When the presence cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn nodes(&self) -> Result<Vec<NodeId>>;
}

/// A session to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Whose.
    pub user: UserId,
    /// The session.
    pub session: SessionRef,
    /// The sessions that compete: those of the user with the same slot.
    pub slot: String,
    /// How many a slot holds, at least 1.
    pub max: usize,
    /// What happens when it is full.
    pub when_full: WhenFull,
}

/// Why a session is no longer its node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gone {
    /// A newer session took its place.
    Displaced,
    /// The presence does not know it: it lost its data, or the node was silent for longer than the TTL. Connect it again.
    Forgotten,
}

/// What happens to a session that finds its slot full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest session goes.
    #[default]
    KickOld,
    /// The new one is refused.
    RejectNew,
}

/// A live session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionRef {
    /// The session.
    pub id: SessionId,
    /// The node that holds it.
    pub node: NodeId,
    /// The device.
    pub device: DeviceId,
    /// The platform.
    pub platform: Platform,
}

/// The answer to a [`Connect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    /// The session is in; these had to go.
    Accepted(Vec<SessionRef>),
    /// The slot is full.
    Refused,
}
