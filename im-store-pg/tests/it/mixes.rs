//! Postgres as the store of an engine whose other parts are of another backend, and as its inbox.

use std::time::Duration;

use crate::support::Schema;
use crate::support::bed::{Bed, PATIENCE};
use im_core::{
    Append, AppendOutcome, ContentHash, Cursor, Delivery, DeviceId, ErrorKind, LogRead, MessageLog,
    Partition, Parts, Platform, Position, Pull, Recipient, RecordKind, Seq, SyncInbox, UserId,
    memory::Memory,
};
use im_engine::{Direction, Engine, Hello, HistoryRange, Identity, NewMessage, Session};
use im_store_pg::PgBackend;
use im_store_sqlite::Sqlite;
use tempfile::TempDir;

async fn connect(chat: &Engine, user: &UserId) -> Session {
    let (device, platform) = (DeviceId::new("phone").unwrap(), Platform::new("test").unwrap());
    chat.connect(Identity { user: user.clone(), device, platform }, Hello::default()).await.unwrap().0
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

/// Messages are sent, persisted, pulled and counted; what an engine logged before it died reaches store and inbox by the next.
async fn plays(parts: impl Fn(&PgBackend) -> Parts) {
    let schema = Schema::fresh();
    // The windows of the tests' schemas are short.
    let open = || async { schema.builder().expiry(Duration::from_secs(3600)).open().await.unwrap() };
    let pg = open().await;
    let [alice, bob] = ["alice", "bob"].map(|name| UserId::new(name).unwrap());
    let chat = Engine::builder(parts(&pg)).start().await.unwrap();
    let id = chat.open_single(&alice, &bob).await.unwrap().id;
    let session = connect(&chat, &bob).await;
    let start = session.fresh().await.unwrap().cursor;
    for text in ["1", "2", "3"] {
        chat.send(NewMessage::text(&alice, &id, text)).await.unwrap();
    }
    let (texts, seen) = pulled(&session, &start, 3).await;
    assert_eq!(texts, ["1", "2", "3"]);
    let unread = async |session: &Session, due: u64, head: u64| {
        let applied = async {
            while session.conversation(&id).await.unwrap().head.seq < Seq(head) {
                tokio::task::yield_now().await;
            }
            session.conversation(&id).await.unwrap().unread
        };
        assert_eq!(tokio::time::timeout(PATIENCE, applied).await.expect("it is persisted"), due);
    };
    unread(&session, 3, 3).await;
    session.mark_read(&id, Seq(2)).await.unwrap();
    unread(&session, 1, 3).await;
    chat.shutdown().await;
    pg.close().await;

    // Of an engine that dies right after the append nothing but the log has this one.
    let pg = open().await;
    let log = parts(&pg).log.unwrap().log;
    let info = log.info().await.unwrap();
    let NewMessage { client_msg_id, content_type, content, .. } = NewMessage::text(&alice, &id, "4");
    let logged = Append {
        conversation: id.clone(),
        sender: alice.clone(),
        device: None,
        send_to: Some(bob.clone()),
        client_msg_id,
        kind: RecordKind::Message,
        content_type,
        hash: ContentHash::of(RecordKind::Message, content_type, &content),
        content,
        floor: None,
    };
    let partition = Partition::of(&id, info.partitions);
    let outcomes = log.append(partition, info.epoch.unwrap().0, &[logged]).await.unwrap();
    assert!(matches!(outcomes[..], [AppendOutcome::Appended(_)]), "{outcomes:?}");

    let chat = Engine::builder(parts(&pg)).start().await.unwrap();
    let session = connect(&chat, &bob).await;
    chat.send(NewMessage::text(&alice, &id, "5")).await.unwrap();
    assert_eq!(pulled(&session, &seen, 2).await.0, ["4", "5"]);
    unread(&session, 3, 5).await;
    let range = HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 };
    let page = chat.history(&bob, &id, range).await.unwrap();
    let texts: Vec<_> = page.records.iter().map(|record| &*record.content).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
    chat.shutdown().await;
}

fn memory() -> Parts {
    Memory::builder().partitions(4).build().into()
}

/// A file in a folder of its own.
async fn file() -> (TempDir, Sqlite) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
    (folder, sqlite)
}

#[tokio::test]
async fn the_store_beside_another_log_and_inbox() {
    let memory = memory();
    plays(|pg| Parts { store: Parts::from(pg).store, ..memory.clone() }).await;
}

#[tokio::test]
async fn store_and_inbox_beside_another_log() {
    let memory = memory();
    plays(|pg| {
        let Parts { store, inbox, .. } = Parts::from(pg);
        Parts { store, inbox, ..memory.clone() }
    })
    .await;
}

#[tokio::test]
async fn the_inbox_beside_another_log_and_store() {
    let memory = memory();
    plays(|pg| Parts { inbox: Parts::from(pg).inbox, ..memory.clone() }).await;
}

#[tokio::test]
async fn the_store_beside_log_and_inbox_of_sqlite() {
    let (_folder, sqlite) = file().await;
    plays(|pg| Parts { store: Parts::from(pg).store, ..Parts::from(&sqlite) }).await;
}

#[tokio::test]
async fn store_and_inbox_beside_the_log_of_sqlite() {
    let (_folder, sqlite) = file().await;
    plays(|pg| Parts { log: Parts::from(&sqlite).log, ..Parts::from(pg) }).await;
}

#[tokio::test]
async fn log_and_inbox_beside_the_store_of_sqlite() {
    let (_folder, sqlite) = file().await;
    plays(|pg| Parts { store: Parts::from(&sqlite).store, ..Parts::from(pg) }).await;
}

#[tokio::test]
async fn an_engine_with_the_inbox_of_sqlite_beside_another_log_does_not_start() {
    let ((_folder, sqlite), schema) = (file().await, Schema::fresh());
    let pg = schema.open().await;
    let parts = Parts { inbox: Parts::from(&sqlite).inbox, ..Parts::from(&pg) };
    let refused = Engine::builder(parts).start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(
        refused.to_string().contains("the inbox on sqlite takes the records of its own log only"),
        "{refused}"
    );
    assert_eq!(pg.log().info().await.unwrap().epoch, None, "something was written");
}

/// Its entries name records by their places in the file's own log.
#[tokio::test]
async fn the_inbox_of_sqlite_refuses_records_of_another_log() {
    let ((_folder, sqlite), bed) = (file().await, Bed::open(|builder| builder).await);
    bed.append_one("m").await.unwrap();
    let read = bed.pg.log().read(bed.partition, Position::START, 1, Duration::ZERO).await.unwrap();
    let LogRead::Records(records) = read else { panic!("trimmed") };
    let delivery = Delivery {
        partition: Partition(0),
        inbox: sqlite.inbox().info().await.unwrap().incarnation,
        recipients: vec![Recipient { user: UserId::new("alice").unwrap(), records: [0].into() }],
        records,
        checkpoint: None,
    };
    let error = sqlite.inbox().deliver(&delivery).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Invalid, false), "{error}");
}
