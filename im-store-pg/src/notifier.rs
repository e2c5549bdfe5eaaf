//! The notifier: LISTEN and NOTIFY, a channel for each node.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use im_core::{NodeId, Notice, Noticed, Notifier, Result};
use tokio::sync::mpsc;

use crate::{
    connect::Inner,
    error::failed,
    notices::{self, Payloads},
};

/// The notifier part.
#[derive(Debug, Clone)]
pub struct PgNotifier(pub(crate) Arc<Inner>);

#[async_trait]
impl Notifier for PgNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let mut by_node: HashMap<NodeId, (String, Payloads)> = HashMap::new();
        for (node, notice) in notices {
            let new = |node: &NodeId| (notices::channel(&self.0.name, node), Payloads::default());
            let (channel, payloads) = by_node.entry(node).or_insert_with_key(new);
            if let Some(notice) = self.0.ear.tell_here(channel, notice) {
                payloads.add(&notice);
            }
        }
        let texts = |(channel, payloads): (String, Payloads)| {
            payloads.into_texts().map(move |text| (channel.clone(), text))
        };
        let (channels, payloads): (Vec<_>, Vec<_>) = by_node.into_values().flat_map(texts).unzip();
        if channels.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "SELECT count(pg_notify(k.channel, k.payload)) FROM (SELECT * FROM unnest($1::text[], $2::text[]) \
             WITH ORDINALITY AS k (channel, payload, at) ORDER BY at) k",
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
