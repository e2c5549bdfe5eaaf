//! A Redis server of a test's own, which may be killed, stopped, and taken back to an earlier state.

use std::{
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a start may take on a machine that is busy.
const START: Duration = Duration::from_secs(30);

/// Whose program it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// What the machine has.
    Installed,
    /// The oldest Redis that is supported.
    Oldest,
    Valkey,
}

impl Program {
    fn path(self) -> String {
        let variable = match self {
            Self::Installed => return "redis-server".into(),
            Self::Oldest => "IM_TEST_REDIS_OLDEST",
            Self::Valkey => "IM_TEST_VALKEY",
        };
        super::named(variable)
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    program: String,
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// Starts one with such settings beside its own, as in `--appendonly yes`.
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_as(Program::Installed, settings)
    }

    pub(crate) fn start_as(program: Program, settings: &str) -> Self {
        let settings = settings.split_whitespace().map(str::to_owned).collect();
        let server = Self {
            program: program.path(),
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            settings,
            process: Mutex::default(),
        };
        server.restart();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, on what it has on its disk.
    pub(crate) fn restart(&self) {
        let child = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.folder.path())
            .args(&self.settings)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: `cargo xtask setup` installs it");
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let begun = Instant::now();
        // One with a password answers, too.
        while !self.cli(&["ping"]).stdout.starts_with(b"PONG")
            && !self.cli(&["ping"]).stdout.starts_with(b"NOAUTH")
        {
            assert!(begun.elapsed() < START, "redis-server does not answer");
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

    /// What ends a service in order: SIGTERM, and time.
    pub(crate) fn end(&self) {
        self.signal("TERM");
        let child = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        assert!(child.unwrap().wait().unwrap().success());
    }

    /// Sends a signal, as in STOP and CONT.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Asks it something.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(args).output().unwrap()
    }

    /// Asks it something; the answer's text.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Remembers its present state.
    pub(crate) fn save(&self) {
        assert_eq!(self.ask(&["save"]), "OK");
        let folder = self.folder.path();
        std::fs::copy(folder.join("dump.rdb"), folder.join("saved.rdb")).unwrap();
    }

    /// Dies, and comes back with what was remembered: what a copy that lags does when it takes over.
    pub(crate) fn fall_back(&self) {
        self.kill();
        let folder = self.folder.path();
        std::fs::copy(folder.join("saved.rdb"), folder.join("dump.rdb")).unwrap();
        self.restart();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
