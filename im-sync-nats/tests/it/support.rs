//! A NATS server of a test's own, which may be killed and started again.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use im_core::Parts;
use im_sync_nats::{NatsBackend, NatsBuilder};
use im_testkit::{Data, Fixture, Part, Verdict, Violation};

/// How long a start may take on a machine that is busy.
const START: Duration = Duration::from_secs(30);

/// Whose program it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// What the machine has: Debian's is 2.9, the oldest that is supported.
    Installed,
    Newest,
}

impl Program {
    fn path(self) -> String {
        let variable = match self {
            Self::Installed => "IM_TEST_NATS_INSTALLED",
            Self::Newest => "IM_TEST_NATS",
        };
        std::env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} names no NATS server: run `cargo xtask test`, or `cargo xtask services up` and set it")
        })
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    program: String,
    port: u16,
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// Starts one with such settings beside its own, as in `--user a --pass b`.
    pub(crate) fn start(program: Program, settings: &str) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let settings = settings.split_whitespace().map(str::to_owned).collect();
        let server = Self { program: program.path(), port, settings, process: Mutex::default() };
        server.restart();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn restart(&self) {
        let child = Command::new(&self.program)
            .args(["--addr", "127.0.0.1", "--port", &self.port.to_string()])
            .args(&self.settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server runs: `cargo xtask setup` installs it");
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < START, "nats-server does not answer");
            std::thread::yield_now();
        }
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn builder(&self) -> NatsBuilder {
        NatsBackend::builder(&self.url()).request_timeout(Duration::from_secs(1))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server of a test's own.
#[derive(Debug)]
pub(crate) struct Own(pub(crate) Program);

#[derive(Debug)]
struct OwnData(Arc<Server>);

#[async_trait]
impl Fixture for Own {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(OwnData(Arc::new(Server::start(self.0, "")))))
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        self.fresh().await
    }
}

#[async_trait]
impl Data for OwnData {
    async fn node(&self) -> Result<Parts, Violation> {
        let nats = self.0.builder().open().await.map_err(|error| Violation::new(error.to_string()))?;
        Ok((&nats).into())
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.node().await
    }

    async fn pass(&self, time: Duration) {
        // The server has its own time.
        tokio::time::sleep(time).await;
    }

    async fn save(&self) -> Verdict {
        Ok(())
    }

    async fn lose_tail(&self, _: Part, _: usize) -> Verdict {
        Err(Violation::new("it keeps nothing".to_owned()))
    }
}
