//! The example is as short as it is said to be, and works: two users talk by WebSocket, and are told when it stops.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{path::Path, process::Stdio, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
}

/// The example, on a free port, with its file in this folder.
async fn start(folder: &Path) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed"));
    command.arg("127.0.0.1:0").current_dir(folder).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = soon("the address", lines.next_line()).await.unwrap().expect("a line, not the end");
    (child, line.strip_prefix("listening on ").unwrap().to_owned())
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(host: &str) -> Self {
        Self(soon("connect", tokio_tungstenite::connect_async(format!("ws://{host}/im"))).await.unwrap().0)
    }

    async fn hello(host: &str, user: &str) -> Self {
        let mut client = Self::connect(host).await;
        let hello = json!({ "op": "hello", "token": format!("token-of-{user}"), "device": user });
        assert!(client.ask(hello).await["ok"].is_object());
        client
    }

    async fn ask(&mut self, mut request: Value) -> Value {
        request["id"] = 1.into();
        self.0.send(Message::text(request.to_string())).await.unwrap();
        self.until(|frame| frame["re"] == 1).await
    }

    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Message::Text(text) = self.next().await
                && let Some(frame) = serde_json::from_str(&text).ok().filter(&wanted)
            {
                return frame;
            }
        }
    }

    async fn next(&mut self) -> Message {
        soon("a frame", self.0.next()).await.expect("a frame, not the end").unwrap()
    }

    /// Reads to the end; the close code.
    async fn code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.expect("a code").code.into();
            }
        }
    }
}

#[test]
fn it_has_at_most_40_lines() {
    assert!(include_str!("../src/main.rs").lines().count() <= 40);
}

#[test]
fn it_is_what_the_readme_shows() {
    assert!(include_str!("../../../README.md").contains(include_str!("../src/main.rs")));
}

#[tokio::test]
async fn two_users_talk_until_the_application_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (mut application, host) = start(folder.path()).await;
    let mut alice = Client::hello(&host, "alice").await;
    let mut bob = Client::hello(&host, "bob").await;

    let single = alice.ask(json!({ "op": "open_single", "user": "bob" })).await;
    let conversation = single["ok"]["conversation"]["id"].clone();
    let message = json!({
        "op": "send", "conversation": conversation, "client_msg_id": "m1", "type": "text", "content": "你好",
    });
    assert_eq!(alice.ask(message).await["ok"]["seq"], 1);
    bob.until(|frame| frame["ev"] == "signal").await;
    let history = bob.ask(json!({ "op": "history", "conversation": conversation })).await;
    assert_eq!(history["ok"]["records"][0]["content"], "你好");

    let pid = application.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert_eq!((alice.code().await, bob.code().await), (4000, 4000));
    assert_eq!(soon("the end", application.wait()).await.unwrap().code(), Some(0));
    assert!(!folder.path().join("chat.db-wal").exists(), "one whole file is left");
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_application, host) = start(folder.path()).await;
    let mut stranger = Client::connect(&host).await;
    let answer = stranger.ask(json!({ "op": "hello", "token": "guessed", "device": "d" })).await;
    assert_eq!(answer["error"]["code"], "unauthorized");
    assert_eq!(stranger.code().await, 4501);
}
