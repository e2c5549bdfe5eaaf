//! The numbering of a batch, for logs that read where conversations end, number, and write, all under one lock.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

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
        let taken = match self.taken.entry(key) {
            Entry::Occupied(taken) => return (again(append, *taken.get()), None),
            Entry::Vacant(taken) => taken,
        };
        if let Some(known) = known {
            return (again(append, known), None);
        }
        let head = self.heads.get_mut(&append.conversation);
        let Some((mark, earliest, hole_after)) = place(self.epoch, self.is_first, append, head.as_deref())
        else {
            return (AppendOutcome::Unseeded, None);
        };
        let created_at = self.now.max(earliest);
        let receipt = Receipt { mark, position: next, created_at };
        taken.insert(Found { receipt, hash: append.hash });
        let last = Head { mark, created_at, is_of_epoch: true };
        match head {
            Some(head) => *head = last,
            None => drop(self.heads.insert(append.conversation.clone(), last)),
        }
        (AppendOutcome::Appended(receipt), Some(Arc::new(append.at(mark, created_at, hole_after))))
    }
}

/// The answer to an append whose key is taken.
fn again(append: &Append, found: Found) -> AppendOutcome {
    if found.hash == append.hash { AppendOutcome::Duplicate(found.receipt) } else { AppendOutcome::Conflict }
}

/// Where the next record of a conversation goes: its mark, the earliest time it may bear, the hole it declares; none where a floor
/// is needed. In its first epoch the log has seen every record there is.
fn place(
    epoch: Epoch,
    is_first: bool,
    append: &Append,
    head: Option<&Head>,
) -> Option<(Mark, Timestamp, Option<Seq>)> {
    let counts = u64::from(append.kind.counts());
    let next = |mark: Mark, step: u64| Mark {
        seq: Seq(mark.seq.0 + step),
        ordinal: Ordinal(mark.ordinal.0 + counts),
    };
    if let Some(head) = head.filter(|head| head.is_of_epoch) {
        return Some((next(head.mark, 1), head.created_at, None));
    }
    let own = head.map_or(Floor { direct: true, ..Floor::default() }, |head| Floor {
        mark: head.mark,
        created_at: head.created_at,
        direct: false,
    });
    let floor = append.floor.or_else(|| is_first.then_some(own))?.max(own);
    if floor.direct && is_first {
        return Some((next(floor.mark, 1), floor.created_at, None));
    }
    let first = epoch.first_seq(floor.mark.seq);
    Some((next(floor.mark, first.0 - floor.mark.seq.0), floor.created_at, Some(floor.mark.seq)))
}
