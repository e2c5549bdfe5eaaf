//! Where the data are: a file in the data folder, or a Postgres database that any number of servers share; and, if wanted, log and
//! inbox on Redis.

use std::{fmt, path::Path, str::FromStr};

use im_engine::{Parts, Result};
use im_store_pg::PgBackend;
use im_store_sqlite::Sqlite;
use im_sync_redis::RedisBackend;
use serde::Deserialize;

use crate::Config;

/// Where a server keeps its data.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Store {
    /// A SQLite file in the data folder.
    #[default]
    Sqlite,
    /// A Postgres database, by its URL.
    Postgres(String),
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Self::Postgres(url.to_owned()))
            }
            _ => Err("sqlite, or the URL of a database, as in postgres://user@host/database".to_owned()),
        }
    }
}

impl TryFrom<String> for Store {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Without the password.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::Postgres(url) => f.write_str(&shown(url)),
        }
    }
}

/// A URL without its password.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let (place, _) = rest.split_once('?').unwrap_or((rest, ""));
    match place.rsplit_once('@') {
        Some((who, host)) => format!("{scheme}://{}@{host}", who.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{place}"),
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where log, inbox, presence and notifier are, if not where the data are kept: Redis servers, by their URL.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SyncUrl(String);

impl SyncUrl {
    /// The URL, with the password if it has one.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl FromStr for SyncUrl {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.split('-').next().unwrap_or_default());
        if matches!(scheme, Some("redis" | "rediss" | "valkey" | "valkeys")) {
            return Ok(Self(text.to_owned()));
        }
        Err("the URL of Redis, as in redis://host:6379 or redis-cluster://host:6379?node=host:6380"
            .to_owned())
    }
}

impl TryFrom<String> for SyncUrl {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Without the password.
impl fmt::Display for SyncUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for SyncUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The open data.
#[derive(Debug)]
pub(crate) struct Backend {
    kept: Kept,
    sync: Option<RedisBackend>,
}

#[derive(Debug)]
enum Kept {
    Sqlite(Sqlite),
    Postgres(PgBackend),
}

impl Backend {
    /// `file` is where a SQLite file lies.
    pub(crate) async fn open(config: &Config, file: &Path) -> Result<Self> {
        let (expiry, restored) = (config.inbox_expiry, config.restored);
        let kept = match &config.store {
            Store::Sqlite => {
                Kept::Sqlite(Sqlite::builder(file).restored(restored).expiry(expiry).open().await?)
            }
            Store::Postgres(url) => {
                let builder = PgBackend::builder(url)?.restored(restored).expiry(expiry);
                Kept::Postgres(builder.open().await?)
            }
        };
        let sync = match &config.sync {
            Some(SyncUrl(url)) => {
                let builder = RedisBackend::builder(url)?.prefix(&config.sync_prefix).expiry(expiry);
                Some(builder.open().await?)
            }
            None => None,
        };
        Ok(Self { kept, sync })
    }

    pub(crate) fn parts(&self) -> Parts {
        let kept = match &self.kept {
            Kept::Sqlite(sqlite) => Parts::from(sqlite),
            Kept::Postgres(postgres) => Parts::from(postgres),
        };
        match &self.sync {
            Some(redis) => Parts { store: kept.store, ..redis.into() },
            None => kept,
        }
    }

    pub(crate) async fn close(&self) -> Result<()> {
        if let Some(redis) = &self.sync {
            redis.close().await;
        }
        match &self.kept {
            Kept::Sqlite(sqlite) => sqlite.close().await,
            Kept::Postgres(postgres) => {
                postgres.close().await;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for url in [
            "postgres://im:secret@db:5432/chat?sslmode=require&password=secret",
            "postgresql://im:s@cret@db/chat",
        ] {
            let shown = format!("{:?}", url.parse::<Store>().unwrap());
            assert!(!shown.contains("cret") && shown.contains("im@db"), "{shown}");
        }
        let shown = format!("{:?}", "rediss://im:secret@db:6379/0".parse::<SyncUrl>().unwrap());
        assert_eq!(shown, "rediss://im@db:6379/0");
        assert_eq!("postgres://db/chat".parse::<Store>().unwrap().to_string(), "postgres://db/chat");
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!("sqlite".parse(), Ok(Store::Sqlite));
        assert!("mysql://db".parse::<Store>().unwrap_err().contains("postgres://"));
        for url in ["redis", "http://db", "nats://db", ""] {
            assert!(url.parse::<SyncUrl>().unwrap_err().contains("redis://"), "{url}");
        }
        for url in ["redis://db", "rediss://db", "redis-cluster://db", "rediss-sentinel://db"] {
            assert_eq!(url.parse::<SyncUrl>().unwrap().to_string(), url);
        }
    }
}
