//! A running server.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use im_engine::{Engine, ErrorKind};
use im_transport_ws::Transport;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_http::timeout::TimeoutLayer;

use crate::{
    Config, StartError, Store, Tokens, accept, backend::Backend, data::Data, dev_login, health, pages,
};

/// How long a request may take, WebSockets apart.
const REQUEST: Duration = Duration::from_secs(15);
/// How long connections may take to drain, and then the engine.
const DRAIN: Duration = Duration::from_secs(10);

/// A running server: engine, WebSocket route, page, development login, health.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    /// What the data are called.
    database: String,
    chat: Engine,
    transport: Transport,
    backend: Backend,
    /// A server that is dropped without a shutdown takes no more connections.
    stop: DropGuard,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts a server on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] says in one line what to do.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // First: whoever starts a server twice is told of the port, and nothing else was touched.
        let listener = accept::listen(config.bind)?;
        let addr =
            listener.local_addr().map_err(|source| StartError::Listen { addr: config.bind, source })?;
        let data = Data::open(&config.data)?;
        let (login, tokens) = signing(&config, addr, &data)?;
        let file = data.database();
        let kept = match &config.store {
            Store::Sqlite => file.display().to_string(),
            store => store.to_string(),
        };
        let database = match &config.sync {
            Some(sync) => format!("{kept}, synced by {sync}"),
            None => kept,
        };
        let failed = |source| StartError::database(database.clone(), source);
        let backend = Backend::open(&config, &file).await.map_err(failed)?;
        let engine = Engine::builder(backend.parts()).config(config.engine.clone());
        let chat = engine.start().await.map_err(|source| match source.kind() {
            ErrorKind::Invalid => StartError::Engine(source),
            _ => failed(source),
        })?;
        let transport = Transport::new(chat.clone(), tokens, config.transport);
        let stop = CancellationToken::new();
        let app = Router::new()
            .merge(login.route())
            .merge(health::route(chat.clone()))
            .merge(pages::routes())
            .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST))
            .route("/im", transport.route());
        let accepting = tokio::spawn(accept::serve(listener, app, stop.clone()));
        Ok(Self { addr, database, chat, transport, backend, stop: stop.drop_guard(), accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to open in a browser on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        let ip = match self.addr.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(ip, self.addr.port()))
    }

    /// Where the data are: a file, or a database without its password; and by what they are synced.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The engine.
    #[must_use]
    pub fn chat(&self) -> &Engine {
        &self.chat
    }

    /// Drains and stops: takes no new connections, tells clients to come back, answers what they sent, closes the database.
    /// Takes some 20 s at most.
    pub async fn shutdown(self) {
        drop(self.stop);
        within("connections", self.transport.drain()).await;
        within("the engine", self.chat.shutdown()).await;
        if let Err(error) = self.backend.close().await {
            tracing::warn!(%error, "the database was not closed in order; its next start mends that");
        }
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "the listener failed");
        }
    }
}

/// What was acked is in the log by then: whoever is cut off here loses nothing.
async fn within(who: &str, drained: impl Future<Output = ()>) {
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("{who} did not drain in {DRAIN:?}");
    }
}

/// The development login, and what checks tokens: its own and those of the configured keys.
fn signing(config: &Config, addr: SocketAddr, data: &Data) -> Result<(dev_login::Login, Tokens), StartError> {
    let secret = dev_login::is_on(config, addr).then(|| data.dev_key()).transpose()?;
    let login = dev_login::Login::new(secret.as_ref(), config.dev_login);
    let mut keys = config.token_keys.clone();
    keys.extend(secret.as_ref().map(dev_login::token_key));
    let tokens = Tokens::load(&keys, config.token_audience.as_deref(), config.token_leeway)?;
    if keys.is_empty() {
        tracing::warn!("nobody can sign in: the development login is off here and there are no token keys");
    } else if secret.is_none() {
        tracing::info!("the development login is off: clients bring tokens, the page can let nobody in");
    }
    Ok((login, tokens))
}
