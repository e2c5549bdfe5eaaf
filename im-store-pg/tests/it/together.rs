//! Work on the same users and conversations at once: nobody waits for another in a circle, and nothing is lost.

use std::{sync::Arc, time::Duration};

use crate::support::{Schema, server};
use im_core::{
    Append, AppendOutcome, Batch, Checkpoint, ClientMsgId, ContentHash, ContentType, ConversationChange,
    ConversationId, ConversationStore, DeviceId, Effect, Epoch, Floor, GroupInfo, Incarnation, Lineage,
    LogRead, LogRecord, Mark, Marked, MembersChange, MessageLog, MessageStore, Ordinal, Partition, Position,
    ReadMark, RecordKind, Role, Seq, SettingsChange, StateChanges, Timestamp, UserId, UserState,
};
use im_store_pg::{PgBackend, PgLog, PgStore};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn group(name: &str) -> ConversationId {
    ConversationId::group(name).unwrap()
}

/// The change that the `at`th record of a conversation is.
fn change(conversation: &ConversationId, at: u64, effect: MembersChange) -> ConversationChange {
    ConversationChange {
        conversation: conversation.clone(),
        at: Mark { seq: Seq(at), ordinal: Ordinal(0) },
        ordinal_before: Ordinal(0),
        created_at: Timestamp(1),
        effect: Effect::Members(effect),
    }
}

fn creation(users: &[&UserId]) -> MembersChange {
    let join = users.iter().map(|user| (UserId::clone(user), Role::Member)).collect();
    MembersChange { create: Some(GroupInfo::default()), join, ..MembersChange::default() }
}

fn leave(user: &UserId) -> MembersChange {
    MembersChange { leave: vec![user.clone()], ..MembersChange::default() }
}

fn join(user: &UserId) -> MembersChange {
    MembersChange { join: vec![(user.clone(), Role::Member)], ..MembersChange::default() }
}

fn role(user: &UserId, role: Role) -> MembersChange {
    MembersChange { role: vec![(user.clone(), role)], ..MembersChange::default() }
}

async fn store(schema: &Schema) -> (PgStore, Incarnation) {
    let store = schema.open().await.store();
    let incarnation = store.info().await.unwrap().incarnation;
    (store, incarnation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_whose_batches_name_users_in_other_orders() {
    let schema = Schema::fresh();
    let users = [user("a"), user("b"), user("c")];
    let mut workers = Vec::new();
    for worker in 0..3_usize {
        let (store, incarnation) = store(&schema).await;
        let users = users.clone();
        workers.push(tokio::spawn(async move {
            for round in 0..60 {
                let one = |n: usize| {
                    change(&group(&format!("{round} {worker} {n}")), 1, creation(&[&users[(worker + n) % 3]]))
                };
                store.apply_members(&incarnation, &[one(0), one(1), one(2)]).await.unwrap();
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_who_leaves_and_joins_keeps_settings_that_change_meanwhile() {
    let schema = Schema::fresh();
    let (store, incarnation) = store(&schema).await;
    let (alice, id) = (user("alice"), group("g"));
    store.apply_members(&incarnation, &[change(&id, 1, creation(&[&alice]))]).await.unwrap();
    let (other, alice_too, id_too) = (schema.open().await.store(), alice.clone(), id.clone());
    let worker = tokio::spawn(async move {
        for round in 1..100 {
            for (at, effect) in [(2 * round, leave(&alice_too)), (2 * round + 1, join(&alice_too))] {
                other.apply_members(&incarnation, &[change(&id_too, at, effect)]).await.unwrap();
            }
        }
    });
    let mut n = 0;
    while !worker.is_finished() {
        n += 1;
        let nickname: Arc<str> = format!("alice {n}").into();
        let wanted = SettingsChange { nickname: Some(nickname), ..SettingsChange::default() };
        store.set(&alice, &id, &wanted).await.unwrap();
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    worker.await.unwrap();
    let seen = store.members(&id, Seq(1000), &None, 10).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].nickname.as_deref(), Some(format!("alice {n}").as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settings_that_change_while_a_member_joins_are_in_the_new_row() {
    let schema = Schema::fresh();
    let (store, incarnation) = store(&schema).await;
    let (alice, other) = (user("alice"), schema.open().await.store());
    for round in 0..150 {
        let id = group(&format!("g{round}"));
        let before = [change(&id, 1, creation(&[&alice])), change(&id, 2, leave(&alice))];
        store.apply_members(&incarnation, &before).await.unwrap();
        let (joining, wanted) = (
            [change(&id, 3, join(&alice))],
            SettingsChange { nickname: Some("al".into()), ..SettingsChange::default() },
        );
        let (joined, set) = tokio::join!(
            store.apply_members(&incarnation, &joining),
            UserState::set(&other, &alice, &id, &wanted)
        );
        joined.unwrap();
        set.unwrap();
        let seen = store.members(&id, Seq(1000), &None, 10).await.unwrap();
        assert_eq!(seen[0].nickname.as_deref(), Some("al"), "in round {round}");
    }
}

fn message(conversation: &ConversationId, sender: &UserId, n: u64) -> Append {
    Append {
        conversation: conversation.clone(),
        sender: sender.clone(),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: n.to_string().into(),
        hash: ContentHash(n),
        floor: Some(Floor { mark: Mark::default(), created_at: Timestamp(0), direct: true }),
    }
}

async fn opened(schema: &Schema) -> (PgBackend, Epoch, Incarnation) {
    let pg = schema.open().await;
    let incarnation = pg.log().info().await.unwrap().incarnation;
    let epoch = pg.store().open_epoch(&incarnation).await.unwrap();
    pg.log().open_epoch(epoch, &incarnation).await.unwrap();
    (pg, epoch, incarnation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_sends_reads_and_gets_another_role() {
    let schema = Schema::fresh();
    let (pg, epoch, incarnation) = opened(&schema).await;
    let (alice, id) = (user("alice"), group("g"));
    let partition = Partition::of(&id, pg.log().info().await.unwrap().partitions);
    let append = |n: u64| message(&id, &alice, n);
    pg.store().apply_members(&incarnation, &[change(&id, 1, creation(&[&alice]))]).await.unwrap();
    let log = pg.log();
    log.append(partition, epoch, &[append(0)]).await.unwrap();
    let (other, alice_too, id_too) = (schema.open().await.store(), alice.clone(), id.clone());
    let roles = tokio::spawn(async move {
        for at in 2..400 {
            let role = if at % 2 == 0 { Role::Admin } else { Role::Member };
            let change = change(&id_too, at, self::role(&alice_too, role));
            other.apply_members(&incarnation, &[change]).await.unwrap();
        }
    });
    let (reader, alice_too, id_too) = (schema.open().await.store(), alice.clone(), id.clone());
    let reads = tokio::spawn(async move {
        for seq in 1.. {
            let mark = ReadMark {
                user: alice_too.clone(),
                device: None,
                conversation: id_too.clone(),
                seq: Seq(seq),
            };
            reader.mark_read(&[mark]).await.unwrap();
            // Another device's mark is never that of a sender: it moves each time.
            let device = Some(DeviceId::new("d").unwrap());
            let mark =
                ReadMark { user: alice_too.clone(), device, conversation: id_too.clone(), seq: Seq(seq) };
            reader.mark_read(&[mark]).await.unwrap();
        }
    });
    let mut n = 0;
    while !roles.is_finished() {
        n += 1;
        log.append(partition, epoch, &[append(n)]).await.unwrap();
    }
    assert!(!reads.is_finished(), "{:?}", reads.await);
    roles.await.unwrap();
    reads.abort();
}

/// A record comes in between the two looks of `mark_read`: the mark of a user who had none to move before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mark_that_can_move_at_the_second_look_raises_the_version_or_stays_behind() {
    let schema = Schema::fresh();
    let (pg, epoch, incarnation) = opened(&schema).await;
    let (store, log) = (pg.store(), pg.log());
    let (alice, bob, carol, id) = (user("alice"), user("bob"), user("carol"), group("g"));
    let partition = Partition::of(&id, log.info().await.unwrap().partitions);
    store.apply_members(&incarnation, &[change(&id, 1, creation(&[&alice, &bob]))]).await.unwrap();
    log.append(partition, epoch, &[message(&id, &carol, 1)]).await.unwrap();
    for nickname in ["b", "bo", "bob"] {
        let wanted = SettingsChange { nickname: Some(nickname.into()), ..SettingsChange::default() };
        store.set(&bob, &id, &wanted).await.unwrap();
    }
    let before = store.versions(std::slice::from_ref(&bob)).await.unwrap().remove(0);
    let mut other = PgConnection::connect(&server()).await.unwrap();
    let mut transaction = other.begin().await.unwrap();
    let sql = format!("SELECT 1 FROM {}.user_states WHERE main_user = 'alice' FOR UPDATE", schema.quoted());
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
    let mark = |user: &UserId, seq| ReadMark {
        user: user.clone(),
        device: None,
        conversation: id.clone(),
        seq: Seq(seq),
    };
    let (marks, reader) = ([mark(&alice, 1), mark(&bob, 2)], store.clone());
    let marked = tokio::spawn(async move { reader.mark_read(&marks).await.unwrap() });
    tokio::time::timeout(Duration::from_secs(4), waits(&schema, "user_states")).await.unwrap();
    log.append(partition, epoch, &[message(&id, &carol, 2)]).await.unwrap();
    transaction.rollback().await.unwrap();
    let marked = marked.await.unwrap();
    assert!(matches!(marked[0], Marked::Moved(..)), "{marked:?}");
    match &marked[1] {
        Marked::Behind(_) => {}
        Marked::Moved(_, version) => {
            let state = store.state(&bob, &None, &Some(before.clone()), 10).await.unwrap();
            assert_ne!(state.version, before);
            assert_eq!(&state.version, version);
            assert!(matches!(state.changes, StateChanges::Since(changed) if changed.len() == 1));
        }
        other => panic!("{other:?}"),
    }
}

/// The new device sends while it looks in for the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_mark_of_a_new_device_does_not_fall_behind_what_it_sends() {
    let schema = Schema::fresh();
    let (pg, epoch, incarnation) = opened(&schema).await;
    let (store, log) = (pg.store(), pg.log());
    let (alice, id, device) = (user("alice"), group("g"), Some(DeviceId::new("phone").unwrap()));
    let partition = Partition::of(&id, log.info().await.unwrap().partitions);
    store.apply_members(&incarnation, &[change(&id, 1, creation(&[&alice]))]).await.unwrap();
    log.append(partition, epoch, &[message(&id, &alice, 1)]).await.unwrap();
    let mut other = PgConnection::connect(&server()).await.unwrap();
    let mut transaction = other.begin().await.unwrap();
    let sql = format!("INSERT INTO {}.read_marks VALUES ('g', 'alice', 'phone', 2, 2)", schema.quoted());
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
    let (looking, alice_too, device_too) = (store.clone(), alice.clone(), device.clone());
    let seen = tokio::spawn(async move { looking.state(&alice_too, &device_too, &None, 10).await.map(drop) });
    tokio::time::timeout(Duration::from_secs(4), waits(&schema, "read_marks")).await.unwrap();
    transaction.commit().await.unwrap();
    seen.await.unwrap().unwrap();
    let there = store.memberships(&[(id, alice)], &device).await.unwrap().remove(0).unwrap();
    assert_eq!(there.read, Mark { seq: Seq(2), ordinal: Ordinal(2) });
}

/// As when the log has got another number of partitions, and a worker of before is still at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_record_that_comes_from_another_partition_meanwhile_is_passed_over() {
    let schema = Schema::fresh();
    let pg = schema.open().await;
    let (store, log, id) = (pg.store(), Incarnation::new("another log"), group("g"));
    let epoch = store.open_epoch(&log).await.unwrap();
    let lineage =
        Lineage { log, store: store.info().await.unwrap().incarnation, inbox: Incarnation::new("an inbox") };
    let append = message(&id, &user("alice"), 7);
    let record = Arc::new(append.at(Mark { seq: Seq(1), ordinal: Ordinal(1) }, Timestamp(1), None));
    let position = Position { epoch, offset: 1 };
    let batch = Batch {
        partition: Partition(0),
        records: vec![LogRecord { position, record: record.clone() }],
        checkpoint: Checkpoint { position, rewind: position, lineage },
    };
    let mut other = PgConnection::connect(&server()).await.unwrap();
    let mut transaction = other.begin().await.unwrap();
    let sql = format!(
        "INSERT INTO {}.messages VALUES ({}, 'g', 1, 1, 1, 'alice', NULL, NULL, '{}', NULL, 1, 'text', '7', 7, false, 1, {}, 1)",
        schema.quoted(),
        Partition::of(&id, pg.log().info().await.unwrap().partitions).0,
        append.client_msg_id,
        epoch.0,
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
    let applying = store.clone();
    let applied = tokio::spawn(async move { applying.apply(&batch).await });
    tokio::time::timeout(Duration::from_secs(4), waits(&schema, "messages")).await.unwrap();
    transaction.commit().await.unwrap();
    applied.await.unwrap().unwrap();
    assert_eq!(MessageStore::get(&store, &[(id, Seq(1))]).await.unwrap(), [Some(record)]);
    assert_eq!(store.checkpoint(Partition(0)).await.unwrap().map(|there| there.position), Some(position));
}

/// Another node's append gets the lock between this one's look at where it stood and its own turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_append_that_another_nodes_came_before_goes_on_behind_it() {
    let schema = Schema::fresh();
    let (pg, epoch, _) = opened(&schema).await;
    let (log, other, alice) = (pg.log(), schema.open().await.log(), user("alice"));
    let partitions = log.info().await.unwrap().partitions;
    let groups: Vec<_> = (0..100).map(|n| group(&format!("g{n}"))).collect();
    let partition = Partition::of(&groups[0], partitions);
    let mut groups = groups.into_iter().filter(|group| Partition::of(group, partitions) == partition);
    let (id, beside) = (groups.next().unwrap(), groups.next().unwrap());
    // Where the node stands it knows from what it appended before. The same conversation, and another one.
    for (round, others) in [&id, &beside, &id].into_iter().enumerate() {
        for n in 0..2 {
            log.append(partition, epoch, &[message(&id, &alice, n)]).await.unwrap();
        }
        let mut beside = PgConnection::connect(&server()).await.unwrap();
        let mut transaction = beside.begin().await.unwrap();
        let sql = format!("SELECT 1 FROM {}.log_partitions FOR UPDATE", schema.quoted());
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
        let (others, own) = (message(others, &alice, 7), message(&id, &alice, 8));
        let append =
            |log: PgLog, append| tokio::spawn(async move { log.append(partition, epoch, &[append]).await });
        let first = append(other.clone(), others);
        tokio::time::timeout(Duration::from_secs(4), wait(&schema, "log_partitions", 1)).await.unwrap();
        let second = append(log.clone(), own);
        tokio::time::timeout(Duration::from_secs(4), wait(&schema, "log_partitions", 2)).await.unwrap();
        transaction.rollback().await.unwrap();
        let mut places = Vec::new();
        for append in [first, second] {
            let outcomes = append.await.unwrap().unwrap();
            let [AppendOutcome::Appended(receipt)] = outcomes[..] else { panic!("{outcomes:?}") };
            places.push(receipt.position);
        }
        assert!(places[0] < places[1], "the other node came first in round {round}: {places:?}");
    }
    let LogRead::Records(records) = log.read(partition, Position::START, 100, Duration::ZERO).await.unwrap()
    else {
        panic!("trimmed")
    };
    let offsets: Vec<_> = records.iter().map(|record| record.position.offset).collect();
    assert_eq!(offsets, (1..=12).collect::<Vec<_>>());
    for (id, count) in [(&id, 11), (&beside, 1)] {
        let of_it = records.iter().filter(|record| record.record.conversation == *id);
        let seqs: Vec<_> = of_it.map(|record| record.record.seq.0).collect();
        assert_eq!(seqs, (1..=count).collect::<Vec<_>>(), "{id}");
    }
}

/// Until a statement on a table of the schema waits for a lock.
async fn waits(schema: &Schema, table: &str) {
    wait(schema, table, 1).await;
}

/// Until so many do.
async fn wait(schema: &Schema, table: &str, statements: i64) {
    let mut conn = PgConnection::connect(&server()).await.unwrap();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0",
        )
        .bind(format!("{}.{table}", schema.quoted()))
        .fetch_one(&mut conn)
        .await
        .unwrap();
        if waiting >= statements {
            return;
        }
        tokio::task::yield_now().await;
    }
}
