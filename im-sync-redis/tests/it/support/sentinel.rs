//! A master with a copy, and a sentinel that lets the copy take over: a test's own.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::cluster::{is_master, replication, until};
use super::server::{Server, free_port};

const NAME: &str = "chat";

#[derive(Debug)]
pub(crate) struct Pair {
    servers: [Server; 2],
    port: u16,
    sentinel: Child,
    _folder: TempDir,
}

impl Pair {
    pub(crate) fn start(settings: &str) -> Self {
        let master = Server::start(settings);
        let copy = Server::start(&format!(
            "{settings} --repl-diskless-sync-delay 0 --replicaof 127.0.0.1 {}",
            master.port()
        ));
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let file = folder.path().join("sentinel.conf");
        let config = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 3000\n",
            master.port()
        );
        std::fs::write(&file, config).unwrap();
        let sentinel = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: `cargo xtask setup` installs it");
        let pair = Self { servers: [master, copy], port, sentinel, _folder: folder };
        pair.agrees();
        pair
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName={NAME}", self.port)
    }

    /// Waits until the copy follows, and the sentinel knows it.
    pub(crate) fn agrees(&self) {
        until("the copy follows", || {
            self.servers.iter().filter(|server| replication(server).contains("master_link_status:up")).count()
                == 1
                && self.sentinel_says(&["sentinel", "replicas", NAME]).contains("master-link-status\nok")
        });
    }

    /// Master and copy.
    pub(crate) fn roles(&self) -> [&Server; 2] {
        let [one, two] = &self.servers;
        if is_master(one) { [one, two] } else { [two, one] }
    }

    /// Waits until it is the master.
    pub(crate) fn takes_over(&self, copy: &Server) {
        until("the copy takes over", || is_master(copy));
    }

    fn sentinel_says(&self, args: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.sentinel.kill().unwrap();
        self.sentinel.wait().unwrap();
    }
}
