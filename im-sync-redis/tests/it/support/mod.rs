//! Data of its own for each test, on real servers.

pub(crate) mod cluster;
pub(crate) mod play;
pub(crate) mod proxy;
pub(crate) mod sentinel;
pub(crate) mod server;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::Parts;
use im_sync_redis::{RedisBackend, RedisBuilder};
use im_testkit::{Data, Fixture, Part, Verdict, Violation};

use server::{Program, Server};

/// Name the servers: `cargo xtask test` starts them; `cargo xtask services up --cluster` says what to set.
pub(crate) const ONE: &str = "IM_TEST_REDIS";
pub(crate) const CLUSTER: &str = "IM_TEST_REDIS_CLUSTER";

/// The windows that tests wait for.
const EXPIRY: Duration = Duration::from_secs(2);
pub(crate) const TTL: Duration = Duration::from_secs(3);
/// Long enough for a server to start on a busy machine.
const DEDUPE_WINDOW: Duration = Duration::from_secs(5);
const PARTITIONS: u16 = 4;

/// What a variable names: the address of a server, or a program.
pub(crate) fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} names no Redis: run `cargo xtask test`, or `cargo xtask services up --cluster` and set it"
        )
    })
}

fn wrong(why: impl std::fmt::Display) -> Violation {
    Violation::new(why.to_string())
}

/// Under which nothing is yet.
pub(crate) fn fresh_prefix() -> String {
    format!("test {}", uuid::Uuid::new_v4().simple())
}

/// What tests of one server use, under a prefix of their own.
pub(crate) fn shared() -> Prefix {
    Prefix::at(named(ONE))
}

impl Prefix {
    pub(crate) fn at(url: String) -> Self {
        Self { url, prefix: fresh_prefix(), server: None, short_lived: false }
    }

    fn of(server: Server) -> Self {
        let url = server.url();
        Self { server: Some(Arc::new(server)), ..Self::at(url) }
    }

    /// With windows that a test can wait for.
    pub(crate) fn short_lived(self) -> Self {
        Self { short_lived: true, ..self }
    }

    pub(crate) fn builder(&self) -> RedisBuilder {
        self.builder_at(&self.url)
    }

    /// The same server by another way.
    pub(crate) fn builder_at(&self, url: &str) -> RedisBuilder {
        let builder = RedisBackend::builder(url).unwrap().prefix(&self.prefix).partitions(PARTITIONS);
        if !self.short_lived {
            return builder;
        }
        builder.expiry(EXPIRY).dedupe_window(DEDUPE_WINDOW).presence_ttl(TTL)
    }

    /// One more node, with connections of its own.
    pub(crate) async fn open(&self) -> RedisBackend {
        self.builder().open().await.unwrap()
    }
}

/// Servers that many tests share, each under a prefix of its own.
#[derive(Debug)]
pub(crate) struct Shared(pub(crate) &'static str);

/// A server of a test's own, which may lose what it has.
#[derive(Debug)]
pub(crate) struct Own(pub(crate) Program);

impl Own {
    fn prefix(&self) -> Prefix {
        Prefix::of(Server::start_as(self.0, "--appendonly no"))
    }
}

#[derive(Debug)]
pub(crate) struct Prefix {
    url: String,
    prefix: String,
    server: Option<Arc<Server>>,
    short_lived: bool,
}

#[async_trait]
impl Fixture for Shared {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(Prefix::at(named(self.0))))
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(Prefix::at(named(self.0)).short_lived()))
    }
}

#[async_trait]
impl Fixture for Own {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(self.prefix()))
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(self.prefix().short_lived()))
    }
}

#[async_trait]
impl Data for Prefix {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok(self.builder().open().await.map_err(wrong)?.into())
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn pass(&self, time: Duration) {
        // The server has its own time.
        tokio::time::sleep(time).await;
    }

    async fn save(&self) -> Verdict {
        if let Some(server) = &self.server {
            server.save();
        }
        Ok(())
    }

    async fn lose_tail(&self, _: Part, _: usize) -> Verdict {
        let server = self.server.as_ref().ok_or_else(|| wrong("others use the server"))?;
        server.fall_back();
        Ok(())
    }
}
