//! What can be set before a server is used.

use std::time::Duration;

use fred::types::config::Config;
use im_core::{Error, ErrorKind, Result};

use crate::{
    RedisBackend,
    error::{BACKEND, failed},
};

/// How the servers are reached.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Config(Box<Config>),
    /// The host's own client.
    Client(fred::clients::Client),
}

/// Sets up a [`RedisBackend`]; see [`RedisBackend::builder`] and [`RedisBackend::with_client`].
#[derive(Debug, Clone)]
pub struct RedisBuilder {
    pub(crate) source: Source,
    pub(crate) prefix: String,
    pub(crate) partitions: u16,
    pub(crate) expiry: Duration,
    pub(crate) inbox_entries: u32,
    pub(crate) dedupe_window: Duration,
    pub(crate) presence_ttl: Duration,
    pub(crate) command_timeout: Duration,
}

impl RedisBuilder {
    pub(crate) fn of_url(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.split('-').next().unwrap_or_default());
        if !matches!(scheme, Some("redis" | "rediss" | "valkey" | "valkeys")) {
            return Err(Error::new(
                ErrorKind::Invalid,
                BACKEND,
                "url",
                "the URL is none of redis://… or rediss://…",
            ));
        }
        let config = Config::from_url(url).map_err(failed("url"))?;
        Ok(Self::new(Source::Config(Box::new(config))))
    }

    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            prefix: "im".into(),
            partitions: 16,
            expiry: Duration::from_secs(7 * 24 * 3600),
            inbox_entries: 100_000,
            dedupe_window: Duration::from_secs(600),
            presence_ttl: Duration::from_secs(30),
            command_timeout: Duration::from_secs(5),
        }
    }

    /// What all keys and channels begin with, 1–64 bytes without `{`, `}` and `:`; `im` by default. Data of another prefix are other
    /// data.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The number of partitions of a new log, 1–1,024; 16 by default. A log that is there keeps its own.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// How long inbox entries are kept, 1 s – 366 days; 7 days by default.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// How many entries an inbox keeps at most, 1–1,000,000; 100,000 by default. Older ones go, and who stood on them starts afresh.
    #[must_use]
    pub fn inbox_entries(mut self, entries: u32) -> Self {
        self.inbox_entries = entries;
        self
    }

    /// How long the log remembers the ids of sends, 1 s – 1 day; 10 minutes by default. Older ones are looked up in the store.
    #[must_use]
    pub fn dedupe_window(mut self, window: Duration) -> Self {
        self.dedupe_window = window;
        self
    }

    /// How long a node may be silent until its sessions are gone, 1 s – 1 h; 30 s by default.
    #[must_use]
    pub fn presence_ttl(mut self, ttl: Duration) -> Self {
        self.presence_ttl = ttl;
        self
    }

    /// How long a command may take, 100 ms – 5 min; 5 s by default. So long a server that falls silent is waited for before its connection is
    /// made anew, or another one is looked for. A host's own client keeps its own.
    #[must_use]
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    fn check(&self) -> Result<()> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, BACKEND, "open", what));
        let within = |time: Duration, least: Duration, most: Duration| (least..=most).contains(&time);
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        if !(1..=64).contains(&self.prefix.len()) || self.prefix.contains(['{', '}', ':']) {
            return invalid("a prefix has 1 to 64 bytes, without '{', '}' and ':'");
        }
        if !(1..=1024).contains(&self.partitions) {
            return invalid("a log has 1 to 1,024 partitions");
        }
        if !within(self.expiry, second, 366 * 24 * hour) {
            return invalid("entries expire after 1 s to 366 days");
        }
        if !(1..=1_000_000).contains(&self.inbox_entries) {
            return invalid("an inbox keeps 1 to 1,000,000 entries");
        }
        if !within(self.dedupe_window, second, 24 * hour) {
            return invalid("the ids of sends are remembered for 1 s to 1 day");
        }
        if !within(self.presence_ttl, second, hour) {
            return invalid("a node may be silent for 1 s to 1 h");
        }
        if !within(self.command_timeout, second / 10, hour / 12) {
            return invalid("a command may take 100 ms to 5 min");
        }
        Ok(())
    }

    /// Connects, and reads what the servers are. What an acked message survives is logged.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a setting that is out of range, a server that is too old or evicts keys, or a log with
    /// another number of partitions; [`Denied`](ErrorKind::Denied) for a wrong password or a failure of TLS;
    /// [`Unavailable`](ErrorKind::Unavailable) when a server cannot be reached, or is a replica.
    pub async fn open(self) -> Result<RedisBackend> {
        self.check()?;
        RedisBackend::open(self).await
    }
}
