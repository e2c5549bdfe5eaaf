//! The memory backends pass the suite.

use im_testkit::{CLAUSES, JoinedFixture, MemoryFixture};

im_testkit::conformance! {
    MemoryFixture,
    lacks { same_data: "log and store lose their tails apart" }
}

#[test]
fn joined_they_write_a_message_once() -> im_testkit::Verdict {
    im_testkit::certify(&JoinedFixture, "same_data::written_once")
}

#[test]
fn the_inbox_passes_on_its_own_log_too() -> im_testkit::Verdict {
    let mut clauses = CLAUSES.iter().filter(|clause| clause.name.starts_with("inbox::"));
    clauses.try_for_each(|clause| im_testkit::certify(&JoinedFixture, clause.name))
}
