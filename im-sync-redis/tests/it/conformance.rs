//! The conformance suite on one server, which each test has for itself, so that it can lose its newest writes.

im_testkit::conformance! {
    crate::support::Own,
    lacks {
        store: "Redis keeps nothing for ever",
        outbox: "it has no store",
        same_data: "it has no store",
        turn_back: "the server's clock is the machine's",
    }
}
