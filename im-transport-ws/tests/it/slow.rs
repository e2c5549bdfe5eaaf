//! Clients that do not do their part: who never reads, never acks, never says a word.

use std::time::Duration;

use serde_json::json;

use crate::support::{Client, Server, message, within};

/// Asks without ever reading an answer, until the connection takes no more.
async fn asks_without_reading(client: &mut Client, single: &str) {
    let asked = async {
        loop {
            let text = json!({"id": 1, "op": "history", "conversation": single}).to_string();
            if futures::SinkExt::send(&mut client.ws, text.into()).await.is_err() {
                return;
            }
        }
    };
    within(asked).await;
}

#[tokio::test]
async fn who_never_reads_is_closed_and_nobody_else_waits_for_it() {
    let rate = im_transport_ws::Rate { per_second: 1e6, burst: 1e6 };
    let server =
        Server::with(|_| {}, |ws| (ws.rate, ws.write_timeout) = (rate, Duration::from_millis(500))).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    for number in 0..4 {
        let mut request = message(&single, &format!("m{number}"), &"x".repeat(60 << 10));
        request["ack"] = "stored".into();
        alice.ok(request).await;
    }
    let mut mute = server.device("alice", "mute").await;
    let others = async {
        for number in 4..20 {
            alice.ok(message(&single, &format!("m{number}"), "x")).await;
            bob.ok(json!({"op": "ping"})).await;
        }
    };
    tokio::join!(asks_without_reading(&mut mute, &single), others);
    // It is gone: only the two others are left, once it did not do its part in closing either.
    let gone = async {
        while server.transport.connections() > 2 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

#[tokio::test]
async fn who_never_acks_is_told_again_and_then_closed() {
    let server = Server::with(
        |engine| (engine.ack_timeout, engine.ack_tries) = (Duration::from_millis(20), 2),
        |_| {},
    )
    .await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    bob.fresh().await;
    alice.ok(message(&single, "m", "hi")).await;
    let first = bob.event("signal").await;
    assert_eq!(first["entries"].as_array().unwrap().len(), 1);
    for _ in 0..2 {
        assert_eq!(bob.event("signal").await, json!({"ev": "signal", "end": first["end"]}));
    }
    assert_eq!(bob.closed().await, (4001, "slow".into()));
}

#[tokio::test]
async fn who_acks_is_not_told_again() {
    let server = Server::with(
        |engine| (engine.ack_timeout, engine.ack_tries) = (Duration::from_millis(20), 1),
        |_| {},
    )
    .await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    bob.fresh().await;
    for number in 0..5 {
        alice.ok(message(&single, &format!("m{number}"), "hi")).await;
        let signal = bob.event("signal").await;
        bob.ok(json!({"op": "ack", "cursor": signal["end"]})).await;
    }
    assert!(bob.ok(json!({"op": "ping"})).await["time"].is_u64());
}

#[tokio::test]
async fn who_says_nothing_for_three_heartbeats_is_closed() {
    let server = Server::with(|engine| engine.heartbeat = Duration::from_millis(50), |_| {}).await;
    let mut client = server.client("alice").await;
    assert_eq!(client.closed().await, (4002, "silent".into()));
}
