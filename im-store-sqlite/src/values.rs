//! Statements that take many rows at once.
//!
//! Each statement is a hop to SQLite's thread, and each text of a statement is prepared once: so the rows of a batch go into
//! one statement, and the statements come in a few sizes. A batch takes the next larger size and leaves the rest unbound,
//! which is NULL; the statement passes over rows whose first column is NULL.

use std::sync::{Arc, OnceLock};

/// The sizes, in rows. More rows than the largest go in several statements.
const SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// The most rows of one statement: a larger one is no faster, and takes much to keep.
pub(crate) const MOST_ROWS: usize = SIZES[SIZES.len() - 1];

/// A statement with a list of rows in its midst.
#[derive(Debug)]
pub(crate) struct Values {
    begin: &'static str,
    before: &'static str,
    columns: usize,
    after: &'static str,
    commit: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES.len()],
}

impl Values {
    /// `before (VALUES (?, ?, …), (?, ?, …), …) after`.
    pub(crate) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self::step([before, after], columns, false, false)
    }

    const fn step([before, after]: [&'static str; 2], columns: usize, begins: bool, commits: bool) -> Self {
        let begin = if begins { "BEGIN IMMEDIATE; " } else { "" };
        let commit = if commits { "; COMMIT" } else { "" };
        Self { begin, before, columns, after, commit, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// The text for `rows` rows, at most [`MOST_ROWS`].
    pub(crate) fn sql(&self, rows: usize) -> Arc<str> {
        let size = SIZES.iter().position(|size| rows <= *size).unwrap_or(SIZES.len() - 1);
        self.texts[size].get_or_init(|| self.write(SIZES[size])).clone()
    }

    fn write(&self, rows: usize) -> Arc<str> {
        let row = format!("({})", vec!["?"; self.columns].join(","));
        let Self { begin, before, after, commit, .. } = self;
        format!("{begin}{before} (VALUES {}) {after}{commit}", vec![row; rows].join(",")).into()
    }
}

/// A statement whose rows are a whole transaction: the first text begins it, the last one commits it, and neither is a hop of its
/// own.
#[derive(Debug)]
pub(crate) struct Steps([Values; 4]);

impl Steps {
    /// As [`Values::new`].
    pub(crate) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        let texts = [before, after];
        Self([
            Values::step(texts, columns, false, false),
            Values::step(texts, columns, true, false),
            Values::step(texts, columns, false, true),
            Values::step(texts, columns, true, true),
        ])
    }

    /// The text for `rows` rows in the midst of a transaction.
    pub(crate) fn sql(&self, rows: usize) -> Arc<str> {
        self.0[0].sql(rows)
    }

    /// The texts of a transaction of all these rows, `most` in each, with those that belong to each.
    pub(crate) fn transaction<'r, T>(
        &'static self,
        rows: &'r [T],
        most: usize,
    ) -> impl Iterator<Item = (Arc<str>, &'r [T])> {
        let count = rows.len().div_ceil(most);
        rows.chunks(most).enumerate().map(move |(at, rows)| {
            let (begins, commits) = (at == 0, at + 1 == count);
            (self.0[usize::from(begins) + 2 * usize::from(commits)].sql(rows.len()), rows)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_the_next_larger_size() {
        let values = Values::new("SELECT * FROM", 2, "WHERE column1 IS NOT NULL");
        assert_eq!(&*values.sql(1), "SELECT * FROM (VALUES (?,?)) WHERE column1 IS NOT NULL");
        assert_eq!(values.sql(5), values.sql(16));
        assert_eq!(values.sql(17).matches("(?,?)").count(), 64);
    }

    #[test]
    fn the_first_step_begins_and_the_last_one_commits() {
        static STEPS: Steps = Steps::new("INSERT INTO t SELECT * FROM", 1, "WHERE true");
        let texts = |rows: &[i32]| {
            STEPS.transaction(rows, 2).map(|(text, rows)| format!("{text} {rows:?}")).collect::<Vec<_>>()
        };
        let one = "INSERT INTO t SELECT * FROM (VALUES (?)) WHERE true";
        let more = "INSERT INTO t SELECT * FROM (VALUES (?),(?),(?),(?)) WHERE true";
        assert_eq!(texts(&[1]), [format!("BEGIN IMMEDIATE; {one}; COMMIT [1]")]);
        let three = [
            format!("BEGIN IMMEDIATE; {more} [1, 2]"),
            format!("{more} [3, 4]"),
            format!("{one}; COMMIT [5]"),
        ];
        assert_eq!(texts(&[1, 2, 3, 4, 5]), three);
        assert_eq!(&*STEPS.sql(1), one);
        assert!(texts(&[]).is_empty());
    }
}
