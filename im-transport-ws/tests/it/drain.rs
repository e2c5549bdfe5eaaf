//! The server stops.

use std::time::Duration;

use im_engine::memory::Memory;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};

use crate::{
    held::held,
    support::{Server, message, within},
};

#[tokio::test]
async fn clients_are_told_and_closed_when_what_is_under_way_is_answered() {
    let (parts, go) = held(&Memory::new());
    let server = Server::on(parts, |_| {}, |ws| ws.drain = Duration::ZERO).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = server.client(&format!("user{number}")).await;
        let single = client.single("bob").await;
        let mut request = message(&single, "m", "last words");
        request["ack"] = "stored".into();
        let sent = client.begin(request).await;
        // The message is in the log: its answer waits for the store.
        client.event("signal").await;
        clients.push((client, sent));
    }
    let transport = server.transport.clone();
    let drain = tokio::spawn(async move { transport.drain().await });
    for (client, _) in &mut clients {
        assert_eq!(client.event("draining").await, json!({"ev": "draining"}));
    }
    assert_eq!(server.transport.connections(), 10);
    go.send(true).unwrap();
    for (client, sent) in &mut clients {
        let answer = client.answer().await;
        assert_eq!((&answer["re"], &answer["ok"]["level"]), (&json!(sent), &json!("stored")));
        assert_eq!(client.closed().await, (4000, "draining".into()));
    }
    within(drain).await.unwrap();
    assert_eq!(server.transport.connections(), 0);
    within(server.chat.shutdown()).await;
}

#[tokio::test]
async fn no_connection_begins_while_the_server_stops() {
    let server = Server::start().await;
    let mut waiting = server.connect().await;
    let (closed, ()) = tokio::join!(waiting.closed(), within(server.transport.drain()));
    assert_eq!(closed, (4000, "draining".into()), "who had no session yet goes at once");
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let request = format!("ws://{}/im", server.address).into_client_request().unwrap();
    let refused = within(tokio_tungstenite::client_async(request, tcp)).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 503));
}

#[tokio::test]
async fn an_engine_that_shuts_down_says_so_and_closes() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    let single = client.single("bob").await;
    let sent = client.begin(message(&single, "m", "last words")).await;
    let answer = client.answer().await;
    assert_eq!(answer["re"], sent);
    within(server.chat.shutdown()).await;
    assert_eq!(client.event("draining").await, json!({"ev": "draining"}));
    assert_eq!(client.closed().await, (4000, "draining".into()));
    within(server.transport.drained()).await;
    let mut late = server.connect().await;
    let hello = json!({"op": "hello", "token": "bob", "device": "b"});
    assert_eq!(late.refused(hello).await, "unavailable");
    assert_eq!(late.closed().await.0, 4003);
}
