//! Work on the same users and conversations at once: nobody waits for another in a circle, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::sync::Arc;

use im_core::{
    Append, ClientMsgId, ContentHash, ContentType, ConversationChange, ConversationId, ConversationStore,
    Effect, Epoch, GroupInfo, Incarnation, Mark, MembersChange, MessageLog, MessageStore, Ordinal, Partition,
    ReadMark, RecordKind, Role, Seq, SettingsChange, Timestamp, UserId, UserState,
};
use im_store_pg::{PgBackend, PgStore};
use support::Schema;

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
    let append = |n: u64| Append {
        conversation: id.clone(),
        sender: alice.clone(),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: n.to_string().into(),
        hash: ContentHash(n),
        floor: Some(im_core::Floor { mark: Mark::default(), created_at: Timestamp(0), direct: true }),
    };
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
            let device = Some(im_core::DeviceId::new("d").unwrap());
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
