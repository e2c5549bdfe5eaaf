//! A server of a test's own, which may be stopped and started, and does not live longer than its test.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Postgres refuses to run as root: Debian's package makes this user.
const USER: &str = "postgres";

const SETTINGS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=50";

#[derive(Debug)]
pub(crate) struct Own {
    folder: PathBuf,
    port: u16,
    /// What is mounted in the folder.
    mounted: Vec<PathBuf>,
}

impl Own {
    pub(crate) fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("im-own-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = Self { folder, port, mounted: Vec::new() };
        give_away(&own.folder);
        let how = ["-A", "trust", "-U", "im", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        run(postgres("initdb").arg("-D").arg(own.data()).args(how));
        own.up();
        own
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://im@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the server; returns when it takes connections.
    pub(crate) fn up(&self) {
        let options = format!("-p {} {SETTINGS}", self.port);
        let log = self.folder.join("log");
        run(self.control().arg("-l").arg(log).args(["-o", &options, "-w", "start"]));
    }

    /// Stops the server: `fast` or `immediate`.
    pub(crate) fn down(&self, mode: &str) {
        run(self.control().args(["-m", mode, "-w", "stop"]));
    }

    /// A copy of the server as it is now, for when this one is down: at its port, as a standby that is promoted when it comes up.
    pub(crate) fn copy(&self) -> Self {
        let folder = std::env::temp_dir().join(format!("im-own-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        give_away(&folder);
        let copy = Self { folder, port: self.port, mounted: Vec::new() };
        let how = ["-h", "127.0.0.1", "-U", "im", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"];
        let port = self.port.to_string();
        run(postgres("pg_basebackup").arg("-D").arg(copy.data()).args(how).args(["-p", &port]));
        copy
    }

    /// Makes a standby the primary, of a timeline of its own.
    pub(crate) fn promote(&self) {
        run(self.control().args(["-w", "promote"]));
    }

    /// A folder of the server's with so little room, which goes with it.
    pub(crate) fn small_disk(&mut self, size: &str) -> PathBuf {
        let disk = self.folder.join("disk");
        fs::create_dir(&disk).unwrap();
        let options = format!("size={size}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&disk));
        self.mounted.push(disk.clone());
        give_away(&disk);
        disk
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn control(&self) -> Command {
        let mut control = postgres("pg_ctl");
        control.arg("-D").arg(self.data());
        control
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may be down, or never have come up.
        let _ = quiet(self.control().args(["-m", "immediate", "-w", "stop"])).status();
        for disk in &self.mounted {
            let _ = quiet(Command::new("umount").arg("--lazy").arg(disk)).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

fn give_away(folder: &Path) {
    if is_root() {
        run(Command::new("chown").arg(USER).arg(folder));
    }
}

/// A program of Postgres, run as whom it wants, where any user may be.
fn postgres(name: &str) -> Command {
    let program = programs().join(name);
    let mut command = if is_root() { Command::new("runuser") } else { Command::new(&program) };
    if is_root() {
        command.args(["-u", USER, "--"]).arg(program);
    }
    command.current_dir("/");
    command
}

/// Where Postgres' programs lie: Debian keeps them out of the PATH.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .map(|version| (version, PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))))
        .filter(|(_, programs)| programs.join("initdb").exists())
        .max();
    match newest {
        Some((_, programs)) => programs,
        None => run(Command::new("pg_config").arg("--bindir")).trim().into(),
    }
}

/// Without its output: a server would inherit the pipe and keep it open.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Runs a command that must succeed; what it says, unless it starts a server.
fn run(command: &mut Command) -> String {
    let starts = command.get_args().any(|arg| arg == "start");
    if starts {
        let status = quiet(command).status();
        assert!(status.is_ok_and(|status| status.success()), "failed: {command:?}");
        return String::new();
    }
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
