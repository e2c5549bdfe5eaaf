//! A schema of a run's own on a Postgres server.

use im_store_pg::PgBackend;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{Outcome, process::to_the_end};

/// A schema that is dropped with this.
#[derive(Debug)]
pub(crate) struct Schema {
    url: String,
    name: String,
}

impl Schema {
    /// A name that nobody has; the schema comes with whoever opens it.
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), name: format!("im_bench_{}", uuid::Uuid::new_v4().simple()) }
    }

    /// Another one on the same server.
    pub(crate) fn another(&self) -> Self {
        Self::new(&self.url)
    }

    /// All parts in it, in their defaults.
    pub(crate) async fn open(&self) -> Outcome<PgBackend> {
        Ok(PgBackend::builder(&self.url)?.schema(&self.name).open().await?)
    }

    /// A connection of its own, for which the schema's tables need no prefix.
    pub(crate) async fn connect(&self) -> Outcome<PgConnection> {
        let mut conn = PgConnection::connect(&self.url).await?;
        let path = AssertSqlSafe(format!("SET search_path TO {}", self.name));
        sqlx::raw_sql(path).execute(&mut conn).await?;
        Ok(conn)
    }

    async fn remove(&self) -> Outcome {
        let mut conn = PgConnection::connect(&self.url).await?;
        let sql = AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
        sqlx::raw_sql(sql).execute(&mut conn).await?;
        Ok(conn.close().await?)
    }
}

impl Drop for Schema {
    /// Also where a measurement ends before its time.
    fn drop(&mut self) {
        let removed = to_the_end(self.remove());
        if let Err(error) = removed {
            eprintln!("im-bench: the schema {} could not be dropped: {error}", self.name);
        }
    }
}
