//! The conformance suite on a cluster of three masters, by four nodes at once: connections of their own, and each call goes to another
//! of them than the one before.

im_testkit::conformance! {
    im_testkit::NodesFixture::new(crate::support::Shared(crate::support::CLUSTER), 4),
    lacks {
        store: "Redis keeps nothing for ever",
        outbox: "it has no store",
        same_data: "it has no store",
        lose_tail: "all tests share the cluster",
        turn_back: "the servers' clock is the machine's",
    }
}
