//! The page and the JavaScript client, inside the program.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{Embed, EmbeddedFile};
use tower_http::set_header::SetResponseHeaderLayer;

/// The page: `examples/server/web`.
#[derive(Embed)]
#[folder = "web"]
struct Web;

/// What of `clients/js` a page needs.
#[derive(Embed)]
#[folder = "../../clients/js"]
#[include = "*.js"]
#[exclude = "test/*"]
#[exclude = "node_modules/*"]
struct Client;

/// Only what this server sends may run, and no other site may put the page into a frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// `/` and the files beside it, `/client/…` the JavaScript client.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { serve(Web::get("index.html"), &headers) }))
        .route("/{*path}", get(|Path(path): Path<String>, headers: HeaderMap| async move {
            serve(Web::get(&path), &headers)
        }))
        .route("/client/{*path}", get(|Path(path): Path<String>, headers: HeaderMap| async move {
            serve(Client::get(&path), &headers)
        }))
        .layer(fixed(CACHE_CONTROL, "no-cache"))
        .layer(fixed(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(CONTENT_SECURITY_POLICY, POLICY))
}

fn fixed(name: axum::http::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

/// A browser asks each time whether its copy is the present one, so that a new program is not mixed with an old page.
fn serve(file: Option<EmbeddedFile>, headers: &HeaderMap) -> Response {
    let Some(file) = file else { return StatusCode::NOT_FOUND.into_response() };
    let tag = format!("\"{}\"", hex(&file.metadata.sha256_hash()[..16]));
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known == tag.as_str()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    let kind = match file.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    ([(CONTENT_TYPE, kind), (ETAG, tag)], Body::from(file.data)).into_response()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
