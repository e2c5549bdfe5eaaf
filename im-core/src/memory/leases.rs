//! Leases: a name, its holder, and until when.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use super::{lock, log::MemoryLog};
use crate::{Leases, NodeId, Result, Timestamp};

/// Who holds what until when.
pub(super) type LeaseTable = BTreeMap<String, (NodeId, Timestamp)>;

#[async_trait]
impl Leases for MemoryLog {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        let mut leases = lock(&self.inner().leases);
        let now = self.inner().clock.now();
        if leases.get(name).is_some_and(|(holder, until)| holder != node && now < *until) {
            return Ok(false);
        }
        leases.insert(name.to_owned(), (node.clone(), now.plus(ttl)));
        Ok(true)
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        let mut leases = lock(&self.inner().leases);
        if leases.get(name).is_some_and(|(holder, _)| holder == node) {
            leases.remove(name);
        }
        Ok(())
    }
}
