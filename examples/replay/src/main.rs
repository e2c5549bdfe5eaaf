//! Plays a chat log through real WebSocket clients, one for each nick, and checks what every one of them saw.
//!
//! A day of the log makes a group, a nick makes a user. Each client does what `docs/protocol.md` asks of one. Connections can be
//! cut and the server can be killed while it plays; nothing may be lost, doubled or out of order, and every unread number must
//! be what it is by definition. Memory grows by about 32 bytes for each record that a client shows.

mod chatlog;
mod cli;
mod client;
mod error;
mod history;
mod link;
mod login;
mod play;
mod records;
mod report;
mod run;
mod server;
mod session;
mod stage;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Args, error::ReplayError, report::Figures};

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = tokio::runtime::Runtime::new().map_err(ReplayError::Io).and_then(|runtime| {
        // One file for each connection; where the limit stays, connecting says so.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        match &args.serve {
            Some(data) => runtime.block_on(server::serve(data, &args)).map(|()| None),
            None => runtime.block_on(play::play(&args)).map(Some),
        }
    });
    match outcome {
        Ok(figures) => figures.map_or(ExitCode::SUCCESS, |figures| tell(&figures, args.json)),
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::from(2)
        }
    }
}

fn tell(figures: &Figures, json: bool) -> ExitCode {
    if json {
        println!("{}", figures.json());
    } else {
        print!("{}", figures.table());
    }
    if figures.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
