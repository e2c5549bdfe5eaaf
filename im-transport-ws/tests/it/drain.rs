//! The server stops.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};

use crate::support::{Server, message, within};

#[tokio::test]
async fn clients_are_told_answered_and_closed_one_by_one() {
    let server = Server::with(|_| {}, |ws| ws.drain = Duration::from_millis(400)).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = server.client(&format!("user{number}")).await;
        let single = client.single("bob").await;
        clients.push((client, single));
    }
    let mut under_way = Vec::new();
    for (mut client, single) in clients {
        let sent = client.begin(message(&single, "m", "last words")).await;
        under_way.push((client, sent));
    }
    let transport = server.transport.clone();
    let drain = tokio::spawn(async move { transport.drain().await });
    let mut ends = Vec::new();
    let begin = tokio::time::Instant::now();
    for (mut client, sent) in under_way {
        ends.push(tokio::spawn(async move {
            let (mut told, mut answered) = (false, false);
            while !(told && answered) {
                let frame = client.frame().await;
                told |= frame == json!({"ev": "draining"});
                answered |= frame["re"] == sent;
            }
            assert_eq!(client.closed().await, (4000, "draining".into()));
            begin.elapsed()
        }));
    }
    let mut times = Vec::new();
    for end in ends {
        times.push(within(end).await);
    }
    within(drain).await.unwrap();
    let served: Vec<_> = times.into_iter().flatten().collect();
    let spread = served.iter().max().unwrap().saturating_sub(*served.iter().min().unwrap());
    assert!(spread > Duration::from_millis(50), "not all at once: {spread:?}");
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
