//! Membership decides, also when it changes in the middle of a call.

use std::{sync::Arc, time::Duration};

use im_core::{ConversationId, ErrorKind, memory::Memory};
use im_engine::{
    ChatError, Direction, Engine, HistoryRange, MemberChange, Refusal, Seq, Session, SettingsChange,
};

use crate::{
    hooks::Hooks,
    support::{connect, contents, everything, group, group_id, hooked, id, removal, text, user},
};

/// Alice and bob in a group, on an engine whose calls can be met.
struct Group {
    chat: Engine,
    hooks: Hooks,
    id: ConversationId,
    alice: Arc<Session>,
    bob: Session,
}

async fn group_of_two() -> Group {
    let (chat, hooks) = hooked(&Memory::new(), |_| {}).await;
    let alice = Arc::new(connect(&chat, "alice", "a").await);
    let bob = connect(&chat, "bob", "b").await;
    alice.create_group(group("g", &["bob"], "c")).await.unwrap();
    Group { chat, hooks, id: group_id("g"), alice, bob }
}

impl Group {
    /// Before this call goes on, bob is removed and something is said that he must not learn.
    fn remove_bob_before(&self, call: &'static str) {
        let (alice, id) = (self.alice.clone(), self.id.clone());
        self.hooks.before(call, remove_bob(alice, id));
    }
}

async fn remove_bob(alice: Arc<Session>, group: ConversationId) {
    alice.change_members(&group, id("rm"), removal("bob")).await.unwrap();
    alice.send(text(&group, "s", "the secret")).await.unwrap();
}

#[tokio::test]
async fn history_shows_nothing_that_came_after_a_removal_in_between() {
    for call in ["messages.last", "messages.history", "conversations.memberships"] {
        for to in [None, Some(Seq(1)), Some(Seq(3)), Some(Seq(9))] {
            let group = group_of_two().await;
            group.remove_bob_before(call);
            let range = HistoryRange { to, ..everything() };
            let shown = group.bob.history(&group.id, range).await;
            if let Ok(page) = &shown {
                assert!(!contents(page).contains(&"the secret"), "{call}, up to {to:?}: {page:?}");
            }
        }
    }
}

#[tokio::test]
async fn history_shows_nothing_that_came_after_a_removal_right_after_it_was_read() {
    for to in [None, Some(Seq(2))] {
        let group = group_of_two().await;
        group.alice.send(text(&group.id, "m", "hello")).await.unwrap();
        group.hooks.after("messages.history", remove_bob(group.alice.clone(), group.id.clone()));
        let page = group.bob.history(&group.id, HistoryRange { to, ..everything() }).await.unwrap();
        let seqs: Vec<_> = page.records.iter().map(|record| record.seq.0).collect();
        // With the record of the removal itself, where its place was asked for.
        assert_eq!(seqs, if to.is_none() { vec![1, 2, 3] } else { vec![1, 2] });
        assert!(!page.more);
    }
}

/// Their ranges begin below her joining and end above her leaving: what was read before her rights were known is not what she may see.
#[tokio::test]
async fn history_is_cut_to_the_rights_of_its_reader() {
    let group = group_of_two().await;
    for message in ["1", "2"] {
        group.alice.send(text(&group.id, message, message)).await.unwrap();
    }
    let join = MemberChange::Join(vec![user("carol")]);
    let joined = group.alice.change_members(&group.id, id("j"), join).await.unwrap().seq.0;
    for message in ["3", "4", "5"] {
        group.alice.send(text(&group.id, message, message)).await.unwrap();
    }
    let left = group.alice.change_members(&group.id, id("rm"), removal("carol")).await.unwrap().seq.0;
    group.alice.send(text(&group.id, "s", "the secret")).await.unwrap();
    let carol = connect(&group.chat, "carol", "c").await;
    let all: Vec<u64> = (joined..=left).collect();
    for max in [1, 2, 5, 100] {
        for (from, to) in
            [(1, None), (joined, None), (joined + 1, None), (1, Some(left)), (3, Some(left - 1))]
        {
            for direction in [Direction::Forward, Direction::Backward] {
                let range = HistoryRange { from: Seq(from), to: to.map(Seq), direction, max };
                let page = carol.history(&group.id, range).await.unwrap();
                let of_range = |seq: &&u64| **seq >= from && to.is_none_or(|to| **seq <= to);
                let due: Vec<u64> = all.iter().filter(of_range).copied().collect();
                let cut = max.min(due.len());
                let cut_off = match direction {
                    Direction::Forward => &due[..cut],
                    Direction::Backward => &due[due.len() - cut..],
                };
                let seqs: Vec<_> = page.records.iter().map(|record| record.seq.0).collect();
                assert_eq!((&*seqs, page.more), (cut_off, due.len() > cut), "{range:?}");
            }
        }
    }
}

/// What cannot be read may be what is not to be shown anyway: so the rights are asked, and then no more than they allow is read.
#[tokio::test]
async fn a_page_that_cannot_be_read_whole_is_asked_within_the_rights() {
    let group = group_of_two().await;
    group.alice.send(text(&group.id, "m", "hello")).await.unwrap();
    group.hooks.fail("messages.history", ErrorKind::Corrupt);
    let page = group.bob.history(&group.id, everything()).await.unwrap();
    assert_eq!(page.records.len(), 2);
    let eve = connect(&group.chat, "eve", "e").await;
    group.hooks.fail("messages.history", ErrorKind::Corrupt);
    let refused = eve.history(&group.id, everything()).await.unwrap_err();
    assert!(matches!(refused, ChatError::Refused(Refusal::NotMember)), "{refused:?}");
    group.hooks.fail("messages.history", ErrorKind::Unavailable);
    assert!(group.bob.history(&group.id, everything()).await.is_err());
}

#[tokio::test]
async fn a_range_above_the_head_is_behind_or_ends_there() {
    let group = group_of_two().await;
    group.alice.send(text(&group.id, "m", "hello")).await.unwrap();
    let range = HistoryRange { to: Some(Seq(9)), ..everything() };
    let page = group.bob.history(&group.id, range).await.unwrap();
    assert_eq!((page.records.len(), page.more), (2, false), "the store has all that there is");
}

/// A store that has lost a joining with its tail, and has not got it back.
#[tokio::test(start_paused = true)]
async fn a_range_above_what_is_stored_is_behind_also_for_who_seems_to_have_left() {
    let memory = Memory::builder().loss_window(Duration::from_secs(600)).build();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let place = group_id("g");
    alice.create_group(group("g", &["bob"], "c")).await.unwrap();
    let left = alice.change_members(&place, id("rm"), removal("bob")).await.unwrap().seq;
    alice.send(text(&place, "m", "between")).await.unwrap();
    bob.change_members(&place, id("j"), MemberChange::Join(vec![user("bob")])).await.unwrap();
    let last = alice.send(text(&place, "n", "hello")).await.unwrap().seq;
    hooks.before("messages.apply", std::future::pending());
    memory.store().lose_tail(3);
    let range = HistoryRange { to: Some(last), ..everything() };
    let refused = bob.history(&place, range).await.unwrap_err();
    assert!(
        matches!(refused, ChatError::Refused(Refusal::Behind { head }) if head.seq == left),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_range_above_the_head_is_behind_if_the_store_loses_its_tail_meanwhile() {
    let memory = Memory::builder().loss_window(Duration::from_secs(600)).build();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let alice = connect(&chat, "alice", "a").await;
    let place = group_id("g");
    alice.create_group(group("g", &[], "c")).await.unwrap();
    alice.send(text(&place, "m", "hello")).await.unwrap();
    hooks.before("messages.apply", std::future::pending());
    hooks.after("messages.checkpoint", async move { memory.store().lose_tail(1) });
    let range = HistoryRange { to: Some(Seq(9)), ..everything() };
    let refused = alice.history(&place, range).await;
    assert!(matches!(refused, Err(ChatError::Refused(Refusal::Behind { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_view_shows_nothing_that_came_after_a_removal_in_between() {
    for call in ["messages.last", "conversations.memberships"] {
        let group = group_of_two().await;
        group.remove_bob_before(call);
        let view = group.bob.conversation(&group.id).await.unwrap();
        let last = view.last.unwrap();
        assert_ne!(&*last.content, "the secret", "{call}");
        assert_eq!(view.head, last.mark(), "{call}");
    }
}

/// Alice's laptop begins afresh while her phone sends.
#[tokio::test]
async fn an_own_send_during_a_bootstrap_is_not_unread() {
    let (chat, hooks) = hooked(&Memory::new(), |_| {}).await;
    let phone = Arc::new(connect(&chat, "alice", "phone").await);
    let laptop = connect(&chat, "alice", "laptop").await;
    let single = phone.open_single(&user("bob")).await.unwrap().id;
    let fresh = laptop.fresh().await.unwrap();
    let (sender, place) = (phone.clone(), single.clone());
    hooks.before("messages.last", async move {
        sender.send(text(&place, "own", "hi")).await.unwrap();
    });
    let page = laptop.bootstrap(&fresh, None, 10).await.unwrap();
    assert_eq!(page.conversations.iter().map(|view| view.unread).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn a_view_shows_no_record_from_before_the_joining() {
    let group = group_of_two().await;
    group.alice.send(text(&group.id, "s", "the secret")).await.unwrap();
    let carol = connect(&group.chat, "carol", "d").await;
    let (alice, place) = (group.alice.clone(), group.id.clone());
    group.hooks.before("conversations.memberships", async move {
        alice.change_members(&place, id("j"), MemberChange::Join(vec![user("carol")])).await.unwrap();
    });
    let view = carol.conversation(&group.id).await.unwrap();
    assert_eq!(view.last, None);
    assert_eq!((view.head.seq, view.unread), (Seq(view.membership.intervals[0].joined.seq.0 - 1), 0));
}

#[tokio::test]
async fn who_left_learns_nothing_of_the_head_by_marking_or_clearing() {
    let group = group_of_two().await;
    let left = group.alice.change_members(&group.id, id("rm"), removal("bob")).await.unwrap().seq;
    group.alice.send(text(&group.id, "s", "the secret")).await.unwrap();
    for seq in [Seq(left.0 + 1), Seq(1 << 40)] {
        let clear = SettingsChange { cleared: Some(seq), ..SettingsChange::default() };
        let marked = group.bob.mark_read(&group.id, seq).await.unwrap_err();
        let cleared = group.bob.set(&group.id, &clear).await.unwrap_err();
        for refused in [marked, cleared] {
            assert!(matches!(refused, ChatError::Refused(Refusal::NotMember)), "{seq:?}: {refused:?}");
        }
    }
    assert_eq!(group.bob.mark_read(&group.id, left).await.unwrap().seq, left, "his own part is his to read");
    let clear = SettingsChange { cleared: Some(left), ..SettingsChange::default() };
    group.bob.set(&group.id, &clear).await.unwrap();
}

#[tokio::test]
async fn a_mark_above_a_removal_in_between_does_not_move() {
    for call in ["messages.last", "conversations.memberships"] {
        let group = group_of_two().await;
        let secret = Seq(3);
        group.remove_bob_before(call);
        group.bob.mark_read(&group.id, secret).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_mark_above_the_head_is_behind() {
    let group = group_of_two().await;
    let refused = group.bob.mark_read(&group.id, Seq(9)).await.unwrap_err();
    assert!(
        matches!(refused, ChatError::Refused(Refusal::Behind { head }) if head.seq == Seq(1)),
        "{refused:?}"
    );
}
