//! Bad input within a session: a typed error, and the connection stays; or, where it must, the right close code.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{Client, Server, message, within};

/// The connection is as usable as ever.
async fn lives(client: &mut Client) {
    assert!(client.ok(json!({"op": "ping"})).await["time"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_frame_that_is_no_request_gets_a_typed_error() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let frames = [
        ("", None, "malformed"),
        ("{", None, "malformed"),
        ("[]", None, "malformed"),
        ("\u{0}", None, "malformed"),
        (r#"{"id":1,"id":2,"op":"ping"}"#, None, "malformed"),
        (r#"{"id":5}"#, Some(5), "missing_op"),
        (r#"{"id":5,"op":"fly"}"#, Some(5), "unknown_op"),
        (r#"{"id":5,"op":7}"#, Some(5), "wrong_type"),
        (r#"{"id":"x","op":"ping"}"#, None, "wrong_type"),
        (r#"{"id":-1,"op":"ping"}"#, None, "wrong_type"),
        (r#"{"op":"ping"}"#, None, "wrong_type"),
        (r#"{"id":5,"op":"pull","after":7}"#, Some(5), "wrong_type"),
        (r#"{"id":5,"op":"mark_read","conversation":"x","seq":9007199254740992}"#, Some(5), "wrong_type"),
    ];
    for (frame, re, code) in frames {
        client.text(frame).await;
        let answer = client.answer().await;
        assert_eq!(answer["error"]["code"], code, "{frame}: {answer}");
        assert_eq!(answer["re"].as_u64(), re, "{frame}: {answer}");
        lives(&mut client).await;
    }
}

#[tokio::test]
async fn a_binary_message_is_refused() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    within(client.ws.send(Message::Binary(Bytes::from_static(b"{\"id\":1,\"op\":\"ping\"}")))).await.unwrap();
    assert_eq!(client.answer().await["error"]["code"], "malformed");
    lives(&mut client).await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_its_code() {
    let server = Server::start().await;
    let (mut alice, mut mallory) = (server.client("alice").await, server.client("mallory").await);
    let single = alice.single("bob").await;
    alice
        .ok(json!({"op": "create_group", "conversation": "g", "members": ["bob"], "client_msg_id": "c"}))
        .await;
    let requests = [
        (message(&single, "m", "hi"), "not_member"),
        (message("nowhere", "m", "hi"), "unknown_conversation"),
        (message("", "m", "hi"), "invalid"),
        (message("a\u{1}b", "m", "hi"), "invalid"),
        (message(&single, &"x".repeat(65), "hi"), "invalid"),
        (message(&single, "m", &"x".repeat((64 << 10) + 1)), "too_large"),
        (
            json!({"op": "send", "conversation": "g", "client_msg_id": "m", "type": "system", "content": ""}),
            "invalid",
        ),
        (
            json!({"op": "send", "conversation": "g", "client_msg_id": "m", "type": "smell", "content": ""}),
            "wrong_type",
        ),
        (json!({"op": "history", "conversation": single}), "not_member"),
        (json!({"op": "history", "conversation": "nowhere"}), "unknown_conversation"),
        (json!({"op": "mark_read", "conversation": single, "seq": 1}), "not_member"),
        (json!({"op": "set", "conversation": single, "hidden": true}), "not_member"),
        (json!({"op": "members", "conversation": single}), "not_member"),
        (json!({"op": "members", "conversation": "nowhere"}), "unknown_conversation"),
        (json!({"op": "open_single", "user": "mallory"}), "invalid"),
        (json!({"op": "open_single", "user": ""}), "invalid"),
        (
            json!({"op": "create_group", "conversation": "s_x", "members": [], "client_msg_id": "m2"}),
            "invalid",
        ),
        (
            json!({"op": "create_group", "name": "x".repeat(257), "members": [], "client_msg_id": "m3"}),
            "too_large",
        ),
        (json!({"op": "join", "conversation": single, "client_msg_id": "m4"}), "invalid"),
        (json!({"op": "join", "conversation": "nowhere", "client_msg_id": "m5"}), "unknown_conversation"),
        (json!({"op": "join", "conversation": "g", "users": ["eve"], "client_msg_id": "m6"}), "not_member"),
        (json!({"op": "leave", "conversation": "g", "client_msg_id": "m7"}), "not_member"),
        (
            json!({"op": "set_role", "conversation": "g", "user": "bob", "role": "admin", "client_msg_id": "m8"}),
            "not_member",
        ),
        (json!({"op": "conversations", "ids": vec!["x"; 201]}), "too_large"),
    ];
    for (request, code) in requests {
        assert_eq!(mallory.refused(request.clone()).await, code, "{request}");
    }
    lives(&mut mallory).await;
    let mine = alice.ok(json!({"op": "history", "conversation": "g"})).await;
    assert_eq!(mine["records"].as_array().unwrap().len(), 1, "nothing was half done: {mine}");
}

#[tokio::test]
async fn a_group_cannot_be_made_twice() {
    let server = Server::start().await;
    let (mut alice, mut mallory) = (server.client("alice").await, server.client("mallory").await);
    let request = json!({"op": "create_group", "conversation": "g", "members": [], "client_msg_id": "c"});
    alice.ok(request.clone()).await;
    assert_eq!(mallory.refused(request).await, "conflict");
    let members = alice.ok(json!({"op": "members", "conversation": "g"})).await;
    assert_eq!(members["members"], json!([{"user": "alice", "role": "owner"}]));
}

#[tokio::test]
async fn a_member_without_the_right_is_denied() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    alice
        .ok(json!({"op": "create_group", "conversation": "g", "members": ["bob"], "client_msg_id": "c"}))
        .await;
    for request in [
        json!({"op": "leave", "conversation": "g", "users": ["alice"], "client_msg_id": "m1"}),
        json!({"op": "set_role", "conversation": "g", "user": "bob", "role": "owner", "client_msg_id": "m2"}),
    ] {
        assert_eq!(bob.refused(request).await, "denied");
    }
}

#[tokio::test]
async fn a_cursor_that_cannot_be_served_is_a_resync() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let (of_alice, of_bob) = (alice.fresh().await, bob.fresh().await);
    let long = "x".repeat(200);
    for cursor in [&*of_bob, "999999:999999", "", "\u{0}", "' OR 1=1 --", &long] {
        let pulled = alice.ok(json!({"op": "pull", "after": cursor})).await;
        assert_eq!(pulled, json!({"entries": [], "more": false, "resync": true}), "{cursor}");
        assert_eq!(alice.ok(json!({"op": "ack", "cursor": cursor})).await, json!({}));
    }
    let pulled = alice.ok(json!({"op": "pull", "after": of_alice})).await;
    assert_eq!(pulled, json!({"entries": [], "more": false}));
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_and_one_far_over_it_closes() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let ping = |bytes: usize| {
        let empty = json!({"id": 9, "op": "ping", "x": ""}).to_string();
        empty.replace("\"x\":\"\"", &format!("\"x\":\"{}\"", "x".repeat(bytes - empty.len())))
    };
    alice.text(ping(128 << 10)).await;
    assert!(alice.answer().await["ok"].is_object(), "as long as may be");
    for bytes in [(128 << 10) + 1, 512 << 10] {
        alice.text(ping(bytes)).await;
        let answer = alice.answer().await;
        assert_eq!((&answer["error"]["code"], &answer["re"]), (&json!("too_large"), &Value::Null));
        lives(&mut alice).await;
    }
    alice.text(ping((512 << 10) + 1)).await;
    assert_eq!(alice.closed().await, (4505, "too_large".into()));
    lives(&mut bob).await;
}

#[tokio::test]
async fn fragments_add_up_to_a_frame_and_are_limited_together() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    let fragment = |text: String, code, last| Message::Frame(Frame::message(text, OpCode::Data(code), last));
    within(client.ws.send(fragment(r#"{"id":9,"#.into(), Data::Text, false))).await.unwrap();
    within(client.ws.send(Message::Ping(Bytes::new()))).await.unwrap();
    within(client.ws.send(fragment(r#""op":"ping"}"#.into(), Data::Continue, true))).await.unwrap();
    assert_eq!(client.answer().await["re"], 9);
    within(client.ws.send(fragment("x".into(), Data::Text, false))).await.unwrap();
    for _ in 0..6 {
        within(client.ws.send(fragment("x".repeat(100 << 10), Data::Continue, false))).await.unwrap();
    }
    assert_eq!(client.closed().await.0, 4505);
}

#[tokio::test]
async fn who_is_too_fast_is_told_when_to_come_again() {
    let rate = im_transport_ws::Rate { per_second: 2.0, burst: 10.0 };
    let server = Server::with(|_| {}, |ws| ws.rate = rate).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let mut answers = Vec::new();
    for _ in 0..14 {
        alice.begin(json!({"op": "ping"})).await;
    }
    for _ in 0..14 {
        answers.push(alice.answer().await);
    }
    let refused: Vec<_> = answers.iter().filter(|answer| answer["error"]["code"] == "too_fast").collect();
    assert!((1..=4).contains(&refused.len()), "{answers:?}");
    assert!(refused.iter().all(|answer| answer["re"].is_u64()));
    let wait = refused[0]["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=2000).contains(&wait), "{wait}");
    lives(&mut bob).await;
}

#[tokio::test]
async fn a_flood_ends_the_connection_and_nobody_elses() {
    let rate = im_transport_ws::Rate { per_second: 1.0, burst: 10.0 };
    let server = Server::with(|_| {}, |ws| ws.rate = rate).await;
    let mut bob = server.client("bob").await;
    let ping = Message::text(r#"{"id":1,"op":"ping"}"#);
    let (pong, binary, broken) =
        (Message::Ping(Bytes::new()), Message::Binary(Bytes::from_static(b"x")), Message::text("{"));
    for flood in [ping, pong, binary, broken] {
        let mut client = server.client("alice").await;
        for _ in 0..40 {
            // What is sent after the close frame finds no reader.
            let _ = within(client.ws.feed(flood.clone())).await;
        }
        let _ = within(client.ws.flush()).await;
        assert_eq!(client.closed().await, (4503, "flood".into()), "{flood:?}");
    }
    lives(&mut bob).await;
}

/// Fragments of a message that never becomes whole.
#[tokio::test]
async fn a_flood_of_fragments_is_one_too() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let tcp = client.ws.get_mut();
    within(tcp.write_all(b"\x01\x80\0\0\0\0")).await.unwrap();
    within(tcp.write_all(&b"\x00\x80\0\0\0\0".repeat(1000))).await.unwrap();
    assert_eq!(client.closed().await, (4503, "flood".into()));
}

#[tokio::test]
async fn a_message_in_a_few_fragments_is_a_message() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let tcp = client.ws.get_mut();
    let parts: [&[u8]; 3] =
        [b"\x01\x87\0\0\0\0{\"id\":9", b"\x00\x86\0\0\0\0,\"op\":", b"\x80\x87\0\0\0\0\"ping\"}"];
    for part in parts {
        within(tcp.write_all(part)).await.unwrap();
    }
    assert_eq!(client.answer().await["re"], 9);
}

/// Each ping is answered, and one who does not read the answers would have them kept.
#[tokio::test]
async fn pings_before_hello_are_few() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let tcp = client.ws.get_mut();
    let pings = b"\x89\x81\0\0\0\0x".repeat(1000);
    within(tcp.write_all(&pings)).await.unwrap();
    let mut rest = Vec::new();
    within(tcp.read_to_end(&mut rest)).await.unwrap();
    let close = rest.windows(4).position(|bytes| bytes == [0x88, 2 + 5, 0x11, 0x97]);
    assert!(close.is_some_and(|place| place <= 20 * 3), "{} bytes before the close frame 4503", rest.len());
}

#[tokio::test]
async fn what_is_no_websocket_frame_ends_the_connection() {
    let server = Server::start().await;
    let frames: [(&str, &[u8]); 5] = [
        ("not masked", b"\x81\x02hi"),
        ("reserved bits", b"\xf1\x80\0\0\0\0"),
        ("unknown opcode", b"\x83\x80\0\0\0\0"),
        ("no UTF-8", b"\x81\x81\0\0\0\0\xff"),
        ("a continuation of nothing", b"\x80\x80\0\0\0\0"),
    ];
    for (what, frame) in frames {
        let mut client = server.client("alice").await;
        let tcp = client.ws.get_mut();
        within(tcp.write_all(frame)).await.unwrap();
        let mut rest = Vec::new();
        within(tcp.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.starts_with(&[0x88, 2 + 8, 0x11, 0x96]), "{what}: close 4502 but {rest:?}");
    }
    within(server.transport.drained()).await;
}
