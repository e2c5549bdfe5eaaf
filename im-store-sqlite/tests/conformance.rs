//! The conformance suite on SQLite.

mod support;

im_testkit::conformance! {
    support::SqliteFixture,
    lacks {
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
    }
}
