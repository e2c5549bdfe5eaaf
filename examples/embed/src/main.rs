//! Chat in an axum application of one's own: its users, its routes, one process, one file.

use axum::{Router, routing::get};
use im_engine::{DeviceId, Engine, Identity, Platform, UserId};
use im_store_sqlite::Sqlite;
use im_transport_ws::{AuthError, Authenticated, Authenticator, Transport, WsConfig};
use tokio::{net::TcpListener, signal::ctrl_c};

#[derive(Debug)]
struct Accounts;

#[async_trait::async_trait]
impl Authenticator for Accounts {
    async fn authenticate(
        &self,
        token: &str,
        device: &DeviceId,
        platform: Option<&Platform>,
    ) -> Result<Authenticated, AuthError> {
        // Here an application asks its own sessions whose token this is.
        let user = token.strip_prefix("token-of-").ok_or(AuthError::Invalid)?;
        let user = UserId::new(user).map_err(|_| AuthError::Invalid)?;
        let platform = platform.cloned().unwrap_or(Platform::new("web").map_err(AuthError::unavailable)?);
        Ok(Authenticated { identity: Identity { user, device: device.clone(), platform }, expires: None })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = Sqlite::open("chat.db").await?;
    let chat = Engine::builder(&file).start().await?;
    let socket = Transport::new(chat.clone(), Accounts, WsConfig::default());
    let app = Router::new().route("/", get("the application's own page")).route("/im", socket.route());
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:3000".into())).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(async { _ = ctrl_c().await }).await?;
    socket.drain().await;
    chat.shutdown().await;
    Ok(file.close().await?)
}
