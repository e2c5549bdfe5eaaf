//! Signals: tells the nodes of those who have something new. Hints only; a failure is logged and forgotten.

use std::{collections::BTreeMap, sync::Arc};

use im_core::{
    ConversationId, Delivered, Delivery, Mark, NodeId, Notice, Record, Result, SessionRef, Signal, Signals,
    StateVersion, UserId,
};

use crate::builder::Complete;

/// How many users are looked up in the presence at once.
const LOOK_UP: usize = 1000;

/// Sends signals.
#[derive(Debug)]
pub(crate) struct Signaller {
    pub(crate) parts: Complete,
    pub(crate) inline_bytes: usize,
}

impl Signaller {
    /// New inbox entries: one notice for each node that holds a recipient's session.
    pub(crate) async fn entries(&self, delivery: Delivery, delivered: Vec<Delivered>) {
        let users: Vec<UserId> = delivery.recipients.iter().map(|recipient| recipient.user.clone()).collect();
        let result = async {
            let nodes = self.nodes_of(&users).await?;
            self.parts.notifier.notify(self.notices(delivery, delivered, nodes)).await
        };
        forget(result.await, "entries");
    }

    fn notices(
        &self,
        delivery: Delivery,
        delivered: Vec<Delivered>,
        nodes: Vec<Vec<NodeId>>,
    ) -> Vec<(NodeId, Notice)> {
        let records: Arc<[Arc<Record>]> = delivery.records.into_iter().map(|entry| entry.record).collect();
        let mut by_node: BTreeMap<NodeId, Vec<Signal>> = BTreeMap::new();
        for ((recipient, delivered), nodes) in delivery.recipients.into_iter().zip(delivered).zip(nodes) {
            let Some((last, others)) = nodes.split_last() else { continue };
            let bytes: usize =
                recipient.records.iter().map(|index| records[*index as usize].content.len()).sum();
            let inline = delivered.previous.is_some() && bytes <= self.inline_bytes;
            let indices = if inline { recipient.records } else { Arc::default() };
            let user = (recipient.user, delivered.previous);
            for node in others {
                let signals = by_node.entry(node.clone()).or_default();
                Signal::push(signals, user.clone(), indices.clone(), delivered.cursors.clone());
            }
            let signals = by_node.entry(last.clone()).or_default();
            Signal::push(signals, user, indices, delivered.cursors);
        }
        let notice = |(node, signals)| (node, Notice::Signals(carried(&records, signals)));
        by_node.into_iter().map(notice).collect()
    }

    /// New heads of large groups, to every node: who reads a large group is known to the nodes alone.
    pub(crate) async fn heads(&self, heads: &BTreeMap<ConversationId, Mark>) {
        if heads.is_empty() {
            return;
        }
        let result = async {
            let nodes = self.parts.presence.nodes().await?;
            let notices = nodes.into_iter().flat_map(|node| {
                heads.iter().map(move |(id, head)| (node.clone(), Notice::Head(id.clone(), *head)))
            });
            self.parts.notifier.notify(notices.collect()).await
        };
        forget(result.await, "heads");
    }

    /// A new version of a user's own state.
    pub(crate) async fn state(&self, user: UserId, version: StateVersion) {
        let result = async {
            let nodes = self.nodes_of(std::slice::from_ref(&user)).await?;
            let notice = Notice::State(user, version);
            let notices = nodes.into_iter().flatten().map(|node| (node, notice.clone())).collect();
            self.parts.notifier.notify(notices).await
        };
        forget(result.await, "state");
    }

    /// New versions of users' own states.
    pub(crate) async fn states(&self, users: Vec<UserId>) {
        let result = async {
            for users in users.chunks(LOOK_UP) {
                let nodes = self.nodes_of(users).await?;
                let versions = self.parts.store.states.versions(users).await?;
                let notices = users.iter().zip(versions).zip(nodes).flat_map(|((user, version), nodes)| {
                    let notice = Notice::State(user.clone(), version);
                    nodes.into_iter().map(move |node| (node, notice.clone()))
                });
                self.parts.notifier.notify(notices.collect()).await?;
            }
            Ok(())
        };
        forget(result.await, "states");
    }

    /// Displaced sessions, to their nodes.
    pub(crate) async fn kick(&self, user: &UserId, sessions: Vec<SessionRef>) {
        forget(self.parts.notifier.notify(kicks(user, sessions)).await, "kick");
    }

    /// The nodes that hold sessions of each user.
    async fn nodes_of(&self, users: &[UserId]) -> Result<Vec<Vec<NodeId>>> {
        let mut nodes = Vec::with_capacity(users.len());
        for users in users.chunks(LOOK_UP) {
            let sessions = self.parts.presence.sessions(users).await?;
            nodes.extend(sessions.into_iter().map(|sessions| {
                let mut nodes: Vec<NodeId> = sessions.into_iter().map(|session| session.node).collect();
                nodes.sort();
                nodes.dedup();
                nodes
            }));
        }
        Ok(nodes)
    }
}

/// Tells the nodes of a user's sessions to end them.
pub(crate) fn kicks(user: &UserId, sessions: Vec<SessionRef>) -> Vec<(NodeId, Notice)> {
    sessions.into_iter().map(|gone| (gone.node, Notice::Kick(user.clone(), vec![gone.id]))).collect()
}

/// The signals of one node with those records alone that somebody there is sent inline: a batch may have megabytes of others.
fn carried(records: &Arc<[Arc<Record>]>, mut signals: Vec<Signal>) -> Signals {
    let mut wanted = vec![false; records.len()];
    signals.iter().flat_map(|signal| signal.records.iter()).for_each(|index| wanted[*index as usize] = true);
    if wanted.iter().all(|wanted| *wanted) {
        return Signals { records: records.clone(), signals };
    }
    let mut kept = Vec::new();
    // Of a record that is not kept nobody asks for the place.
    let mut places = vec![0; records.len()];
    for (index, record) in records.iter().enumerate().filter(|(index, _)| wanted[*index]) {
        places[index] = kept.len() as u32;
        kept.push(record.clone());
    }
    for signal in signals.iter_mut().filter(|signal| !signal.records.is_empty()) {
        signal.records = signal.records.iter().map(|index| places[*index as usize]).collect();
    }
    Signals { records: kept.into(), signals }
}

fn forget(result: Result<()>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "a signal was not sent; heartbeats will tell");
    }
}

#[cfg(test)]
mod tests {
    use im_core::Cursor;

    use super::*;
    use crate::cell::tests::record;

    fn signal(name: &str, records: &[u32]) -> Signal {
        Signal {
            users: vec![(UserId::new(name).unwrap(), None)],
            records: records.into(),
            cursors: [Cursor::new("c")].into(),
        }
    }

    /// What is carried of three records, and what each user finds there.
    fn found(signals: Vec<Signal>) -> (usize, Vec<Vec<u64>>) {
        let records = [record(10), record(11), record(12)].into();
        let signals = carried(&records, signals);
        let of = |signal: &Signal| {
            signal.records.iter().map(|index| signals.records[*index as usize].seq.0).collect()
        };
        (signals.records.len(), signals.signals.iter().map(of).collect())
    }

    #[test]
    fn only_what_somebody_is_sent_inline_is_carried() {
        assert_eq!(found(vec![signal("a", &[]), signal("b", &[])]), (0, vec![vec![], vec![]]));
        let some = vec![signal("a", &[2]), signal("b", &[]), signal("c", &[0, 2])];
        assert_eq!(found(some), (2, vec![vec![12], vec![], vec![10, 12]]));
        let all = vec![signal("a", &[0, 1]), signal("b", &[1, 2])];
        assert_eq!(found(all), (3, vec![vec![10, 11], vec![11, 12]]));
    }
}
