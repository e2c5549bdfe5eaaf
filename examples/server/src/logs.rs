//! Log lines: to stderr, for people or for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
    util::SubscriberInitExt,
};

use crate::{Config, StartError};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Below this tungstenite writes whole frames: tokens and messages.
const SILENT: &str = "tungstenite=info";

/// Writes this process's log lines from now on; a second call changes nothing.
///
/// # Errors
/// [`StartError::Setting`] when the filter cannot be understood.
pub fn write_logs(config: &Config) -> Result<(), StartError> {
    let unreadable = |why: String| StartError::Setting { name: "log", why };
    // The filter would take it for the name of a target, and log nothing else.
    let is_name = |part: &&str| !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
    if let Some(name) = config.log.split(',').map(str::trim).find(is_name) {
        return Err(unreadable(format!(
            "\"{name}\" is no level; say trace, debug, info, warn, error, off, or TARGET=LEVEL"
        )));
    }
    let filter = EnvFilter::try_new(&config.log).map_err(|error| unreadable(error.to_string()))?;
    let filter =
        filter.add_directive(SILENT.parse().map_err(|error: ParseError| unreadable(error.to_string()))?);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // An error says that the process has a subscriber already: a test's, or an embedding program's.
    let _ = match config.log_format {
        LogFormat::Text => lines.with_target(false).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    Ok(())
}
