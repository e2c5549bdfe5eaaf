//! The notifier: a subject for each node, on core NATS.

use std::sync::Arc;

use async_nats::Subscriber;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use im_core::{
    NodeId, Notice, Noticed, Notifier, Result, notices,
    subscribers::{Subscribers, Subscription},
};
use tokio::sync::{mpsc, watch};

use crate::connect::Inner;

/// The notifier part.
#[derive(Debug, Clone)]
pub struct NatsNotifier(pub(crate) Arc<Inner>);

#[async_trait]
impl Notifier for NatsNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let most = self.0.report.max_payload;
        let by_node = notices::payloads(notices, most);
        let tell = by_node.into_iter().map(async |(node, payloads)| {
            // Of what no server takes only that it is missing can be told.
            let payloads =
                payloads.into_iter().map(|payload| if payload.len() > most { Bytes::new() } else { payload });
            self.0.publish("notifier.notify", self.0.notices(&node), payloads).await
        });
        // All nodes are told, also when one could not be.
        futures::future::join_all(tell).await.into_iter().collect()
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        let gaps = self.0.gaps();
        let messages = self.0.subscribe("notifier.subscribe", self.0.notices(node)).await?;
        let (subscription, receiver) = Subscription::new();
        tokio::spawn(pass_on(self.0.clone(), messages, gaps, subscription));
        Ok(receiver)
    }
}

/// Until the subscriber is gone, or the connection is closed: so long that stays, also where nobody else has it.
async fn pass_on(
    _connection: Arc<Inner>,
    mut messages: Subscriber,
    mut gaps: watch::Receiver<u64>,
    subscription: Subscription,
) {
    let mut gone = std::pin::pin!(subscription.closed());
    let mut subscribers = Subscribers::default();
    subscribers.add((), subscription);
    loop {
        tokio::select! {
            biased;
            () = &mut gone => return,
            gap = gaps.changed() => match gap {
                Ok(()) => subscribers.lag(&()),
                Err(_) => return,
            },
            message = messages.next() => match message {
                Some(message) => tell(&mut subscribers, &message.payload),
                None => return,
            },
        }
    }
}

fn tell(subscribers: &mut Subscribers<()>, payload: &[u8]) {
    if payload.is_empty() {
        return subscribers.lag(&());
    }
    match notices::decode(payload) {
        Ok(notices) => notices.into_iter().for_each(|notice| {
            // Nobody may be there any more.
            let _ = subscribers.tell(&(), notice);
        }),
        Err(error) => {
            tracing::warn!(%error, "a word of another node is not understood");
            subscribers.lag(&());
        }
    }
}
