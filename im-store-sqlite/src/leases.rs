//! Leases, in memory: no other process has the file open, and a new one starts with new node ids.

use std::{sync::PoisonError, time::Duration};

use async_trait::async_trait;
use im_core::{Leases, NodeId, Result};

use crate::SqliteLog;

#[async_trait]
impl Leases for SqliteLog {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        let now = self.0.clock.now();
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, (_, until)| now < *until);
        if leases.get(name).is_some_and(|(holder, _)| holder != node) {
            return Ok(false);
        }
        leases.insert(name.to_owned(), (node.clone(), now.plus(ttl)));
        Ok(true)
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.get(name).is_some_and(|(holder, _)| holder == node) {
            leases.remove(name);
        }
        Ok(())
    }
}
