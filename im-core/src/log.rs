//! The message log: the durable intake that everything else is projected from.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Durability, Epoch, Error, Incarnation,
    Mark, NodeId, Partition, Position, Record, RecordKind, Result, SendKey, Timestamp, UserId,
};

/// The least distance that the first record of a conversation in a new epoch keeps from its [`Floor`]; see
/// [`Epoch::first_seq`].
pub const EPOCH_GAP: u64 = 1 << 20;

/// Durable, ordered, deduplicating intake, partitioned by conversation. The only giver of sequence ids.
///
/// # Contract
/// 1. **Durable.** An appended record survives what [`LogInfo::durability`] says, and is then read by every reader.
/// 2. **Dense.** Within an epoch the records of a conversation have the sequence ids 1, 2, 3 … or [`Epoch::first_seq`] of the
///    floor and on from there; none is given twice, also not by concurrent appends from several nodes.
/// 3. **Ordinal.** A record's ordinal is that of its predecessor, plus one if its kind counts.
/// 4. **Never passed.** Once a reader was given position *p*, nothing appears at or below *p*. Within a partition, positions
///    and, within a conversation, sequence ids increase together.
/// 5. **Time.** `created_at` is the clock of the log or of the appending node, and never less than that of the conversation's record before.
/// 6. **Idempotent.** A send key that is known is answered with the first receipt and stores nothing; with another content
///    hash it is a conflict. So within one batch too. Known means: for ever, or within [`LogInfo::dedupe_window`].
/// 7. **Unseeded.** In an epoch in which the log cannot know a conversation's head by itself it answers `Unseeded` until an
///    append carries a floor; the first record then gets [`Epoch::first_seq`] of the floor's and declares the hole. A
///    [direct](Floor::direct) floor it follows without a hole, if the log itself knows of no earlier epoch.
/// 8. **Epoch.** An append or read names no epoch that is over: an append with another epoch than the open one fails with
///    [`StaleEpoch`](crate::ErrorKind::StaleEpoch) and stores nothing; one to a log whose incarnation is not its epoch's
///    fails with [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation) and stores nothing.
/// 9. **Isolated.** One refused append of a batch does not keep the others from being stored.
/// 10. **Trimmed.** A read from below what is kept says so; it never starts later in silence.
/// 11. **Held.** Nothing above the lowest hold is trimmed, nor anything inside the dedupe window.
/// 12. **Waits.** A read at the end returns as soon as a record is there, else empty after `wait`; at once if that is zero.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MessageLog: fmt::Debug + Send + Sync + 'static {
    /// What the log is and where it stands, read afresh.
    ///
    /// # Errors
    /// When the log cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    async fn info(&self) -> Result<LogInfo>;

    /// The last position of each partition, exactly: what a bootstrap waits for.
    ///
    /// # Errors
    /// When the log cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    async fn ends(&self) -> Result<Vec<Position>>;

    /// Opens `epoch` for the log's present incarnation. Opening the open epoch again changes nothing.
    ///
    /// # Errors
    /// [`StaleEpoch`](crate::ErrorKind::StaleEpoch) when a newer one is open,
    /// [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation) when `incarnation` is not the present one.
    ///
    /// # Cancel safety
    /// Safe; the outcome is then unknown.
    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()>;

    /// Appends to one partition. Answer *i* belongs to append *i*.
    ///
    /// # Errors
    /// The whole batch has failed; see the error's outcome. A repeat is safe.
    ///
    /// # Cancel safety
    /// The outcome is unknown; nothing is half done within one append.
    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>>;

    /// Looks up what became of sends, as far back as the log remembers.
    ///
    /// # Errors
    /// When the log cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>>;

    /// Reads at most `max` records after a position, in order; waits up to `wait` for the first.
    ///
    /// # Errors
    /// When the log cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead>;

    /// Asks the log to keep everything after these positions until the hold moves. Forward only, except for a projection's
    /// first hold.
    ///
    /// # Errors
    /// When the hold could not be kept.
    ///
    /// # Cancel safety
    /// The outcome is unknown; a repeat is safe.
    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()>;

    /// Gives back the space of what no hold and no dedupe window needs; a log that is also the store keeps everything.
    ///
    /// # Errors
    /// When the space could not be given back.
    ///
    /// # Cancel safety
    /// Safe; less may have been trimmed.
    async fn trim(&self) -> Result<()>;
}

/// What a log is and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInfo {
    /// The backend, such as `sqlite`.
    pub backend: &'static str,
    /// What an acked append survives.
    pub durability: Durability,
    /// The identity of the data now.
    pub incarnation: Incarnation,
    /// How much acked data another incarnation may lack.
    pub loss_window: Duration,
    /// The number of partitions, at least 1.
    pub partitions: u16,
    /// The open epoch and the incarnation it was opened for.
    pub epoch: Option<(Epoch, Incarnation)>,
    /// When the open epoch began.
    pub epoch_began: Timestamp,
    /// How long a send key is remembered; none: for ever.
    pub dedupe_window: Option<Duration>,
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The conversation; must belong to the partition.
    pub conversation: ConversationId,
    /// Who sends.
    pub sender: UserId,
    /// The device, where devices have read marks of their own.
    pub device: Option<DeviceId>,
    /// The other user of a SINGLE conversation.
    pub send_to: Option<UserId>,
    /// The sender's name of the message.
    pub client_msg_id: ClientMsgId,
    /// What it is.
    pub kind: RecordKind,
    /// How the content is to be read.
    pub content_type: ContentType,
    /// The content.
    pub content: Arc<str>,
    /// The hash of the content.
    pub hash: ContentHash,
    /// Where the numbering goes on, if the caller knows; answers [`AppendOutcome::Unseeded`].
    pub floor: Option<Floor>,
}

impl Append {
    /// What names the message for ever.
    #[must_use]
    pub fn key(&self) -> SendKey {
        SendKey {
            conversation: self.conversation.clone(),
            sender: self.sender.clone(),
            client_msg_id: self.client_msg_id.clone(),
        }
    }

    /// The record that this becomes at a place.
    #[must_use]
    pub fn at(&self, mark: Mark, created_at: Timestamp, hole_after: Option<crate::Seq>) -> Record {
        Record {
            conversation: self.conversation.clone(),
            seq: mark.seq,
            ordinal: mark.ordinal,
            created_at,
            sender: self.sender.clone(),
            device: self.device.clone(),
            send_to: self.send_to.clone(),
            client_msg_id: self.client_msg_id.clone(),
            hole_after,
            kind: self.kind,
            content_type: self.content_type,
            content: self.content.clone(),
            hash: self.hash,
        }
    }
}

/// The highest place of a conversation that anybody may have seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floor {
    /// Sequence id and ordinal.
    pub mark: Mark,
    /// The time of that record.
    pub created_at: Timestamp,
    /// Nothing above the mark can ever have been acked, so that the numbering may go on right behind it, without a hole. True
    /// only while the log's epoch is the first of all data ([`StoreInfo::first_epoch`](crate::StoreInfo::first_epoch)).
    pub direct: bool,
}

impl Floor {
    /// The higher of two, field by field; direct only if both are.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            mark: Mark {
                seq: self.mark.seq.max(other.mark.seq),
                ordinal: self.mark.ordinal.max(other.mark.ordinal),
            },
            created_at: self.created_at.max(other.created_at),
            direct: self.direct && other.direct,
        }
    }
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The place in the conversation.
    pub mark: Mark,
    /// The place in the log.
    pub position: Position,
    /// When the log took it.
    pub created_at: Timestamp,
}

/// What became of one append.
#[derive(Debug, Clone)]
pub enum AppendOutcome {
    /// Stored now.
    Appended(Receipt),
    /// Was stored before.
    Duplicate(Receipt),
    /// The send key belongs to another content; nothing was stored.
    Conflict,
    /// The log does not know the conversation's head; nothing was stored. Come again with a floor.
    Unseeded,
    /// This one failed, others of the batch may not have; see the error's outcome.
    Failed(Error),
}

/// A send that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where it went.
    pub receipt: Receipt,
    /// The hash of its original content.
    pub hash: ContentHash,
}

/// A record with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The place.
    pub position: Position,
    /// The record.
    pub record: Arc<Record>,
}

/// What a read brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogRead {
    /// The next records, in order; empty at the end of the log.
    Records(Vec<LogRecord>),
    /// Records after the asked position are gone; this is the position before the first that is kept.
    Trimmed(Position),
}

/// Who does which work: an efficiency, never a guarantee.
///
/// # Contract
/// 1. **Exclusive while it lasts.** Between a node's claim and the end of its ttl no other node's claim succeeds.
/// 2. **Renewed.** A claim by the holder succeeds and lasts from then on.
/// 3. **Free again.** After the ttl, or a release by the holder, anybody may claim; a release by another changes nothing.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Leases: fmt::Debug + Send + Sync + 'static {
    /// Claims or renews; whether the node has it now.
    ///
    /// # Errors
    /// When the outcome is not known; the node must then act as if it had lost it.
    ///
    /// # Cancel safety
    /// The outcome is unknown.
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool>;

    /// Gives it back.
    ///
    /// # Errors
    /// When the outcome is not known; it ends with its ttl anyway.
    ///
    /// # Cancel safety
    /// Safe.
    async fn release(&self, name: &str, node: &NodeId) -> Result<()>;
}
