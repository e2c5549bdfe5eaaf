//! Benchmarks of the chat engine, each beside the raw limit of what it runs on, measured in the same run.
//!
//! A figure of the engine says nothing by itself: the machine decides. So every work interleaves rounds of the engine with
//! rounds of a bare loop that does the least that must be done (the same rows into the same tables in the same batches with
//! the same durability; the same frames onto the same sockets), and prints the medians of both and their ratio.

mod args;
mod backend;
mod bare;
mod disk;
mod drive;
mod driver;
mod fanout;
mod history;
mod idle;
mod keyspace;
mod neighbours;
mod pace;
mod presence;
mod process;
mod raw;
mod report;
mod schema;
mod send;
mod side;
mod space;
mod stats;
mod watch;
mod ws;

use std::process::ExitCode;

use args::{Args, Backend, Plan, Work};
use clap::Parser;

/// Whatever ends a measurement before its time.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().work {
        Work::Send(plan) => send::run(&plan).await,
        Work::Fanout(plan) => fanout::run(&plan).await,
        Work::Neighbours(plan) => neighbours::run(&plan).await,
        Work::Presence(plan) => presence::run(&plan).await,
        Work::Ws(Plan { backend: Backend::Pg | Backend::Redis, .. })
        | Work::Idle(Plan { backend: Backend::Pg | Backend::Redis, .. }) => {
            Err("connections are measured on memory or sqlite".into())
        }
        Work::History(Plan { backend: Backend::Redis, .. }) => Err("Redis keeps no history".into()),
        Work::Ws(plan) => ws::run(&plan).await,
        Work::Idle(plan) => idle::run(&plan).await,
        // On a worker, where a server's handlers run: what `main` itself awaits wakes another thread each time.
        Work::History(plan) => tokio::spawn(async move { history::run(&plan).await })
            .await
            .unwrap_or_else(|panic| Err(panic.into())),
        Work::Side(side) => side::run(&side).await,
        Work::Drive(drive) => drive::run(&drive).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("im-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
