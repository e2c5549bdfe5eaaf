//! The conformance suite on Postgres with four nodes at once: pools, caches and listeners of their own, on one schema, and each call goes
//! to another of them than the one before.

im_testkit::conformance! {
    im_testkit::NodesFixture::new(crate::support::PgFixture, 4),
    lacks {
        trim: "the log is also the store: it keeps everything",
        dedupe_window: "a send key is known for ever",
        lose_tail: "the test server has no replica to fail over to",
        turn_back: "the server's clock is the machine's",
    }
}
