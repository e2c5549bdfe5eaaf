//! A store that takes nothing from the log until it is let go.

use std::sync::Arc;

use async_trait::async_trait;
use im_engine::{memory::Memory, *};
use tokio::sync::watch;

/// The parts of a memory whose store is held back, and what lets it go.
pub(crate) fn held(memory: &Memory) -> (Parts, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let mut parts = Parts::from(memory);
    if let Some(store) = &mut parts.store {
        store.messages = Arc::new(Held { store: store.messages.clone(), gone });
    }
    (parts, go)
}

#[derive(Debug)]
struct Held {
    store: Arc<dyn MessageStore>,
    gone: watch::Receiver<bool>,
}

#[async_trait]
impl MessageStore for Held {
    async fn info(&self) -> Result<StoreInfo> {
        self.store.info().await
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.store.open_epoch(log).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.store.checkpoint(partition).await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
        self.store.apply(batch).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        self.store.history(query).await
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.store.get(places).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        self.store.find(keys).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.store.last(conversations).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        self.store.above(partition, after, max).await
    }
}
