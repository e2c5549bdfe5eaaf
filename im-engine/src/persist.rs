//! The persist projection: copies the log into the store where they are not the same data.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{Batch, Checkpoint, MessageStore, Partition, Projection, Result};

use crate::fanout::known_kinds;

#[derive(Debug)]
pub(crate) struct Persist {
    pub(crate) messages: Arc<dyn MessageStore>,
}

#[async_trait]
impl Projection for Persist {
    fn name(&self) -> &str {
        "persist"
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.messages.checkpoint(partition).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        known_kinds(batch)?;
        self.messages.apply(batch).await
    }
}
