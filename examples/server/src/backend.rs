//! Where the data are: a file in the data folder, or a Postgres database that any number of servers share.

use std::{fmt, path::Path, str::FromStr};

use im_engine::{Parts, Result};
use im_store_pg::PgBackend;
use im_store_sqlite::Sqlite;
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
        let Self::Postgres(url) = self else { return f.write_str("sqlite") };
        let Some((scheme, rest)) = url.split_once("://") else { return f.write_str("postgres") };
        let (place, _) = rest.split_once('?').unwrap_or((rest, ""));
        let shown = match place.rsplit_once('@') {
            Some((who, host)) => format!("{}@{host}", who.split(':').next().unwrap_or_default()),
            None => place.to_owned(),
        };
        write!(f, "{scheme}://{shown}")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The open data.
#[derive(Debug)]
pub(crate) enum Backend {
    Sqlite(Sqlite),
    Postgres(PgBackend),
}

impl Backend {
    /// `file` is where a SQLite file lies.
    pub(crate) async fn open(config: &Config, file: &Path) -> Result<Self> {
        let (expiry, restored) = (config.inbox_expiry, config.restored);
        Ok(match &config.store {
            Store::Sqlite => {
                Self::Sqlite(Sqlite::builder(file).restored(restored).expiry(expiry).open().await?)
            }
            Store::Postgres(url) => {
                let builder = PgBackend::builder(url)?.restored(restored).expiry(expiry);
                Self::Postgres(builder.open().await?)
            }
        })
    }

    pub(crate) fn parts(&self) -> Parts {
        match self {
            Self::Sqlite(sqlite) => sqlite.into(),
            Self::Postgres(postgres) => postgres.into(),
        }
    }

    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Sqlite(sqlite) => sqlite.close().await,
            Self::Postgres(postgres) => {
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
        assert_eq!("postgres://db/chat".parse::<Store>().unwrap().to_string(), "postgres://db/chat");
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!("sqlite".parse(), Ok(Store::Sqlite));
        assert!("mysql://db".parse::<Store>().unwrap_err().contains("postgres://"));
    }
}
