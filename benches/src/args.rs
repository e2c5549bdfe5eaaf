//! The command line.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{Outcome, backend::Place};

/// Measures the chat engine beside the raw limit of what it runs on.
#[derive(Debug, Parser)]
#[command(name = "im-bench", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) work: Work,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// Durable send → ack over many conversations and over one; raw: the same message rows in the same batches.
    Send(Plan),
    /// Inbox entries written per second, groups of 100 and of 200; raw: the same inbox rows in the same batches.
    Fanout(Plan),
    /// Sessions that connect, are looked up by a hundred users, and are kept alive; raw, on Redis: a script or a read for each user.
    Presence(Plan),
    /// What others cost: p99 until a peer has a message, beside a user with 100,000 waiting entries, a group of 100,000 members, a hot conversation.
    Neighbours(Plan),
    /// WebSocket frames out per second, from the signal on; raw: an axum loop that sends prepared frames.
    Ws(Plan),
    /// Memory of signed-in connections that do nothing; raw: an axum loop with small buffers.
    Idle(Plan),
    /// Pages of 50 out of a long history; raw: the bare query.
    History(Plan),
    /// A server under measurement, for `ws` and `idle`.
    #[command(hide = true)]
    Side(Side),
    /// The clients of such a server.
    #[command(hide = true)]
    Drive(Drive),
}

/// How it is measured.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Plan {
    /// What the engine runs on. Where the backend is memory, storage has no raw limit.
    #[arg(long, value_enum, default_value_t = Backend::Sqlite)]
    pub(crate) backend: Backend,
    /// The server of the backend `pg`: postgres://user:password@host/database. Each run has a schema of its own there, which goes with it.
    #[arg(
        long,
        env = "IM_TEST_POSTGRES",
        hide_env_values = true,
        required_if_eq("backend", "pg"),
        value_name = "URL"
    )]
    pub(crate) postgres: Option<String>,
    /// The server of the backend `redis`: redis://host:port. Each run has keys of its own there, which go with it.
    #[arg(
        long,
        env = "IM_TEST_REDIS",
        hide_env_values = true,
        required_if_eq("backend", "redis"),
        value_name = "URL"
    )]
    pub(crate) redis: Option<String>,
    /// How long the engine is measured in each case, in seconds; the raw limit takes about as long again.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Also an open loop at this share of the maximum: latency counts from when a request was due, not from when it got out.
    #[arg(long, value_parser = share)]
    pub(crate) rate: Option<f64>,
    /// How many messages the history holds.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(50..))]
    pub(crate) rows: u64,
    /// At most this many connections in each case of `ws` and `idle`, for machines that allow few open files.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    pub(crate) connections: usize,
    /// One JSON object per line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Plan {
    /// A new place for the data of a case.
    pub(crate) fn place(&self) -> Outcome<Place> {
        let server = if self.backend == Backend::Redis { &self.redis } else { &self.postgres };
        Place::new(self.backend, server.as_deref())
    }

    /// Storage has a raw limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.backend != Backend::Memory
    }

    /// The time of one of `parts` parts of the measurement.
    pub(crate) fn part(&self, parts: u32) -> Duration {
        Duration::from_secs_f64(self.seconds) / parts
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Memory,
    Sqlite,
    Pg,
    /// Log and inbox; the store is in memory.
    Redis,
}

impl Backend {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Pg => "pg",
            Self::Redis => "redis",
        }
    }
}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The engine behind im-transport-ws.
    Own,
    /// An axum loop.
    Bare,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Bare => "bare",
        }
    }
}

/// How the connections are grouped.
#[derive(Debug, Clone, Copy, Parser)]
pub(crate) struct Shape {
    #[arg(long)]
    pub(crate) groups: usize,
    #[arg(long)]
    pub(crate) members: usize,
}

impl Shape {
    pub(crate) fn connections(self) -> usize {
        self.groups * self.members
    }

    /// All places, group by group.
    pub(crate) fn places(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.groups).flat_map(move |group| (0..self.members).map(move |member| (group, member)))
    }
}

#[derive(Debug, Parser)]
pub(crate) struct Side {
    #[arg(long, value_enum)]
    pub(crate) kind: Kind,
    #[arg(long, value_enum)]
    pub(crate) backend: Backend,
    #[command(flatten)]
    pub(crate) shape: Shape,
}

#[derive(Debug, Parser)]
pub(crate) struct Drive {
    #[arg(long)]
    pub(crate) addr: SocketAddr,
    #[command(flatten)]
    pub(crate) shape: Shape,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("more than 0 and at most 3600".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("more than 0 and at most 1".into()),
    }
}
