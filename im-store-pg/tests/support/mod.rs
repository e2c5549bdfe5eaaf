//! A schema of its own for each test, on a real server.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it, and may unwrap")]

use std::time::Duration;

use async_trait::async_trait;
use im_core::Parts;
use im_store_pg::{PgBackend, PgBuilder};
use im_testkit::{Data, Fixture, Violation};

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
        Self { name: format!("test \"{}\"", uuid::Uuid::new_v4().simple()) }
    }

    /// One of a name that has to be quoted in a text, too.
    pub(crate) fn apostrophe() -> Self {
        Self { name: format!("o'{}", Self::fresh().name) }
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
        PgBackend::builder(url).unwrap().schema(&self.name).connections(4).expiry(EXPIRY).presence_ttl(TTL)
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
}
