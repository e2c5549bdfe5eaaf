//! The message store: conversation timelines that are kept for ever.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Batch, Checkpoint, ConversationId, Durability, Epoch, Found, Incarnation, LogRecord, Mark, Partition,
    Position, Record, Result, SendKey, Seq,
};

/// Conversation timelines, for ever.
///
/// # Contract
/// 1. **With the checkpoint.** Rows, the senders' read marks and the checkpoint of an apply are there together or not at all.
/// 2. **Once.** A record that is there already, with the same content, is passed over; with other content the apply fails with
///    [`Diverged`](crate::ErrorKind::Diverged) and nothing of it is there.
/// 3. **Forward only.** An apply never moves the checkpoint back within a lineage; an older one still brings missing rows in.
/// 4. **Fenced.** An apply made under another store incarnation, or under a log incarnation that is not that of the newest
///    epoch, fails with [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation) and changes nothing.
/// 5. **Exact pages.** History is a keyset page: the records of a range next to its near end, in order, none left out.
/// 6. **Behind.** A range that ends above the conversation's head is [`History::Behind`], never a short page. Either answer names
///    that head.
/// 7. **Own sends are read.** An applied message is a read mark of its sender (of its device, if it names one), with its
///    ordinal, and raises no state version.
/// 8. **Epochs increase.** A new log incarnation gets max(last + 1, minutes since 2026-01-01); the same one always the same
///    epoch.
/// 9. **Above.** What was applied of a partition after a position can be read back in log order.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MessageStore: fmt::Debug + Send + Sync + 'static {
    /// What the store is, read afresh.
    ///
    /// # Errors
    /// When the store cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    async fn info(&self) -> Result<StoreInfo>;

    /// The epoch of a log incarnation, a new one if it has none yet. From then on applies under older ones are refused.
    ///
    /// # Errors
    /// When the epoch could not be kept, or `log` is an incarnation that a newer one has followed
    /// ([`StaleEpoch`](crate::ErrorKind::StaleEpoch)).
    ///
    /// # Cancel safety
    /// The outcome is unknown; a repeat is safe.
    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch>;

    /// Where the persist projection stands.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>>;

    /// Takes a batch of the log and the checkpoint after it.
    ///
    /// # Errors
    /// See clauses 2 and 4. A transient error leaves the outcome unknown; apply the same batch again.
    ///
    /// # Cancel safety
    /// The outcome is unknown, but all or nothing.
    async fn apply(&self, batch: &Batch) -> Result<()>;

    /// A page of a conversation.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn history(&self, query: &HistoryQuery) -> Result<History>;

    /// Records by their places.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>>;

    /// What became of sends, at any age.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>>;

    /// The last record of each conversation.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>>;

    /// At most `max` applied records of a partition after a position, in log order.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>>;
}

/// What a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// The backend, such as `sqlite`.
    pub backend: &'static str,
    /// What an apply survives.
    pub durability: Durability,
    /// The identity of the data now. Equal to the log's where both are the same data: then nothing is copied.
    pub incarnation: Incarnation,
    /// How much applied data another incarnation may lack.
    pub loss_window: Duration,
    /// The first epoch that this store ever gave; while it is the open one, nothing acked can be unknown to log and store
    /// ([`Floor::direct`](crate::Floor::direct)).
    pub first_epoch: Option<Epoch>,
}

/// Which way a history page runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the range's upper end downwards; the page itself is still in ascending order.
    Backward,
    /// From the range's lower end upwards.
    Forward,
}

/// A page to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The conversation.
    pub conversation: ConversationId,
    /// The lowest sequence id wanted.
    pub from: Seq,
    /// The highest sequence id wanted; none: up to the head.
    pub to: Option<Seq>,
    /// Which end of the range the page is taken from.
    pub direction: Direction,
    /// How many records at most, at least 1.
    pub max: usize,
}

/// The answer to a [`HistoryQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// The records, in ascending order, and whether the range holds more.
    Page {
        /// The records.
        records: Vec<Arc<Record>>,
        /// Whether the range holds more beyond the page's far end.
        more: bool,
        /// The conversation's head, read with the records or before them.
        head: Mark,
    },
    /// The range ends above the head that the store has applied.
    Behind {
        /// That head.
        head: Mark,
    },
}
