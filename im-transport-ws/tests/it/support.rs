//! A server on a port of its own, and clients that speak JSON. Every wait is bounded.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use axum::Router;
use futures::{SinkExt, StreamExt};
use im_engine::{Config, DeviceId, Engine, Identity, Parts, Platform, Timestamp, UserId, memory::Memory};
use im_transport_ws::{AuthError, Authenticated, Authenticator, Transport, WsConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A token is the user's name; some names are no tokens.
#[derive(Debug)]
pub(crate) struct Names;

#[async_trait]
impl Authenticator for Names {
    async fn authenticate(
        &self,
        token: &str,
        device: &DeviceId,
        platform: Option<&Platform>,
    ) -> Result<Authenticated, AuthError> {
        let (name, expires) = match token.split_once('+') {
            None => (token, None),
            Some((name, ms)) => (name, Some(now().plus(Duration::from_millis(ms.parse().unwrap())))),
        };
        match name {
            "forged" => Err(AuthError::Invalid),
            "expired" => Err(AuthError::Expired),
            "down" => Err(AuthError::unavailable("the key server does not answer")),
            "never" => std::future::pending().await,
            name => Ok(Authenticated {
                identity: Identity {
                    user: UserId::new(name).unwrap(),
                    device: device.clone(),
                    platform: platform.cloned().unwrap_or(Platform::new("unknown").unwrap()),
                },
                expires,
            }),
        }
    }
}

fn now() -> Timestamp {
    use im_engine::Clock;
    im_engine::SystemClock.now()
}

/// A server.
pub(crate) struct Server {
    pub(crate) chat: Engine,
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    pub(crate) async fn with(engine: impl FnOnce(&mut Config), ws: impl FnOnce(&mut WsConfig)) -> Self {
        Self::on(&Memory::builder().partitions(2).build(), engine, ws).await
    }

    pub(crate) async fn on(
        parts: impl Into<Parts>,
        engine: impl FnOnce(&mut Config),
        ws: impl FnOnce(&mut WsConfig),
    ) -> Self {
        let (mut config, mut ws_config) = (Config::default(), WsConfig::default());
        engine(&mut config);
        ws(&mut ws_config);
        let chat = Engine::builder(parts).config(config).start().await.unwrap();
        let transport = Transport::new(chat.clone(), Names, ws_config);
        let app = Router::new().route("/im", transport.route());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { chat, transport, address }
    }

    /// A connection without a hello.
    pub(crate) async fn connect(&self) -> Client {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        Client::on(tcp, self.address).await
    }

    /// A client that has said hello and begun afresh.
    pub(crate) async fn client(&self, user: &str) -> Client {
        self.device(user, user).await
    }

    /// The same on a device of a name.
    pub(crate) async fn device(&self, user: &str, device: &str) -> Client {
        let mut client = self.connect().await;
        let hello = client.ok(json!({"op": "hello", "token": user, "device": device})).await;
        assert_eq!(hello["user"], user.split('+').next().unwrap());
        client
    }
}

/// A client.
pub(crate) struct Client {
    pub(crate) ws: WebSocketStream<TcpStream>,
    last_id: u64,
    /// Events that came before an answer.
    pub(crate) events: VecDeque<Value>,
}

impl Client {
    pub(crate) async fn on(tcp: TcpStream, address: SocketAddr) -> Self {
        let mut request = format!("ws://{address}/im").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "im.v1.json".parse().unwrap());
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let connected = tokio_tungstenite::client_async_with_config(request, tcp, Some(config));
        let (ws, response) = within(connected).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "im.v1.json");
        Self { ws, last_id: 0, events: VecDeque::new() }
    }

    pub(crate) async fn text(&mut self, text: impl Into<String>) {
        within(self.ws.send(Message::text(text.into()))).await.unwrap();
    }

    /// Sends a request without waiting; its id.
    pub(crate) async fn begin(&mut self, mut request: Value) -> u64 {
        self.last_id += 1;
        request["id"] = self.last_id.into();
        self.text(request.to_string()).await;
        self.last_id
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Value {
        loop {
            match within(self.ws.next()).await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no frame but {other:?}"),
            }
        }
    }

    /// The next answer; events before it are kept.
    pub(crate) async fn answer(&mut self) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["ev"].is_null() {
                return frame;
            }
            self.events.push_back(frame);
        }
    }

    /// Asks and waits for the answer to it.
    pub(crate) async fn ask(&mut self, request: Value) -> Value {
        let id = self.begin(request).await;
        let answer = self.answer().await;
        assert_eq!(answer["re"], id, "{answer}");
        answer
    }

    /// Asks for what is granted.
    pub(crate) async fn ok(&mut self, request: Value) -> Value {
        let answer = self.ask(request.clone()).await;
        assert!(answer["error"].is_null(), "{request}: {answer}");
        answer["ok"].clone()
    }

    /// Asks for what is refused; the code.
    pub(crate) async fn refused(&mut self, request: Value) -> String {
        let answer = self.ask(request.clone()).await;
        let code = answer["error"]["code"].as_str();
        code.unwrap_or_else(|| panic!("{request}: {answer}")).to_owned()
    }

    /// The next event of a name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.frame().await,
            };
            if event["ev"] == name {
                return event;
            }
        }
    }

    /// Begins afresh; the cursor.
    pub(crate) async fn fresh(&mut self) -> String {
        let fresh = self.ok(json!({"op": "conversations", "fresh": true})).await;
        fresh["cursor"].as_str().unwrap().to_owned()
    }

    /// The SINGLE conversation with another user.
    pub(crate) async fn single(&mut self, other: &str) -> String {
        let made = self.ok(json!({"op": "open_single", "user": other})).await;
        made["conversation"]["id"].as_str().unwrap().to_owned()
    }

    /// Passes frames over until the close frame; its code and reason.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match within(self.ws.next()).await {
                Some(Ok(Message::Close(Some(close)))) => {
                    // Sends the answer, and waits for the server to close; it may have gone already.
                    let _ = within(self.ws.next()).await;
                    return (close.code.into(), close.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("no close frame but {other:?}"),
            }
        }
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// A message of one text.
pub(crate) fn message(conversation: &str, id: &str, content: &str) -> Value {
    json!({"op": "send", "conversation": conversation, "client_msg_id": id, "type": "text", "content": content})
}
