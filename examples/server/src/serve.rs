//! A running server.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use axum::{Router, http::StatusCode};
use im_engine::{Engine, memory::Memory};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use crate::{Config, StartError, Tokens, accept, data::Data, dev_login, health, pages};

/// How long a request may take, WebSockets apart.
const REQUEST: Duration = Duration::from_secs(15);
/// How long the engine may take to drain.
const DRAIN: Duration = Duration::from_secs(10);

/// A running server: engine, WebSocket route, page, development login, health.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    database: PathBuf,
    chat: Engine,
    stop: CancellationToken,
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
        let database = data.database();
        let chat = open(&config, &database).await?;
        let stop = CancellationToken::new();
        let app = Router::new()
            .merge(login.route())
            .merge(health::route(chat.clone(), stop.clone()))
            .merge(pages::routes())
            .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST));
        drop(tokens);
        let accepting = tokio::spawn(accept::serve(listener, app, stop.clone()));
        Ok(Self { addr, database, chat, stop, accepting })
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

    /// The database's file.
    #[must_use]
    pub fn database(&self) -> &std::path::Path {
        &self.database
    }

    /// The engine.
    #[must_use]
    pub fn chat(&self) -> &Engine {
        &self.chat
    }

    /// Drains and stops: no new connections, clients are told to come back, what was acked is kept. Takes some 15 s at most.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN, self.chat.shutdown()).await.is_err() {
            tracing::warn!("the engine did not drain in {DRAIN:?}; what was acked is kept all the same");
        }
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "the listener failed");
        }
    }
}

/// The development login, and what checks tokens: its own and those of the configured keys.
fn signing(config: &Config, addr: SocketAddr, data: &Data) -> Result<(dev_login::Login, Tokens), StartError> {
    let secret = dev_login::is_on(config, addr).then(|| data.dev_key()).transpose()?;
    let login = dev_login::Login::new(secret.as_ref(), config.dev_login);
    let mut keys = config.token_keys.clone();
    keys.extend(secret.as_ref().map(dev_login::token_key));
    let tokens = Tokens::load(&keys, config.token_audience.as_deref(), config.token_leeway)?;
    Ok((login, tokens))
}

async fn open(config: &Config, database: &std::path::Path) -> Result<Engine, StartError> {
    let started = Engine::builder(Memory::new()).config(config.engine.clone()).start().await;
    started.map_err(|source| StartError::database(database.to_owned(), source))
}
