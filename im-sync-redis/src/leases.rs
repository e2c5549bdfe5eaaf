//! Leases, by the server's clock.

use std::{sync::LazyLock, time::Duration};

use async_trait::async_trait;
use fred::types::scripts::Script;
use im_core::{Leases, NodeId, Result};

use crate::{RedisLog, error::corrupt};

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/claim.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/release.lua")));

/// The longest time a lease is taken for, in ms: the server refuses one whose end overflows.
const MOST_MS: u128 = 1 << 52;

#[async_trait]
impl Leases for RedisLog {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        let operation = "leases.claim";
        let ttl = ttl.as_millis().clamp(1, MOST_MS) as i64;
        let args = vec![node.as_str().into(), ttl.into()];
        let claimed = self.0.run(operation, &CLAIM, self.0.keys.lease(name), args).await?;
        let claimed = claimed.as_i64().ok_or_else(|| corrupt(operation, "no answer to a claim"))?;
        Ok(claimed == 1)
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        let args = vec![node.as_str().into()];
        self.0.run("leases.release", &RELEASE, self.0.keys.lease(name), args).await.map(drop)
    }
}
