//! The notifier: signals from a worker to the nodes that hold the sessions.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{ConversationId, Cursor, Mark, NodeId, Record, Result, SessionId, StateVersion, UserId};

/// Carries notices to nodes, at most once.
///
/// # Contract
/// 1. **To its node.** A notice reaches the subscriber of its node and no other.
/// 2. **In order.** Notices of one notify call arrive in their order.
/// 3. **Lagged, not silent.** A subscriber that may have missed something gets [`Noticed::Lagged`] in its place.
/// 4. **Nobody there.** A notice to a node without a subscriber is dropped and is no error.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Notifier: fmt::Debug + Send + Sync + 'static {
    /// Sends notices.
    ///
    /// # Errors
    /// When some may not have been sent; nobody needs to send them again.
    ///
    /// # Cancel safety
    /// Safe; some may not have been sent.
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()>;

    /// Receives a node's notices from now on; the subscription ends when the receiver is dropped.
    ///
    /// # Errors
    /// When the subscription could not be made.
    ///
    /// # Cancel safety
    /// Safe.
    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>>;
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Noticed {
    /// A notice.
    Notice(Notice),
    /// Notices may be missing here.
    Lagged,
}

/// What a node should know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// Inboxes of users on this node have new entries.
    Signals(Signals),
    /// A user's own state has a new version.
    State(UserId, StateVersion),
    /// A large group has a new head.
    Head(ConversationId, Mark),
    /// Sessions of a user were displaced.
    Kick(UserId, Vec<SessionId>),
}

/// New entries for users of one node; the records are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct Signals {
    /// The records that somebody is sent inline; the others are left out.
    pub records: Arc<[Arc<Record>]>,
    /// Who got which.
    pub signals: Vec<Signal>,
}

/// New entries that some users got alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The users, and for each the cursor before the entries, if known.
    pub users: Vec<(UserId, Option<Cursor>)>,
    /// Indices into [`Signals::records`], one for each cursor; empty when the records are not carried.
    pub records: Arc<[u32]>,
    /// The cursors of the entries; at least one.
    pub cursors: Arc<[Cursor]>,
}

impl Signal {
    /// Adds what a user got: to the last of the signals, if it says the same, or as another.
    pub fn push(
        signals: &mut Vec<Self>,
        user: (UserId, Option<Cursor>),
        records: Arc<[u32]>,
        cursors: Arc<[Cursor]>,
    ) {
        match signals.last_mut() {
            Some(last) if last.cursors == cursors && last.records == records => last.users.push(user),
            _ => signals.push(Self { users: vec![user], records, cursors }),
        }
    }
}
