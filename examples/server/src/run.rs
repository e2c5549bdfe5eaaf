//! The process: says where it is, serves until it is told to stop, drains.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use crate::{LogFormat, Server, StartError, cli, cli::CliError, logs};

/// What a process says that a second signal ended: 128 and SIGINT's number.
const CUT_OFF: i32 = 130;
/// How long the runtime's own tasks may take to end after everything was drained.
const RUNTIME: Duration = Duration::from_secs(1);

/// Runs a server until SIGTERM or Ctrl-C; a second one ends it at once.
#[must_use]
pub fn run() -> ExitCode {
    let config = match cli::config() {
        Ok(config) => config,
        Err(CliError::Clap(error)) => error.exit(),
        Err(error) => return failed(&error),
    };
    let outcome = tokio::runtime::Runtime::new().map_err(StartError::Runtime).and_then(|runtime| {
        let outcome = runtime.block_on(serve(config));
        runtime.shutdown_timeout(RUNTIME);
        outcome
    });
    outcome.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// One line, whatever it is.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("im-server: {}", error.to_string().replace('\n', " "));
    ExitCode::FAILURE
}

async fn serve(config: crate::Config) -> Result<(), StartError> {
    logs::write_logs(&config)?;
    let format = config.log_format;
    raise_open_files();
    let mut signals = Signals::listen().map_err(StartError::Runtime)?;
    let server = Server::start(config).await?;
    announce(&server, format);
    signals.next().await;
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.shutdown() => tracing::info!("stopped"),
        () = signals.next() => std::process::exit(CUT_OFF),
    }
    Ok(())
}

/// To stdout, for people; whoever closed it does not want to know. Where machines read the log it stands there too.
fn announce(server: &Server, format: LogFormat) {
    let info = server.chat().info();
    let database = server.database();
    if format == LogFormat::Json {
        let (url, log, store) = (server.url(), info.log, info.store);
        tracing::info!(%url, %database, log, logged = %info.logged, store, stored = %info.stored, "serving");
    }
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "open {}", server.url());
    let _ = writeln!(out, "data in {database} ({}); an acked message survives {}", info.log, info.logged);
    if info.stored != info.logged {
        let _ = writeln!(out, "one acked as stored ({}) survives {}", info.store, info.stored);
    }
    let _ = out.flush();
}

/// Each connection is an open file, and many systems allow 1,024 unless one asks.
fn raise_open_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays: it bounds the connections"),
    }
}

/// What tells a process to stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What tells a process to stop.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
