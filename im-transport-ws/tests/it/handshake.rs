//! The HTTP side: what is upgraded and what is not.

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{
    Error, Message, client::IntoClientRequest, handshake::client::Request, http::StatusCode,
};

use crate::support::{Server, within};

fn request(server: &Server, headers: &[(&'static str, &str)]) -> Request {
    let mut request = format!("ws://{}/im", server.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn status(server: &Server, headers: &[(&'static str, &str)]) -> StatusCode {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    match within(tokio_tungstenite::client_async(request(server, headers), tcp)).await {
        Ok((_, response)) => response.status(),
        Err(Error::Http(response)) => response.status(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_subprotocol_is_chosen_among_others_or_may_be_missing() {
    let server = Server::start().await;
    assert_eq!(status(&server, &[]).await, StatusCode::SWITCHING_PROTOCOLS);
    let others = [("sec-websocket-protocol", "im.v2.json, im.v1.json")];
    assert_eq!(status(&server, &others).await, StatusCode::SWITCHING_PROTOCOLS);
    let unknown = [("sec-websocket-protocol", "im.v2.json")];
    assert_eq!(status(&server, &unknown).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_origin_is_checked_where_there_is_a_list_and_an_origin() {
    let open = Server::start().await;
    assert_eq!(status(&open, &[("origin", "https://evil.example")]).await, StatusCode::SWITCHING_PROTOCOLS);
    let allowed = Some(vec!["https://chat.example".to_owned()]);
    let server = Server::with(|_| {}, |ws| ws.allowed_origins = allowed).await;
    assert_eq!(status(&server, &[("origin", "https://chat.example")]).await, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(status(&server, &[("origin", "https://evil.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&server, &[]).await, StatusCode::SWITCHING_PROTOCOLS, "a mini-program sends none");
}

#[tokio::test]
async fn what_is_no_handshake_gets_an_http_answer() {
    let server = Server::start().await;
    let requests = [
        ("GET /im HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "426"),
        ("POST /im HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "405"),
        (
            "GET /im HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 8\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "426",
        ),
        (
            "GET /im HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n",
            "400",
        ),
    ];
    for (request, status) in requests {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        within(tcp.write_all(request.as_bytes())).await.unwrap();
        let mut answer = String::new();
        within(tcp.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    assert_eq!(server.transport.connections(), 0);
}

#[tokio::test]
async fn a_ping_of_websocket_is_answered_with_and_without_a_session() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for greeted in [false, true] {
        if greeted {
            client.ok(json!({"op": "hello", "token": "alice", "device": "a"})).await;
        }
        within(client.ws.send(Message::Ping("hey".into()))).await.unwrap();
        let pong = within(client.ws.next()).await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong("hey".into()));
    }
}
