//! What can be set before a database is opened.

use std::time::Duration;

use im_core::{Error, ErrorKind, Result};
use sqlx::{PgPool, postgres::PgConnectOptions};

use crate::{
    PgBackend, PgReport, connect,
    error::{BACKEND, failed},
};

/// How long an opening may take: many nodes wait for one that brings the schema up to date.
const LONGEST: Duration = Duration::from_secs(300);

/// How a database is reached.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Options(Box<PgConnectOptions>),
    Pool(PgPool),
}

/// Sets up a [`PgBackend`]; see [`PgBackend::builder`] and [`PgBackend::with_pool`].
#[derive(Debug, Clone)]
pub struct PgBuilder {
    pub(crate) source: Source,
    pub(crate) schema: String,
    pub(crate) partitions: u16,
    pub(crate) connections: u32,
    pub(crate) expiry: Duration,
    pub(crate) presence_ttl: Duration,
    pub(crate) restored: bool,
    pub(crate) statement_timeout: Duration,
    pub(crate) content_bytes: usize,
}

impl PgBuilder {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            schema: "im".to_owned(),
            partitions: 4,
            connections: 16,
            expiry: Duration::from_secs(7 * 24 * 3600),
            presence_ttl: Duration::from_secs(30),
            restored: false,
            statement_timeout: Duration::from_secs(5),
            content_bytes: 64 << 10,
        }
    }

    pub(crate) fn of_url(url: &str) -> Result<Self> {
        let options = url.parse().map_err(failed("open"))?;
        Ok(Self::new(Source::Options(Box::new(options))))
    }

    /// The schema that the tables lie in, created if it is missing; default `im`. At most 63 bytes.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many partitions a new log gets, at most 64; default 4. Each takes one group commit at a time. One that is there keeps
    /// what it has.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions.clamp(1, 64);
        self
    }

    /// How many connections a node opens at most, beside one that listens; default 16, least 2. Whoever finds none free for 3 s is
    /// told [`Full`](im_core::ErrorKind::Full), and nothing was done. A pool of the host's has its own limit and time.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(2);
        self
    }

    /// How long inbox entries are kept, from their delivery on; default 7 days.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// How long a node may be silent before its sessions are gone; default 30 s.
    #[must_use]
    pub fn presence_ttl(mut self, ttl: Duration) -> Self {
        self.presence_ttl = ttl;
        self
    }

    /// Says that the database was put back from a dump or an earlier state of the same cluster, so that what was acked later is
    /// missing: the data get another incarnation, numbering keeps a distance, and clients fetch their state afresh. Say it once, at
    /// the first start of one node after the restore; a failover and another cluster are noticed without it. Default: false.
    #[must_use]
    pub fn restored(mut self, restored: bool) -> Self {
        self.restored = restored;
        self
    }

    /// How long a statement may take, and a lock be waited for; default 5 s. Connections of the host's pool keep what they are set
    /// to. What a node that is cut off holds is free 2 s later: a transaction stands idle no longer, on any pool. A server that
    /// says nothing for a second more is given up: the call is a [`Timeout`](im_core::ErrorKind::Timeout) whose outcome is
    /// unknown, and its connection is closed.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// The longest content that [`PgBackend::send_in`] takes, in bytes; default 64 KiB. The same as the engine's limit: what is longer
    /// than that is refused when the transaction has long committed.
    #[must_use]
    pub fn content_bytes(mut self, limit: usize) -> Self {
        self.content_bytes = limit;
        self
    }

    /// Connects, and brings the schema up to date; many nodes may start at once.
    ///
    /// # Errors
    /// Each says what to do: [`Unavailable`](im_core::ErrorKind::Unavailable) when the server cannot be reached or is a standby;
    /// [`NewerVersion`](im_core::ErrorKind::NewerVersion) when a newer version of this crate has written the schema;
    /// [`Denied`](im_core::ErrorKind::Denied) when credentials or rights do not suffice, as the [crate](crate#rights) lists them;
    /// [`Invalid`](im_core::ErrorKind::Invalid) when the server is older than 14, the database is not UTF-8, or connections are
    /// not as [`PgBackend::with_pool`] says;
    /// [`Timeout`](im_core::ErrorKind::Timeout) after five minutes.
    pub async fn open(self) -> Result<PgBackend> {
        let opened = tokio::time::timeout(LONGEST, PgBackend::open(self)).await;
        opened.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, BACKEND, "open", "the server does not answer"))
        })
    }

    /// Brings the schema up to date without opening it, as an operator whose role may do what the nodes' may not; what is there
    /// afterwards.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(self) -> Result<PgReport> {
        connect::inspect(self, true).await
    }

    /// Looks whether the database can be opened, and changes nothing; see [`PgReport::problems`].
    ///
    /// # Errors
    /// When the server cannot be reached or asked.
    pub async fn check(self) -> Result<PgReport> {
        connect::inspect(self, false).await
    }
}
