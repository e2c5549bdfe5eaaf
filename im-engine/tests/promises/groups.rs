//! Groups are created once, and nobody writes into one of others.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use im_core::{ErrorKind, Policy, PolicyRequest, Result, Seq, Verdict, memory::Memory};
use im_engine::{ChatError, Engine, MemberChange, NewGroup, Refusal};
use im_store_sqlite::Sqlite;

use crate::support::{connect, everything, group, group_id, hooked, id, user};

#[tokio::test]
async fn a_taken_id_is_a_conflict_for_strangers_and_members_and_leaves_nothing_behind() {
    let (chat, _) = hooked(&Memory::new(), |_| {}).await;
    let alice = connect(&chat, "alice", "a").await;
    alice.create_group(group("g", &["bob"], "c")).await.unwrap();
    for name in ["alice", "bob", "mallory"] {
        let session = connect(&chat, name, "other").await;
        let advert = NewGroup { name: Some("BUY".into()), ..group("g", &["dave"], "advert") };
        let answer = session.create_group(advert).await;
        assert!(matches!(answer, Err(ChatError::Refused(Refusal::Conflict))), "{name}: {answer:?}");
    }
    assert_eq!(alice.history(&group_id("g"), everything()).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_creation_that_comes_second_is_a_conflict_also_for_a_member_of_the_first() {
    let (chat, hooks) = hooked(&Memory::new(), |_| {}).await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    // Bob finds the id free; then alice creates the group.
    hooks.after("conversations.get", async move {
        alice.create_group(group("g", &["bob"], "first")).await.unwrap();
    });
    let answer = bob.create_group(group("g", &["dave"], "second")).await;
    assert!(matches!(answer, Err(ChatError::Refused(Refusal::Conflict))), "{answer:?}");
}

#[tokio::test]
async fn a_creation_that_cannot_be_looked_at_has_failed_and_is_no_conflict() {
    let (chat, hooks) = hooked(&Memory::new(), |_| {}).await;
    let alice = connect(&chat, "alice", "a").await;
    hooks.fail("conversations.memberships", ErrorKind::Unavailable);
    let answer = alice.create_group(group("g", &[], "c")).await;
    assert!(matches!(&answer, Err(error) if error.is_transient()), "{answer:?}");
    assert!(alice.create_group(group("g", &[], "c")).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_change_of_nobody_is_invalid() {
    let (chat, _) = hooked(&Memory::new(), |_| {}).await;
    let (alice, mallory) = (connect(&chat, "alice", "a").await, connect(&chat, "mallory", "m").await);
    alice.create_group(group("g", &[], "c")).await.unwrap();
    for change in [MemberChange::Join(Vec::new()), MemberChange::Leave(Vec::new())] {
        let answer = mallory.change_members(&group_id("g"), id("x"), change).await;
        assert!(matches!(answer, Err(ChatError::Refused(Refusal::Invalid(_)))), "{answer:?}");
    }
    assert_eq!(alice.history(&group_id("g"), everything()).await.unwrap().records.len(), 1);
}

/// Denies everything once it is told to.
#[derive(Debug, Clone, Default)]
struct Strict(Arc<AtomicBool>);

#[async_trait]
impl Policy for Strict {
    async fn check(&self, _: &PolicyRequest) -> Result<Verdict> {
        let strict = self.0.load(Ordering::SeqCst);
        Ok(if strict { Verdict::Deny("not today".into()) } else { Verdict::Allow })
    }
}

#[tokio::test]
async fn a_retry_of_a_creation_is_acked_also_when_the_policy_has_changed() {
    let policy = Strict::default();
    let chat = Engine::builder(Memory::new()).policy(policy.clone()).start().await.unwrap();
    let alice = connect(&chat, "alice", "a").await;
    let first = alice.create_group(group("g", &[], "c")).await.unwrap();
    policy.0.store(true, Ordering::SeqCst);
    let again = alice.create_group(group("g", &[], "c")).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let other = alice.create_group(group("h", &[], "c")).await;
    assert!(matches!(other, Err(ChatError::Refused(Refusal::Denied(_)))), "{other:?}");
}

/// Where a log is its own store, no checkpoint tells that it was applied.
#[tokio::test]
async fn a_change_of_members_over_which_another_was_applied_is_acked_also_by_a_log_that_is_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::builder(folder.path().join("im.db")).open().await.unwrap();
    let (chat, hooks) = hooked(&sqlite, |_| {}).await;
    let alice = Arc::new(connect(&chat, "alice", "a").await);
    alice.create_group(group("g", &[], "c")).await.unwrap();
    let other = alice.clone();
    hooks.before("conversations.applied", async move {
        let bob = MemberChange::Join(vec![user("bob")]);
        other.change_members(&group_id("g"), id("second"), bob).await.unwrap();
    });
    let carol = MemberChange::Join(vec![user("carol")]);
    let ack = alice.change_members(&group_id("g"), id("first"), carol).await.unwrap();
    assert_eq!(ack.seq, Seq(2));
    assert_eq!(alice.history(&group_id("g"), everything()).await.unwrap().records.len(), 3);
}
