//! Brings the schema of a chat up to date, or looks whether a database can be used, for an operator:
//!
//! ```text
//! cargo run -p im-store-pg --example im-store-pg -- migrate|check URL [--schema NAME] [--partitions N]
//! ```
//!
//! Ends with 0 when nodes can open the database, 1 when not, 2 when it was called in another way.

use std::process::ExitCode;

use im_store_pg::{PgBackend, PgReport};

const USAGE: &str = "usage: im-store-pg migrate|check URL [--schema NAME] [--partitions N]";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(None) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Ok(Some(report)) => {
            print!("{report}");
            let is_ready = report.is_migrated() && report.problems.is_empty();
            println!("{}", if is_ready { "ready" } else { "not ready" });
            if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// None where the arguments are not understood.
async fn run(arguments: &[String]) -> im_core::Result<Option<PgReport>> {
    let [command, url, options @ ..] = arguments else { return Ok(None) };
    let mut builder = PgBackend::builder(url)?.connections(2);
    for option in options.chunks(2) {
        builder = match option {
            [name, value] if name == "--schema" => builder.schema(value),
            [name, value] if name == "--partitions" => match value.parse() {
                Ok(partitions) => builder.partitions(partitions),
                Err(_) => return Ok(None),
            },
            _ => return Ok(None),
        };
    }
    match command.as_str() {
        "migrate" => builder.migrate().await.map(Some),
        "check" => builder.check().await.map(Some),
        _ => Ok(None),
    }
}
