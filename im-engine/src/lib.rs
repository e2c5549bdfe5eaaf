//! The chat engine: one durable log, and everything else projected from it.
//!
//! ```text
//! send ──► MessageLog ──ack──► sender
//!              ├──► persist ──► MessageStore        (only where log and store are different data)
//!              ├──► fan out ──► SyncInbox ──► Notifier ──► node ──► session ──► client
//!              └──► projections of the host
//! ```
//!
//! Start with [`Engine::builder`]. There is no SQL, no socket and no wire format here.

mod admission;
mod builder;
mod burst;
mod cell;
mod commit;
mod config;
mod engine;
mod entries;
mod epoch;
mod error;
mod fanout;
mod freshness;
mod groups;
mod housekeeping;
mod hub;
mod ids;
mod lookups;
mod marks;
mod members;
mod outbox;
mod persist;
mod progress;
mod reads;
mod resync;
mod send;
mod session;
mod session_ops;
mod signal;
mod switch;
mod worker;

pub use builder::Builder;
pub use cell::{CloseReason, Event};
pub use config::{Config, ReadMarks, SessionSlot};
pub use engine::{Engine, EngineInfo};
pub use entries::Entries;
pub use groups::{MemberChange, NewGroup};
pub use ids::{IdSource, Uuids};
pub use im_core::*;
pub use marks::StateView;
pub use reads::{ConversationView, HistoryPage, HistoryRange};
pub use resync::{BootstrapPage, Fresh};
pub use send::{Ack, AckLevel, NewMessage};
pub use session::{Draft, Heartbeat, Hello, Identity, Session, Welcome};
