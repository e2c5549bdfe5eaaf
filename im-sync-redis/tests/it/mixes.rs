//! Redis as the sync of an engine whose store is of another backend: messages are sent, pulled, kept and counted, by two nodes and after
//! a restart.

use std::time::Duration;

use crate::support::{Prefix, shared};
use im_core::memory::Memory;
use im_engine::{
    AckLevel, Cursor, DeviceId, Direction, Engine, Hello, HistoryRange, Identity, NewMessage, Parts,
    Platform, Pull, Seq, Session, UserId,
};
use im_store_pg::PgBackend;
use im_store_sqlite::Sqlite;

const PATIENCE: Duration = Duration::from_secs(60);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

async fn connect(chat: &Engine, name: &str) -> Session {
    let (device, platform) = (DeviceId::new("phone").unwrap(), Platform::new("test").unwrap());
    chat.connect(Identity { user: user(name), device, platform }, Hello::default()).await.unwrap().0
}

/// What is delivered after a cursor, when it is so many; with the cursor of the last.
async fn pulled(session: &Session, after: &Cursor, count: usize) -> (Vec<String>, Cursor) {
    let all = async {
        loop {
            let Pull::Page { entries, .. } = session.pull(after, 100).await.unwrap() else {
                panic!("resync")
            };
            if entries.len() >= count {
                let texts = entries.iter().map(|entry| entry.record.content.to_string()).collect();
                return (texts, entries[entries.len() - 1].cursor.clone());
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it is delivered")
}

async fn node(redis: &Prefix, store: &Parts) -> Engine {
    let redis = redis.builder().expiry(Duration::from_secs(3600)).open().await.unwrap();
    Engine::builder(Parts { store: store.store.clone(), ..redis.into() }).start().await.unwrap()
}

async fn plays(store: Parts) {
    let redis = shared();
    let (one, two) = (node(&redis, &store).await, node(&redis, &store).await);
    let id = one.open_single(&user("alice"), &user("bob")).await.unwrap().id;
    let session = connect(&two, "bob").await;
    let start = session.fresh().await.unwrap().cursor;
    for (chat, text) in [(&one, "1"), (&two, "2"), (&one, "3")] {
        let message = NewMessage::text(&user("alice"), &id, text);
        chat.send(NewMessage { level: AckLevel::Stored, ..message }).await.unwrap();
    }
    let (texts, seen) = pulled(&session, &start, 3).await;
    assert_eq!(texts, ["1", "2", "3"]);
    assert_eq!(session.conversation(&id).await.unwrap().unread, 3);
    session.mark_read(&id, Seq(2)).await.unwrap();
    assert_eq!(session.conversation(&id).await.unwrap().unread, 1);
    one.shutdown().await;
    two.shutdown().await;

    let chat = node(&redis, &store).await;
    let session = connect(&chat, "bob").await;
    let message = NewMessage::text(&user("alice"), &id, "4");
    let ack = chat.send(NewMessage { level: AckLevel::Stored, ..message }).await.unwrap();
    assert_eq!(ack.seq, Seq(4), "the numbering goes on");
    assert_eq!(pulled(&session, &seen, 1).await.0, ["4"]);
    let range = HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 };
    let page = chat.history(&user("bob"), &id, range).await.unwrap();
    let texts: Vec<_> = page.records.iter().map(|record| &*record.content).collect();
    assert_eq!(texts, ["1", "2", "3", "4"]);
    chat.shutdown().await;
}

#[tokio::test]
async fn beside_the_store_of_memory() {
    plays(Memory::new().into()).await;
}

#[tokio::test]
async fn beside_the_store_of_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
    plays((&sqlite).into()).await;
    sqlite.close().await.unwrap();
}

#[tokio::test]
async fn beside_the_store_of_postgres() {
    let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
    let pg = PgBackend::builder(&crate::support::named("IM_TEST_POSTGRES"))
        .unwrap()
        .schema(schema)
        .open()
        .await
        .unwrap();
    plays((&pg).into()).await;
    pg.close().await;
}
