//! Every part of the chat engine on Postgres 14 or newer: alone a full deployment with any number of nodes, or the store beside
//! another sync.
//!
//! ```no_run
//! # async fn example() -> im_core::Result<()> {
//! use im_core::Parts;
//! use im_store_pg::PgBackend;
//!
//! let pg = PgBackend::connect("postgres://im@127.0.0.1/chat").await?;
//! let parts = Parts::from(&pg);
//! // … the engine runs on the parts …
//! pg.close().await;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! | | |
//! |---|---|
//! | An acked message, a read mark, a setting, a delivery | survives a crash of the process and of the server (`synchronous_commit=on`, which [`PgBuilder::open`] checks; where the server has `fsync=off`, the parts say that it does not survive a crash of the operating system). A failover to an asynchronous replica can lose the newest: the data are then another incarnation, by the server's timeline |
//! | A retry of a send | is known at any age |
//! | One record | is written once: log and store are the same table |
//! | A caller that goes away in mid-call | leaves no open transaction and no lock: what must not stop half-way runs in a task of its own |
//!
//! # Inside the host's own transaction
//! [`PgBackend::send_in`] sends a message that is there if and only if the host's rows are. It waits in a table until an engine on this
//! store appends it; there is nothing to set up for that.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use im_engine::{Engine, Outgoing, UserId};
//! use im_store_pg::PgBackend;
//!
//! let pool = sqlx::PgPool::connect("postgres://shop@127.0.0.1/shop").await?;
//! let pg = PgBackend::with_pool(pool.clone()).open().await?;
//! let chat = Engine::builder(&pg).start().await?;
//!
//! let (shop, alice) = (UserId::new("shop")?, UserId::new("alice")?);
//! let conversation = chat.open_single(&shop, &alice).await?.id;
//! let mut transaction = pool.begin().await?;
//! sqlx::query("UPDATE orders SET state = 'sent' WHERE id = 7").execute(&mut *transaction).await?;
//! pg.send_in(&mut transaction, &Outgoing::text(&shop, &conversation, "Your order is on its way.")).await?;
//! transaction.commit().await?;
//! # Ok(()) }
//! ```
//!
//! # Connections
//! One connection beside the pool listens for other nodes (`LISTEN`), which needs a session of its own: a pooler between must not be in
//! transaction mode. Where it is, records and signals of other nodes come late, by looking and by heartbeats; nothing is lost.
//!
//! # Rights
//! The role of the nodes needs `USAGE` and `CREATE` on the schema, `EXECUTE` on `pg_control_system()` (everybody has it, where it was
//! not taken away), and must own the tables or be a member of the role that does: inbox tables come and go. To make the schema takes
//! `CREATE` on the database as well; where nodes shall not have that, an operator makes it:
//!
//! ```sql
//! CREATE SCHEMA im AUTHORIZATION chat;  -- and the nodes, as chat, do the rest
//! ```
//!
//! or brings it up to date as another role, by [`PgBuilder::migrate`] or `cargo run -p im-store-pg --example im-store-pg -- migrate URL`:
//!
//! ```sql
//! GRANT USAGE, CREATE ON SCHEMA im TO chat;
//! GRANT owner TO chat;                  -- the role that migrated
//! ```
//!
//! [`PgBuilder::check`], and the same example with `check URL`, say what is there and what is missing.
//!
//! # When the server fails
//! | What happens | What a call is told; it works again |
//! |---|---|
//! | The server restarts, or a connection breaks | `Unavailable`, unknown if a statement was under way; when the server takes connections. A page of history, and other reads of the store, are asked again once, on another connection |
//! | It says nothing any more | `Timeout`, unknown, a second after the [statement timeout](PgBuilder::statement_timeout); when it takes connections, and what was locked is free: 2 s after the statement timeout |
//! | It cannot be reached | `Unavailable`, not done, after 3 s |
//! | All connections are in use | `Full`, not done, after 3 s; when one is free |
//! | A statement takes too long, or a lock is not to be had | `Timeout`, not done |
//! | A deadlock, a serialization failure | `Unavailable`, not done; at once |
//! | The disk is full | `Full`, not done; when there is room. Reads go on |
//!
//! All of these are transient, and none needs a restart of the node.
//!
//! # The schema
//! All tables lie in one schema, `im` unless another is [named](PgBuilder::schema). `migrations/` says what each column is.
//!
//! | Table | What is in it |
//! |---|---|
//! | `messages` | every record, in as many tables as the log has partitions; by conversation, and in log order |
//! | `conversations` | what they are, and where each timeline ends |
//! | `group_members`, `applied` | the intervals of members, of SINGLE conversations too, with role and settings; up to which record |
//! | `read_marks`, `user_states`, `state_changes`, `devices` | the users' own state and its versions |
//! | `inbox`, `inbox_records`, `inbox_ends` | the sync inbox, several entries a row (the view `inbox_entries` has them one by one), in tables by time of delivery: `inbox_<from>`, `inbox_records_<from>`. They are made ahead and dropped as a whole while the chat runs, so its user must keep the right to create tables |
//! | `outbox`, `outbox_refused` | what hosts sent inside their own transactions and no engine has appended yet, and what it refused, which the host [forgets](PgOutbox::forget_refused). Rows come and go: autovacuum looks at every 1,000 of them, and a transaction that stays open for long keeps those that went meanwhile, without slowing who looks |
//! | `log_partitions`, `log_epochs`, `store_epochs`, `checkpoints`, `meta` | where everything stands, and what the data are |
//! | `leases`, `nodes`, `sessions` | who does what, and who is there; unlogged |

mod append;
mod apply;
mod beat;
mod checkpoints;
mod config;
mod connect;
mod conversations;
mod cursor;
mod deliver;
mod devices;
mod ear;
mod error;
mod expire;
mod inbox;
mod leases;
mod log;
mod members;
mod memberships;
mod messages;
mod notices;
mod notifier;
mod outbox;
mod pool;
mod presence;
mod ready;
mod report;
mod rows;
mod schema;
mod send_in;
mod spans;
mod store;
mod store_epochs;
mod tail;
mod user_state;
mod versions;
mod wake;

pub use config::PgBuilder;
pub use connect::PgBackend;
pub use inbox::PgInbox;
pub use log::PgLog;
pub use notifier::PgNotifier;
pub use outbox::{PgOutbox, RefusedSend};
pub use presence::PgPresence;
pub use report::PgReport;
pub use store::PgStore;
