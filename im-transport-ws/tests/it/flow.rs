//! Sends in a row, and in which order things are said.

use serde_json::json;

use crate::support::{Server, message};

#[tokio::test]
async fn sends_in_a_row_keep_their_order() {
    const COUNT: u64 = 1000;
    let rate = im_transport_ws::Rate { per_second: 1e6, burst: 1e6 };
    let server = Server::with(|_| {}, |ws| ws.rate = rate).await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    let mut sent = Vec::new();
    for number in 0..COUNT {
        sent.push(alice.begin(message(&single, &format!("m{number}"), &number.to_string())).await);
    }
    let mut seqs = vec![0; sent.len()];
    for _ in 0..COUNT {
        let answer = alice.answer().await;
        let place = sent.iter().position(|id| answer["re"] == *id).unwrap();
        seqs[place] = answer["ok"]["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    }
    assert_eq!(seqs, (1..=COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_message_that_is_sent_again_is_there_once() {
    let server = Server::start().await;
    let (mut alice, mut again) = (server.client("alice").await, server.device("alice", "other").await);
    let single = alice.single("bob").await;
    let first = alice.ok(message(&single, "m", "hi")).await;
    let second = again.ok(message(&single, "m", "hi")).await;
    assert_eq!((&second["seq"], &second["created_at"]), (&first["seq"], &first["created_at"]));
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(alice.refused(message(&single, "m", "other words")).await, "conflict");
    let both = [alice.begin(message(&single, "n", "1")).await, alice.begin(message(&single, "n", "1")).await];
    let (one, two) = (alice.answer().await, alice.answer().await);
    assert_eq!(one["ok"]["seq"], two["ok"]["seq"], "{both:?}");
    assert_ne!(one["ok"]["duplicate"], two["ok"]["duplicate"]);
}

#[tokio::test]
async fn no_more_than_so_many_sends_wait_and_all_are_answered() {
    let server = Server::with(|_| {}, |ws| ws.in_flight = 2).await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    let mut waiting = Vec::new();
    for number in 0..50 {
        waiting.push(alice.begin(message(&single, &format!("m{number}"), "x")).await);
    }
    waiting.push(alice.begin(json!({"op": "ping"})).await);
    while !waiting.is_empty() {
        let answer = alice.answer().await;
        assert!(answer["ok"].is_object(), "{answer}");
        waiting.retain(|id| answer["re"] != *id);
    }
}

#[tokio::test]
async fn an_answer_stands_before_the_events_that_came_after_it() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    let mut cursor = alice.fresh().await;
    for number in 0..50 {
        alice.begin(message(&single, &format!("m{number}"), "x")).await;
        let acked = alice.frame().await;
        assert!(
            acked["ok"]["seq"].is_u64() || acked["ev"] == "state",
            "before its own record comes back: {acked}"
        );
        let signal = alice.event("signal").await;
        cursor = signal["end"].as_str().unwrap_or(&cursor).to_owned();
        alice.begin(json!({"op": "ack", "cursor": cursor})).await;
        assert_eq!(alice.answer().await["ok"], json!({}));
    }
}

#[tokio::test]
async fn an_ack_without_an_id_gets_no_answer() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let cursor = alice.fresh().await;
    alice.text(json!({"op": "ack", "cursor": cursor}).to_string()).await;
    let ping = alice.begin(json!({"op": "ping"})).await;
    assert_eq!(alice.answer().await["re"], ping);
}
