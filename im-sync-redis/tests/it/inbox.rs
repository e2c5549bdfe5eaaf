//! Inboxes that are written to by one script, and servers without memory.

use std::{sync::Arc, time::Duration};

use im_core::{
    Checkpoint, ContentHash, ContentType, Delivery, Epoch, ErrorKind, Incarnation, Leases, Lineage,
    LogRecord, MessageLog, NodeId, Ordinal, Partition, Position, Presence, Pull, Recipient, Record,
    RecordKind, Seq, SyncInbox, Timestamp, UserId,
};

use crate::support::{
    Prefix,
    server::{Program, Server},
};

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

/// Else the log would never be delivered and trimmed, and all sessions would be forgotten.
async fn what_frees_memory_needs_none(program: Program) {
    let server = Server::start_as(program, "--appendonly no");
    let redis = Prefix::at(server.url()).open().await;
    let (log, inbox, presence) = (redis.log(), redis.inbox(), redis.presence());
    let (node, anna) = (NodeId::new("node").unwrap(), user("anna"));
    let start = inbox.anchor(&anna).await.unwrap();
    let incarnation = log.info().await.unwrap().incarnation;
    log.open_epoch(Epoch(1), &incarnation).await.unwrap();
    server.ask(&["config", "set", "maxmemory", "100kb"]);
    assert!(log.claim("lease", &node, Duration::from_secs(3)).await.unwrap());
    assert_eq!(presence.beat(&node, &[]).await.unwrap(), []);
    let position = Position { epoch: Epoch(1), offset: 1 };
    let present = inbox.info().await.unwrap().incarnation;
    let lineage = Lineage { log: incarnation, store: Incarnation::new("store"), inbox: present.clone() };
    let checkpoint = Checkpoint { position, rewind: position, lineage };
    let delivery = Delivery {
        partition: Partition(0),
        inbox: present,
        records: vec![record(1)],
        recipients: vec![Recipient { user: anna.clone(), records: [0].into() }],
        checkpoint: Some(checkpoint),
    };
    for delivered in inbox.deliver(&delivery).await.unwrap() {
        delivered.unwrap();
    }
    assert_eq!(inbox.checkpoint(Partition(0)).await.unwrap(), delivery.checkpoint);
    log.hold("inbox", &[(Partition(0), position)]).await.unwrap();
    log.trim().await.unwrap();
    assert!(
        matches!(inbox.pull(&anna, &start, 10).await.unwrap(), Pull::Page { entries, .. } if entries.len() == 1)
    );
    let full = server.cli(&["set", "a", "b"]);
    assert!(String::from_utf8_lossy(&full.stdout).starts_with("OOM"), "{full:?}");
}

#[tokio::test]
async fn what_frees_memory_needs_none_on_the_installed_server() {
    what_frees_memory_needs_none(Program::Installed).await;
}

#[tokio::test]
async fn what_frees_memory_needs_none_on_the_oldest_server() {
    what_frees_memory_needs_none(Program::Oldest).await;
}

#[tokio::test]
async fn what_frees_memory_needs_none_on_valkey() {
    what_frees_memory_needs_none(Program::Valkey).await;
}
