//! Real, throwaway servers for tests and figures, on free loopback ports.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, Result, output};
use crate::workspace::Workspace;

/// Names the Postgres server to tests and to im-bench.
pub(crate) const POSTGRES: &str = "IM_TEST_POSTGRES";

/// Postgres refuses to run as root: Debian's package makes this user.
const USER: &str = "postgres";

/// What is set for many small tests at once. Commits wait for the disk, as by default. A server that has run for a while uses the files
/// of its log again; a new one would fill each with zeros first, 16 MB while every commit waits.
const SETTINGS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=400 \
                        -c max_locks_per_transaction=1024 -c max_wal_size=4GB -c wal_init_zero=off \
                        -c shared_buffers=512MB";

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

    /// Starts those that do not run; their addresses, by the variables that name them.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(crate) fn up(&self) -> Result<Vec<(&'static str, String)>> {
        let data = self.folder.join("postgres");
        if !self.is_up(&data) {
            self.remove()?;
            fs::create_dir_all(&self.folder).map_err(|error| Failure::new(error.to_string()))?;
            self.start(&data)?;
        }
        let port = fs::read_to_string(data.join("postmaster.pid"))
            .ok()
            .and_then(|lines| lines.lines().nth(3).map(str::to_owned))
            .ok_or_else(|| Failure::new("Postgres does not say its port"))?;
        Ok(vec![(POSTGRES, format!("postgres://im@127.0.0.1:{port}/postgres"))])
    }

    /// Stops those that run, and removes their data.
    ///
    /// # Errors
    /// When one does not stop.
    pub(crate) fn down(&self) -> Result<()> {
        let data = self.folder.join("postgres");
        if self.is_up(&data) {
            output(self.postgres("pg_ctl")?.arg("-D").arg(&data).args(["-m", "immediate", "-w", "stop"]))?;
        }
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("{}: {error}", self.folder.display())))
            }
            _ => Ok(()),
        }
    }

    fn is_up(&self, data: &Path) -> bool {
        data.exists()
            && self
                .postgres("pg_ctl")
                .and_then(|mut command| output(command.arg("-D").arg(data).arg("status")))
                .is_ok()
    }

    fn start(&self, data: &Path) -> Result<()> {
        if is_root(self.workspace)? {
            output(self.workspace.program("chown").arg(USER).arg(&self.folder))?;
        }
        let initialise = ["-A", "trust", "-U", "im", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        output(self.postgres("initdb")?.arg("-D").arg(data).args(initialise))?;
        let options = format!("-p {} {SETTINGS}", free_port()?);
        let log = self.folder.join("postgres.log");
        let mut start = self.postgres("pg_ctl")?;
        start.arg("-D").arg(data).arg("-l").arg(&log).args(["-o", &options, "-w", "start"]);
        // Not its output: the server would inherit the pipe and keep it open.
        let status = start
            .stdout(std::process::Stdio::null())
            .status()
            .map_err(|error| Failure::new(format!("cannot run pg_ctl: {error}")))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("Postgres did not start:\n{}", fs::read_to_string(log).unwrap_or_default())))
    }

    /// A program of Postgres, run as whom it wants.
    fn postgres(&self, name: &str) -> Result<Command> {
        let program = folder(self.workspace)?.join(name);
        let mut command = if is_root(self.workspace)? {
            let mut command = self.workspace.program("runuser");
            command.args(["-u", USER, "--"]).arg(program);
            command
        } else {
            self.workspace.program(program)
        };
        // Where any user may be.
        command.current_dir("/");
        Ok(command)
    }
}

fn is_root(workspace: &Workspace) -> Result<bool> {
    Ok(output(&mut workspace.command("id -u"))? == "0")
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| Failure::new(error.to_string()))?;
    listener.local_addr().map(|addr| addr.port()).map_err(|error| Failure::new(error.to_string()))
}

/// Where Postgres' programs lie: Debian keeps them out of the PATH.
fn folder(workspace: &Workspace) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.ok()?.file_name().to_str()?.parse::<u32>().ok()?,)))
        .map(|(version,)| (version, PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))))
        .filter(|(version, bin)| *version >= OLDEST && bin.join("initdb").exists())
        .max();
    match newest {
        Some((_, bin)) => Ok(bin),
        None => output(&mut workspace.command("pg_config --bindir")).map(PathBuf::from),
    }
}

const OLDEST: u32 = 14;

/// The version of Postgres that there is.
///
/// # Errors
/// When there is none, or an older one than is supported.
pub(crate) fn postgres_version(workspace: &Workspace) -> Result<String> {
    let version = output(workspace.program(folder(workspace)?.join("postgres")).arg("--version"))?;
    let number = version.split_whitespace().find_map(|word| word.split('.').next()?.parse::<u32>().ok());
    match number {
        Some(OLDEST..) => Ok(version),
        _ => Err(Failure::new(format!("{version}; {OLDEST} is needed"))),
    }
}
