//! The conformance suite on Postgres.

im_testkit::conformance! {
    crate::support::PgFixture,
    lacks {
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
        lose_tail: "the test server has no replica to fail over to",
        turn_back: "the server's clock is the machine's",
    }
}
