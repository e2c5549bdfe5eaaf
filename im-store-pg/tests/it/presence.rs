//! Who of those who connect and beat waits for whom.

use std::time::Duration;

use crate::support::{Schema, server};
use im_core::{
    Connect, Connected, DeviceId, Gone, NodeId, Platform, Presence, SessionId, SessionRef, UserId, WhenFull,
};
use im_store_pg::PgPresence;
use sqlx::{AssertSqlSafe, PgPool};

const PATIENCE: Duration = Duration::from_secs(60);

fn connect(user: &str, session: &str, node: &str) -> Connect {
    Connect {
        user: UserId::new(user).unwrap(),
        session: SessionRef {
            id: SessionId::new(session).unwrap(),
            node: NodeId::new(node).unwrap(),
            device: DeviceId::new("device").unwrap(),
            platform: Platform::new("web").unwrap(),
        },
        slot: "slot".into(),
        max: 1,
        when_full: WhenFull::KickOld,
    }
}

fn key(connect: &Connect) -> (UserId, SessionId) {
    (connect.user.clone(), connect.session.id.clone())
}

/// A schema with a presence on it, and statements beside it.
struct Bed {
    presence: PgPresence,
    beside: PgPool,
    schema: String,
}

impl Bed {
    async fn open(ttl: Duration) -> Self {
        let schema = Schema::fresh();
        let presence = schema.builder().presence_ttl(ttl).open().await.unwrap().presence();
        let beside = PgPool::connect(&server()).await.unwrap();
        Self { presence, beside, schema: format!("\"{}\"", schema.name().replace('"', "\"\"")) }
    }

    fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{im}", &self.schema))
    }

    async fn count(&self, table: &str) -> i64 {
        let sql = self.sql(&format!("SELECT count(*) FROM {{im}}.{table}"));
        sqlx::query_scalar(sql).fetch_one(&self.beside).await.unwrap()
    }
}

#[tokio::test]
async fn a_connect_does_not_wait_for_another_one_of_its_node() {
    let bed = Bed::open(PATIENCE * 10).await;
    let (first, other) = (connect("alice", "1", "node"), connect("bob", "2", "node"));
    bed.presence.connect(&first).await.unwrap();
    // As a connect of the same node would hold it that has not committed.
    let mut open = bed.beside.begin().await.unwrap();
    for table in ["nodes", "sessions"] {
        let sql = bed.sql(&format!("SELECT 1 FROM {{im}}.{table} FOR UPDATE"));
        sqlx::query(sql).execute(&mut *open).await.unwrap();
    }
    let connected = tokio::time::timeout(Duration::from_secs(4), bed.presence.connect(&other)).await;
    assert_eq!(connected.unwrap().unwrap(), Connected::Accepted(Vec::new()));
    open.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_beats_and_disconnects_at_once_do_not_stop_each_other() {
    let bed = Bed::open(PATIENCE * 10).await;
    let mut works = Vec::new();
    for worker in 0..8 {
        let presence = bed.presence.clone();
        works.push(tokio::spawn(async move {
            let node = format!("node-{}", worker % 3);
            for n in 0..40 {
                let mut requests = Vec::new();
                for slot in 0..3 {
                    let session = format!("{}-{worker}-{slot}", n % 7);
                    let max = 1 + n % 4;
                    let request = connect(["alice", "bob"][slot % 2], &session, &node);
                    requests.push(Connect { max, ..request });
                    presence.connect(&requests[slot]).await.unwrap();
                }
                let keys: Vec<_> = requests.iter().rev().map(key).collect();
                match n % 3 {
                    0 => presence.disconnect(&keys).await.unwrap(),
                    _ => drop(presence.beat(&NodeId::new(&*node).unwrap(), &keys).await.unwrap()),
                }
            }
        }));
    }
    for work in works {
        tokio::time::timeout(PATIENCE, work).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn beats_remove_what_dead_nodes_leave_and_keep_what_they_take_up_again() {
    let ttl = Duration::from_secs(1);
    let bed = Bed::open(ttl).await;
    let (returns, leaves) = (connect("alice", "returns", "first"), connect("bob", "leaves", "second"));
    for request in [&returns, &leaves] {
        bed.presence.connect(request).await.unwrap();
    }
    tokio::time::sleep(ttl + ttl / 10).await;
    bed.presence.connect(&returns).await.unwrap();
    bed.presence.beat(&NodeId::new("third").unwrap(), &[]).await.unwrap();
    assert_eq!(bed.count("sessions").await, 1, "the session of the dead node is gone, the other is not");
    let gone = bed.presence.beat(&leaves.session.node, &[key(&leaves)]).await.unwrap();
    assert_eq!(gone, [(leaves.session.id, Gone::Forgotten)]);
    // Long after their death nodes are forgotten, too.
    let sql = bed.sql("UPDATE {im}.nodes SET until = until - 3600000");
    sqlx::query(sql).execute(&bed.beside).await.unwrap();
    bed.presence.beat(&NodeId::new("third").unwrap(), &[]).await.unwrap();
    assert_eq!((bed.count("sessions").await, bed.count("nodes").await), (0, 1));
}
