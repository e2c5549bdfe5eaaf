//! What happens between two calls of the engine to its backends, and what strangers try.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use im_core::{
    Clock, ErrorKind, Leases, LogRead, MessageLog, MessageStore, NodeId, Partition, Parts, Position, Pull,
    Seq, SettingsChange, Timestamp, TokioClock, memory::Memory,
};
use im_engine::{ChatError, CloseReason, Config, Engine, Event, Hello, MemberChange, Refusal, Session};
use support::{
    LateHeads, LatePresence, all, connect, contents, engine, engine_on, group, group_id, id, identity,
    stored, text, user, watched,
};

fn one_partition() -> Memory {
    Memory::builder().partitions(1).build()
}

fn leave(name: &str) -> MemberChange {
    MemberChange::Leave(vec![user(name)])
}

#[tokio::test]
async fn a_taken_group_id_is_a_conflict_for_members_and_strangers_and_writes_nothing() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let eve = connect(&chat, "eve", "e").await;
    let first = alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
    for session in [&bob, &eve] {
        let taken = session.create_group(group("g", &["dave"], "c2")).await;
        assert!(matches!(taken, Err(ChatError::Refused(Refusal::Conflict))), "{taken:?}");
        for nobody in [MemberChange::Join(vec![]), MemberChange::Leave(vec![])] {
            let refused = session.change_members(&group_id("g"), id("c3"), nobody).await.unwrap_err();
            assert!(matches!(refused, ChatError::Refused(_)), "{refused:?}");
        }
    }
    assert_eq!(alice.history(&group_id("g"), all()).await.unwrap().records.len(), 1);
    let again = alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
}

/// Removes bob from g and sends something that he must not see.
async fn remove_bob_and_send(alice: Arc<Session>) {
    alice.change_members(&group_id("g"), id("rm"), leave("bob")).await.unwrap();
    alice.send(stored(&group_id("g"), "s", "the secret")).await.unwrap();
}

#[tokio::test]
async fn who_is_removed_while_reading_sees_nothing_that_came_after() {
    for call in ["last", "history"] {
        let (parts, between) = watched(&one_partition());
        let chat = engine_on(parts, |_| {}).await;
        let alice = Arc::new(connect(&chat, "alice", "a").await);
        let bob = connect(&chat, "bob", "b").await;
        alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
        between.before(call, remove_bob_and_send(alice.clone()));
        let page = bob.history(&group_id("g"), all()).await.unwrap();
        assert!(!contents(&page).contains(&"the secret".to_owned()), "before {call}");
        assert!(alice.history(&group_id("g"), all()).await.unwrap().records.len() > 2, "nothing was sent");
    }
}

#[tokio::test]
async fn a_view_of_who_is_removed_meanwhile_shows_nothing_that_came_after() {
    let (parts, between) = watched(&one_partition());
    let chat = engine_on(parts, |_| {}).await;
    let alice = Arc::new(connect(&chat, "alice", "a").await);
    let bob = connect(&chat, "bob", "b").await;
    alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
    between.before("last", remove_bob_and_send(alice));
    let view = bob.conversation(&group_id("g")).await.unwrap();
    assert_ne!(&*view.last.unwrap().content, "the secret");
}

/// The client's unread count: the bootstrap's, moved on by the entries after the bootstrap's head.
async fn unread_at_client(
    session: &Session,
    send: impl Future<Output = ()> + Send + 'static,
    between: &support::Between,
) -> u64 {
    let fresh = session.fresh().await.unwrap();
    between.before("last", send);
    let page = session.bootstrap(&fresh, None, 10).await.unwrap();
    let view = &page.conversations[0];
    let (mut read, mut head) = (view.membership.read, view.head);
    let Pull::Page { entries, .. } = session.pull(&fresh.cursor, 10).await.unwrap() else { panic!("resync") };
    for entry in entries.iter().filter(|entry| entry.record.seq > view.head.seq) {
        head = entry.record.mark();
        if entry.record.sender == *session.user() {
            read = entry.record.mark();
        }
    }
    head.ordinal.0.saturating_sub(read.ordinal.0)
}

#[tokio::test(start_paused = true)]
async fn unread_agrees_when_another_device_sends_during_a_bootstrap() {
    let (parts, between) = watched(&one_partition());
    let chat = engine_on(parts, |_| {}).await;
    let phone = Arc::new(connect(&chat, "alice", "phone").await);
    let laptop = connect(&chat, "alice", "laptop").await;
    let single = phone.open_single(&user("bob")).await.unwrap().id;
    let (sender, to) = (phone.clone(), single.clone());
    let send = async move { drop(sender.send(stored(&to, "own", "hi")).await.unwrap()) };
    let at_client = unread_at_client(&laptop, send, &between).await;
    assert_eq!(at_client, laptop.conversation(&single).await.unwrap().unread);
}

#[tokio::test(start_paused = true)]
async fn no_head_is_told_above_a_leaving_that_is_not_applied() {
    let memory = one_partition();
    let chat = engine_on(&memory, |config| {
        config.read_diffusion_threshold = 3;
        config.patience = Duration::from_secs(1);
    })
    .await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    alice.create_group(group("g", &["bob", "carol"], "c")).await.unwrap();
    while bob.heartbeat().await.unwrap().heads.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Fan-out stands still: another node has its lease, and does nothing.
    let (log, other) = (memory.log(), NodeId::new("other").unwrap());
    log.release("fanout/0", chat.node()).await.unwrap();
    assert!(log.claim("fanout/0", &other, Duration::from_secs(600)).await.unwrap());
    tokio::time::sleep(Duration::from_secs(10)).await;
    alice.change_members(&group_id("g"), id("rm"), leave("bob")).await.unwrap_err();
    let secret = alice.send(stored(&group_id("g"), "s", "secret")).await.unwrap();
    let page = bob.history(&group_id("g"), all()).await.unwrap();
    assert!(page.records.iter().all(|record| record.seq < secret.seq));
    let heads = bob.heartbeat().await.unwrap().heads;
    assert!(heads.iter().all(|(_, head)| head.seq < secret.seq), "{heads:?}");
}

#[tokio::test]
async fn who_left_does_not_learn_how_the_conversation_goes_on() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let g = group_id("g");
    alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
    let left = bob.change_members(&g, id("l"), leave("bob")).await.unwrap().seq;
    for n in 0..5 {
        alice.send(stored(&g, &format!("m{n}"), "x")).await.unwrap();
    }
    // One place that is there and one that is not: the same answer.
    for seq in [Seq(left.0 + 3), Seq(1 << 40)] {
        assert_eq!(bob.mark_read(&g, seq).await.unwrap().seq, left, "asked for {seq:?}");
        let clear = SettingsChange { cleared: Some(seq), ..SettingsChange::default() };
        bob.set(&g, &clear).await.unwrap();
        assert_eq!(bob.conversation(&g).await.unwrap().membership.settings.cleared.seq, left);
    }
}

/// Waits until a session is told of a head of a large group from a place on.
async fn told_of(session: &Session, seq: Seq) {
    loop {
        if let Event::Heads(heads) = session.event().await
            && heads.iter().any(|(_, head)| head.seq >= seq)
        {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_reader_of_a_large_group_hears_of_a_new_head() {
    for one_asks_before in [false, true] {
        let mut parts = Parts::from(&one_partition());
        parts.notifier = parts.notifier.map(|notifier| Arc::new(LateHeads(notifier)) as _);
        let chat = engine_on(parts, |config| config.read_diffusion_threshold = 3).await;
        let alice = connect(&chat, "alice", "a").await;
        let (bob, carol) = (connect(&chat, "bob", "b").await, connect(&chat, "carol", "c").await);
        alice.create_group(group("g", &["bob", "carol"], "c")).await.unwrap();
        for session in [&bob, &carol] {
            told_of(session, Seq(1)).await;
        }
        let sent = alice.send(stored(&group_id("g"), "s", "hello")).await.unwrap().seq;
        if one_asks_before {
            assert_eq!(bob.heartbeat().await.unwrap().heads[0].1.seq, sent);
        }
        let told = tokio::time::timeout(Duration::from_secs(10), told_of(&carol, sent)).await;
        assert!(told.is_ok(), "not told; another one asked before: {one_asks_before}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_sessions_of_a_device_the_newer_one_lives() {
    let mut parts = Parts::from(&one_partition());
    parts.presence = parts.presence.map(|presence| Arc::new(LatePresence(presence, Mutex::new(0))) as _);
    let chat = engine_on(parts, |_| {}).await;
    let (older, _) = chat.connect(identity("alice", "a"), Hello::default()).await.unwrap();
    let (newer, _) = chat.connect(identity("alice", "a"), Hello::default()).await.unwrap();
    let kicked = async {
        loop {
            if let Event::Closed(reason) = older.event().await {
                break reason;
            }
        }
    };
    assert_eq!(kicked.await, CloseReason::Kicked);
    let closed = std::iter::from_fn(|| newer.try_event()).find(|event| matches!(event, Event::Closed(_)));
    assert!(closed.is_none(), "{closed:?}");
    newer.heartbeat().await.unwrap();
}

#[test]
fn a_session_may_be_dropped_where_there_is_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (chat, session) = runtime.block_on(async {
        let chat = engine().await;
        let session = connect(&chat, "alice", "a").await;
        (chat, session)
    });
    drop(session);
    runtime.block_on(chat.shutdown());
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_by_name() {
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 6] = [
        ("page", |config| config.page = 0),
        ("page", |config| config.page = 10_001),
        ("commit_records", |config| config.commit_records = 0),
        ("commit_queue", |config| config.commit_queue = 0),
        ("heartbeat", |config| config.heartbeat = Duration::ZERO),
        ("admission", |config| config.admission = Duration::from_secs(2)),
    ];
    for (name, change) in cases {
        let mut config = Config::default();
        change(&mut config);
        let error = Engine::builder(one_partition()).config(config).start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(name), "{error}");
    }
}

fn lossy() -> (Memory, Arc<dyn Clock>) {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_790_000_000_000)));
    let memory = Memory::builder().partitions(1).clock(clock.clone()).loss_window(Duration::from_secs(20));
    (memory.build(), clock)
}

/// A worker that began anew goes back as far as the one before it would have.
#[tokio::test(start_paused = true)]
async fn a_membership_that_the_store_loses_after_a_restart_comes_again() {
    let (memory, clock) = lossy();
    let start = async || Engine::builder(&memory).clock(clock.clone()).start().await.unwrap();
    let pass = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    let chat = start().await;
    let alice = connect(&chat, "alice", "a").await;
    let g = group_id("g");
    alice.create_group(group("g", &["bob"], "c1")).await.unwrap();
    pass(60).await;
    alice.send(stored(&g, "m0", "x")).await.unwrap();
    pass(1).await;
    alice.change_members(&g, id("j"), MemberChange::Join(vec![user("carol")])).await.unwrap();
    pass(1).await;
    drop(alice);
    chat.shutdown().await;
    let chat = start().await;
    let alice = connect(&chat, "alice", "a").await;
    alice.send(stored(&g, "m1", "y")).await.unwrap();
    pass(1).await;
    memory.store().lose_tail(3);
    pass(60).await;
    let members = chat.members(&user("alice"), &g, None, 10).await.unwrap();
    assert_eq!(members.len(), 3, "{members:?}");
}

/// A send is found to be new under one epoch and appended under the next: then it may be old.
#[tokio::test(start_paused = true)]
async fn a_retry_that_meets_a_new_epoch_on_its_way_is_stored_once() {
    let (memory, clock) = lossy();
    let (parts, between) = watched(&memory);
    let chat = Engine::builder(parts).clock(clock).start().await.unwrap();
    let alice = connect(&chat, "alice", "a").await;
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    let first = alice.send(stored(&single, "K", "once")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The committer is busy with another one while the log is lost and the worker takes a new epoch.
    between.before("append", tokio::time::sleep(Duration::from_secs(3)));
    let other = alice.begin_send(text(&single, "J", "other")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    memory.log().lose_tail(1);
    let again = alice.begin_send(text(&single, "K", "once")).await.unwrap();
    other.await.unwrap();
    assert_eq!(again.await.unwrap().seq, first.seq);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stored = MessageStore::checkpoint(&memory.store(), Partition(0)).await.unwrap().unwrap();
    let log = memory.log();
    let LogRead::Records(left) = log.read(Partition(0), stored.position, 10, Duration::ZERO).await.unwrap()
    else {
        panic!("trimmed");
    };
    assert!(left.is_empty() && stored.position > Position::START, "the store does not go on: {left:?}");
}
