//! All tests of the crate in one program, which is linked once, and whose waits lie beside each other.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod conformance;
mod conformance_nodes;
mod disk;
mod failover;
mod faults;
mod inbox;
mod mixes;
mod notifier;
mod open;
mod outages;
mod plans;
mod presence;
mod send_in;
mod support;
mod together;
