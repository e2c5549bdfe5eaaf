//! The transport over real sockets, the engine on the reference backends.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod bootstrap;
mod crowd;
mod drain;
mod ends;
mod first;
mod flow;
mod golden;
mod handshake;
mod held;
mod hello;
mod operations;
mod slow;
mod support;
