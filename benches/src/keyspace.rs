//! Keys of a run's own on Redis.

use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{Builder, ClusterHash, CustomCommand, Value, config::Config},
};
use im_sync_redis::RedisBackend;

use crate::{Outcome, process::to_the_end};

/// Keys that go with this, by what they begin with.
#[derive(Debug)]
pub(crate) struct Keyspace {
    url: String,
    prefix: String,
}

impl Keyspace {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), prefix: format!("im-bench-{}", uuid::Uuid::new_v4().simple()) }
    }

    /// Others on the same server.
    pub(crate) fn another(&self) -> Self {
        Self::new(&self.url)
    }

    /// A key among them.
    pub(crate) fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// All parts that Redis has, in their defaults, but with room for 100,000 waiting entries and those that are delivered twice.
    pub(crate) async fn open(&self) -> Outcome<RedisBackend> {
        Ok(RedisBackend::builder(&self.url)?.prefix(&self.prefix).inbox_entries(150_000).open().await?)
    }

    /// A bare connection.
    pub(crate) async fn connect(&self) -> Outcome<Client> {
        let client = Builder::from_config(Config::from_url(&self.url)?).build()?;
        client.init().await?;
        Ok(client)
    }

    async fn remove(&self) -> Outcome {
        let client = self.connect().await?;
        let any = ClusterHash::Random;
        let pattern = format!("{}:*", self.prefix);
        let mut at = "0".to_owned();
        loop {
            let scan = CustomCommand::new_static("SCAN", any.clone(), false);
            let args = vec![at.as_str(), "MATCH", &pattern, "COUNT", "10000"];
            let (next, keys): (String, Vec<Value>) = client.custom(scan, args).await?;
            if !keys.is_empty() {
                let unlink = CustomCommand::new_static("UNLINK", any.clone(), false);
                client.custom::<(), _>(unlink, keys).await?;
            }
            at = next;
            if at == "0" {
                return Ok(client.quit().await?);
            }
        }
    }
}

impl Drop for Keyspace {
    /// Also where a measurement ends before its time.
    fn drop(&mut self) {
        let removed = to_the_end(self.remove());
        if let Err(error) = removed {
            eprintln!("im-bench: the keys of {} could not be removed: {error}", self.prefix);
        }
    }
}
