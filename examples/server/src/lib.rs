//! The example chat server, as a program and as a library for those who want one in their process.
//!
//! `cargo run` starts it without any configuration: data in `./im-data`, address <http://127.0.0.1:8080>, a page that lets one
//! pick a name and chat. `im-server.sample.toml` documents what can be set.
//!
//! | Path | What |
//! |---|---|
//! | `/` | the page |
//! | `/client/…` | the JavaScript client |
//! | `/im` | WebSocket, subprotocol `im.v1.json` |
//! | `POST /dev/login` | `{user}` → `{token, user, expires_at}`: signing in without a password, see [`DevLogin`] |
//! | `/health` | 200 while the server can do its work, else 503 |
//!
//! # Running it
//! - SIGTERM and Ctrl-C drain: clients are told to come back and closed spread over 5 s, what they sent is answered, the database
//!   is closed; it takes some 20 s at most. A second signal ends the process at once. Either way nothing acked is lost.
//! - Each connection is an open file. The server raises its soft limit to the hard one (`ulimit -Hn`, `LimitNOFILE=`) and warns
//!   when it cannot.
//! - A connection storm waits in the system's queue: raise `net.core.somaxconn` to 4096 or more.
//! - One process has the database open, a second one is refused. A copy of the folder is whole when no server runs on it; after
//!   a copy was put back, start once with `--restored`.
//!
//! There is no TLS here: put a proxy before it. There are no accounts either: tokens are signed by whoever has those, with a
//! key that this server is given as a [`TokenKey`].

mod accept;
mod backend;
mod cli;
mod config;
mod data;
mod dev_login;
mod error;
mod health;
mod logs;
mod pages;
mod run;
mod serve;
mod settings;
mod tokens;

pub use backend::{Store, SyncUrl};
pub use config::{Config, DevLogin};
pub use error::StartError;
pub use logs::{LogFormat, write_logs};
pub use run::run;
pub use serve::Server;
pub use settings::{Full, Marks, Settings, Slot};
pub use tokens::{KeySource, Secret, TokenAlgorithm, TokenError, TokenKey, Tokens, Verified};
