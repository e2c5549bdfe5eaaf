//! All tests of the crate in one program.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod conformance;
mod notifier;
mod open;
mod support;
