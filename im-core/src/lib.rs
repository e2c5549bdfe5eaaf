//! Ids, records, traits and reference backends of the instant-messaging engine.
//!
//! The engine keeps one durable, ordered [`MessageLog`] and projects it into a [`MessageStore`] (conversation timelines, for
//! ever) and a [`SyncInbox`] (per-user timelines, for days). A backend implements the traits here, one *part* or several, and
//! depends on this crate alone. There is no engine, no socket and no SQL in it.
//!
//! Every trait's docs hold a numbered contract; each clause is a test of the conformance suite in `im-testkit`.
//!
//! # Parts
//! | Part | Traits |
//! |---|---|
//! | log | [`MessageLog`], [`Leases`] |
//! | store | [`MessageStore`], [`ConversationStore`], [`UserState`]; [`Outbox`] where hosts can send in their own transactions |
//! | inbox | [`SyncInbox`] |
//! | presence | [`Presence`] |
//! | notifier | [`Notifier`] |
//!
//! Traits of one part come from one backend. Contacts, search and off-site push will become parts of their own.

pub mod arrivals;
mod checkpoint;
mod clock;
pub mod codec;
mod conversation;
mod conversations;
mod durability;
mod error;
mod id;
mod inbox;
mod log;
pub mod memory;
pub mod notices;
mod notifier;
pub mod numbering;
mod outbox;
mod parts;
mod policy;
mod presence;
mod projection;
mod record;
mod refusal;
mod store;
pub mod subscribers;
mod user_state;

pub use checkpoint::{Checkpoint, Epoch, Incarnation, Lineage, Position};
pub use clock::{Clock, SystemClock, Timestamp, TokioClock};
pub use conversation::{
    Conversation, ConversationChange, ConversationKind, Effect, GroupInfo, Interval, Member, MembersChange,
    Membership, NewConversation, Role, Settings, SettingsChange,
};
pub use conversations::ConversationStore;
pub use durability::Durability;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use id::{
    ClientMsgId, ConversationId, DeviceId, InvalidId, MAX_ID_BYTES, NodeId, Partition, Platform, SessionId,
    UserId,
};
pub use inbox::{Cursor, Delivered, Delivery, Entry, InboxInfo, Pull, Recipient, SyncInbox};
pub use log::{
    Append, AppendOutcome, EPOCH_GAP, Floor, Found, Leases, LogInfo, LogRead, LogRecord, MessageLog, Receipt,
};
pub use notifier::{Notice, Noticed, Notifier, Signal, Signals};
pub use outbox::{Outbox, Outgoing, Place, Waiting};
pub use parts::{LogPart, Parts, StorePart};
pub use policy::{Open, Policy, PolicyRequest, Verdict};
pub use presence::{Connect, Connected, Gone, Presence, SessionRef, WhenFull};
pub use projection::{Batch, Projection};
pub use record::{ContentHash, ContentType, Mark, Ordinal, Record, RecordKind, SendKey, Seq};
pub use refusal::{ChatError, ChatResult, Refusal};
pub use store::{Direction, History, HistoryQuery, MessageStore, StoreInfo};
pub use user_state::{Marked, ReadMark, State, StateChanges, StateVersion, UserState};

#[cfg(feature = "mock")]
pub use {
    conversations::MockConversationStore,
    inbox::MockSyncInbox,
    log::{MockLeases, MockMessageLog},
    notifier::MockNotifier,
    outbox::MockOutbox,
    policy::MockPolicy,
    presence::MockPresence,
    projection::MockProjection,
    store::MockMessageStore,
    user_state::MockUserState,
};
