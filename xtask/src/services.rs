//! Real, throwaway servers for tests and figures, on free loopback ports.

mod postgres;
mod programs;
mod redis;

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::run::{Failure, Result};
use crate::services::postgres::Postgres;
pub(crate) use crate::services::postgres::postgres_version;
pub(crate) use crate::services::programs::{NATS, OLDEST_REDIS, VALKEY, wheel};
pub(crate) use crate::services::redis::redis_version;
use crate::services::redis::{Redis, Shape};
use crate::workspace::Workspace;

/// What can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    Postgres,
    Redis,
    /// Only its programs are named: tests start servers of their own.
    Nats,
}

/// The servers of a workspace.
#[derive(Debug)]
pub(crate) struct Services<'a> {
    workspace: &'a Workspace,
    folder: PathBuf,
}

impl<'a> Services<'a> {
    /// They lie in the system's folder for temporary files: other users must be able to come there.
    pub(crate) fn of(workspace: &'a Workspace) -> Self {
        let mut hash = DefaultHasher::new();
        workspace.root().hash(&mut hash);
        let folder = std::env::temp_dir().join(format!("im-services-{:016x}", hash.finish()));
        Self { workspace, folder }
    }

    /// Starts those of these that do not run, all of them if none is named, with a Redis Cluster if asked to; their addresses, by
    /// the variables that name them, and where the programs lie that tests start themselves.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(crate) fn up(&self, services: &[Service], with_cluster: bool) -> Result<Vec<(&'static str, String)>> {
        let wanted = |service| services.is_empty() || services.contains(&service);
        let mut up = Vec::new();
        if wanted(Service::Postgres) {
            up.push(Postgres::of(self.workspace, &self.folder.join("postgres")).up()?);
        }
        for shape in Shape::ALL {
            if wanted(Service::Redis) && (with_cluster || shape == Shape::One) {
                up.push(Redis::of(self.workspace, &self.folder.join(shape.name()), shape).up()?);
            }
        }
        if wanted(Service::Redis) {
            up.extend([OLDEST_REDIS, VALKEY].map(|program| program.named(self.workspace)));
        }
        if wanted(Service::Nats) {
            up.extend([NATS.named(self.workspace), ("IM_TEST_NATS_INSTALLED", "nats-server".to_owned())]);
        }
        Ok(up)
    }

    /// Stops those that run, and removes their data.
    ///
    /// # Errors
    /// When one does not stop.
    pub(crate) fn down(&self) -> Result<()> {
        Postgres::of(self.workspace, &self.folder.join("postgres")).down()?;
        for shape in Shape::ALL {
            Redis::of(self.workspace, &self.folder.join(shape.name()), shape).down()?;
        }
        remove(&self.folder)
    }
}

/// An empty folder.
fn make_anew(folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).map_err(|error| Failure::new(format!("{}: {error}", folder.display())))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| Failure::new(error.to_string()))?;
    listener.local_addr().map(|addr| addr.port()).map_err(|error| Failure::new(error.to_string()))
}
