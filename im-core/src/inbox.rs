//! The sync inbox: one timeline per user, kept for days.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{Checkpoint, Durability, Incarnation, Partition, Record, Result, UserId};

/// The inbox entry that a client stands on: opaque to clients, at most [`Cursor::MAX_BYTES`]. Cheap to clone; one of up to 23
/// bytes is held in place, so that thousands of sessions that are told the same one do not share a reference count.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(SmolStr);

impl Cursor {
    /// The longest cursor, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Takes a backend's text, or what a client sent.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(SmolStr::new(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Per-user timelines with an expiry: what a client has still to see.
///
/// # Contract
/// 1. **In order.** The first appearances of a partition's records come in the order of delivery; a repeat may follow, never
///    precede.
/// 2. **Never passed.** An entry never appears at or before a cursor that has been handed out.
/// 3. **No silent gap.** A cursor is served only if its entry is provably the one the client saw and nothing after it is gone;
///    else [`Pull::Resync`]: so for one of another user, from the future, malformed, or expired, and for one whose entry was lost.
/// 4. **One write per user and batch.** A reader sees all or none of a user's entries of one delivery.
/// 5. **Checkpoint last.** The checkpoint of a delivery is there only when its entries are, and those of the deliveries before;
///    not when a recipient failed.
/// 6. **Forward only.** A delivery never moves the checkpoint back within a lineage.
/// 7. **Fenced.** A delivery for another inbox incarnation fails with
///    [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation), writes nothing and moves no checkpoint.
/// 8. **Replay.** The same delivery again loses nothing and reorders no first appearance.
/// 9. **An end for everyone.** `anchor` gives any user a cursor that the next pull accepts; a pull from the end is an empty page.
/// 10. **Expiry.** What was delivered longer ago than [`InboxInfo::expiry`] may be gone after `expire`, nothing younger is.
/// 11. **Many recipients.** Answer *i* belongs to recipient *i*, for any number of recipients up to
///     [`InboxInfo::max_recipients`].
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait SyncInbox: fmt::Debug + Send + Sync + 'static {
    /// What the inbox is, read afresh.
    ///
    /// # Errors
    /// When the inbox cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    async fn info(&self) -> Result<InboxInfo>;

    /// Where the fan-out projection stands.
    ///
    /// # Errors
    /// When the inbox cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>>;

    /// Appends to each recipient's inbox the records that are its, in order; then moves the checkpoint, if there is one and
    /// nobody failed. A recipient's failure is its own answer, so that only it need be repeated.
    ///
    /// # Errors
    /// The whole delivery has failed. A transient error leaves the outcome unknown; deliver the same batch again.
    ///
    /// # Cancel safety
    /// The outcome is unknown; deliver the same batch again.
    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>>;

    /// At most `max` entries after a cursor.
    ///
    /// # Errors
    /// When the inbox cannot be read. A cursor that cannot be served is no error.
    ///
    /// # Cancel safety
    /// Safe.
    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull>;

    /// The newest cursor of each user; none where the inbox has no entry.
    ///
    /// # Errors
    /// When the inbox cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>>;

    /// The newest cursor of a user, of a fresh anchor entry where the inbox has none.
    ///
    /// # Errors
    /// When the inbox cannot be written.
    ///
    /// # Cancel safety
    /// Safe.
    async fn anchor(&self, user: &UserId) -> Result<Cursor>;

    /// Gives back the space of expired entries, of about `max` at most; whether there are more.
    ///
    /// # Errors
    /// When the space could not be given back.
    ///
    /// # Cancel safety
    /// Safe; less may have been done.
    async fn expire(&self, max: usize) -> Result<bool>;
}

/// What an inbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxInfo {
    /// The backend, such as `sqlite`.
    pub backend: &'static str,
    /// What a delivery survives.
    pub durability: Durability,
    /// The identity of the data now.
    pub incarnation: Incarnation,
    /// How much delivered data another incarnation may lack.
    pub loss_window: Duration,
    /// How long entries are kept, from their delivery on.
    pub expiry: Duration,
    /// How many recipients one delivery may have.
    pub max_recipients: usize,
    /// The only log whose records it takes; none where it takes those of any.
    pub only_log: Option<Incarnation>,
}

/// Records for many inboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The partition that the records are of.
    pub partition: Partition,
    /// The inbox that the worker found when it began.
    pub inbox: Incarnation,
    /// The records with their places, in order.
    pub records: Vec<crate::LogRecord>,
    /// Who gets which; each user once.
    pub recipients: Vec<Recipient>,
    /// Where the projection stands when this is in; only the last delivery of a batch carries one.
    pub checkpoint: Option<Checkpoint>,
}

/// What one user gets of a [`Delivery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The user.
    pub user: UserId,
    /// Indices into [`Delivery::records`], ascending, at least one.
    pub records: Arc<[u32]>,
}

/// What became of one recipient's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The cursor before the first of the entries, if it is known at no cost.
    pub previous: Option<Cursor>,
    /// The cursors of the entries, one for each of the recipient's records.
    pub cursors: Arc<[Cursor]>,
}

/// One entry of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The cursor that stands on it.
    pub cursor: Cursor,
    /// What it carries.
    pub record: Arc<Record>,
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    /// The entries after the cursor, and whether there are more.
    Page {
        /// The entries, oldest first.
        entries: Vec<Entry>,
        /// Whether there are more.
        more: bool,
    },
    /// The cursor cannot be served without a possible gap: start afresh.
    Resync,
}
