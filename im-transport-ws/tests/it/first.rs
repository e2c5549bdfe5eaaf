//! The whole path: hello, send, signal, pull, ack.

use serde_json::json;

use crate::support::{Server, message};

#[tokio::test]
async fn a_message_goes_from_one_client_to_the_other() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    let cursor = bob.fresh().await;
    let sent = alice.ok(message(&single, "m1", "你好")).await;
    assert_eq!((sent["seq"].as_u64(), sent["duplicate"].as_bool()), (Some(1), Some(false)));
    let signal = bob.event("signal").await;
    let entry = match signal["entries"].get(0) {
        Some(entry) => entry.clone(),
        None => bob.ok(json!({"op": "pull", "after": cursor})).await["entries"][0].clone(),
    };
    assert_eq!(entry["record"]["content"], "你好");
    assert_eq!(entry["record"]["from"], "alice");
    let acked = bob.ok(json!({"op": "ack", "cursor": entry["cursor"]})).await;
    assert_eq!(acked, json!({}));
    let page = bob.ok(json!({"op": "history", "conversation": single})).await;
    assert_eq!(page["records"][0], entry["record"]);
    let ping = bob.ok(json!({"op": "ping"})).await;
    assert_eq!(ping["end"], entry["cursor"]);
}
