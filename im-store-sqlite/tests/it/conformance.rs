//! The conformance suite on SQLite.

im_testkit::conformance! {
    crate::support::SqliteFixture,
    lacks {
        inbox: "it serves the log of its own file only; certified by the test own_log",
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
        outbox: "one process has the file: a host has no transaction on it",
    }
}
