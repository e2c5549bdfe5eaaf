//! The numbering of a batch, for logs that read where conversations end, number, and write, all under one lock.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Append, AppendOutcome, ConversationId, Epoch, Floor, Found, Mark, Ordinal, Position, Receipt, Record,
    SendKey, Seq, Timestamp,
};

/// Where a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its last record's sequence id and ordinal.
    pub mark: Mark,
    /// When that record was taken.
    pub created_at: Timestamp,
    /// The open epoch gave that record its place; else an earlier one did, or another log.
    pub is_of_epoch: bool,
}

/// Gives the appends of one batch their places, by the contract of [`MessageLog`](crate::MessageLog): dense, idempotent, seeded.
#[derive(Debug)]
pub struct Numbering<'a> {
    epoch: Epoch,
    is_first: bool,
    now: Timestamp,
    heads: HashMap<ConversationId, Head>,
    /// What this batch has stored so far.
    taken: HashMap<&'a SendKey, Found>,
}

impl<'a> Numbering<'a> {
    /// A batch for the open epoch, which is the log's first one or not; `heads` are those of its conversations that have any.
    #[must_use]
    pub fn new(epoch: Epoch, is_first: bool, now: Timestamp, heads: HashMap<ConversationId, Head>) -> Self {
        Self { epoch, is_first, now, heads, taken: HashMap::new() }
    }

    /// What becomes of an append, and the record to store, if it is new: then `next` is its position. `known` is what the log knows of
    /// its key from before this batch.
    pub fn take(
        &mut self,
        append: &Append,
        key: &'a SendKey,
        known: Option<Found>,
        next: Position,
    ) -> (AppendOutcome, Option<Arc<Record>>) {
        if let Some(found) = known.or_else(|| self.taken.get(key).copied()) {
            let same = found.hash == append.hash;
            let outcome =
                if same { AppendOutcome::Duplicate(found.receipt) } else { AppendOutcome::Conflict };
            return (outcome, None);
        }
        let Some((mark, earliest, hole_after)) = self.place(append) else {
            return (AppendOutcome::Unseeded, None);
        };
        let created_at = self.now.max(earliest);
        let receipt = Receipt { mark, position: next, created_at };
        self.heads.insert(append.conversation.clone(), Head { mark, created_at, is_of_epoch: true });
        self.taken.insert(key, Found { receipt, hash: append.hash });
        (AppendOutcome::Appended(receipt), Some(Arc::new(append.at(mark, created_at, hole_after))))
    }

    /// Where the conversations end after the batch.
    #[must_use]
    pub fn into_heads(self) -> HashMap<ConversationId, Head> {
        self.heads
    }

    /// Where the next record of a conversation goes: its mark, the earliest time it may bear, the hole it declares; none where
    /// a floor is needed. In its first epoch the log has seen every record there is.
    fn place(&self, append: &Append) -> Option<(Mark, Timestamp, Option<Seq>)> {
        let counts = u64::from(append.kind.counts());
        let next = |mark: Mark, step: u64| Mark {
            seq: Seq(mark.seq.0 + step),
            ordinal: Ordinal(mark.ordinal.0 + counts),
        };
        let head = self.heads.get(&append.conversation);
        if let Some(head) = head.filter(|head| head.is_of_epoch) {
            return Some((next(head.mark, 1), head.created_at, None));
        }
        let own = head.map_or(Floor { direct: true, ..Floor::default() }, |head| Floor {
            mark: head.mark,
            created_at: head.created_at,
            direct: false,
        });
        let floor = append.floor.or_else(|| self.is_first.then_some(own))?.max(own);
        if floor.direct && self.is_first {
            return Some((next(floor.mark, 1), floor.created_at, None));
        }
        let first = self.epoch.first_seq(floor.mark.seq);
        Some((next(floor.mark, first.0 - floor.mark.seq.0), floor.created_at, Some(floor.mark.seq)))
    }
}
