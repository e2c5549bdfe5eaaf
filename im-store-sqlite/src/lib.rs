//! Every part of the chat engine on one SQLite file: the default that needs no server.
//!
//! ```no_run
//! # async fn example() -> im_core::Result<()> {
//! use im_core::Parts;
//! use im_store_sqlite::Sqlite;
//!
//! let sqlite = Sqlite::open("chat.db").await?;
//! let parts = Parts::from(&sqlite);
//! // … the engine runs on the parts …
//! sqlite.close().await?;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! | | |
//! |---|---|
//! | An acked message, a read mark, a setting | survives a crash of the operating system and a power failure (`synchronous=FULL`), unless [switched off](SqliteBuilder::survives_power_failure) |
//! | A delivery | is in memory for up to fifteen seconds (forty-five behind a load beyond what it keeps pace with), then in the file; what the death of the process or of the system takes is delivered again at the same place, because an entry's place is that of its message in the log. A pull with the cursor of such an entry waits for that, up to 5 s |
//! | A message's place in its conversation, and its sender's read mark | is in memory for up to fifteen seconds (forty-five behind a load beyond what it keeps pace with), then in the file; what the death of the process takes is made again from `messages` at the next opening |
//! | A retry of a send | is known at any age |
//! | One record | is written once: log and store are the same table |
//! | Full disk, damaged file, second process, file of a newer version | a typed error, and nothing half written |
//! | A file put back from a copy | say so with [`restored`](SqliteBuilder::restored): nobody can see it from within |
//!
//! What writes runs on a thread of its own, `im-sqlite-writer`, beside those of SQLite's connections. One process has the file open; another one is told [`InUse`](im_core::ErrorKind::InUse). So presence and notifier are those
//! of [`im_core::memory`]: there is no other node whom they could tell, and files `presence.rs` and `notifier.rs` are not needed.
//! Leases are in memory, too. The log has one partition.
//!
//! # Beside other backends
//! - **The store under another log** works: [`apply`](im_core::MessageStore::apply) copies its records in.
//! - **The inbox under another log** does not: it names records by their place in this file's log, and
//!   [`deliver`](im_core::SyncInbox::deliver) refuses others as [`Invalid`](im_core::ErrorKind::Invalid).
//! - **The log above another store** works as long as the file is not exchanged for an empty one: in its first epoch the log
//!   takes for granted that there is no record but its own.
//!
//! # Cursors
//! A cursor is a piece of the file's incarnation and the id of the entry's message, the same for every user, so that a frame
//! can be written once for many sessions. Each pull looks up whether the user has that entry. So the cursor of another user
//! is refused, except for an entry that both have.
//!
//! # The file
//! WAL mode; `application_id` is `IMDB`, `user_version` the version of the schema. Beside it lie `-wal` and `-shm` while it is
//! open, and an empty `.lock` that stays and must not be removed: it keeps a second process out. [`Sqlite::close`] leaves one whole file; to copy one that is open use `VACUUM INTO` or
//! SQLite's backup, not `cp`. The write-ahead log is moved into the file beside the writer and stays at some tens of MiB, unless a reader keeps it from
//! being begun again. On Linux one descriptor of each file that was ever open stays with the process until the file is removed:
//! to close it would take SQLite's locks on the file with it.
//!
//! | Table | What is in it |
//! |---|---|
//! | `messages` | every record, in log order: `id` is its offset |
//! | `timelines` | the order of each conversation, and behind it the read marks of its users; but for what the messages after `meta.placed` add |
//! | `conversation_facts` | what does not change with each message |
//! | `group_members` | the intervals of members, of SINGLE conversations too, with role and settings |
//! | `applied` | up to which record members are applied |
//! | `state_changes`, `devices` | versions of the users' own state; devices with marks of their own |
//! | `inbox`, `inbox_starts`, `inbox_deliveries` | the sync inbox but for its newest seconds: who has which messages, up to 64 a row; where each begins; when it was delivered |
//! | `checkpoints`, `log_epochs`, `store_epochs`, `meta` | where projections stand, and what the data are |
//! | `conversations`, `read_marks`, `inbox_entries` | views, for people and reports |
//!
//! `PRAGMA table_info` and the comments in `migrations/` say the rest. Reading with other programs is fine while short; a
//! transaction that stays open keeps the write-ahead log from being reused.
//!
//! # Limits
//! SQLite writes with one thread; the README says how fast that was, and beside what. A page of history is one text to SQLite, of at
//! most 10⁹ bytes with about 200 for each record beside its content; a longer one is `Invalid`. Links the SQLite that sqlx bundles: a program can have only one (`links = "sqlite3"`).

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
mod disk;
mod entries;
mod epochs;
mod error;
mod expire;
mod fresh;
mod inbox;
mod incarnation;
mod leases;
mod log;
mod members;
mod memberships;
mod messages;
mod pack;
mod readers;
mod rows;
mod schema;
mod store;
mod store_epochs;
mod tail;
mod thread;
mod timelines;
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
