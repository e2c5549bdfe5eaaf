//! What a client has to do to see every record once and in order: the rule of the protocol, without input or output.
//!
//! A client keeps a *mark* per conversation: the last sequence id that it took in order, from its inbox, from a bootstrap, or
//! from history upwards. It drops what is not above the mark; a gap above it is paged from history before anything later is
//! shown, unless a declared hole explains it.

use std::collections::BTreeMap;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The sequence id.
    pub seq: u64,
    /// What the record says of a hole before it.
    pub hole_after: Option<u64>,
}

/// What to do with a record of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Show it; the mark stands on it now.
    Show,
    /// It was shown before.
    Drop,
    /// First page the history of this range (both ends included) upwards, then take the record again.
    Gap {
        /// The lowest sequence id that is missing.
        from: u64,
        /// The highest.
        to: u64,
    },
    /// The conversation is not known: fetch it first.
    Unknown,
}

/// The marks of one client.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    marks: BTreeMap<String, u64>,
}

impl Marks {
    /// The mark of a conversation, if it is known.
    #[must_use]
    pub fn get(&self, conversation: &str) -> Option<u64> {
        self.marks.get(conversation).copied()
    }

    /// The conversation is known from here on: joined − 1, or the head of a bootstrap. A known one keeps its mark unless the
    /// new one is higher.
    pub fn know(&mut self, conversation: &str, mark: u64) {
        let known = self.marks.entry(conversation.to_owned()).or_insert(mark);
        *known = mark.max(*known);
    }

    /// What to do with a record of the inbox.
    pub fn take(&mut self, conversation: &str, place: Place) -> Take {
        let Some(mark) = self.marks.get_mut(conversation) else { return Take::Unknown };
        let Place { seq, hole_after } = place;
        let last_before = hole_after.map_or(seq - 1, |hole| hole.min(seq - 1));
        if seq <= *mark {
            Take::Drop
        } else if last_before <= *mark {
            *mark = seq;
            Take::Show
        } else {
            Take::Gap { from: *mark + 1, to: last_before }
        }
    }

    /// The history up to here was paged upwards; whether a record of the page is to be shown.
    pub fn take_paged(&mut self, conversation: &str, seq: u64) -> bool {
        let mark = self.marks.entry(conversation.to_owned()).or_default();
        let new = seq > *mark;
        *mark = seq.max(*mark);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Place {
        Place { seq, hole_after: None }
    }

    #[test]
    fn takes_in_order_drops_repeats_and_pages_gaps() {
        let mut marks = Marks::default();
        assert_eq!(marks.take("c", at(1)), Take::Unknown);
        marks.know("c", 0);
        assert_eq!(marks.take("c", at(1)), Take::Show);
        assert_eq!(marks.take("c", at(1)), Take::Drop);
        assert_eq!(marks.take("c", at(4)), Take::Gap { from: 2, to: 3 });
        assert!(marks.take_paged("c", 2) && marks.take_paged("c", 3) && !marks.take_paged("c", 3));
        assert_eq!(marks.take("c", at(4)), Take::Show);
    }

    #[test]
    fn a_declared_hole_is_no_gap_but_what_lies_below_it_is() {
        let hole = Place { seq: 1000, hole_after: Some(5) };
        let mut marks = Marks::default();
        marks.know("c", 5);
        assert_eq!(marks.take("c", hole), Take::Show);
        let mut marks = Marks::default();
        marks.know("c", 3);
        assert_eq!(marks.take("c", hole), Take::Gap { from: 4, to: 5 });
        // What was seen above the floor was lost by the server: it is inside the hole.
        let mut marks = Marks::default();
        marks.know("c", 7);
        assert_eq!(marks.take("c", hole), Take::Show);
    }
}
