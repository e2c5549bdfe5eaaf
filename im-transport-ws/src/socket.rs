//! The way in: from an HTTP request to a connection.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any},
};
use hyper::upgrade::OnUpgrade;
use im_engine::Engine;
use im_protocol::SUBPROTOCOL;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tungstenite::handshake::derive_accept_key;

use crate::{
    Authenticator, WsConfig,
    connection::Connection,
    farewell::{End, farewell},
    greet::{Greeted, greet},
    stream::{Stream, stream},
    wire::Wire,
};

/// How much longer than served a frame may be to be read at all.
const READ_BEYOND: usize = 4;

/// A route that takes WebSocket connections of the protocol `im.v1.json`, with the defaults of [`WsConfig`].
///
/// A host that wants other limits, or to wait for connections at its end, makes a [`Transport`].
pub fn socket<S>(chat: Engine, authenticator: impl Authenticator) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    Transport::new(chat, authenticator, WsConfig::default()).route()
}

/// The WebSocket transport of an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    pub(crate) shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) chat: Engine,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) config: WsConfig,
    /// Cancelled when connections are to leave.
    pub(crate) stop: CancellationToken,
    connections: TaskTracker,
    waiting: AtomicUsize,
}

impl Transport {
    /// A transport for an engine.
    #[must_use]
    pub fn new(chat: Engine, authenticator: impl Authenticator, config: WsConfig) -> Self {
        let shared = Shared {
            chat,
            authenticator: Arc::new(authenticator),
            config,
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            waiting: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The route that takes connections.
    pub fn route<S>(&self) -> MethodRouter<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let shared = self.shared.clone();
        any(move |request: Request| {
            let response = upgrade(&shared, request);
            async move { response }
        })
    }

    /// How many connections there are, with and without a session.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.len()
    }

    /// Takes no more connections, tells the clients of those there are, closes them spread over [`WsConfig::drain`], each when
    /// its sends are answered, and returns when all are gone. To be called before the engine is shut down, which would close
    /// them all at once.
    pub async fn drain(&self) {
        self.shared.stop.cancel();
        self.drained().await;
    }

    /// Waits until there are no connections any more, after [`Transport::drain`] or [`Engine::shutdown`].
    pub async fn drained(&self) {
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }
}

/// Why a request does not become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
struct NoUpgrade(StatusCode, &'static str);

impl IntoResponse for NoUpgrade {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                (status, [(header::RETRY_AFTER, "1")], message).into_response()
            }
            StatusCode::UPGRADE_REQUIRED => {
                (status, [(header::SEC_WEBSOCKET_VERSION, "13")], message).into_response()
            }
            _ => (status, message).into_response(),
        }
    }
}

fn upgrade(shared: &Arc<Shared>, mut request: Request) -> Response {
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let checked = check(&request).and_then(|accept| {
        check_origin(shared.config.allowed_origins.as_deref(), request.headers())?;
        let on_upgrade = on_upgrade
            .ok_or(NoUpgrade(StatusCode::UPGRADE_REQUIRED, "this connection cannot become a WebSocket"))?;
        Ok((accept, on_upgrade, Waiting::enter(shared)?))
    });
    let (accept, on_upgrade, waiting) = match checked {
        Ok(checked) => checked,
        Err(refused) => return refused.into_response(),
    };
    shared.connections.spawn(serve(on_upgrade, waiting));
    accept.response(request.headers())
}

/// A handshake that is to be answered: over HTTP/1.1 with the client's key, over HTTP/2 (RFC 8441) without.
#[derive(Debug, PartialEq, Eq)]
struct Accept(Option<String>);

fn check(request: &Request) -> Result<Accept, NoUpgrade> {
    let (headers, bad) = (request.headers(), |message| Err(NoUpgrade(StatusCode::BAD_REQUEST, message)));
    let http1 = request.version() <= Version::HTTP_11;
    if request.method() != (if http1 { Method::GET } else { Method::CONNECT }) {
        return Err(NoUpgrade(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET"));
    }
    if http1
        && !(lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket"))
    {
        return Err(NoUpgrade(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket"));
    }
    if !lists(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(NoUpgrade(StatusCode::UPGRADE_REQUIRED, "the WebSocket version is 13"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        && !lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
    {
        return bad("the subprotocol is im.v1.json");
    }
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        Some(key) if http1 => Ok(Accept(Some(derive_accept_key(key.as_bytes())))),
        None if http1 => bad("the WebSocket key is missing"),
        _ => Ok(Accept(None)),
    }
}

/// Whether a header holds a word among others.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.into_iter().any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

fn check_origin(allowed: Option<&[String]>, headers: &HeaderMap) -> Result<(), NoUpgrade> {
    let (Some(allowed), Some(origin)) = (allowed, headers.get(header::ORIGIN)) else { return Ok(()) };
    match allowed.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())) {
        true => Ok(()),
        false => Err(NoUpgrade(StatusCode::FORBIDDEN, "this origin may not connect")),
    }
}

impl Accept {
    fn response(self, asked: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        if asked.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        let Some(key) = self.0.and_then(|key| HeaderValue::try_from(key).ok()) else { return response };
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }
}

/// A place among the connections without a session.
struct Waiting {
    shared: Arc<Shared>,
}

impl Waiting {
    fn enter(shared: &Arc<Shared>) -> Result<Self, NoUpgrade> {
        if shared.stop.is_cancelled() {
            return Err(NoUpgrade(StatusCode::SERVICE_UNAVAILABLE, "the server stops"));
        }
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self { shared: shared.clone() };
        match before < shared.config.max_waiting {
            true => Ok(place),
            false => Err(NoUpgrade(StatusCode::SERVICE_UNAVAILABLE, "too many connections wait")),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

/// Serves a connection from its handshake to its end.
async fn serve(on_upgrade: OnUpgrade, waiting: Waiting) {
    let shared = waiting.shared.clone();
    let Some((mut wire, greeted)) = Box::pin(begin(on_upgrade, waiting)).await else { return };
    let end = Connection::new(&mut wire, &shared, greeted).run().await;
    tracing::debug!(?end, "a connection ends");
    Box::pin(farewell(&mut wire, end, shared.config.close_timeout)).await;
}

/// Waits for the session; what is needed only until then is gone afterwards.
async fn begin(on_upgrade: OnUpgrade, waiting: Waiting) -> Option<(Wire<Stream>, Greeted)> {
    let shared = &waiting.shared;
    let config = &shared.config;
    let upgraded = tokio::time::timeout(config.hello_timeout, on_upgrade).await.ok()?.ok()?;
    let (stream, read) = stream(upgraded);
    let mut wire = Wire::new(stream, read, config.hello_bytes);
    let greeted = tokio::select! {
        greeted = greet(&mut wire, shared) => greeted,
        () = shared.stop.cancelled() => Err(End::Close(im_protocol::CloseCode::Draining)),
    };
    match greeted {
        Ok(greeted) => {
            wire.limit(config.frame_bytes * READ_BEYOND);
            Some((wire, greeted))
        }
        Err(end) => {
            farewell(&mut wire, end, config.close_timeout).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use im_engine::memory::Memory;

    use super::*;
    use crate::auth::Nobody;

    /// Each of thousands of idle connections holds its future: what is rare in it must be boxed.
    #[tokio::test]
    async fn the_future_of_a_connection_is_small() {
        let chat = Engine::builder(Memory::new()).start().await.unwrap();
        let transport = Transport::new(chat, Nobody, WsConfig::default());
        let on_upgrade = hyper::upgrade::on(Request::new(Body::empty()));
        let serving = serve(on_upgrade, Waiting::enter(&transport.shared).unwrap());
        assert!(size_of_val(&serving) <= 1280, "{} bytes", size_of_val(&serving));
        drop(serving);
        assert_eq!(transport.shared.waiting.load(Ordering::Relaxed), 0);
    }
}
