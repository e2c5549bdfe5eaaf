//! Why a log could not be played.

use std::{io, path::PathBuf};

/// Why a log could not be played.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    File { path: PathBuf, source: io::Error },
    /// A line is none of a chat log.
    #[error("{path}, line {line}: {why}", path = .path.display())]
    Line { path: PathBuf, line: usize, why: &'static str },
    /// The address of the server is none.
    #[error("{0:?} is not an address as in http://127.0.0.1:8080; TLS is not supported")]
    Address(String),
    /// Its own server does not run.
    #[error("its server: {0}")]
    Server(String),
    /// A client was answered as no client should be.
    #[error("{nick}: {why}")]
    Client { nick: String, why: String },
    /// The operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
}
