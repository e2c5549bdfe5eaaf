//! Projections: whatever follows the log.

use std::fmt;

use async_trait::async_trait;

use crate::{Checkpoint, LogRecord, Partition, Result};

/// Follows the log in order, from its own checkpoint. Hosts write their own for a bot, an audit, a moderation.
///
/// The worker calls `apply` for one partition's batches in order, from one task at a time as long as leases hold. A batch may
/// come again, also from another node at the same time.
///
/// # Contract
/// 1. **Idempotent.** A batch that comes again changes nothing.
/// 2. **Checkpoint last.** The checkpoint is kept only when the whole batch is in, best in the same transaction.
/// 3. **Forward only.** An older batch does not move the checkpoint back within a lineage.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Projection: fmt::Debug + Send + Sync + 'static {
    /// The name, unique among the projections of a log, at most 64 bytes.
    fn name(&self) -> &str;

    /// Where it stands; none: it wants everything from the start.
    ///
    /// # Errors
    /// When it cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>>;

    /// Takes a batch and the checkpoint after it.
    ///
    /// # Errors
    /// A transient one makes the worker come again with the same batch, after a pause;
    /// [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation) makes it go back; any other stops it.
    ///
    /// # Cancel safety
    /// The worker does not cancel it, except when the process ends.
    async fn apply(&self, batch: &Batch) -> Result<()>;
}

/// The next records of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The partition.
    pub partition: Partition,
    /// The records, in order; empty where only the checkpoint moves.
    pub records: Vec<LogRecord>,
    /// Where the projection stands after them.
    pub checkpoint: Checkpoint,
}
