//! Inboxes that are written to by one script.

use std::sync::Arc;

use im_core::{
    ContentHash, ContentType, Delivery, Epoch, ErrorKind, LogRecord, Ordinal, Partition, Position, Pull,
    Recipient, Record, RecordKind, Seq, SyncInbox, Timestamp, UserId,
};

use crate::support::{Prefix, server::Server};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn record(offset: u64) -> LogRecord {
    let record = Record {
        conversation: im_core::ConversationId::group("g").unwrap(),
        seq: Seq(offset),
        ordinal: Ordinal(offset),
        created_at: Timestamp(1_700_000_000_000),
        sender: user("alice"),
        device: None,
        send_to: None,
        client_msg_id: im_core::ClientMsgId::fresh(),
        hole_after: None,
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "hello".into(),
        hash: ContentHash(1),
    };
    LogRecord { position: Position { epoch: Epoch(1), offset }, record: Arc::new(record) }
}

#[tokio::test]
async fn where_one_key_is_no_inbox_the_others_get_theirs() {
    let server = Server::start("--appendonly no");
    let redis = Prefix::at(server.url()).open().await;
    let inbox = redis.inbox();
    let users = ["anna", "bob", "carol"].map(user);
    let mut starts = Vec::new();
    for user in &users {
        starts.push(inbox.anchor(user).await.unwrap());
    }
    let keys = server.ask(&["keys", "*inbox*bob*"]);
    server.ask(&["set", &keys, "not a list"]);
    let recipients = users.iter().map(|user| Recipient { user: user.clone(), records: [0].into() }).collect();
    let delivery = Delivery {
        partition: Partition(0),
        inbox: inbox.info().await.unwrap().incarnation,
        records: vec![record(1)],
        recipients,
        checkpoint: None,
    };
    let delivered = inbox.deliver(&delivery).await.unwrap();
    let kinds: Vec<_> = delivered.iter().map(|one| one.as_ref().err().map(im_core::Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Corrupt), None]);
    for at in [0, 2] {
        let Pull::Page { entries, more } = inbox.pull(&users[at], &starts[at], 10).await.unwrap() else {
            panic!("a resync");
        };
        assert!(!more && entries.iter().all(|entry| entry.record == delivery.records[0].record));
        assert_eq!(entries.last().map(|entry| &entry.cursor), delivered[at].as_ref().unwrap().cursors.last());
    }
}
