//! Sessions that come, are followed by others, and go.

use std::{sync::Arc, time::Duration};

use im_core::{DeviceId, memory::Memory};
use im_engine::{ChatError, CloseReason, Engine, Event, Hello, IdSource, Refusal, Session, Uuids};
use tokio::{
    runtime::Runtime,
    sync::{OnceCell, oneshot},
};

use crate::{
    hooks::Hooks,
    support::{connect, hooked, identity, user, wait_for},
};

/// Returns when a beat that began after this was called is over.
async fn a_whole_beat(hooks: Hooks) {
    // The second begins when the first is over.
    for _ in 0..2 {
        let (begun, beat) = oneshot::channel();
        hooks.before("presence.beat", async { begun.send(()).unwrap() });
        beat.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_sessions_of_a_device_the_newer_one_lives_also_if_a_beat_comes_between() {
    let memory = Memory::builder().presence_ttl(Duration::from_secs(3)).build();
    let (chat, hooks) = hooked(&memory, |_| {}).await;
    let first = connect(&chat, "alice", "a").await;
    hooks.before("presence.connect", a_whole_beat(hooks.clone()));
    let second = connect(&chat, "alice", "a").await;
    assert_eq!(closed(&first).await, CloseReason::Kicked);
    a_whole_beat(hooks).await;
    second.heartbeat().await.unwrap();
}

async fn closed(session: &Session) -> CloseReason {
    wait_for(session, |event| match event {
        Event::Closed(reason) => Some(reason),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_host_ends_the_sessions_of_a_user_on_every_node_and_of_nobody_else() {
    let memory = Memory::new();
    let here = Engine::builder(&memory).start().await.unwrap();
    let there = Engine::builder(&memory).start().await.unwrap();
    let (phone, web) = (connect(&here, "alice", "phone").await, connect(&there, "alice", "web").await);
    let bob = connect(&there, "bob", "web").await;
    let alice = user("alice");
    assert_eq!(here.end_sessions(&alice, Some(&DeviceId::new("web").unwrap())).await.unwrap(), 1);
    assert_eq!(closed(&web).await, CloseReason::Kicked);
    phone.heartbeat().await.unwrap();
    drop(web);
    assert!(here.end_sessions(&alice, None).await.unwrap() >= 1);
    assert_eq!(closed(&phone).await, CloseReason::Kicked);
    bob.heartbeat().await.unwrap();
    assert_eq!(here.end_sessions(&user("nobody"), None).await.unwrap(), 0);
}

#[test]
fn a_session_may_be_dropped_outside_of_the_runtime_and_after_it() {
    let runtime = Runtime::new().unwrap();
    let (chat, inside, after) = runtime.block_on(async {
        let chat = Engine::builder(Memory::new()).start().await.unwrap();
        let (inside, after) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
        (chat, inside, after)
    });
    drop(inside);
    runtime.block_on(chat.shutdown());
    drop(runtime);
    drop(after);
}

/// Lets the engine be shut down in the middle of a connect.
#[derive(Debug, Default)]
struct ShutsDown {
    chat: OnceCell<Engine>,
}

impl IdSource for ShutsDown {
    fn fresh(&self) -> String {
        if let Some(chat) = self.chat.get() {
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(chat.shutdown()));
        }
        Uuids.fresh()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_during_a_shutdown_is_refused() {
    let ids = Arc::new(ShutsDown::default());
    let chat = Engine::builder(Memory::new()).ids(ids.clone()).start().await.unwrap();
    ids.chat.set(chat.clone()).unwrap();
    let connected = chat.connect(identity("alice", "a"), Hello::default()).await;
    assert!(matches!(connected, Err(ChatError::Refused(Refusal::ShuttingDown))), "{connected:?}");
}
