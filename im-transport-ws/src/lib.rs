//! The WebSocket transport of the chat engine: frames of the protocol `im.v1.json` in, calls of a session out, and back.
//!
//! ```no_run
//! # use im_transport_ws::{AuthError, Authenticated, Authenticator};
//! # use im_engine::{DeviceId, Engine, Identity, Platform, UserId, memory::Memory};
//! #[derive(Debug)]
//! struct MyTokens;
//!
//! #[async_trait::async_trait]
//! impl Authenticator for MyTokens {
//!     async fn authenticate(
//!         &self,
//!         token: &str,
//!         device: &DeviceId,
//!         platform: Option<&Platform>,
//!     ) -> Result<Authenticated, AuthError> {
//!         let user = token.strip_prefix("secret-of-").ok_or(AuthError::Invalid)?;
//!         let user = UserId::new(user).map_err(|_| AuthError::Invalid)?;
//!         let platform = platform.cloned().unwrap_or(Platform::new("web").map_err(AuthError::unavailable)?);
//!         Ok(Authenticated { identity: Identity { user, device: device.clone(), platform }, expires: None })
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let chat = Engine::builder(Memory::new()).start().await?;
//! let app = axum::Router::new().route("/im", im_transport_ws::socket(chat.clone(), MyTokens));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! One connection is one task. There is no rate limit per address and no TLS here: both belong to the proxy in front.

mod alarm;
mod auth;
mod bootstrap;
mod codes;
mod config;
mod connection;
mod events;
mod farewell;
mod greet;
mod intake;
mod ops;
mod outgoing;
mod rate;
mod sends;
mod socket;
mod stall;
mod stream;
mod wire;

pub use auth::{AuthError, Authenticated, Authenticator};
pub use config::WsConfig;
pub use rate::Rate;
pub use socket::{Transport, socket};
