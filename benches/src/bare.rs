//! The raw limit of WebSockets: an axum loop that sends prepared frames.
//!
//! A broadcast channel per group, a task per connection, as many frames per flush as wait. No session, no JSON read, no acks, no
//! rate limit, no timeouts. Small buffers: with axum's defaults each connection takes 128 KiB at once.

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    routing::any,
    serve::ListenerExt,
};
use futures::{SinkExt, StreamExt};
use tokio::{net::TcpListener, sync::broadcast};

use crate::{args::Shape, drive};

/// How many frames may wait for a connection; above every window.
const CAPACITY: usize = 1024;
const READ_BUFFER: usize = 2 << 10;

/// The groups that frames go to.
#[derive(Debug, Clone)]
pub(crate) struct Bare {
    groups: Vec<broadcast::Sender<Utf8Bytes>>,
    shape: Shape,
}

impl Bare {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { groups: (0..shape.groups).map(|_| broadcast::Sender::new(CAPACITY)).collect(), shape }
    }

    /// Sends a frame to every connection of a group.
    pub(crate) fn send(&self, group: usize, frame: Utf8Bytes) {
        // Without connections nobody misses it.
        let _ = self.groups[group].send(frame);
    }

    pub(crate) async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let app = Router::new().route("/im", any(upgrade)).with_state(self);
        let listener = listener.tap_io(|stream| {
            // A frame that is delayed shows in the figures.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, app).await
    }
}

async fn upgrade(State(bare): State<Bare>, upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.read_buffer_size(READ_BUFFER).protocols([im_protocol::SUBPROTOCOL]).on_upgrade(
        |socket| async move {
            // Whatever ends a connection, the clients notice.
            let _ = Box::pin(connection(bare, socket)).await;
        },
    )
}

async fn connection(bare: Bare, mut socket: WebSocket) -> Option<()> {
    let hello = socket.recv().await?.ok()?;
    let hello: serde_json::Value = serde_json::from_str(hello.to_text().ok()?).ok()?;
    let place =
        drive::place(hello.get("token")?.as_str()?).filter(|place| drive::holds(bare.shape, *place))?;
    let mut frames = bare.groups[place.0].subscribe();
    drop(bare);
    drop(hello);
    socket.send(Message::text(r#"{"re":1,"ok":{}}"#)).await.ok()?;
    loop {
        tokio::select! {
            frame = frames.recv() => {
                socket.feed(Message::Text(frame.ok()?)).await.ok()?;
                while let Ok(frame) = frames.try_recv() {
                    socket.feed(Message::Text(frame)).await.ok()?;
                }
                socket.flush().await.ok()?;
            }
            said = socket.next() => drop(said?.ok()?),
        }
    }
}
