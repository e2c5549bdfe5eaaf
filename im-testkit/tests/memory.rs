//! The memory backends pass the suite.

use im_testkit::MemoryFixture;

im_testkit::conformance! { MemoryFixture }
