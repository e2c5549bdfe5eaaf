//! Tasks of the project: `cargo xtask setup`, `cargo xtask test`, `cargo xtask check`.
//!
//! They live in Rust and in the workspace so that a fresh machine needs nothing but cargo to begin.

mod check;
mod closing;
mod report;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::run::Result;
use crate::setup::Purpose;
use crate::workspace::Workspace;

/// Tasks of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say what the tests and checks need and this machine lacks, and install it.
    Setup(Options),
    /// Run every test: Rust, JavaScript client, browser. What is skipped counts as failed.
    Test(Options),
    /// Run every check that is not a test: format, lints, docs, features, dependencies.
    Check(Options),
}

#[derive(Debug, Args)]
struct Options {
    /// Only name what is missing, and fail.
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup(options) => {
            setup::provide(&workspace, &[Purpose::Test, Purpose::Check], !options.no_install)
        }
        Task::Test(options) => test::test(&workspace, !options.no_install),
        Task::Check(options) => check::check(&workspace, !options.no_install),
    }
}
