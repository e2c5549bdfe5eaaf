//! Why a server does not start, in one line for whoever started it.

use std::{io, net::SocketAddr, path::PathBuf};

use im_engine::ErrorKind;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address belongs to another program.
    #[error("{0} is taken by another program: stop it, or choose another port, as in --bind {ip}:{port}",
        ip = .0.ip(), port = .0.port().wrapping_add(1).max(1024))]
    AddressTaken(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file or folder cannot be used.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the database open.
    #[error("{0} is in use by another process: stop it, or choose another folder by --data")]
    DatabaseInUse(String),
    /// The database is of a newer version.
    #[error("{0} was written by a newer version of this program: start that version")]
    DatabaseNewer(String),
    /// The database cannot be used.
    #[error("cannot use the database {name}: {source}")]
    Database {
        /// Its file, or its address.
        name: String,
        /// Why.
        source: im_engine::Error,
    },
    /// A key cannot be used.
    #[error("the {algorithm} key in {place} cannot be used: {why}")]
    Key {
        /// The key's algorithm.
        algorithm: &'static str,
        /// Where it is.
        place: String,
        /// Why.
        why: String,
    },
    /// The process lacks something of its operating system.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The engine does not take its settings.
    #[error("a setting cannot be: {0}")]
    Engine(im_engine::Error),
    /// A setting makes no sense.
    #[error("{name}: {why}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Why.
        why: String,
    },
}

impl StartError {
    /// What the database said.
    pub(crate) fn database(name: String, source: im_engine::Error) -> Self {
        match source.kind() {
            ErrorKind::InUse => Self::DatabaseInUse(name),
            ErrorKind::NewerVersion => Self::DatabaseNewer(name),
            _ => Self::Database { name, source },
        }
    }
}
