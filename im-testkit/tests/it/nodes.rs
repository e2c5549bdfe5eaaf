//! The suite on several nodes: the memory backends pass it, and a node that trusts what it remembers does not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use im_core::{Connect, Connected, Gone, NodeId, Parts, Presence, Result, SessionId, SessionRef, UserId};
use im_testkit::{Data, Fixture, MemoryFixture, NodesFixture, Violation, certify};

im_testkit::conformance! {
    NodesFixture::new(MemoryFixture, 4),
    lacks { same_data: "log and store lose their tails apart" }
}

/// Remembers who is in, until something is changed at this node.
#[derive(Debug)]
struct Remembers {
    right: Arc<dyn Presence>,
    seen: Mutex<HashMap<Vec<UserId>, Vec<Vec<SessionRef>>>>,
}

impl Remembers {
    fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Presence for Remembers {
    fn ttl(&self) -> Duration {
        self.right.ttl()
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        self.forget();
        self.right.connect(request).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        self.forget();
        self.right.disconnect(sessions).await
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        self.forget();
        self.right.beat(node, held).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        if let Some(seen) = self.seen.lock().unwrap().get(users) {
            return Ok(seen.clone());
        }
        let sessions = self.right.sessions(users).await?;
        self.seen.lock().unwrap().insert(users.to_vec(), sessions.clone());
        Ok(sessions)
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        self.right.nodes().await
    }
}

#[derive(Debug)]
struct Remembering;

#[derive(Debug)]
struct RememberingData(Box<dyn Data>);

#[async_trait]
impl Fixture for Remembering {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(RememberingData(MemoryFixture.fresh().await?)))
    }
}

#[async_trait]
impl Data for RememberingData {
    async fn node(&self) -> Result<Parts, Violation> {
        let parts = self.0.node().await?;
        let remembers = |right| Arc::new(Remembers { right, seen: Mutex::default() }) as Arc<dyn Presence>;
        Ok(Parts { presence: parts.presence.map(remembers), ..parts })
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }
}

#[test]
fn what_one_node_remembers_is_seen_by_several_only() {
    let clause = "presence::own_disconnect_only";
    certify(&Remembering, clause).unwrap();
    certify(&NodesFixture::new(Remembering, 4), clause).unwrap_err();
}

/// Nodes with data of their own, which know nothing of each other.
#[derive(Debug)]
struct Apart;

#[derive(Debug)]
struct ApartData;

#[async_trait]
impl Fixture for Apart {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(ApartData))
    }
}

#[async_trait]
impl Data for ApartData {
    async fn node(&self) -> Result<Parts, Violation> {
        MemoryFixture.fresh().await?.node().await
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn pass(&self, _: Duration) {}
}

#[test]
fn every_part_of_every_node_is_asked() {
    for clause in [
        "log::dense",
        "leases::exclusive",
        "store::once",
        "conversations::members_at_a_record",
        "user_state::with_its_ordinal",
        "inbox::in_order",
        "presence::kick_or_reject",
        "notifier::in_order",
    ] {
        certify(&NodesFixture::new(Apart, 4), clause).expect_err(clause);
    }
}
