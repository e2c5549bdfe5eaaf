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

/// The log loses a message before the store took it, and the store's checkpoint passes its place in the next epoch.
#[tokio::test]
async fn a_message_that_the_log_lost_is_not_acked_as_stored() {
    let memory = Memory::new();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let alice = connect(&chat, "alice", "a").await;
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    alice.send(text(&single, "first", "first")).await.unwrap();

    let ((reached, applying), (go_on, gate)) = (oneshot::channel(), oneshot::channel::<()>());
    hooks.before("messages.apply", async move {
        reached.send(()).unwrap();
        gate.await.unwrap();
    });
    let lost = alice.begin_send(text(&single, "lost", "lost")).await.unwrap();
    let later = async {
        applying.await.unwrap();
        memory.log().lose_tail(1);
        let later = Draft { level: AckLevel::Logged, ..text(&single, "later", "later") };
        let acked = alice.send(later).await.unwrap();
        go_on.send(()).unwrap();
        acked
    };
    let (lost, later) = tokio::join!(lost, later);
    let error = lost.unwrap_err();
    assert!(matches!(&error, im_engine::ChatError::Failed(error) if error.is_transient()), "{error:?}");
    let again = alice.send(text(&single, "lost", "lost")).await.unwrap();
    assert!(again.seq > later.seq && !again.duplicate, "{again:?}");
    let page = alice.history(&single, everything()).await.unwrap();
    assert_eq!(crate::support::contents(&page), ["first", "later", "lost"]);
}
