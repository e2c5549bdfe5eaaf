//! What the engine promises, looked at where it is hardest to keep: something else happens between two steps of a call.

#![allow(clippy::unwrap_used)]

mod groups;
mod hooks;
mod large;
mod log;
mod rights;
mod sessions;
mod start;
mod support;
