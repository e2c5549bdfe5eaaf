//! A throwaway Redis: one server, or a cluster of three masters.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::run::{Failure, Result, output};
use crate::services::{free_port, make_anew};
use crate::workspace::Workspace;

/// How the servers stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    Cluster,
}

impl Shape {
    pub(crate) const ALL: [Self; 2] = [Self::One, Self::Cluster];

    /// The name of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "redis",
            Self::Cluster => "redis-cluster",
        }
    }

    /// The variable that names it to tests and to im-bench.
    fn variable(self) -> &'static str {
        match self {
            Self::One => "IM_TEST_REDIS",
            Self::Cluster => "IM_TEST_REDIS_CLUSTER",
        }
    }

    fn servers(self) -> usize {
        match self {
            Self::One => 1,
            Self::Cluster => 3,
        }
    }
}

/// A file of theirs is synced every second, as servers of others do by default; it is not written anew by a process beside, which would
/// take a core from what is measured. A cluster's servers talk to each other 10,000 ports above.
const SETTINGS: &str = "--bind 127.0.0.1 --daemonize yes --save '' --appendonly yes --appendfsync everysec \
                        --auto-aof-rewrite-percentage 0";
const ABOVE: u16 = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Servers whose files lie in a folder of their own.
#[derive(Debug)]
pub(crate) struct Redis<'a> {
    workspace: &'a Workspace,
    folder: &'a Path,
    shape: Shape,
}

impl<'a> Redis<'a> {
    pub(crate) fn of(workspace: &'a Workspace, folder: &'a Path, shape: Shape) -> Self {
        Self { workspace, folder, shape }
    }

    /// Starts them, unless all run; the address, by the variable that names it.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(crate) fn up(&self) -> Result<(&'static str, String)> {
        let mut ports = self.ports();
        if ports.len() < self.shape.servers() || !ports.iter().all(|port| self.answers(*port)) {
            self.down()?;
            ports = self.start()?;
        }
        let address = match (self.shape, &*ports) {
            (Shape::One, [port, ..]) => format!("redis://127.0.0.1:{port}"),
            (Shape::Cluster, [port, others @ ..]) => {
                let others: Vec<_> = others.iter().map(|port| format!("node=127.0.0.1:{port}")).collect();
                format!("redis-cluster://127.0.0.1:{port}?{}", others.join("&"))
            }
            (_, []) => return Err(Failure::new("Redis does not say its port")),
        };
        Ok((self.shape.variable(), address))
    }

    /// Stops those that run.
    ///
    /// # Errors
    /// When one does not stop.
    pub(crate) fn down(&self) -> Result<()> {
        for port in self.ports() {
            if self.answers(port) {
                output(&mut self.workspace.command(&format!("redis-cli -p {port} shutdown nosave")))?;
            }
        }
        Ok(())
    }

    /// The ports of the servers that were started: each has a folder of that name.
    fn ports(&self) -> Vec<u16> {
        let entries = fs::read_dir(self.folder).into_iter().flatten();
        let mut ports: Vec<u16> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        ports.sort_unstable();
        ports
    }

    fn answers(&self, port: u16) -> bool {
        output(&mut self.workspace.command(&format!("redis-cli -p {port} ping")))
            .is_ok_and(|word| word == "PONG")
    }

    fn start(&self) -> Result<Vec<u16>> {
        make_anew(self.folder)?;
        let ports = (0..self.shape.servers()).map(|_| self.start_one()).collect::<Result<Vec<_>>>()?;
        if self.shape == Shape::Cluster {
            let all: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
            let create = format!("redis-cli --cluster create {} --cluster-yes", all.join(" "));
            output(&mut self.workspace.command(&create))?;
            // The command ends before all of them agree.
            for port in &ports {
                self.until(&format!("redis-cli -p {port} cluster info"), "cluster_state:ok")?;
            }
        }
        Ok(ports)
    }

    fn start_one(&self) -> Result<u16> {
        let mut port = free_port()?;
        while port > u16::MAX - ABOVE {
            port = free_port()?;
        }
        let folder: PathBuf = self.folder.join(port.to_string());
        make_anew(&folder)?;
        let mut server = self.workspace.command(&format!("redis-server --port {port} {SETTINGS}"));
        server.arg("--dir").arg(&folder).arg("--logfile").arg(folder.join("log"));
        if self.shape == Shape::Cluster {
            server.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]);
        }
        output(&mut server)?;
        self.until(&format!("redis-cli -p {port} ping"), "PONG")?;
        Ok(port)
    }

    /// Asks until the answer holds a text.
    fn until(&self, command: &str, text: &str) -> Result<()> {
        let begun = Instant::now();
        while !output(&mut self.workspace.command(command)).is_ok_and(|answer| answer.contains(text)) {
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(format!("`{command}` does not say {text} within {PATIENCE:?}")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The version of Redis that there is.
///
/// # Errors
/// When there is none, or an older one than is supported.
pub(crate) fn redis_version(workspace: &Workspace) -> Result<String> {
    output(&mut workspace.command("redis-cli --version"))?;
    let version = output(&mut workspace.command("redis-server --version"))?;
    let number = version.split_whitespace().find_map(|word| word.strip_prefix("v="));
    let mut parts =
        number.into_iter().flat_map(|number| number.split('.')).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(6), Some(2..)) | (Some(7..), _) => Ok(version),
        _ => Err(Failure::new(format!("{version}; 6.2 is needed"))),
    }
}
