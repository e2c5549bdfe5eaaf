//! The transport over real sockets, the engine on the reference backends.

#![allow(clippy::unwrap_used)]

mod first;
mod support;
