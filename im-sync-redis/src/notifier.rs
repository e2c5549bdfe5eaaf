//! The notifier: a channel for each node.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use im_core::{NodeId, Notice, Noticed, Notifier, Result, notices};
use tokio::sync::mpsc;

use crate::connect::Inner;

/// How long a payload becomes before another one begins, in bytes. One notice may be longer.
const MOST_BYTES: usize = 1 << 20;

/// The notifier part.
#[derive(Debug, Clone)]
pub struct RedisNotifier(pub(crate) Arc<Inner>);

#[async_trait]
impl Notifier for RedisNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        // One after the other to a node, else they could change places where a connection is made anew.
        let tell = async |(node, payloads): (NodeId, Vec<Bytes>)| {
            for payload in payloads {
                self.0.say(&node, payload).await?;
            }
            Ok(())
        };
        let by_node = notices::payloads(notices, MOST_BYTES);
        // All nodes are told, also when one could not be.
        futures::future::join_all(by_node.into_iter().map(tell)).await.into_iter().collect()
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        self.0.ear.subscribe(self.0.keys.notices(node)).await
    }
}
