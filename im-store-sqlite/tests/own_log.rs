//! The conformance suite on the inbox. The suite delivers records of a log on paper, and an inbox on SQLite serves only the
//! log of its own file: so each record is put there before it is delivered.

mod support;

im_testkit::conformance! {
    support::OwnLogFixture,
    lacks {
        log: "certified by the other test",
        store: "certified by the other test",
        presence: "certified by the other test",
        notifier: "certified by the other test",
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
    }
}
