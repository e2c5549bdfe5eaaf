//! A throwaway Postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, Result, output};
use crate::services::free_port;
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

/// The server whose files lie in a folder of its own.
#[derive(Debug)]
pub(crate) struct Postgres<'a> {
    workspace: &'a Workspace,
    folder: &'a Path,
    data: PathBuf,
}

impl<'a> Postgres<'a> {
    pub(crate) fn of(workspace: &'a Workspace, folder: &'a Path) -> Self {
        Self { workspace, folder, data: folder.join("data") }
    }

    /// Starts it, unless it runs; its address, by the variable that names it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn up(&self) -> Result<(&'static str, String)> {
        if !self.is_up() {
            self.start()?;
        }
        let port = fs::read_to_string(self.data.join("postmaster.pid"))
            .ok()
            .and_then(|lines| lines.lines().nth(3).map(str::to_owned))
            .ok_or_else(|| Failure::new("Postgres does not say its port"))?;
        Ok((POSTGRES, format!("postgres://im@127.0.0.1:{port}/postgres")))
    }

    /// Stops it, if it runs.
    ///
    /// # Errors
    /// When it does not stop.
    pub(crate) fn down(&self) -> Result<()> {
        if self.is_up() {
            output(self.program("pg_ctl")?.arg("-D").arg(&self.data).args([
                "-m",
                "immediate",
                "-w",
                "stop",
            ]))?;
        }
        Ok(())
    }

    fn is_up(&self) -> bool {
        self.data.exists()
            && self
                .program("pg_ctl")
                .and_then(|mut command| output(command.arg("-D").arg(&self.data).arg("status")))
                .is_ok()
    }

    fn start(&self) -> Result<()> {
        super::make_anew(self.folder)?;
        if is_root(self.workspace)? {
            output(self.workspace.program("chown").arg(USER).arg(self.folder))?;
        }
        let initialise = ["-A", "trust", "-U", "im", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        output(self.program("initdb")?.arg("-D").arg(&self.data).args(initialise))?;
        let options = format!("-p {} {SETTINGS}", free_port()?);
        let log = self.folder.join("log");
        let mut start = self.program("pg_ctl")?;
        start.arg("-D").arg(&self.data).arg("-l").arg(&log).args(["-o", &options, "-w", "start"]);
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
    fn program(&self, name: &str) -> Result<Command> {
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
