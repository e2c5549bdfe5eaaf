//! Tasks of the project: `cargo xtask setup`, `cargo xtask test`, `cargo xtask check`, `cargo xtask services`.
//!
//! They live in Rust and in the workspace so that a fresh machine needs nothing but cargo to begin.

mod check;
mod closing;
mod report;
mod run;
mod services;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::run::Result;
use crate::services::{Service, Services};
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
    /// Real, throwaway servers on free loopback ports: what tests and figures of other backends than SQLite need.
    Services {
        #[command(subcommand)]
        order: Order,
    },
    /// Run every check that is not a test: format, lints, docs, features, dependencies.
    Check(Options),
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Start them, and print the variables that name them.
    Up {
        /// Which; all, if none is named.
        services: Vec<Service>,
        /// Also a Redis Cluster of three masters.
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Stop them, and remove their data.
    Down,
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
            let purposes = [Purpose::Services, Purpose::Test, Purpose::Check];
            setup::provide(&workspace, &purposes, !options.no_install)
        }
        Task::Services { order: Order::Up { services, cluster, options } } => {
            setup::provide(&workspace, &[Purpose::Services], !options.no_install)?;
            let up = Services::of(&workspace).up(services, *cluster)?;
            up.iter().for_each(|(name, address)| println!("export {name}='{address}'"));
            Ok(())
        }
        Task::Services { order: Order::Down } => Services::of(&workspace).down(),
        Task::Test(options) => test::test(&workspace, !options.no_install),
        Task::Check(options) => check::check(&workspace, !options.no_install),
    }
}
