//! How sessions end.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::{Server, message, within};

#[tokio::test]
async fn a_newer_session_of_the_device_takes_the_place_of_the_older() {
    let server = Server::start().await;
    let mut older = server.device("alice", "web").await;
    let mut newer = server.device("alice", "web").await;
    assert_eq!(older.event("kicked").await, json!({"ev": "kicked", "reason": "replaced"}));
    assert_eq!(older.closed().await, (4500, "kicked".into()));
    assert!(newer.ok(json!({"op": "ping"})).await["time"].is_u64());
}

#[tokio::test]
async fn a_kick_reaches_a_session_on_another_node() {
    let memory = im_engine::memory::Memory::new();
    let (one, two) = (Server::on(&memory, |_| {}, |_| {}).await, Server::on(&memory, |_| {}, |_| {}).await);
    let mut older = one.device("alice", "web").await;
    let _newer = two.device("alice", "web").await;
    assert_eq!(older.closed().await, (4500, "kicked".into()));
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let server = Server::start().await;
    let mut client = server.client("alice+300").await;
    assert_eq!(client.closed().await, (4004, "token_expired".into()));
    within(server.transport.drained()).await;
}

#[tokio::test]
async fn who_closes_gets_its_close_frame_back() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let close = CloseFrame { code: 1000.into(), reason: "bye".into() };
    within(client.ws.send(Message::Close(Some(close.clone())))).await.unwrap();
    let answer = within(client.ws.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Close(Some(close)));
    assert!(within(client.ws.next()).await.is_none(), "then nothing");
    within(server.transport.drained()).await;
}

#[tokio::test]
async fn who_vanishes_leaves_nothing_behind_and_loses_nothing() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    alice.begin(message(&single, "m", "hi")).await;
    drop(alice);
    within(server.transport.drained()).await;
    let server = Server {
        transport: im_transport_ws::Transport::new(
            server.chat.clone(),
            crate::support::Names,
            Default::default(),
        ),
        ..server
    };
    let sent = im_engine::NewMessage {
        client_msg_id: im_engine::ClientMsgId::new("m").unwrap(),
        ..im_engine::NewMessage::text(
            &im_engine::UserId::new("alice").unwrap(),
            &im_engine::ConversationId::new(single).unwrap(),
            "hi",
        )
    };
    // Whether it came or not, it is there once.
    assert_eq!(within(server.chat.send(sent)).await.unwrap().seq.0, 1);
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_frame_is_left() {
    let server = Server::with(|_| {}, |ws| ws.close_timeout = Duration::from_millis(100)).await;
    let _mute = server.device("alice", "web").await;
    let newer = server.device("alice", "web").await;
    let gone = async {
        while server.transport.connections() > 1 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    drop(newer);
}
