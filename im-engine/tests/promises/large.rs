//! Large groups, which are read by their members.

use std::time::Duration;

use im_core::{NodeId, memory::Memory};
use im_engine::{Engine, Event, MemberChange, Seq, Session};
use tokio::sync::oneshot;

use crate::support::{connect, group, group_id, hooked, id, removal, text, user, wait_for};

/// The head of the group that a session is told of, at least this high.
async fn head_from(session: &Session, wanted: Seq) -> Seq {
    wait_for(session, |event| match event {
        Event::Heads(heads) => heads.last().map(|(_, head)| head.seq).filter(|seq| *seq >= wanted),
        _ => None,
    })
    .await
}

/// Returns when the group has become large for the session.
async fn large(session: &Session) {
    head_from(session, Seq(1)).await;
}

#[tokio::test]
async fn the_switch_is_noticed_also_when_signals_carry_no_records() {
    let memory = Memory::new();
    let (chat, _) = hooked(&memory, |config| {
        config.read_diffusion_threshold = 3;
        config.inline_bytes = 0;
    })
    .await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    alice.create_group(group("big", &["bob"], "c")).await.unwrap();
    // Carol makes it large: nothing of bob's own changes.
    let carol = MemberChange::Join(vec![user("carol")]);
    alice.change_members(&group_id("big"), id("j"), carol).await.unwrap();
    large(&bob).await;
}

#[tokio::test]
async fn notices_do_not_wait_for_a_look_up_of_large_groups() {
    let memory = Memory::new();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let (asked, hangs) = oneshot::channel();
    hooks.before("conversations.large_groups", async move {
        asked.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    hangs.await.unwrap();
    let cursor = bob.fresh().await.unwrap().cursor;
    alice.send(text(&single, "m", "hello")).await.unwrap();
    let entry = wait_for(&bob, |event| match event {
        Event::Entries(entries) => entries.end().cloned(),
        Event::End(end) => Some(end),
        _ => None,
    });
    assert_ne!(entry.await, cursor);
}

/// Another node has the lease of the fan-out and is slow.
async fn stop_fan_out(memory: &Memory, chat: &Engine) {
    let (other, log) = (NodeId::new("other").unwrap(), memory.log());
    use im_core::Leases;
    log.release("fanout/0", chat.node()).await.unwrap();
    assert!(log.claim("fanout/0", &other, Duration::from_secs(600)).await.unwrap());
    // The node's own worker finds it when it renews, at the latest after a third of its lease and one wait for records.
    tokio::time::sleep(chat.config().lease / 3 + Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn no_head_is_told_above_a_leaving_that_is_not_applied() {
    let memory = Memory::new();
    let (chat, _) = hooked(&memory, |config| config.read_diffusion_threshold = 3).await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    alice.create_group(group("big", &["bob", "carol"], "c")).await.unwrap();
    large(&bob).await;
    stop_fan_out(&memory, &chat).await;
    alice.change_members(&group_id("big"), id("rm"), removal("bob")).await.unwrap_err();
    let secret = alice.send(text(&group_id("big"), "s", "secret")).await.unwrap();
    let heads = bob.heartbeat().await.unwrap().heads;
    assert!(!heads.is_empty(), "the leaving itself is bob's to see");
    assert!(heads.iter().all(|(_, head)| head.seq < secret.seq), "{heads:?}");
}
