//! Where the partitions of the log ended when this node last appended to them. A memory: whoever uses it proves under the partition's
//! lock that nobody has appended since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use im_core::{ConversationId, Epoch, Partition, Position, Timestamp, numbering::Head};

use crate::messages::NewRow;

/// Of how many conversations a partition's tail remembers the ends.
const MOST_HEADS: usize = 16_384;

/// The end of one partition, and of some of its conversations then.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Of the last record.
    pub(crate) end: Position,
    /// The open epoch.
    pub(crate) epoch: Epoch,
    /// It is the log's first one.
    pub(crate) is_first: bool,
    /// No other node was seen to append in between: it will be so again.
    pub(crate) is_alone: bool,
    pub(crate) heads: HashMap<ConversationId, Head>,
}

impl Tail {
    /// Goes on by rows that were appended at a time or, where their conversations had later ones, then.
    pub(crate) fn advance(&mut self, rows: &[NewRow], now: Timestamp) {
        if self.heads.len() + rows.len() > MOST_HEADS {
            self.heads.clear();
        }
        for NewRow { record, position, .. } in rows {
            let created_at = record.created_at.max(now);
            let head = Head { mark: record.mark(), created_at, is_of_epoch: true };
            self.heads.insert(record.conversation.clone(), head);
            self.end = *position;
        }
    }
}

/// The tails of all partitions.
#[derive(Debug)]
pub(crate) struct Tails(Vec<Mutex<Option<Tail>>>);

impl Tails {
    pub(crate) fn new(partitions: u16) -> Self {
        Self((0..partitions).map(|_| Mutex::default()).collect())
    }

    fn lock(&self, partition: Partition) -> MutexGuard<'_, Option<Tail>> {
        self.0[usize::from(partition.0)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the tail away: while one append uses it, another one does without.
    pub(crate) fn take(&self, partition: Partition) -> Option<Tail> {
        self.lock(partition).take()
    }

    pub(crate) fn keep(&self, partition: Partition, tail: Tail) {
        *self.lock(partition) = Some(tail);
    }
}
