//! The log loses what the store has.

use im_core::{ErrorKind, memory::Memory};
use im_engine::{AckLevel, Draft};
use tokio::sync::oneshot;

use crate::support::{connect, everything, hooked, text, user};

/// A retry is admitted while the log's first epoch holds; when it is appended the log has lost the first try and is in its
/// second epoch.
async fn retry_across_a_lost_tail(look_up_fails: bool) {
    let memory = Memory::new();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let alice = connect(&chat, "alice", "a").await;
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    let logged = |name| Draft { level: AckLevel::Logged, ..text(&single, name, name) };
    let first = alice.send(text(&single, "m", "m")).await.unwrap();

    let ((reached, appending), (go_on, gate)) = (oneshot::channel(), oneshot::channel::<()>());
    hooks.before("log.append", async move {
        reached.send(()).unwrap();
        gate.await.unwrap();
    });
    let other = alice.begin_send(logged("other")).await.unwrap();
    appending.await.unwrap();
    memory.log().lose_tail(1);
    let again = alice.begin_send(logged("m")).await.unwrap();
    if look_up_fails {
        hooks.fail("messages.find", ErrorKind::Unavailable);
        hooks.fail("messages.find", ErrorKind::Unavailable);
    }
    go_on.send(()).unwrap();

    let (other, again) = (other.await.unwrap(), again.await.unwrap());
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    alice.send(text(&single, "later", "later")).await.unwrap();
    let page = alice.history(&single, everything()).await.unwrap();
    let times = page.records.iter().filter(|record| &*record.content == "m").count();
    assert_eq!((times, page.records.len()), (1, 3), "{:?}", page.records);
    assert!(page.records.iter().any(|record| record.seq == other.seq));
}

#[tokio::test]
async fn a_retry_that_was_admitted_before_the_loss_is_looked_up_after_it() {
    retry_across_a_lost_tail(false).await;
}

#[tokio::test]
async fn also_when_the_look_up_fails_at_first() {
    retry_across_a_lost_tail(true).await;
}
