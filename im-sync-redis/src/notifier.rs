//! The notifier: a channel for each node.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use im_core::{NodeId, Notice, Noticed, Notifier, Result, notices};
use tokio::sync::mpsc;

use crate::connect::Inner;

/// How long a payload becomes before another one begins, in bytes. One notice may be longer.
const MOST_BYTES: usize = 1 << 20;

/// The notifier part.
#[derive(Debug, Clone)]
pub struct RedisNotifier(pub(crate) Arc<Inner>);

/// What one call tells one node: in order, and in as few payloads as it takes.
#[derive(Default)]
struct Payloads(Vec<BytesMut>);

impl Payloads {
    fn add(&mut self, notice: &Notice) {
        let bytes = notices::encode(std::slice::from_ref(notice));
        match self.0.last_mut() {
            Some(last) if last.len() + bytes.len() <= MOST_BYTES => last.extend_from_slice(&bytes),
            _ => self.0.push(bytes.into()),
        }
    }

    fn into_payloads(self) -> impl Iterator<Item = Bytes> + Send {
        self.0.into_iter().map(BytesMut::freeze)
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let mut by_node: HashMap<NodeId, Payloads> = HashMap::new();
        for (node, notice) in &notices {
            by_node.entry(node.clone()).or_default().add(notice);
        }
        drop(notices);
        // One after the other to a node, else they could change places where a connection is made anew.
        let tell = async |(node, payloads): (NodeId, Payloads)| {
            for payload in payloads.into_payloads() {
                self.0.say(&node, payload).await?;
            }
            Ok(())
        };
        // All nodes are told, also when one could not be.
        futures::future::join_all(by_node.into_iter().map(tell)).await.into_iter().collect()
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        self.0.ear.subscribe(self.0.keys.notices(node)).await
    }
}

#[cfg(test)]
mod tests {
    use im_core::{ConversationId, Mark, Ordinal, Seq, SessionId, UserId};

    use super::*;

    #[test]
    fn payloads_keep_the_order_and_the_limit() {
        let session = |n| SessionId::new(format!("{}{n}", "x".repeat(50))).unwrap();
        let kick = |sessions| Notice::Kick(UserId::new("a").unwrap(), (0..sessions).map(session).collect());
        let mut notices = vec![kick(30_000)];
        for n in 0..200_000 {
            let mark = Mark { seq: Seq(n), ordinal: Ordinal(n) };
            notices.push(Notice::Head(ConversationId::group("g").unwrap(), mark));
        }
        let mut payloads = Payloads::default();
        notices.iter().for_each(|notice| payloads.add(notice));
        let payloads: Vec<_> = payloads.into_payloads().collect();
        assert!(payloads.len() > 2 && payloads[1..].iter().all(|payload| payload.len() <= MOST_BYTES));
        assert!(payloads[1..payloads.len() - 1].iter().all(|payload| payload.len() > MOST_BYTES - 100));
        let heard: Vec<_> = payloads.iter().flat_map(|payload| notices::decode(payload).unwrap()).collect();
        assert_eq!(heard, notices);
    }
}
