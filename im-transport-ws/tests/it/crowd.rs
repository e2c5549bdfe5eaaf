//! Crowds: those that never say hello, and those that do.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};

use crate::support::{Server, message, within};

#[tokio::test]
async fn a_thousand_that_never_say_hello_go_and_disturb_nobody() {
    let server = Server::with(|_| {}, |ws| ws.hello_timeout = Duration::from_secs(2)).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    bob.fresh().await;
    let mut mute = join_all((0..1000).map(|_| server.connect())).await;
    assert!(server.transport.connections() > 2);
    for number in 0..20 {
        alice.ok(message(&single, &format!("m{number}"), "hi")).await;
        let signal = bob.event("signal").await;
        bob.ok(json!({"op": "ack", "cursor": signal["end"]})).await;
    }
    let closed = join_all(mute.iter_mut().map(|client| client.closed())).await;
    assert!(closed.iter().all(|(code, _)| *code == 4005));
    drop(mute);
    let gone = async {
        while server.transport.connections() > 2 {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    assert!(alice.ok(json!({"op": "ping"})).await["time"].is_u64());
}

#[tokio::test]
async fn only_so_many_wait_for_a_session_and_a_session_frees_its_place() {
    let server = Server::with(|_| {}, |ws| ws.max_waiting = 2).await;
    let mut one = server.connect().await;
    let _two = server.connect().await;
    let refused = async || {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let request = format!("ws://{}/im", server.address).into_client_request().unwrap();
        match within(tokio_tungstenite::client_async(request, tcp)).await {
            Err(Error::Http(response)) => response.status() == 503,
            _ => false,
        }
    };
    assert!(refused().await, "no room for a third");
    one.ok(json!({"op": "hello", "token": "alice", "device": "a"})).await;
    assert!(!refused().await, "the first one waits no more");
}
