//! Servers of its own: this program again, with a hidden flag, so that they can be killed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use im_server::{Config, Server, StartError, Store, SyncUrl};
use rand::RngExt;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use crate::{cli::Args, error::ReplayError};

/// Below the ports that systems give to connections: a client that connects to a port of those while its server is away can be
/// given that port, and so connect to itself.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How many ports are tried.
const TRIES: usize = 20;
/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// How often clients send a heartbeat: more often than usual, so that a lost hint costs less.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How many frames a client may send in a second.
const RATE: f32 = 1e6;
/// Tells the child of its database.
const STORE: &str = "REPLAY_STORE";
/// Tells the child by what it is synced.
const SYNC: &str = "REPLAY_SYNC";
/// What the child says once it serves.
const SERVING: &str = "serving";
/// What it says if the port is taken.
const TAKEN: &str = "taken";

/// Serves a folder until stdin ends, which it does when the parent dies.
pub(crate) async fn serve(data: &Path, args: &Args) -> Result<(), ReplayError> {
    let mut config =
        Config { bind: args.bind, data: data.to_owned(), log: "warn".to_owned(), ..Config::default() };
    config.engine.heartbeat = HEARTBEAT;
    if let Ok(url) = std::env::var(STORE) {
        config.store = Store::Postgres(url);
    }
    if let Ok(url) = std::env::var(SYNC) {
        config.sync = Some(url.parse().map_err(ReplayError::Server)?);
        // The folder is new for each run, and so are the data there.
        config.sync_prefix =
            data.file_name().map_or(config.sync_prefix, |name| name.to_string_lossy().into_owned());
    }
    if let Some(threshold) = args.threshold {
        config.engine.read_diffusion_threshold = threshold;
    }
    // What is tried here is not how fast a client may ask.
    (config.transport.rate.per_second, config.transport.rate.burst) = (RATE, RATE);
    im_server::write_logs(&config).map_err(|error| ReplayError::Server(error.to_string()))?;
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(StartError::AddressTaken(_)) => return say(TAKEN).await,
        Err(error) => return Err(ReplayError::Server(error.to_string())),
    };
    say(SERVING).await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.shutdown().await;
    Ok(())
}

async fn say(word: &str) -> Result<(), ReplayError> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{word}\n").as_bytes()).await?;
    Ok(out.flush().await?)
}

/// Servers in processes of their own, on a folder of their own; all end with this value.
#[derive(Debug)]
pub(crate) struct OwnServers {
    nodes: Vec<Node>,
    folder: TempDir,
    settings: Settings,
}

/// What they are started with.
#[derive(Debug)]
struct Settings {
    threshold: Option<usize>,
    store: Option<Store>,
    sync: Option<SyncUrl>,
}

#[derive(Debug)]
struct Node {
    addr: SocketAddr,
    process: Process,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// The child serves for as long as this is open.
    _stdin: ChildStdin,
}

impl OwnServers {
    /// Starts them on new data.
    pub(crate) async fn start(args: &Args) -> Result<Self, ReplayError> {
        let settings =
            Settings { threshold: args.threshold, store: args.store.clone(), sync: args.sync.clone() };
        let mut servers = Self { nodes: Vec::new(), folder: TempDir::with_prefix("replay-")?, settings };
        // One after the other: the first makes the key with which all of them sign.
        for _ in 0..args.nodes {
            let node = servers.node().await?;
            servers.nodes.push(node);
        }
        Ok(servers)
    }

    async fn node(&self) -> Result<Node, ReplayError> {
        for _ in 0..TRIES {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::rng().random_range(PORTS)));
            if let Some(process) = spawn(self.folder.path(), addr, &self.settings).await? {
                return Ok(Node { addr, process });
            }
        }
        Err(ReplayError::Server(format!("{TRIES} ports of {PORTS:?} are taken")))
    }

    /// `host:port` of each.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr.to_string()).collect()
    }

    /// Whether they run.
    pub(crate) fn check(&mut self) -> Result<(), ReplayError> {
        for node in &mut self.nodes {
            if let Some(status) = node.process.child.try_wait()? {
                return Err(ReplayError::Server(format!("ended by itself: {status}")));
            }
        }
        Ok(())
    }

    /// kill -9 of any one of them; which.
    pub(crate) async fn kill(&mut self) -> Result<usize, ReplayError> {
        self.check()?;
        let which = rand::rng().random_range(0..self.nodes.len());
        self.nodes[which].process.child.kill().await?;
        Ok(which)
    }

    /// Ends them; their folder goes, too.
    pub(crate) async fn stop(mut self) -> Result<(), ReplayError> {
        for node in &mut self.nodes {
            node.process.child.kill().await?;
        }
        Ok(self.folder.close()?)
    }

    /// Starts one again on the same data and port.
    pub(crate) async fn restart(&mut self, which: usize) -> Result<(), ReplayError> {
        let process = spawn(self.folder.path(), self.nodes[which].addr, &self.settings).await?;
        self.nodes[which].process =
            process.ok_or_else(|| ReplayError::Server("its port was taken meanwhile".into()))?;
        Ok(())
    }
}

/// None: the port is taken.
async fn spawn(folder: &Path, addr: SocketAddr, settings: &Settings) -> Result<Option<Process>, ReplayError> {
    let mut command = Command::new(own_program()?);
    command.arg("--serve").arg(folder).args(["--bind", &addr.to_string()]);
    command.args(settings.threshold.map(|threshold| format!("--threshold={threshold}")));
    if let Some(Store::Postgres(url)) = &settings.store {
        // Not an argument, which others on the machine could see.
        command.env(STORE, url);
    }
    if let Some(sync) = &settings.sync {
        command.env(SYNC, sync.url());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(ReplayError::Server("has no pipes".into()));
    };
    let line = timeout(START, BufReader::new(stdout).lines().next_line()).await;
    match line.map_err(|_| ReplayError::Server(format!("does not start in {START:?}")))??.as_deref() {
        Some(SERVING) => Ok(Some(Process { child, _stdin: stdin })),
        Some(TAKEN) => Ok(None),
        _ => Err(ReplayError::Server(format!("ended at its start: {}", child.wait().await?))),
    }
}

fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
