//! A WebSocket connection: frames out and in, and nothing of what they mean.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use im_protocol::{CloseCode, Op, Request, SUBPROTOCOL, frame};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, Utf8Bytes, client::IntoClientRequest, http::HeaderValue},
};

/// How long connecting, or writing a frame, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Over {
    /// It broke, was cut, or is to be given up; the client comes back.
    Lost,
    /// The client has done everything.
    Done,
    /// The server answered as it should not answer this client.
    Wrong(String),
}

/// What may end the connection.
pub(crate) type Step<T> = Result<T, Over>;

/// A WebSocket connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: WebSocketStream<TcpStream>,
    last_id: u64,
}

impl Link {
    /// Connects to `host:port`.
    pub(crate) async fn open(host: &str) -> Step<Self> {
        timeout(PATIENCE, Self::connect(host)).await.ok().flatten().ok_or(Over::Lost)
    }

    async fn connect(host: &str) -> Option<Self> {
        let mut request = format!("ws://{host}/im").into_client_request().ok()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let stream = TcpStream::connect(host).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (socket, _) = client_async(request, stream).await.ok()?;
        Some(Self { socket, last_id: 0 })
    }

    /// Sends a request under a fresh id, which it returns.
    pub(crate) async fn request(&mut self, op: Op<'_>) -> Step<u64> {
        self.last_id += 1;
        self.write(&Request { id: Some(self.last_id.into()), op }).await?;
        Ok(self.last_id)
    }

    /// Sends a request that is not answered.
    pub(crate) async fn tell(&mut self, op: Op<'_>) -> Step<()> {
        self.write(&Request { id: None, op }).await
    }

    async fn write(&mut self, request: &Request<'_>) -> Step<()> {
        let message = Message::text(frame::request(request));
        let written = timeout(PATIENCE, self.socket.send(message)).await;
        written.ok().and_then(Result::ok).ok_or(Over::Lost)
    }

    /// The next frame. A future that is dropped loses none.
    pub(crate) async fn frame(&mut self) -> Step<Utf8Bytes> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(Some(close)))) => {
                    return Err(closed(close.code.into(), &close.reason));
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(Over::Lost),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Says goodbye; whether it is heard does not matter.
    pub(crate) async fn close(mut self) {
        let _ = timeout(PATIENCE, self.socket.close(None)).await;
    }
}

fn closed(code: u16, reason: &str) -> Over {
    if CloseCode::reconnects(code) {
        Over::Lost
    } else {
        Over::Wrong(format!("the server closed the connection for good: {code} {reason}"))
    }
}
