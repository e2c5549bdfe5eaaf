//! All tests of the crate in one program, which is linked once, and whose waits lie beside each other.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod broken;
mod memory;
mod nodes;
mod projection;
mod simulation;
