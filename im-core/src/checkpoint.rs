//! Where a projection stands, and under which data it got there.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{EPOCH_GAP, Seq};

/// The numbering era of a log: a new one begins when the log may have lost acked records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The sequence id of a conversation's first record in an epoch that is not the first of all, above everything that is
    /// known of the conversation: at least [`EPOCH_GAP`] above it, and in a range of the epoch's own, epoch × [`EPOCH_GAP`].
    ///
    /// The range makes it another one than that of any epoch between, whose records may have been shown and then lost. Epochs
    /// count minutes at least, so this holds as long as a conversation gets fewer than [`EPOCH_GAP`] records in each; and it
    /// stays below 2⁵³.
    #[must_use]
    pub fn first_seq(self, known: Seq) -> Seq {
        Seq((known.0 + EPOCH_GAP).max(u64::from(self.0) * EPOCH_GAP))
    }
}

/// Where a record lies in its log partition; strictly increasing along the partition, across epochs too.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The epoch.
    pub epoch: Epoch,
    /// The place within the epoch's part of the log, as the log counts.
    pub offset: u64,
}

impl Position {
    /// Before every record.
    pub const START: Self = Self { epoch: Epoch(0), offset: 0 };
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.0, self.offset)
    }
}

/// The identity of the data behind a part. Another one means that acked data may be missing.
///
/// Unique over all parts and backends: two parts with one incarnation are the same data.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(Arc<str>);

impl Incarnation {
    /// Takes a backend's name of its data, such as a UUID.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The incarnations that a projection works under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Of the log.
    pub log: Incarnation,
    /// Of the store.
    pub store: Incarnation,
    /// Of the inbox; a sharded backend joins those of its shards.
    pub inbox: Incarnation,
}

/// Where a projection stands in one partition: everything at or below `position` is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last applied record.
    pub position: Position,
    /// A position that was passed at least the longest loss window ago: the worker goes back here when a part turns out
    /// to be of another incarnation. At most `position`.
    pub rewind: Position,
    /// What it was made under.
    pub lineage: Lineage,
}
