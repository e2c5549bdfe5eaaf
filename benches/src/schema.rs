//! A schema of a run's own on a Postgres server.

use im_store_pg::PgBackend;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::Outcome;

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
    /// Also where a measurement ends before its time. On a thread of its own: a runtime cannot be waited for within another.
    fn drop(&mut self) {
        let removed = std::thread::scope(|scope| {
            let remove = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.remove())
            };
            scope.spawn(remove).join()
        });
        if !matches!(removed, Ok(Ok(()))) {
            eprintln!("im-bench: the schema {} could not be dropped: {removed:?}", self.name);
        }
    }
}
