//! All tests of the crate in one program, which is linked once, and whose waits lie beside each other.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod conformance;
mod inbox;
mod open;
mod own_log;
mod support;
