//! The conformance suite on SQLite.

#![allow(clippy::unwrap_used)]

mod support;

im_testkit::conformance! {
    support::SqliteFixture,
    lacks {
        inbox: "it serves the log of its own file only; certified by the test own_log",
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
        outbox: "one process has the file: a host has no transaction on it",
    }
}
