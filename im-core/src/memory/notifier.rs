//! The notifier: a bounded channel per subscriber.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::lock;
use crate::{
    NodeId, Notice, Noticed, Notifier, Result,
    subscribers::{Subscribers, Subscription},
};

/// The notifier part.
#[derive(Debug, Clone)]
pub struct MemoryNotifier(Arc<Mutex<Subscribers<NodeId>>>);

impl MemoryNotifier {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let mut subscribers = lock(&self.0);
        for (node, notice) in notices {
            // Nobody there is no error.
            let _ = subscribers.tell(&node, notice);
            subscribers.retire(&node);
        }
        Ok(())
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        let (subscription, receiver) = Subscription::new();
        lock(&self.0).add(node.clone(), subscription);
        Ok(receiver)
    }
}
