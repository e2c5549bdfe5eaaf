//! What an engine is put together from.

use std::sync::Arc;

use crate::{
    ConversationStore, Leases, MessageLog, MessageStore, Notifier, Outbox, Presence, SyncInbox, UserState,
};

/// The parts of an engine; a backend fills in those that it has (`impl From<Backend> for Parts`).
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Log and leases.
    pub log: Option<LogPart>,
    /// Messages, conversations, user state.
    pub store: Option<StorePart>,
    /// The sync inbox.
    pub inbox: Option<Arc<dyn SyncInbox>>,
    /// Presence.
    pub presence: Option<Arc<dyn Presence>>,
    /// The notifier.
    pub notifier: Option<Arc<dyn Notifier>>,
}

/// The log with its leases.
#[derive(Debug, Clone)]
pub struct LogPart {
    /// The log.
    pub log: Arc<dyn MessageLog>,
    /// The leases of its workers.
    pub leases: Arc<dyn Leases>,
}

/// The store with everything that shares its transactions.
#[derive(Debug, Clone)]
pub struct StorePart {
    /// Timelines.
    pub messages: Arc<dyn MessageStore>,
    /// Conversations and members.
    pub conversations: Arc<dyn ConversationStore>,
    /// Read marks and settings.
    pub states: Arc<dyn UserState>,
    /// What hosts send inside their own transactions; none where the store has no transactions of a host's.
    pub outbox: Option<Arc<dyn Outbox>>,
}
