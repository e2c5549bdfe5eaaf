//! What the tests of this server share: a server process, a WebSocket client, a plain HTTP request.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

/// More than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
}

/// The program, with nothing of this process's environment that could configure it.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_im-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"IM_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A program that did not start: its exit code and what it wrote to stderr.
pub(crate) async fn refusal(command: &mut Command) -> (Option<i32>, String) {
    let output = soon("the program ends", command.stdout(Stdio::null()).stderr(Stdio::piped()).output())
        .await
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A running server process; it ends with this value.
pub(crate) struct Process {
    child: Child,
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    /// What it said at the start.
    pub(crate) said: Vec<String>,
}

impl Process {
    /// A server on a free port of loopback and these data.
    pub(crate) async fn start(data: &Path, arguments: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        Self::of(program(&[&["--bind", "127.0.0.1:0", "--data", data], arguments].concat())).await
    }

    /// A server by this command.
    pub(crate) async fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        while said.len() < 2 {
            said.push(soon("a line", lines.next_line()).await.unwrap().expect("a line, not the end"));
        }
        let host = said[0].strip_prefix("open http://").expect("the address").to_owned();
        Self { child, host, said }
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap();
        assert!(status.success());
    }

    /// What it wrote to stderr until it ended.
    pub(crate) async fn log(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut text).await.unwrap();
        text
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the process ends", self.child.wait()).await.unwrap()
    }
}

/// One HTTP request; status and body of the answer.
pub(crate) async fn http(host: &str, request: &str, headers: &[&str], body: &str) -> (u16, String) {
    let length = format!("content-length: {}", body.len());
    let mut head = vec![format!("{request} HTTP/1.1"), length, "connection: close".to_owned()];
    if !headers.iter().any(|header| header.starts_with("host:")) {
        head.push(format!("host: {host}"));
    }
    head.extend(headers.iter().map(|header| (*header).to_owned()));
    let text = format!("{}\r\n\r\n{body}", head.join("\r\n"));
    soon(request, async {
        let mut stream = TcpStream::connect(host).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).expect("a status").parse().unwrap();
        (status, answer)
    })
    .await
}

/// Signs in without a password.
pub(crate) async fn token(host: &str, user: &str) -> String {
    let body = json!({ "user": user }).to_string();
    let (status, answer) = http(host, "POST /dev/login", &["content-type: application/json"], &body).await;
    assert_eq!(status, 200, "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    body["token"].as_str().unwrap().to_owned()
}

/// A WebSocket client that speaks the protocol by hand.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
    /// Events that came while an answer was awaited.
    events: Vec<Value>,
}

impl Client {
    /// Connects and says hello.
    pub(crate) async fn hello(host: &str, token: &str) -> Self {
        let (client, answer) = Self::try_hello(host, token).await;
        assert!(answer["ok"].is_object(), "{answer}");
        client
    }

    /// Connects and says nothing.
    pub(crate) async fn connect(host: &str) -> Self {
        let mut request = format!("ws://{host}/im").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "im.v1.json".parse().unwrap());
        let (socket, _) = soon("connect", tokio_tungstenite::connect_async(request)).await.unwrap();
        Self { socket, asked: 0, events: Vec::new() }
    }

    /// Connects and says hello; the answer, whatever it is.
    pub(crate) async fn try_hello(host: &str, token: &str) -> (Self, Value) {
        static DEVICES: AtomicU64 = AtomicU64::new(1);
        let device = format!("device {}", DEVICES.fetch_add(1, Ordering::Relaxed));
        let mut client = Self::connect(host).await;
        let answer = client.ask("hello", json!({ "token": token, "device": device })).await;
        (client, answer)
    }

    /// Asks; the answer, be it `ok` or `error`.
    pub(crate) async fn ask(&mut self, op: &str, mut request: Value) -> Value {
        self.asked += 1;
        request["id"] = self.asked.into();
        request["op"] = op.into();
        soon("send", self.socket.send(Message::text(request.to_string()))).await.unwrap();
        loop {
            match self.frame().await {
                Ok(answer) if answer["re"] == self.asked => return answer,
                Ok(event) => self.events.push(event),
                Err(code) => panic!("closed with {code:?} while {op} was asked"),
            }
        }
    }

    /// The next frame, or the code of the close frame.
    async fn frame(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match soon("a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("no close frame: {error}"),
                None => return Err(None),
            }
        }
    }

    /// Reads to the end: the events that came, and the close code.
    pub(crate) async fn end(mut self) -> (Vec<Value>, Option<u16>) {
        loop {
            match self.frame().await {
                Ok(frame) => self.events.push(frame),
                Err(code) => return (self.events, code),
            }
        }
    }

    /// Waits until the server says that it stops.
    pub(crate) async fn draining(&mut self) {
        while self.frame().await.expect("an event, not the end")["ev"] != "draining" {}
    }

    /// One record of a conversation.
    pub(crate) async fn record(&mut self, conversation: &str, seq: u64) -> Value {
        let answer =
            self.ask("history", json!({ "conversation": conversation, "from": seq, "to": seq })).await;
        let record = answer["ok"]["records"][0].clone();
        assert_eq!(record["seq"], seq, "{answer}");
        record
    }

    /// Opens the conversation with another user.
    pub(crate) async fn open_single(&mut self, user: &str) -> String {
        let answer = self.ask("open_single", json!({ "user": user })).await;
        answer["ok"]["conversation"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Sends a text; the sequence id.
    pub(crate) async fn send(&mut self, conversation: &str, id: &str, text: &str) -> u64 {
        let request =
            json!({ "conversation": conversation, "client_msg_id": id, "type": "text", "content": text });
        let answer = self.ask("send", request).await;
        answer["ok"]["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }
}
