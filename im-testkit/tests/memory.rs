//! The memory backends pass the suite.

use im_testkit::{JoinedFixture, MemoryFixture};

im_testkit::conformance! {
    MemoryFixture,
    lacks { same_data: "log and store lose their tails apart" }
}

#[test]
fn joined_they_write_a_message_once() -> im_testkit::Verdict {
    im_testkit::certify(&JoinedFixture, "same_data::written_once")
}
