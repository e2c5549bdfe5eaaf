//! What a backend of the chat engine has to hold, as tests that anybody can run.
//!
//! Every numbered clause of the contracts in `im-core` is one function here, named after it: [`log::dense`],
//! [`inbox::no_silent_gap`]. A backend writes a [`Fixture`] and calls [`conformance!`], which makes a test of each clause; what
//! the fixture cannot offer it declares in words. `CERTIFY.md` beside this crate's manifest tells how.
//!
//! [`broken`] holds a deliberately wrong backend for every clause, by which the clauses themselves are tested; [`fault`] wraps
//! right backends in duplicates, drops, delays and errors.

pub mod broken;
pub mod checker;
pub mod client;
mod clock;
pub mod conversations;
mod desk;
pub mod fault;
mod fixture;
pub mod inbox;
mod joined;
pub mod leases;
pub mod log;
mod memory;
mod nodes;
pub mod notifier;
pub mod outbox;
pub mod presence;
pub mod projection;
pub mod same_data;
pub mod sim;
pub mod store;
mod support;
mod table;
pub mod user_state;
mod violation;

pub use clock::ManualClock;
pub use fixture::{Data, Fixture, Host, Part};
pub use joined::JoinedFixture;
pub use memory::MemoryFixture;
pub use nodes::NodesFixture;
pub use table::{CLAUSES, Clause, NEEDS, certify, declared};
pub use violation::{Verdict, Violation};
