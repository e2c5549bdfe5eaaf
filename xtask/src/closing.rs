//! Reads the lines with which a test runner closes.
//!
//! A runner exits 0 when tests were skipped, or when it found none: its own counts are the only proof that they ran.

use crate::run::{Failure, Result};

/// A test runner.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Runner {
    /// libtest: `test result: ok. 3 passed; 0 failed; 0 ignored; …`, one line per test program.
    Rust,
    /// node:test with its spec reporter: `ℹ pass 3`, one line per count.
    Node,
}

impl Runner {
    /// Whether the line is one of those that count.
    pub(crate) fn closes(self, line: &str) -> bool {
        match self {
            Self::Rust => line.starts_with("test result: "),
            Self::Node => line.starts_with("ℹ "),
        }
    }

    /// Whether the line says more than that a test program holds no tests.
    pub(crate) fn tells(self, line: &str) -> bool {
        !line.contains(" 0 passed; 0 failed; 0 ignored;")
    }

    /// Judges all closing lines of a run.
    ///
    /// # Errors
    /// When a test was skipped, or none ran.
    pub(crate) fn judge(self, lines: &[String]) -> Result<()> {
        let count = |names: &[&str]| -> u64 {
            names.iter().map(|name| lines.iter().filter_map(|line| self.count(line, name)).sum::<u64>()).sum()
        };
        let (passed, skipped) = match self {
            Self::Rust => (count(&["passed"]), count(&["ignored", "filtered"])),
            Self::Node => (count(&["pass"]), count(&["skipped", "todo"])),
        };
        match (passed, skipped) {
            (0, _) => Err(Failure::new("no test ran")),
            (_, 0) => Ok(()),
            _ => Err(Failure::new(format!("tests skipped: {skipped}"))),
        }
    }

    /// The number beside `name` in a line: before it (`3 passed;`) or after it (`pass 3`).
    fn count(self, line: &str, name: &str) -> Option<u64> {
        let words: Vec<_> = line.split_whitespace().map(|word| word.trim_end_matches(';')).collect();
        words.windows(2).find_map(|pair| match (self, pair) {
            (Self::Rust, [number, word]) | (Self::Node, [word, number]) if *word == name => {
                number.parse().ok()
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(runner: Runner, lines: &[&str]) -> std::result::Result<(), String> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(lines.iter().all(|line| runner.closes(line)));
        runner.judge(&lines).map_err(|failure| failure.to_string())
    }

    const NONE: &str =
        "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn passed_tests_pass() {
        let some =
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(judge(Runner::Rust, &[some, NONE]), Ok(()));
        assert_eq!(judge(Runner::Node, &["ℹ tests 2", "ℹ pass 2", "ℹ skipped 0", "ℹ todo 0"]), Ok(()));
    }

    #[test]
    fn a_skipped_test_fails() {
        let some =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s";
        assert_eq!(judge(Runner::Rust, &[some]), Err("tests skipped: 3".to_owned()));
        let lines = ["ℹ pass 1", "ℹ skipped 1", "ℹ todo 1"];
        assert_eq!(judge(Runner::Node, &lines), Err("tests skipped: 2".to_owned()));
    }

    #[test]
    fn no_test_fails() {
        assert!(!Runner::Rust.tells(NONE));
        assert_eq!(judge(Runner::Rust, &[NONE]), Err("no test ran".to_owned()));
        assert_eq!(judge(Runner::Node, &["ℹ pass 0"]), Err("no test ran".to_owned()));
        assert_eq!(judge(Runner::Node, &[]), Err("no test ran".to_owned()));
    }
}
