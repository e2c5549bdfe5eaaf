//! Inbox entries on their way to many sessions.

use std::sync::OnceLock;

use bytes::Bytes;
use im_core::{Cursor, Entry};

/// Inbox entries, shared by every session that is sent the same ones: of one signal, or of several that follow each other.
///
/// Thousands of sessions count themselves in and out while others read: what they read lies in another cache line than the count.
#[derive(Debug)]
#[repr(align(64))]
pub struct Entries {
    entries: Vec<Entry>,
    /// Where the entries of each signal end, but those of the last one.
    cuts: Vec<usize>,
    pub(crate) bytes: usize,
    encoded: OnceLock<Bytes>,
}

impl Entries {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        Self { bytes: bytes(&entries), entries, cuts: Vec::new(), encoded: OnceLock::new() }
    }

    /// Adds the entries of a signal that follows these, unless that makes more than so many bytes; whether it did.
    pub(crate) fn join(&mut self, next: Vec<Entry>, max_bytes: usize) -> bool {
        let bytes = self.bytes + bytes(&next);
        let fits = bytes <= max_bytes;
        if fits {
            self.cuts.push(self.entries.len());
            self.entries.extend(next);
            self.bytes = bytes;
        }
        fits
    }

    /// What is left for who has everything up to a cursor; none if no signal but the last ends there.
    pub(crate) fn after(&self, cursor: &Cursor) -> Option<Self> {
        let had = *self.cuts.iter().find(|cut| self.entries[**cut - 1].cursor == *cursor)?;
        let cuts = self.cuts.iter().filter(|cut| **cut > had).map(|cut| cut - had).collect();
        Some(Self { cuts, ..Self::new(self.entries[had..].to_vec()) })
    }

    /// The entries, oldest first; at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Entry] {
        &self.entries
    }

    /// The cursor of the last entry.
    #[must_use]
    pub fn end(&self) -> Option<&Cursor> {
        self.entries.last().map(|entry| &entry.cursor)
    }

    /// The same entries, signal by signal; each has at least one. A transport sends what each signal brought as if it had come
    /// alone: how many were joined depends on the load, and is not for clients to see.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[Entry]> {
        let cut = |index: usize| self.cuts.get(index).copied();
        (0..self.cuts.len() + 1).map(move |index| {
            let start = index.checked_sub(1).and_then(cut).unwrap_or(0);
            &self.entries[start..cut(index).unwrap_or(self.entries.len())]
        })
    }

    /// What a transport makes of the entries: made once, by the first session that needs it.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(self))
    }
}

/// About how long frames of these entries are.
fn bytes(entries: &[Entry]) -> usize {
    /// What a frame has beside the contents, per entry.
    const OVERHEAD: usize = 256;
    entries.iter().map(|entry| entry.record.content.len() + OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::tests::{cursor, cursors, entries, run};

    #[test]
    fn joined_entries_show_what_each_signal_brought() {
        let run = run();
        assert_eq!(cursors(&run), [vec!["1"], vec!["2"], vec!["3", "4"]]);
        assert_eq!((run.as_slice().len(), run.end()), (4, Some(&cursor(4))));
        assert_eq!(run.bytes, 4 * entries(1).bytes);
        let (mut alone, more) = (Entries::new(run.as_slice()[..1].to_vec()), entries(2));
        assert!(!alone.join(more.as_slice().to_vec(), 2 * more.bytes - 1));
        assert_eq!((cursors(&alone), alone.bytes), (vec![vec!["1".to_owned()]], more.bytes));
    }
}
