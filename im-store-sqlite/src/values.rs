//! Statements that take many rows at once.
//!
//! Each statement is a hop to SQLite's thread, and each text of a statement is prepared once: so the rows of a batch go into
//! one statement, and the statements come in a few sizes. A batch takes the next larger size and leaves the rest unbound,
//! which is NULL; the statement passes over rows whose first column is NULL.

use std::sync::{Arc, OnceLock};

/// The sizes, in rows. More rows than the largest go in several statements.
const SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// The most rows of one statement.
pub(crate) const MOST_ROWS: usize = SIZES[SIZES.len() - 1];

/// A statement with a list of rows in its midst.
#[derive(Debug)]
pub(crate) struct Values {
    before: &'static str,
    columns: usize,
    after: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES.len()],
}

impl Values {
    /// `before (VALUES (?, ?, …), (?, ?, …), …) after`.
    pub(crate) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self { before, columns, after, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// The text for `rows` rows, at most [`MOST_ROWS`].
    pub(crate) fn sql(&self, rows: usize) -> Arc<str> {
        let size = SIZES.iter().position(|size| rows <= *size).unwrap_or(SIZES.len() - 1);
        self.texts[size].get_or_init(|| self.write(SIZES[size])).clone()
    }

    fn write(&self, rows: usize) -> Arc<str> {
        let row = format!("({})", vec!["?"; self.columns].join(","));
        format!("{} (VALUES {}) {}", self.before, vec![row; rows].join(","), self.after).into()
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
}
