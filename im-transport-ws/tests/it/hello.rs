//! What comes before a session, and what does not become one.

use std::time::Duration;

use im_engine::{SessionSlot, WhenFull};
use serde_json::json;

use crate::support::{Server, within};

#[tokio::test]
async fn the_answer_says_what_a_client_needs() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let hello = json!({"op": "hello", "token": "alice", "device": "a", "platform": "web", "cursor": "7"});
    let ok = client.ok(hello).await;
    assert_eq!(ok["user"], "alice");
    assert_eq!(ok["resync"], true, "a cursor that never was");
    assert_eq!((ok["heartbeat_ms"].as_u64(), ok["read_marks"].as_str()), (Some(30_000), Some("per_user")));
    let limits = json!({
        "content_bytes": 65_536, "frame_bytes": 131_072, "page": 200, "group_members": 100_000, "users": 400,
        "frames_per_second": 50, "frames_burst": 200, "ack_ms": 5000,
    });
    assert_eq!(ok["limits"], limits);
}

#[tokio::test]
async fn a_client_comes_back_to_its_cursor_and_not_to_anothers() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let (of_alice, of_bob) = (alice.fresh().await, bob.fresh().await);
    let long = "x".repeat(129);
    for (cursor, resync) in
        [(&*of_alice, false), (&of_bob, true), ("999999", true), ("", true), (&long, true)]
    {
        let mut client = server.connect().await;
        let ok = client
            .ok(json!({"op": "hello", "token": "alice", "device": "other", "cursor": cursor, "state": long}))
            .await;
        assert_eq!(ok["resync"], resync, "{cursor}");
    }
}

#[tokio::test]
async fn a_request_before_hello_is_refused_and_ends_the_connection() {
    let server = Server::start().await;
    let frames = [
        (r#"{"id":1,"op":"ping"}"#, "hello_first"),
        (r#"{"op":"ack","cursor":"1"}"#, "hello_first"),
        ("no json", "malformed"),
        (r#"{"id":1}"#, "missing_op"),
        (r#"{"id":1,"op":"fly"}"#, "unknown_op"),
        (r#"{"id":1,"op":"hello","token":"alice"}"#, "wrong_type"),
        (r#"{"id":1,"op":"hello","token":"alice","device":""}"#, "invalid"),
        (r#"{"id":1,"op":"hello","token":"alice","device":"a","platform":"\n"}"#, "invalid"),
    ];
    for (frame, code) in frames {
        let mut client = server.connect().await;
        client.text(frame).await;
        assert_eq!(client.frame().await["error"]["code"], code, "{frame}");
        assert_eq!(client.closed().await, (4502, "protocol".into()), "{frame}");
    }
    within(server.transport.drained()).await;
}

#[tokio::test]
async fn a_token_that_proves_nothing_ends_the_connection() {
    let server = Server::with(|_| {}, |ws| ws.hello_timeout = Duration::from_secs(2)).await;
    let tokens = [
        ("forged", "unauthorized", 4501, "unauthorized"),
        ("down", "unavailable", 4003, "overloaded"),
        ("never", "unavailable", 4003, "overloaded"),
    ];
    for (token, error, code, reason) in tokens {
        let mut client = server.connect().await;
        assert_eq!(client.refused(json!({"op": "hello", "token": token, "device": "a"})).await, error);
        assert_eq!(client.closed().await, (code, reason.into()), "{token}");
    }
    within(server.transport.drained()).await;
}

#[tokio::test]
async fn an_expired_token_may_be_followed_by_another_one_on_the_same_connection() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let hello = |token: &str| json!({"op": "hello", "token": token, "device": "a"});
    assert_eq!(client.refused(hello("expired")).await, "token_expired");
    assert_eq!(client.ok(hello("alice")).await["user"], "alice");
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert_eq!(client.refused(hello("expired")).await, "token_expired");
    }
    assert_eq!(client.closed().await.0, 4501, "three are enough");
}

#[tokio::test]
async fn a_second_hello_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let hello = json!({"op": "hello", "token": "bob", "device": "a"});
    assert_eq!(client.refused(hello).await, "already_hello");
    let single = client.single("bob").await;
    assert!(single.starts_with("s_"), "still alice: bob has no conversation with himself");
}

#[tokio::test]
async fn who_never_says_hello_is_closed_in_time() {
    let server = Server::with(|_| {}, |ws| ws.hello_timeout = Duration::from_millis(100)).await;
    let mut client = server.connect().await;
    assert_eq!(client.closed().await, (4005, "hello_timeout".into()));
}

#[tokio::test]
async fn a_hello_of_more_than_16_kib_is_not_read() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let hello = json!({"id": 1, "op": "hello", "token": "x".repeat(16 << 10), "device": "a"});
    client.text(hello.to_string()).await;
    assert_eq!(client.closed().await, (4505, "too_large".into()));
}

#[tokio::test]
async fn one_session_too_many_is_refused_where_the_server_wants_it_so() {
    let server = Server::with(
        |engine| {
            engine.session_slot = SessionSlot::User;
            engine.session_max = 2;
            engine.session_when_full = WhenFull::RejectNew;
        },
        |_| {},
    )
    .await;
    let (_one, _two) = (server.device("alice", "a").await, server.device("alice", "b").await);
    let mut three = server.connect().await;
    let hello = json!({"op": "hello", "token": "alice", "device": "c"});
    assert_eq!(three.refused(hello).await, "sessions_full");
    assert_eq!(three.closed().await, (4504, "sessions_full".into()));
}
