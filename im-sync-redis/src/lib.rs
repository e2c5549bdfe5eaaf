//! The sync inbox, the log with its leases, presence and notifier of the chat engine on Redis 6.2 or newer, or Valkey: one server,
//! Sentinel or Cluster. The usual deployment: Postgres for ever, Redis for sync.
//!
//! ```no_run
//! # async fn example(store: im_core::Parts) -> im_core::Result<()> {
//! use im_core::Parts;
//! use im_sync_redis::RedisBackend;
//!
//! let redis = RedisBackend::connect("redis://127.0.0.1:6379").await?;
//! let parts = Parts { store: store.store, ..Parts::from(&redis) };
//! // … the engine runs on the parts …
//! redis.close().await;
//! # Ok(()) }
//! ```
//!
//! # What an acked message survives
//! It is read when the backend is opened, logged, and in [`RedisBackend::report`]. An ack as *stored* waits for the store, and is lost
//! with it only.
//!
//! | The server's settings | An ack as *logged* survives | May be lost |
//! |---|---|---|
//! | `appendonly yes`, `appendfsync always`, no copies | the death of the server and of its system | nothing |
//! | `appendonly yes`, `appendfsync everysec` | the server's end in order (SIGTERM) | about the last two seconds, when the server or its system dies: while a sync takes longer than a second, Redis answers and holds its writes back |
//! | `appendonly no` | nothing | everything in the log that the store does not have yet |
//! | any of them, with copies: Sentinel, Cluster, replicas | as above, while no copy takes over | what the copy that takes over does not have: a copy lags by what the link takes, and the old master may answer until it is given up. Allowed for are twice `cluster-node-timeout`, and 60 s with Sentinel or a replica |
//!
//! A server that restarts or is replaced has another run id or replication id, by which the log begins another epoch: no sequence id is ever given twice, and
//! fan-out goes back by the loss window. A server that was emptied is noticed by the names of its partitions. A policy that evicts keys
//! (`maxmemory-policy` other than `noeviction`) is refused at the start, and so are several masters without an append-only file.
//! Where `maxmemory` is reached sends are refused as full; leases, deliveries and beats go on, so that the log is delivered and trimmed.
//! Before Redis 7 `min-replicas-to-write` does not hold for scripts, and all writes here are scripts: a master that is cut off from its
//! copies goes on acking. It is logged at the start.
//!
//! # Keys
//! All begin with the [prefix](RedisBuilder::prefix). All keys of a user share a hash tag, and so do all of a log partition.
//!
//! | Key | What is in it | Goes |
//! |---|---|---|
//! | `log`, `heads`, `holds` | of each partition: epoch and ends; where each conversation ends, about 150 bytes for each that ever had a message; what projections need | never |
//! | `records` | a stream of records | when every projection has them and the dedupe window is over |
//! | `send` | the ids of sends | with the [dedupe window](RedisBuilder::dedupe_window) |
//! | `inbox` | of each user: a list of 22 bytes for each entry, which name records | [expiry](RedisBuilder::expiry) after its last entry |
//! | `shelf` | the records that entries name, once for all recipients | ten minutes after the last entry that can name them |
//! | `checkpoint` | where fan-out stands | never |
//! | `sessions`, `node`, `nodes`, `lease` | who is there, and who does what | with the TTLs of presence and leases |

mod answer;
mod beat;
mod config;
mod connect;
mod ear;
mod error;
mod inbox;
mod keys;
mod leases;
mod log;
mod notifier;
mod packed;
mod presence;
mod report;
mod silence;
mod wake;

pub use config::RedisBuilder;
pub use connect::RedisBackend;
pub use inbox::RedisInbox;
pub use log::RedisLog;
pub use notifier::RedisNotifier;
pub use presence::RedisPresence;
pub use report::RedisReport;
