//! A schema of its own for each test, on a real server.

pub(crate) mod bed;
pub(crate) mod own;
pub(crate) mod play;
pub(crate) mod proxy;

use std::time::Duration;

use async_trait::async_trait;
use im_core::{Outgoing, Parts};
use im_store_pg::{PgBackend, PgBuilder};
use im_testkit::{Data, Fixture, Host, Verdict, Violation};
use sqlx::{Connection, PgConnection};

/// Names the server: `cargo xtask test` starts one; `cargo xtask services up` says what to set.
pub(crate) const SERVER: &str = "IM_TEST_POSTGRES";

/// The windows that tests wait for.
pub(crate) const EXPIRY: Duration = Duration::from_secs(2);
pub(crate) const TTL: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
pub(crate) struct PgFixture;

#[derive(Debug)]
pub(crate) struct Schema {
    name: String,
    short_lived: bool,
}

pub(crate) fn server() -> String {
    std::env::var(SERVER).unwrap_or_else(|_| {
        panic!("{SERVER} names no Postgres server: run `cargo xtask test`, or `cargo xtask services up` and set it")
    })
}

pub(crate) fn wrong(why: impl std::fmt::Display) -> Violation {
    Violation::new(why.to_string())
}

impl Schema {
    pub(crate) fn fresh() -> Self {
        // With what has to be quoted.
        let name = format!("test \"{}\"", uuid::Uuid::new_v4().simple());
        Self { name, short_lived: false }
    }

    /// One with windows that a test can wait for.
    pub(crate) fn short_lived() -> Self {
        Self { short_lived: true, ..Self::fresh() }
    }

    /// One of a name that has to be quoted in a text, too.
    pub(crate) fn apostrophe() -> Self {
        Self { name: format!("o'{}", Self::fresh().name), ..Self::short_lived() }
    }

    /// The schema's name, quoted.
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    pub(crate) fn builder(&self) -> PgBuilder {
        self.builder_at(&server())
    }

    /// The same server by another way.
    pub(crate) fn builder_at(&self, url: &str) -> PgBuilder {
        let builder = PgBackend::builder(url).unwrap().schema(&self.name).connections(4);
        if self.short_lived { builder.expiry(EXPIRY).presence_ttl(TTL) } else { builder }
    }

    /// The same, whose connections the server knows by a name.
    pub(crate) fn builder_named(&self, name: &str) -> PgBuilder {
        let url = server();
        let joint = if url.contains('?') { '&' } else { '?' };
        self.builder_at(&format!("{url}{joint}application_name={name}"))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One more node, with connections of its own.
    pub(crate) async fn open(&self) -> PgBackend {
        self.builder().open().await.unwrap()
    }
}

#[async_trait]
impl Fixture for PgFixture {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(Schema::fresh()))
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(Schema::short_lived()))
    }
}

#[async_trait]
impl Data for Schema {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok(Parts::from(&self.builder().open().await.map_err(wrong)?))
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn pass(&self, time: Duration) {
        // The server has its own time.
        tokio::time::sleep(time).await;
    }

    async fn host(&self) -> Result<Box<dyn Host>, Violation> {
        let mut conn = PgConnection::connect(&server()).await.map_err(wrong)?;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.map_err(wrong)?;
        Ok(Box::new(Transaction { pg: self.builder().open().await.map_err(wrong)?, conn }))
    }

    async fn refused_sends(&self) -> Result<Vec<(Outgoing, String)>, Violation> {
        let pg = self.builder().open().await.map_err(wrong)?;
        let refused = pg.outbox().refused(0, 100).await?;
        Ok(refused.into_iter().filter_map(|refused| Some((refused.message?, refused.code))).collect())
    }
}

/// A host's transaction, on a connection of its own.
#[derive(Debug)]
struct Transaction {
    pg: PgBackend,
    conn: PgConnection,
}

impl Transaction {
    async fn end(mut self: Box<Self>, how: &'static str) -> Verdict {
        sqlx::raw_sql(how).execute(&mut self.conn).await.map(drop).map_err(wrong)
    }
}

#[async_trait]
impl Host for Transaction {
    async fn send(&mut self, message: &Outgoing) -> Verdict {
        self.pg.send_in(&mut self.conn, message).await.map(drop).map_err(wrong)
    }

    async fn commit(self: Box<Self>) -> Verdict {
        self.end("COMMIT").await
    }

    async fn roll_back(self: Box<Self>) -> Verdict {
        self.end("ROLLBACK").await
    }
}
