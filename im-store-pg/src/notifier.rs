//! The notifier: LISTEN and NOTIFY, a channel for each node.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{NodeId, Notice, Noticed, Notifier, Result};
use tokio::sync::mpsc;

use crate::{connect::Inner, error::failed, notices};

/// The notifier part.
#[derive(Debug, Clone)]
pub struct PgNotifier(pub(crate) Arc<Inner>);

#[async_trait]
impl Notifier for PgNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let (mut channels, mut payloads) = (Vec::new(), Vec::new());
        for (node, notice) in notices {
            let channel = notices::channel(&self.0.name, &node);
            let Some(notice) = self.0.ear.tell_here(&channel, notice) else { continue };
            for payload in notices::encode(&notice) {
                channels.push(channel.clone());
                payloads.push(payload);
            }
        }
        if channels.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "SELECT pg_notify(k.channel, k.payload) FROM unnest($1::text[], $2::text[]) WITH ORDINALITY \
             AS k (channel, payload, at) ORDER BY k.at",
        )
        .bind(channels)
        .bind(payloads)
        .execute(&self.0.pool)
        .await
        .map(drop)
        .map_err(failed("notifier.notify"))
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        self.0.ear.subscribe(notices::channel(&self.0.name, node)).await
    }
}
