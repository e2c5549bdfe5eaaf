//! The command line: flags over environment over file over defaults.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::{Config, KeySource, Secret, Settings, TokenAlgorithm, TokenKey};

/// The environment variables that hold a key itself; there are no flags for them, which others on the machine could see.
const KEYS: [(&str, TokenAlgorithm); 2] =
    [("IM_HS256_KEY", TokenAlgorithm::Hs256), ("IM_EDDSA_KEY", TokenAlgorithm::EdDsa)];

/// A chat server on one SQLite file or a Postgres database, with a page to try it.
///
/// Without any option it keeps its data in ./im-data and serves this machine alone.
///
/// Every setting can be a flag, an environment variable or a line of the TOML file, in this order of precedence. A key itself
/// may also be given as IM_HS256_KEY or IM_EDDSA_KEY.
#[derive(Debug, Parser)]
#[command(name = "im-server", version)]
struct Flags {
    /// TOML file with settings; im-server.sample.toml documents it
    #[arg(long, env = "IM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database is a restored copy: clients may know messages that it lacks. For this start only
    #[arg(long)]
    restored: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The flags and variables; or help was asked for, which clap treats the same.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}: {why}", path = .path.display())]
    File { path: PathBuf, line: usize, why: String },
    #[error("unknown environment variable {0:?}; `im-server --help` names those that there are")]
    UnknownVariable(OsString),
}

/// What the process was started with.
pub(crate) fn config() -> Result<Config, CliError> {
    let flags = Flags::from_arg_matches(&Flags::command().try_get_matches()?)?;
    refuse_unknown(std::env::vars_os().map(|(name, _)| name))?;
    let file = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let mut config = Config::from(flags.settings.over(file));
    config.restored = flags.restored;
    config.token_keys.extend(KEYS.into_iter().filter_map(key));
    Ok(config)
}

fn key((name, algorithm): (&str, TokenAlgorithm)) -> Option<TokenKey> {
    let value = std::env::var_os(name)?;
    let source = KeySource::Here(format!("variable {name}"), Secret::new(value.into_encoded_bytes()));
    Some(TokenKey { algorithm, source })
}

fn read(path: &Path) -> Result<Settings, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        CliError::File {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            why: error.message().to_owned(),
        }
    })
}

/// What Kubernetes gives every container beside a service that is named `im`.
fn is_of_a_service(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["IM_PORT", "IM_SERVICE_HOST", "IM_SERVICE_PORT"]
        .iter()
        .any(|known| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

/// What the project's own tests are told: it may stand in the shell of who also starts a server.
fn is_of_tests(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"IM_TEST_")
}

/// A misspelt variable would leave a setting at its default without a word.
fn refuse_unknown(variables: impl Iterator<Item = OsString>) -> Result<(), CliError> {
    let command = Flags::command();
    let flags = command.get_arguments().filter_map(|flag| flag.get_env());
    let keys = KEYS.iter().map(|(name, _)| OsStr::new(name));
    let known: HashSet<&OsStr> = flags.chain(keys).collect();
    let mut unknown = variables.filter(|name| {
        name.as_encoded_bytes().starts_with(b"IM_")
            && !known.contains(name.as_os_str())
            && !is_of_a_service(name)
            && !is_of_tests(name)
    });
    unknown.next().map_or(Ok(()), |name| Err(CliError::UnknownVariable(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|error| error.to_string())
    }

    fn flags(arguments: &[&str]) -> Settings {
        Flags::parse_from([&["im-server"], arguments].concat()).settings
    }

    #[test]
    fn flags_hold_over_the_file_and_the_file_over_the_defaults() {
        let below = file("data = \"/file\"\nheartbeat_seconds = 7\n").unwrap();
        let config = Config::from(flags(&["--data", "/flag"]).over(below));
        assert_eq!(config.data, Path::new("/flag"));
        assert_eq!(config.engine.heartbeat.as_secs(), 7);
        assert_eq!(config.bind, Config::default().bind);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = file("\nlog = \"warn\"\nbnid = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("`bnid`"), "{error}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused() {
        assert!(file("session_max = 0").is_err());
        assert!(file("heartbeat_seconds = -1").is_err());
        assert!(file("dev_login = \"yes\"").unwrap_err().contains("allow-anyone"));
        assert!(Flags::try_parse_from(["im-server", "--session-max", "0"]).is_err());
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let refused = |names: &[&str]| refuse_unknown(names.iter().map(OsString::from)).is_err();
        assert!(refused(&["PATH", "IM_BIND", "IM_BNID"]));
        assert!(!refused(&["PATH", "IM_BIND", "IM_CONFIG", "IM_HS256_KEY", "HOME"]));
        assert!(!refused(&["IM_SERVICE_HOST", "IM_PORT", "IM_PORT_8080_TCP_ADDR", "IM_SERVICE_PORT_HTTP"]));
        assert!(refused(&["IM_PORTS"]));
        assert!(!refused(&["IM_TEST_POSTGRES"]));
        assert!(refused(&["IM_TESTS"]));
    }

    #[test]
    fn the_sample_is_the_defaults_and_names_every_setting() {
        let text = include_str!("../im-server.sample.toml");
        let sample = toml::from_str::<Settings>(text).unwrap();
        assert_eq!(format!("{:?}", Config::from(sample)), format!("{:?}", Config::default()));
        let mut command = Flags::command();
        let help = command.render_long_help().to_string();
        for flag in
            command.get_arguments().filter(|flag| !["config", "restored"].contains(&flag.get_id().as_str()))
        {
            let Some(name) = flag.get_env() else { continue };
            let line = format!("{} = ", flag.get_id());
            assert!(text.lines().any(|it| it.trim_start_matches("# ").starts_with(&line)), "{line}");
            assert_eq!(name, format!("IM_{}", flag.get_id().as_str().to_uppercase()).as_str());
            assert!(help.contains(name.to_str().unwrap()));
        }
    }
}
