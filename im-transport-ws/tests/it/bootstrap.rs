//! A client without a cursor begins afresh.

use std::time::Duration;

use im_engine::memory::Memory;
use serde_json::{Value, json};

use crate::{
    held::held,
    support::{Server, message},
};

#[tokio::test]
async fn a_bootstrap_brings_every_conversation_and_a_cursor() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    for number in 0..5 {
        let single = alice.single(&format!("friend{number}")).await;
        let mut request = message(&single, "m", "hi");
        request["ack"] = "stored".into();
        alice.ok(request).await;
    }
    let mut request = json!({"op": "conversations", "fresh": true, "max": 2});
    let first = alice.ok(request.clone()).await;
    let (cursor, state) = (first["cursor"].clone(), first["state"].clone());
    assert!(cursor.is_string() && state.is_string());
    let (mut page, mut seen) = (first, Vec::new());
    loop {
        seen.extend(page["conversations"].as_array().unwrap().iter().map(|one| one["id"].to_string()));
        if page["next"].is_null() {
            break;
        }
        request = json!({"op": "conversations", "after": page["next"], "max": 2});
        page = alice.ok(request).await;
        assert_eq!((&page["cursor"], &page["state"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted(), "by id: {seen:?}");
    let pulled = alice.ok(json!({"op": "pull", "after": cursor})).await;
    assert_eq!(pulled["resync"], Value::Null, "the cursor is good");
    let changes = alice.ok(json!({"op": "state", "since": state})).await;
    assert_eq!(changes, json!({"version": state, "changes": []}));
}

#[tokio::test]
async fn some_conversations_are_asked_for_by_id() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    let some = alice.ok(json!({"op": "conversations", "ids": [single, "nowhere"]})).await;
    let ids: Vec<_> = some["conversations"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&json!(single)], "without what is unknown");
    let mallory = server.client("mallory").await.ok(json!({"op": "conversations", "ids": [single]})).await;
    assert_eq!(mallory, json!({"conversations": []}));
}

#[tokio::test]
async fn what_is_sent_after_a_bootstrap_follows_its_cursor() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    bob.fresh().await;
    alice.ok(message(&single, "m1", "one")).await;
    let first = bob.event("signal").await;
    assert_eq!(first["entries"][0]["record"]["content"], "one", "{first}");
    alice.ok(message(&single, "m2", "two")).await;
    let second = bob.event("signal").await;
    assert_eq!(second["entries"][0]["record"]["content"], "two", "{second}");
    assert_eq!(second["end"], second["entries"][0]["cursor"]);
    let pulled = bob.ok(json!({"op": "pull", "after": first["end"]})).await;
    assert_eq!(pulled["entries"], second["entries"], "a signal says what a pull says");
}

#[tokio::test]
async fn what_the_store_is_not_far_enough_for_is_named_and_asked_for_again() {
    let (parts, go) = held(&Memory::new());
    let server = Server::on(parts, |engine| engine.bootstrap_wait = Duration::from_millis(50), |_| {}).await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    alice.ok(message(&single, "m", "hi")).await;
    let first = alice.ok(json!({"op": "conversations", "fresh": true})).await;
    assert_eq!((&first["conversations"], &first["behind"]), (&json!([]), &json!([single])));
    assert!(first["cursor"].is_string());
    let again = json!({"op": "conversations", "ids": [single]});
    assert_eq!(alice.ok(again.clone()).await, json!({"conversations": [], "behind": [single]}));
    go.send(true).unwrap();
    loop {
        let some = alice.ok(again.clone()).await;
        if some["behind"].is_null() {
            assert_eq!(some["conversations"][0]["head"]["seq"], 1);
            break;
        }
    }
}
