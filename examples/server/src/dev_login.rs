//! Signing in without a password, for development: a name in, a token out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{HOST, ORIGIN},
        uri::Authority,
    },
    routing::post,
};
use im_engine::{Clock, SystemClock, Timestamp, UserId};
use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use crate::{Config, DevLogin, KeySource, Secret, TokenAlgorithm, TokenKey};

/// How long a token is valid.
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest request; a name has 64 bytes.
const REQUEST_BYTES: usize = 4096;

/// The route `POST /dev/login {user}` → `{token, user, expires_at}`.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    signer: Option<Arc<Signer>>,
    /// Whether the request must name this machine as its host.
    local: bool,
}

struct Signer(EncodingKey);

#[derive(Deserialize)]
struct Request {
    user: UserId,
}

#[derive(Debug, Serialize)]
struct Granted {
    token: String,
    user: UserId,
    /// Milliseconds since 1970-01-01 UTC.
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a UserId,
    exp: i64,
}

type Refused = (StatusCode, &'static str);

/// Whether anybody may sign in this way.
pub(crate) fn is_on(config: &Config, addr: SocketAddr) -> bool {
    match config.dev_login {
        DevLogin::Loopback => addr.ip().is_loopback() && config.token_keys.is_empty(),
        DevLogin::Off => false,
        DevLogin::AllowAnyone => true,
    }
}

/// What checks the tokens that are signed with this secret.
pub(crate) fn token_key(secret: &Secret) -> TokenKey {
    let source = KeySource::Here("the data folder".to_owned(), secret.clone());
    TokenKey { algorithm: TokenAlgorithm::Hs256, source }
}

impl Login {
    /// Signs with a secret; without one everybody is refused.
    pub(crate) fn new(secret: Option<&Secret>, dev_login: DevLogin) -> Self {
        let signer = secret.map(|secret| Arc::new(Signer(EncodingKey::from_secret(secret.reveal()))));
        Self { signer, local: dev_login == DevLogin::Loopback }
    }

    /// The route.
    pub(crate) fn route(self) -> Router {
        Router::new()
            .route("/dev/login", post(login))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES))
            .with_state(self)
    }

    fn grant(&self, headers: &HeaderMap, user: UserId) -> Result<Granted, Refused> {
        let signer = self.signer.as_ref().ok_or((StatusCode::FORBIDDEN, OFF))?;
        if self.local && !names_this_machine(headers) {
            return Err((StatusCode::FORBIDDEN, NOT_LOCAL));
        }
        let expires_at = SystemClock.now().plus(VALID);
        let claims = Claims { sub: &user, exp: expires_at.0 / 1000 };
        let token = jsonwebtoken::encode(&Header::default(), &claims, &signer.0)
            .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "the token could not be signed"))?;
        Ok(Granted { token, user, expires_at })
    }
}

const OFF: &str = "the development login is off: sign in with a token of the application's. It is on at a loopback address of a \
                   server without token keys, unless dev_login is \"off\", and with --dev-login allow-anyone";
const NOT_LOCAL: &str = "the development login answers only to http://localhost or a loopback address; for others start the \
                         server with --dev-login allow-anyone";

async fn login(
    State(login): State<Login>,
    headers: HeaderMap,
    // Asks for a JSON content type, which no form of a foreign page can send.
    Json(request): Json<Request>,
) -> Result<Json<Granted>, Refused> {
    login.grant(&headers, request.user).map(Json)
}

/// What a proxy adds to a request that it passes on.
const FORWARDED: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// A page of elsewhere whose name was made to mean this machine (DNS rebinding) sends another host. So does a proxy that serves
/// others, or it tells of them, or their browser names the page's origin. One that does none of that for a client that is no
/// browser cannot be told from a local request: behind a proxy the development login must be off.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let origin = headers.get(ORIGIN).map(|origin| {
        let origin = Uri::try_from(origin.as_bytes()).ok()?;
        origin.authority().map(is_this_machine)
    });
    host.is_some_and(|host| is_this_machine(&host))
        && origin.is_none_or(|is_local| is_local == Some(true))
        && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

fn is_this_machine(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(redacted)")
    }
}
