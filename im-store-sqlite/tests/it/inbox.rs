//! The inbox on the file's own log: what the suite cannot ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::support::File;
use im_core::{
    Append, Checkpoint, ClientMsgId, ContentHash, ContentType, ConversationId, Cursor, Delivered, Delivery,
    Entry, Epoch, ErrorKind, Lineage, LogRead, LogRecord, MessageLog, Partition, Position, Pull, Recipient,
    RecordKind, SyncInbox, UserId,
};
use im_store_sqlite::Sqlite;
use im_testkit::Data;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

async fn file() -> (File, Sqlite) {
    let file = File::fresh().await.unwrap();
    let sqlite = file.open();
    let incarnation = sqlite.log().info().await.unwrap().incarnation;
    sqlite.log().open_epoch(Epoch(1), &incarnation).await.unwrap();
    (file, sqlite)
}

/// Appends messages and reads them back with their places.
async fn append(sqlite: &Sqlite, conversation: &str, count: usize) -> Vec<LogRecord> {
    let conversation = ConversationId::group(conversation).unwrap();
    let one = |_| Append {
        conversation: conversation.clone(),
        sender: user("carol"),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "hello".into(),
        hash: ContentHash::of(RecordKind::Message, ContentType::Text, "hello"),
        floor: None,
    };
    let log = sqlite.log();
    let epoch = log.info().await.unwrap().epoch.unwrap().0;
    let after = log.ends().await.unwrap()[0];
    let batch: Vec<_> = (0..count).map(one).collect();
    log.append(Partition(0), epoch, &batch).await.unwrap();
    match log.read(Partition(0), after, count, Duration::ZERO).await.unwrap() {
        LogRead::Records(records) => records,
        LogRead::Trimmed(_) => panic!("trimmed"),
    }
}

async fn delivery(sqlite: &Sqlite, records: &[LogRecord], users: &[UserId]) -> Delivery {
    let inbox = sqlite.inbox().info().await.unwrap().incarnation;
    let indices: Arc<[u32]> = (0..records.len() as u32).collect();
    let recipient = |user: &UserId| Recipient { user: user.clone(), records: indices.clone() };
    Delivery {
        partition: Partition(0),
        inbox,
        records: records.to_vec(),
        recipients: users.iter().map(recipient).collect(),
        checkpoint: None,
    }
}

async fn deliver(sqlite: &Sqlite, records: &[LogRecord], users: &[UserId]) -> Vec<Delivered> {
    let delivered = sqlite.inbox().deliver(&delivery(sqlite, records, users).await).await.unwrap();
    delivered.into_iter().map(Result::unwrap).collect()
}

async fn page(sqlite: &Sqlite, user: &UserId, after: &Cursor) -> Option<Vec<Entry>> {
    match sqlite.inbox().pull(user, after, 100).await.unwrap() {
        Pull::Page { entries, more: false } => Some(entries),
        Pull::Page { .. } => panic!("more than 100 entries"),
        Pull::Resync => None,
    }
}

#[tokio::test]
async fn a_cursor_is_shared_by_those_who_have_the_entry_and_refused_to_others() {
    let (_file, sqlite) = file().await;
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    let both = append(&sqlite, "g", 2).await;
    let shared = deliver(&sqlite, &both, &[alice.clone(), bob.clone()]).await;
    assert_eq!(shared[0].cursors, shared[1].cursors);
    let only_bob = append(&sqlite, "h", 1).await;
    let bobs = deliver(&sqlite, &only_bob, std::slice::from_ref(&bob)).await;
    assert_eq!(page(&sqlite, &alice, &shared[1].cursors[0]).await.unwrap().len(), 1);
    assert_eq!(page(&sqlite, &alice, &bobs[0].cursors[0]).await, None, "an entry that alice does not have");
    assert_eq!(page(&sqlite, &eve, &shared[0].cursors[0]).await, None, "an entry that eve does not have");
    let future = Cursor::new(format!("{}0", bobs[0].cursors[0].as_str()));
    assert_eq!(page(&sqlite, &bob, &future).await, None, "a cursor from the future");
}

#[tokio::test]
async fn a_page_takes_one_connection_at_a_time() {
    let (file, sqlite) = file().await;
    let alice = [user("alice")];
    let anchor = sqlite.inbox().anchor(&alice[0]).await.unwrap();
    deliver(&sqlite, &append(&sqlite, "g", 10).await, &alice).await;
    sqlite.close().await.unwrap();
    // Nothing is in memory any more: entries and records come from the file.
    let sqlite = Sqlite::builder(file.path("chat.db")).readers(1).open().await.unwrap();
    let pages = futures::future::join_all((0..8).map(|_| page(&sqlite, &alice[0], &anchor)));
    let pages = tokio::time::timeout(Duration::from_secs(10), pages).await.expect("they wait for each other");
    assert!(pages.into_iter().all(|page| page.unwrap().len() == 10));
}

#[tokio::test]
async fn the_place_before_is_known_also_after_a_restart() {
    let (file, sqlite) = file().await;
    let alice = [user("alice")];
    let anchor = sqlite.inbox().anchor(&alice[0]).await.unwrap();
    let first = deliver(&sqlite, &append(&sqlite, "g", 2).await, &alice).await;
    assert_eq!(first[0].previous, Some(anchor));
    file.reopen().await.unwrap();
    let sqlite = file.open();
    let records = append(&sqlite, "g", 1).await;
    let second = deliver(&sqlite, &records, &alice).await;
    assert_eq!(second[0].previous.as_ref(), first[0].cursors.last());
    let again = deliver(&sqlite, &records, &alice).await;
    assert_eq!(again[0].previous, None, "a repeat");
    assert_eq!(again[0].cursors, second[0].cursors);
}

#[tokio::test]
async fn an_idle_users_cursor_outlives_the_expiry_of_its_entry() {
    let (file, sqlite) = file().await;
    let alice = [user("alice")];
    let old = append(&sqlite, "g", 3).await;
    let first = deliver(&sqlite, &old, &alice).await;
    file.pass(Duration::from_secs(5400)).await;
    while sqlite.inbox().expire(1).await.unwrap() {}
    let cursors = &first[0].cursors;
    assert_eq!(page(&sqlite, &alice[0], &cursors[2]).await, Some(vec![]));
    assert_eq!(page(&sqlite, &alice[0], &cursors[1]).await, None, "an entry after it has expired");
    assert_eq!(sqlite.inbox().anchor(&alice[0]).await.unwrap(), cursors[2]);
    // A zombie that delivers them once more brings no gap.
    deliver(&sqlite, &old, &alice).await;
    assert_eq!(page(&sqlite, &alice[0], &cursors[0]).await, None, "an entry that came back");
    assert_eq!(page(&sqlite, &alice[0], &cursors[2]).await, Some(vec![]));
    let new = append(&sqlite, "g", 1).await;
    deliver(&sqlite, &new, &alice).await;
    let entries = page(&sqlite, &alice[0], &cursors[2]).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.record.clone()).collect::<Vec<_>>(), [new[0].record.clone()]);
}

#[tokio::test]
async fn nothing_younger_expires_and_a_walk_over_many_inboxes_ends() {
    let (file, sqlite) = file().await;
    let users: Vec<_> = (0..50).map(|n| user(&format!("u{n}"))).collect();
    let old = append(&sqlite, "g", 4).await;
    let first = deliver(&sqlite, &old, &users).await;
    file.pass(Duration::from_secs(1800)).await;
    let young = append(&sqlite, "g", 2).await;
    deliver(&sqlite, &young, &users[..25]).await;
    file.pass(Duration::from_secs(2000)).await;
    let mut calls = 0;
    while sqlite.inbox().expire(7).await.unwrap() {
        calls += 1;
        assert!(calls < 200, "the walk does not end");
    }
    assert!(calls >= 200 / 7, "{calls} calls for 200 entries, 7 at once");
    for (n, user) in users.iter().enumerate() {
        let entries = page(&sqlite, user, &first[n].cursors[3]).await.unwrap();
        assert_eq!(entries.len(), if n < 25 { 2 } else { 0 });
        assert_eq!(page(&sqlite, user, &first[n].cursors[2]).await, None);
    }
    assert!(!sqlite.inbox().expire(7).await.unwrap());
}

#[tokio::test]
async fn what_was_delivered_during_a_walk_is_not_taken_by_it() {
    let (file, sqlite) = file().await;
    let old = append(&sqlite, "g", 2).await;
    // The first part of a batch; then the process stands still for longer than the expiry.
    deliver(&sqlite, &old, &[user("a"), user("b")]).await;
    file.pass(Duration::from_secs(5400)).await;
    assert!(sqlite.inbox().expire(1).await.unwrap());
    let late = user("z");
    let anchor = sqlite.inbox().anchor(&late).await.unwrap();
    deliver(&sqlite, &old, std::slice::from_ref(&late)).await;
    while sqlite.inbox().expire(1).await.unwrap() {}
    assert_eq!(page(&sqlite, &late, &anchor).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_page_comes_from_memory_and_file_alike() {
    let (_file, sqlite) = file().await;
    let alice = [user("alice")];
    let anchor = sqlite.inbox().anchor(&alice[0]).await.unwrap();
    let mut all = Vec::new();
    for round in 0..3 {
        let records = append(&sqlite, "g", 40).await;
        deliver(&sqlite, &records, &alice).await;
        all.extend(records);
        if round == 1 {
            // Moves what is in memory into the file.
            sqlite.inbox().expire(1).await.unwrap();
        }
    }
    // Some of them once more: they are in the file, and now in memory too.
    deliver(&sqlite, &all[70..90], &alice).await;
    let (mut after, mut got) = (anchor, Vec::new());
    loop {
        let Pull::Page { entries, more } = sqlite.inbox().pull(&alice[0], &after, 7).await.unwrap() else {
            panic!("a cursor is not served");
        };
        assert!(entries.len() == 7 || !more);
        after = entries.last().unwrap().cursor.clone();
        got.extend(entries.into_iter().map(|entry| entry.record));
        if !more {
            break;
        }
    }
    assert_eq!(got, all.iter().map(|record| record.record.clone()).collect::<Vec<_>>());
}

/// All entries after a cursor, `max` at once.
async fn pages(sqlite: &Sqlite, user: &UserId, after: &Cursor, max: usize) -> Vec<u64> {
    let (mut after, mut got) = (after.clone(), Vec::new());
    loop {
        let Pull::Page { entries, more } = sqlite.inbox().pull(user, &after, max).await.unwrap() else {
            panic!("a cursor is not served");
        };
        got.extend(entries.iter().map(|entry| entry.record.seq.0));
        match entries.last() {
            Some(last) if more => after = last.cursor.clone(),
            _ => return got,
        }
    }
}

/// A row of the file holds many entries. Records come late, twice and in pieces; the file is written now and then.
#[tokio::test]
async fn entries_are_in_order_and_once_whatever_rows_they_go_to() {
    const RECORDS: usize = 400;
    let (file, sqlite) = file().await;
    let records = append(&sqlite, "g", RECORDS).await;
    let users = ["alice", "bob", "carol"].map(user);
    let anchor = sqlite.inbox().anchor(&users[0]).await.unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut got: BTreeMap<&UserId, BTreeSet<u64>> = BTreeMap::new();
    let mut cursors = BTreeMap::new();
    for round in 0..60 {
        let from = random.random_range(0..RECORDS);
        let to = random.random_range(from..RECORDS.min(from + 100)) + 1;
        let some: Vec<_> = records[from..to].iter().filter(|_| random.random_bool(0.7)).cloned().collect();
        let to_whom = &users[..random.random_range(1..=users.len())];
        if some.is_empty() {
            continue;
        }
        for (user, delivered) in to_whom.iter().zip(deliver(&sqlite, &some, to_whom).await) {
            let seqs = some.iter().map(|record| record.record.seq.0);
            cursors.extend(seqs.clone().zip(delivered.cursors.iter().cloned()));
            got.entry(user).or_default().extend(seqs);
        }
        if round % 3 == 0 {
            // Moves what is in memory into the file.
            sqlite.inbox().expire(1).await.unwrap();
        }
        let (user, max) = (&to_whom[0], random.random_range(1..150));
        let after = random.random_range(1..=RECORDS as u64);
        let expected = |after| got[user].iter().copied().filter(move |seq| *seq > after).collect::<Vec<_>>();
        assert_eq!(pages(&sqlite, user, &anchor, max).await, expected(0));
        match cursors.get(&after) {
            Some(cursor) if got[user].contains(&after) => {
                assert_eq!(pages(&sqlite, user, cursor, max).await, expected(after));
            }
            Some(cursor) => assert_eq!(sqlite.inbox().pull(user, cursor, max).await.unwrap(), Pull::Resync),
            None => {}
        }
    }
    sqlite.close().await.unwrap();
    let mut raw = SqliteConnectOptions::new().filename(file.path("chat.db")).connect().await.unwrap();
    for (user, got) in got {
        let sql = "SELECT m.sequence_id FROM inbox_entries e JOIN messages m ON m.id = e.message WHERE user_id = ? ORDER BY 1";
        let rows: Vec<i64> = sqlx::query_scalar(sql).bind(user.as_str()).fetch_all(&mut raw).await.unwrap();
        assert_eq!(rows, got.iter().map(|seq| *seq as i64).collect::<Vec<_>>());
        let overlaps: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM inbox a, inbox b WHERE a.user_id = b.user_id AND a.message < b.message \
             AND a.message >= coalesce(json_extract(b.earlier, '$[0]'), b.message)",
        )
        .fetch_one(&mut raw)
        .await
        .unwrap();
        assert_eq!(overlaps, 0);
    }
}

/// A file of the version before has an entry a row.
#[tokio::test]
async fn rows_of_one_entry_are_read_and_added_to() {
    let (file, sqlite) = file().await;
    let records = append(&sqlite, "g", 20).await;
    let alice = user("alice");
    let anchor = sqlite.inbox().anchor(&alice).await.unwrap();
    sqlite.close().await.unwrap();
    let mut raw = SqliteConnectOptions::new().filename(file.path("chat.db")).connect().await.unwrap();
    let insert = "INSERT INTO inbox (user_id, message) SELECT 'alice', id FROM messages WHERE id % 2 = 0";
    sqlx::query(insert).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    file.reopen().await.unwrap();
    let sqlite = file.open();
    assert_eq!(pages(&sqlite, &alice, &anchor, 3).await, (2..=20).step_by(2).collect::<Vec<_>>());
    deliver(&sqlite, &records, std::slice::from_ref(&alice)).await;
    sqlite.inbox().expire(1).await.unwrap();
    assert_eq!(pages(&sqlite, &alice, &anchor, 3).await, (1..=20).collect::<Vec<_>>());
}

/// Fresh entries of records that the log's newest part in memory does not have.
#[tokio::test]
async fn a_page_of_old_records_that_are_delivered_just_now_is_whole() {
    let (file, sqlite) = file().await;
    let old = append(&sqlite, "g", 300).await;
    file.reopen().await.unwrap();
    let sqlite = file.open();
    let alice = user("alice");
    let anchor = sqlite.inbox().anchor(&alice).await.unwrap();
    deliver(&sqlite, &old, std::slice::from_ref(&alice)).await;
    let Pull::Page { entries, more: false } = sqlite.inbox().pull(&alice, &anchor, 300).await.unwrap() else {
        panic!("not one page");
    };
    let records: Vec<_> = entries.into_iter().map(|entry| entry.record).collect();
    assert_eq!(records, old.iter().map(|record| record.record.clone()).collect::<Vec<_>>());
}

/// The process dies before its last deliveries are in the file: whoever has their cursors is served once they are delivered
/// again, and not sent to start afresh.
#[tokio::test]
async fn a_cursor_outlives_the_death_of_the_process_that_gave_it() {
    let (file, sqlite) = file().await;
    let (alice, bob) = ([user("alice")], user("bob"));
    let kept = append(&sqlite, "g", 2).await;
    let kept = with_checkpoint(delivery(&sqlite, &kept, &alice).await);
    sqlite.inbox().deliver(&kept).await.unwrap();
    sqlite.inbox().expire(1).await.unwrap();
    let lost = append(&sqlite, "g", 2).await;
    let lost = with_checkpoint(delivery(&sqlite, &lost, &alice).await);
    let given = sqlite.inbox().deliver(&lost).await.unwrap().remove(0).unwrap();
    let sqlite = file.killed().await;
    let inbox = sqlite.inbox();
    assert_eq!(inbox.checkpoint(Partition(0)).await.unwrap(), kept.checkpoint);
    let pulls = tokio::spawn({
        let (inbox, alice, cursor) = (inbox.clone(), alice[0].clone(), given.cursors[0].clone());
        async move { inbox.pull(&alice, &cursor, 10).await }
    });
    let again = inbox.deliver(&lost).await.unwrap().remove(0).unwrap();
    assert_eq!(again.cursors, given.cursors);
    let Pull::Page { entries, .. } = pulls.await.unwrap().unwrap() else { panic!("sent to start afresh") };
    assert_eq!(entries.iter().map(|entry| &entry.cursor).collect::<Vec<_>>(), [&given.cursors[1]]);
    assert_eq!(page(&sqlite, &bob, &given.cursors[0]).await, None, "still only who has the entry");
}

fn with_checkpoint(delivery: Delivery) -> Delivery {
    let own = delivery.inbox.clone();
    let position = delivery.records.last().unwrap().position;
    let lineage = Lineage { log: own.clone(), store: own.clone(), inbox: own };
    Delivery { checkpoint: Some(Checkpoint { position, rewind: Position::START, lineage }), ..delivery }
}

#[tokio::test]
async fn records_of_another_log_are_refused() {
    let (_file, sqlite) = file().await;
    let (other_file, other) = file().await;
    let records = append(&sqlite, "g", 3).await;
    let strange = append(&other, "h", 3).await;
    let given = delivery(&sqlite, &strange, &[user("alice")]).await;
    let refused = sqlite.inbox().deliver(&given).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!refused.is_transient());
    let ahead = append(&other, "h", 3).await;
    let given = delivery(&sqlite, &ahead, &[user("alice")]).await;
    assert_eq!(sqlite.inbox().deliver(&given).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(sqlite.inbox().ends(&[user("alice")]).await.unwrap(), [None]);
    deliver(&sqlite, &records, &[user("alice")]).await;
    drop(other_file);
}

#[tokio::test]
async fn a_restored_file_serves_no_cursor_of_before() {
    let (file, sqlite) = file().await;
    let alice = [user("alice")];
    file.save().await.unwrap();
    let records = append(&sqlite, "g", 1).await;
    let cursor = deliver(&sqlite, &records, &alice).await.remove(0).cursors[0].clone();
    file.lose_tail(im_testkit::Part::Inbox, 1).await.unwrap();
    let sqlite = file.open();
    let incarnation = sqlite.log().info().await.unwrap().incarnation;
    sqlite.log().open_epoch(Epoch(2), &incarnation).await.unwrap();
    // Another record takes the place of the lost one.
    let seeded = append_with_floor(&sqlite).await;
    assert_eq!(seeded[0].position.offset, records[0].position.offset);
    deliver(&sqlite, &seeded, &alice).await;
    assert_eq!(page(&sqlite, &alice[0], &cursor).await, None);
}

/// Clients of the first restore have seen what the second one gives away.
#[tokio::test]
async fn two_restores_from_one_copy_give_no_sequence_id_twice() {
    let (file, sqlite) = file().await;
    append(&sqlite, "other", 3).await;
    file.save().await.unwrap();
    let mut given = Vec::new();
    for epoch in [473_000, 473_001] {
        file.lose_tail(im_testkit::Part::Log, 0).await.unwrap();
        let sqlite = file.open();
        let incarnation = sqlite.log().info().await.unwrap().incarnation;
        sqlite.log().open_epoch(Epoch(epoch), &incarnation).await.unwrap();
        let record = append_in(&sqlite, Epoch(epoch)).await.remove(0).record;
        assert_eq!(record.hole_after.map(|seq| seq.0), Some(3));
        given.push(record.seq);
    }
    assert_ne!(given[0], given[1]);
}

async fn append_with_floor(sqlite: &Sqlite) -> Vec<LogRecord> {
    append_in(sqlite, Epoch(2)).await
}

/// Appends a record to a later epoch.
async fn append_in(sqlite: &Sqlite, epoch: Epoch) -> Vec<LogRecord> {
    let log = sqlite.log();
    let after = log.ends().await.unwrap()[0];
    let append = Append {
        conversation: ConversationId::group("other").unwrap(),
        sender: user("carol"),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "x".into(),
        hash: ContentHash(1),
        floor: Some(im_core::Floor::default()),
    };
    log.append(Partition(0), epoch, &[append]).await.unwrap();
    match log.read(Partition(0), after, 10, Duration::ZERO).await.unwrap() {
        LogRead::Records(records) => records,
        LogRead::Trimmed(_) => panic!("trimmed"),
    }
}

#[tokio::test]
async fn the_checkpoint_comes_with_the_entries() {
    let (file, sqlite) = file().await;
    let records = append(&sqlite, "g", 2).await;
    let with = with_checkpoint(delivery(&sqlite, &records, &[user("a")]).await);
    sqlite.inbox().deliver(&with).await.unwrap();
    file.reopen().await.unwrap();
    assert_eq!(file.open().inbox().checkpoint(Partition(0)).await.unwrap(), with.checkpoint);
}
