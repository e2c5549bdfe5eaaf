//! Rows of the inbox: each holds several entries of its user, which costs the writer far less than a row of its own for each.

use im_core::Result;

use crate::error::corrupt;

/// The most entries that are written into one row. A pull reads whole rows, so there are not many.
const MOST: usize = 64;

/// Entries of one user that make a row, ascending; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pack(Vec<i64>);

impl Pack {
    /// A row as the file has it.
    pub(crate) fn read(newest: i64, earlier: Option<&str>, operation: &'static str) -> Result<Self> {
        let earlier = earlier.map(serde_json::from_str::<Vec<i64>>).transpose();
        let mut entries = earlier
            .map_err(|error| corrupt(operation, format!("a row of the inbox: {error}")))?
            .unwrap_or_default();
        entries.push(newest);
        if entries.is_sorted_by(|a, b| a < b) {
            Ok(Self(entries))
        } else {
            Err(corrupt(operation, "a row of the inbox is not in order"))
        }
    }

    /// Rows of these entries, ascending. No row goes over a break: none has entries below one and others at it or above.
    pub(crate) fn all(entries: &[i64], breaks: &[i64]) -> Vec<Self> {
        let span = |entry: &i64| breaks.partition_point(|at| at <= entry);
        let spans = entries.chunk_by(|a, b| span(a) == span(b));
        spans.flat_map(|entries| entries.chunks(MOST)).map(|entries| Self(entries.to_vec())).collect()
    }

    /// The rows of a user with more entries among them; both in order. A row takes in what falls between its own entries.
    pub(crate) fn merge(rows: Vec<Self>, more: &[i64], breaks: &[i64]) -> Vec<Self> {
        let (mut merged, mut more) = (Vec::new(), more);
        for Self(mut row) in rows {
            let first = row.first().copied().unwrap_or(i64::MAX);
            let (before, rest) = more.split_at(more.partition_point(|entry| *entry < first));
            merged.extend(Self::all(before, breaks));
            let newest = row.last().copied().unwrap_or(i64::MIN);
            let (within, after) = rest.split_at(rest.partition_point(|entry| *entry <= newest));
            more = after;
            row.extend_from_slice(within);
            row.sort_unstable();
            row.dedup();
            merged.extend(row.chunks(MOST).map(|row| Self(row.to_vec())));
        }
        merged.extend(Self::all(more, breaks));
        merged
    }

    /// The newest entry: the row's key.
    pub(crate) fn newest(&self) -> i64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// The others, as the file has them.
    pub(crate) fn earlier(&self) -> Option<String> {
        use std::fmt::Write;
        let (_, earlier) = self.0.split_last()?;
        let (first, others) = earlier.split_first()?;
        let mut text = format!("[{first}");
        for entry in others {
            // A string takes everything.
            let _ = write!(text, ",{entry}");
        }
        text.push(']');
        Some(text)
    }

    pub(crate) fn entries(&self) -> &[i64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use im_core::ErrorKind;
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn packs(packs: &[Pack]) -> Vec<&[i64]> {
        packs.iter().map(Pack::entries).collect()
    }

    fn pack(entries: &[i64]) -> Pack {
        Pack(entries.to_vec())
    }

    #[test]
    fn what_is_written_is_read() {
        for entries in [&[7][..], &[5, 7], &[1, 2, i64::MAX - 1]] {
            let written = pack(entries);
            assert_eq!(Pack::read(written.newest(), written.earlier().as_deref(), "test").unwrap(), written);
        }
        assert_eq!(pack(&[7]).earlier(), None);
        assert_eq!(pack(&[5, 6, 7]).earlier().unwrap(), "[5,6]");
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        for bad in [
            "",
            "[",
            "[1,]",
            "[8]",
            "[9]",
            "[2,1]",
            "[1,1]",
            "[\"1\"]",
            "{}",
            "[1.5]",
            "[99999999999999999999]",
        ] {
            assert_eq!(Pack::read(8, Some(bad), "test").unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn rows_are_bounded_and_end_at_breaks() {
        let entries: Vec<i64> = (1..=150).collect();
        let rows = Pack::all(&entries, &[]);
        assert_eq!(rows.iter().map(|row| row.entries().len()).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(packs(&Pack::all(&[1, 4, 5, 9], &[5])), [&[1, 4][..], &[5, 9]]);
        assert_eq!(packs(&Pack::all(&[1, 4, 5, 9], &[0, 2, 3, 10])), [&[1][..], &[4, 5, 9]]);
        assert!(Pack::all(&[], &[5]).is_empty());
    }

    #[test]
    fn late_entries_go_where_they_belong_and_rows_stay_apart() {
        let rows = || vec![pack(&[10, 20, 30]), pack(&[40]), pack(&[60, 70])];
        let merged = |more: &[i64]| Pack::merge(rows(), more, &[]);
        assert_eq!(merged(&[10, 30, 40, 70]), rows());
        assert_eq!(
            packs(&merged(&[1, 2, 25, 35, 65, 80])),
            [&[1, 2][..], &[10, 20, 25, 30], &[35], &[40], &[60, 65, 70], &[80]]
        );
        let many: Vec<i64> = (101..200).collect();
        let grown = Pack::merge(vec![pack(&[100, 200])], &many, &[]);
        assert_eq!(grown.iter().map(|row| row.entries().len()).collect::<Vec<_>>(), [64, 37]);
        assert_eq!(packs(&Pack::merge(vec![], &[1, 5, 6], &[5])), [&[1][..], &[5, 6]]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_out_of_order(
            known in btree_set(1..1000_i64, 0..300),
            more in btree_set(1..1000_i64, 0..300),
            breaks in btree_set(1..1000_i64, 0..5),
        ) {
            let breaks: Vec<i64> = breaks.into_iter().collect();
            let list = |entries: &BTreeSet<i64>| entries.iter().copied().collect::<Vec<_>>();
            let merged = Pack::merge(Pack::all(&list(&known), &[]), &list(&more), &breaks);
            let all: Vec<i64> = merged.iter().flat_map(Pack::entries).copied().collect();
            prop_assert_eq!(all, list(&(&known | &more)));
            prop_assert!(merged.iter().all(|row| (1..=MOST).contains(&row.entries().len())));
        }
    }
}
