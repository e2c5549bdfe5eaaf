//! Signals: tells the nodes of those who have something new. Hints only; a failure is logged and forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use im_core::{
    ConversationId, Delivered, Delivery, Mark, NodeId, Notice, Record, Result, SessionRef, Signals,
    StateVersion, UserId, UserSignal,
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
        let all: Vec<Arc<Record>> = delivery.records.into_iter().map(|entry| entry.record).collect();
        let mut carried = Carried::default();
        let mut by_node: BTreeMap<NodeId, Vec<UserSignal>> = BTreeMap::new();
        for ((recipient, delivered), nodes) in delivery.recipients.into_iter().zip(delivered).zip(nodes) {
            let Some((last, others)) = nodes.split_last() else { continue };
            let bytes: usize = recipient.records.iter().map(|index| all[*index as usize].content.len()).sum();
            let inline = delivered.previous.is_some() && bytes <= self.inline_bytes;
            let signal = UserSignal {
                user: recipient.user,
                previous: delivered.previous,
                records: if inline { carried.take(&recipient.records, &all) } else { Arc::default() },
                cursors: delivered.cursors,
            };
            for node in others {
                by_node.entry(node.clone()).or_default().push(signal.clone());
            }
            by_node.entry(last.clone()).or_default().push(signal);
        }
        let records: Arc<[Arc<Record>]> = carried.records.into();
        let notice = |(node, users)| (node, Notice::Signals(Signals { records: records.clone(), users }));
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
        let notices =
            sessions.into_iter().map(|gone| (gone.node, Notice::Kick(user.clone(), vec![gone.id]))).collect();
        forget(self.parts.notifier.notify(notices).await, "kick");
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

/// The records that go with a notice: only those that somebody is sent, since many notices may wait.
#[derive(Default)]
struct Carried {
    records: Vec<Arc<Record>>,
    /// Where the records of a batch stand among them.
    places: HashMap<u32, u32>,
    /// The last that was taken: the members of a group get the same one after the other.
    last: Option<Taken>,
}

struct Taken {
    wanted: Arc<[u32]>,
    places: Arc<[u32]>,
}

impl Carried {
    /// Takes records of the batch; where they stand now.
    fn take(&mut self, wanted: &Arc<[u32]>, all: &[Arc<Record>]) -> Arc<[u32]> {
        if let Some(last) = self.last.as_ref().filter(|last| last.wanted == *wanted) {
            return last.places.clone();
        }
        let places: Arc<[u32]> = wanted.iter().map(|index| self.place(*index, all)).collect();
        self.last = Some(Taken { wanted: wanted.clone(), places: places.clone() });
        places
    }

    fn place(&mut self, index: u32, all: &[Arc<Record>]) -> u32 {
        let records = &mut self.records;
        *self.places.entry(index).or_insert_with(|| {
            records.push(all[index as usize].clone());
            records.len() as u32 - 1
        })
    }
}

fn forget(result: Result<()>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "a signal was not sent; heartbeats will tell");
    }
}
