//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use im_server::{Store, SyncUrl};

/// Plays a chat log through real WebSocket clients and checks what every one of them saw.
///
/// Exit status 1 when anything was lost, doubled, out of order, counted wrongly or did not come to an end; 2 when it could not
/// be played.
#[derive(Debug, Parser)]
#[command(name = "replay", version)]
pub(crate) struct Args {
    /// The log, as tab-separated day, HH:MM, nick, text; compressed if it ends in .gz
    #[arg(long, value_name = "FILE", required_unless_present = "serve")]
    pub(crate) file: Option<PathBuf>,
    /// Play this many days, from the first [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) days: Option<u16>,
    /// A running server with development login, such as http://127.0.0.1:8080 [default: one of its own, on new data]
    #[arg(long, value_name = "URL", conflicts_with_all = ["kill_server", "threshold", "store", "sync", "nodes"])]
    pub(crate) server: Option<String>,
    /// Cut connections at random
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// End its server with kill -9 this many times, at random moments, and start it again on the same data
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) kill_server: u16,
    /// Where its own servers keep their data: sqlite, or the URL of a Postgres database [default: sqlite]
    #[arg(long, value_name = "WHERE", conflicts_with = "server")]
    pub(crate) store: Option<Store>,
    /// By what its own servers sync: the URL of Redis, under a name of its own [default: where the data are]
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    pub(crate) sync: Option<SyncUrl>,
    /// How many servers of its own share the data; each connection goes to any of them. More than one needs a Postgres database
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16), conflicts_with = "server")]
    pub(crate) nodes: u16,
    /// From how many members on a group is large, for its own server [default: the server's]
    #[arg(long, value_name = "MEMBERS")]
    pub(crate) threshold: Option<usize>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// What it starts itself with: serve these data until stdin ends
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub(crate) serve: Option<PathBuf>,
    /// Where to serve
    #[arg(long, value_name = "ADDRESS", hide = true, default_value = "127.0.0.1:0")]
    pub(crate) bind: SocketAddr,
}
