//! Times the steps of a task and prints them as a table.

use std::time::{Duration, Instant};

use crate::run::{Failure, Result};

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    failure: Option<Failure>,
    took: Duration,
}

impl Report {
    /// Does one step; a failure is kept for the end, so that one run shows everything that is wrong.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n==> {name}");
        let begun = Instant::now();
        let (value, failure) = match work() {
            Ok(value) => (Some(value), None),
            Err(failure) => (None, Some(failure)),
        };
        self.rows.push(Row { name: name.to_owned(), failure, took: begun.elapsed() });
        value
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When a step failed.
    pub(crate) fn finish(self) -> Result<()> {
        print!("\n{}", self.table());
        let failures = self.rows.iter().filter_map(Row::failure).collect::<Vec<_>>();
        if failures.is_empty() { Ok(()) } else { Err(Failure::new(failures.join("\nxtask: "))) }
    }

    fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max("total".len());
        let line = |name: &str, took: Duration, result: &str| {
            format!("{name:width$}  {:>7.1} s  {result}\n", took.as_secs_f64())
        };
        let rows = self.rows.iter().map(|row| line(&row.name, row.took, row.result()));
        let total = self.rows.iter().map(|row| row.took).sum();
        rows.chain([line("total", total, "")]).collect()
    }
}

impl Row {
    fn result(&self) -> &'static str {
        if self.failure.is_some() { "FAILED" } else { "ok" }
    }

    fn failure(&self) -> Option<String> {
        self.failure.as_ref().map(|failure| format!("{}: {failure}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_stop_the_next_but_fails_the_whole() {
        let mut report = Report::default();
        assert_eq!(report.step("one", || Err::<(), _>(Failure::new("broken"))), None);
        assert_eq!(report.step("two", || Ok(2)), Some(2));
        assert!(report.table().contains("FAILED"));
        assert_eq!(report.finish().map_err(|failure| failure.to_string()), Err("one: broken".to_owned()));
    }

    #[test]
    fn nothing_failed_is_success() {
        let mut report = Report::default();
        report.step("one", || Ok(()));
        assert!(report.finish().is_ok());
    }
}
