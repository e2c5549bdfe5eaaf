//! The only mapping from async-nats' errors to ours.

use async_nats::{
    ConnectError, ConnectErrorKind,
    client::{FlushError, PublishError, PublishErrorKind, SubscribeError},
};
use im_core::{Error, ErrorKind, Outcome};

/// The name of this backend.
pub(crate) const BACKEND: &str = "nats";

pub(crate) fn not_connected(error: &ConnectError) -> Error {
    let kind = match error.kind() {
        ConnectErrorKind::ServerParse => ErrorKind::Invalid,
        ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Tls => ErrorKind::Denied,
        ConnectErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, BACKEND, "open", said(error)).with_outcome(Outcome::NotDone)
}

pub(crate) fn not_published(operation: &'static str, error: &PublishError) -> Error {
    let kind = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, BACKEND, operation, said(error)).with_outcome(Outcome::NotDone)
}

pub(crate) fn not_flushed(operation: &'static str, error: &FlushError) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, said(error)).with_outcome(Outcome::Unknown)
}

pub(crate) fn not_subscribed(operation: &'static str, error: &SubscribeError) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, said(error)).with_outcome(Outcome::NotDone)
}

/// No answer in time.
pub(crate) fn late(operation: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, BACKEND, operation, "no answer in time").with_outcome(Outcome::Unknown)
}

/// There is no connection now.
pub(crate) fn away(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, "there is no connection to a server")
        .with_outcome(Outcome::NotDone)
}

/// Arguments that cannot be served.
pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, operation, message)
}

/// With its causes.
fn said(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let text = deeper.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = deeper.source();
    }
    said
}
