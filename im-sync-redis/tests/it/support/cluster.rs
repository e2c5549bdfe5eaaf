//! A cluster of a test's own, whose slots may move and whose masters may die.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::server::{Server, free_port};

/// How soon the others take a silent server for dead.
const NODE_TIMEOUT_MS: &str = "1000";
/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Cluster(Vec<Server>);

impl Cluster {
    /// Masters, each with so many copies.
    pub(crate) fn start(masters: usize, copies: usize, settings: &str) -> Self {
        let server = || {
            // By itself it takes the port 10,000 above, which may be none.
            let bus = free_port();
            Server::start(&format!(
                "{settings} --cluster-enabled yes --cluster-node-timeout {NODE_TIMEOUT_MS} --cluster-port {bus} \
                 --repl-diskless-sync-delay 0"
            ))
        };
        let cluster = Self((0..masters * (1 + copies)).map(|_| server()).collect());
        let places = cluster.0.iter().map(place);
        let create: Vec<_> =
            ["--cluster".to_owned(), "create".to_owned()].into_iter().chain(places).collect();
        let copies = copies.to_string();
        run(Command::new("redis-cli").args(create).args(["--cluster-replicas", &copies, "--cluster-yes"]));
        cluster.agrees();
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let others: Vec<_> = self.0[1..].iter().map(|server| format!("node={}", place(server))).collect();
        format!("redis-cluster://{}?{}", place(&self.0[0]), others.join("&"))
    }

    /// Waits until all servers say that all is well, and all copies follow.
    pub(crate) fn agrees(&self) {
        until("the cluster agrees", || {
            self.0.iter().all(|server| {
                let follows =
                    |info: &str| info.contains("role:master") || info.contains("master_link_status:up");
                server.ask(&["cluster", "info"]).contains("cluster_state:ok") && follows(&replication(server))
            })
        });
    }

    /// Those that are masters.
    pub(crate) fn masters(&self) -> Vec<&Server> {
        self.0.iter().filter(|server| is_master(server)).collect()
    }

    /// Moves so many slots with all that is in them, while they are used.
    pub(crate) fn move_slots(&self, from: &Server, to: &Server, slots: usize) {
        let (from_id, to_id) = (from.ask(&["cluster", "myid"]), to.ask(&["cluster", "myid"]));
        run(Command::new("redis-cli").args(["--cluster", "reshard", &place(from), "--cluster-yes"]).args([
            "--cluster-from",
            &from_id,
            "--cluster-to",
            &to_id,
            "--cluster-slots",
            &slots.to_string(),
        ]));
    }

    /// Does something to a master that ends its service, and waits until its copy has taken over.
    pub(crate) fn lose(&self, which: usize, how: impl FnOnce(&Server)) -> &Server {
        let (dead, before) = (self.masters()[which], self.masters().len());
        how(dead);
        let living = || self.0.iter().filter(|server| server.port() != dead.port());
        until("a copy takes over", || {
            living().filter(|server| is_master(server)).count() == before
                && living().all(|server| server.ask(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        dead
    }
}

pub(crate) fn is_master(server: &Server) -> bool {
    replication(server).contains("role:master")
}

/// What it says of its copies or its master; nothing while it is given another role, which ends its connections.
pub(crate) fn replication(server: &Server) -> String {
    String::from_utf8_lossy(&server.cli(&["info", "replication"]).stdout).into_owned()
}

fn place(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said =
        || String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}", said());
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}
