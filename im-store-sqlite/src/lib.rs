//! Every part of the chat engine on one SQLite file: the default that needs no server.
//!
//! ```no_run
//! # async fn example() -> im_core::Result<()> {
//! use im_core::Parts;
//! use im_store_sqlite::Sqlite;
//!
//! let parts = Parts::from(Sqlite::open("chat.db").await?);
//! # Ok(()) }
//! ```
mod append;
mod apply;
mod cache;
mod checkpoints;
mod config;
mod connect;
mod conversations;
mod cursor;
mod deliver;
mod devices;
mod epochs;
mod error;
mod expire;
mod inbox;
mod leases;
mod log;
mod members;
mod memberships;
mod messages;
mod rows;
mod schema;
mod store;
mod store_epochs;
mod tail;
mod user_state;
mod values;
mod versions;
mod wal;
mod writer;

pub use config::SqliteBuilder;
pub use connect::Sqlite;
pub use inbox::SqliteInbox;
pub use log::SqliteLog;
pub use store::SqliteStore;
