//! Where things lie, and which crates and features there are: as cargo says, not as a list kept by hand.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::{Failure, Result, output};

/// The workspace that the current folder is in.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    packages: Vec<Package>,
    path: OsString,
}

/// A crate of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) features: Vec<String>,
    pub(crate) is_library: bool,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let mut question = Command::new("cargo");
        question.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Value = serde_json::from_str(&output(&mut question)?).map_err(odd)?;
        let root = PathBuf::from(text(&metadata["workspace_root"])?);
        let packages = list(&metadata["packages"])?.iter().map(package).collect::<Result<_>>()?;
        let path = path_with(&root.join(TOOLS).join("bin"))?;
        Ok(Self { root, packages, path })
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Its crates.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// A command written as one would type it in the root folder: `NAME=value program word word`.
    ///
    /// There is no quoting: a word with a blank in it is added to the result by `arg`.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace().peekable();
        let mut variables = Vec::new();
        while let Some(variable) = words.peek().and_then(|word| word.split_once('=')) {
            variables.push(variable);
            words.next();
        }
        let mut command = self.program(words.next().unwrap_or_default());
        command.args(words).envs(variables);
        command
    }

    /// A command without words yet, run in the root folder, that finds the tools we install.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", &self.path);
        command
    }
}

/// Where tools are installed, below the root: pinned versions must not replace what a developer has.
pub(crate) const TOOLS: &str = "target/tools";

fn path_with(first: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first.to_owned()).chain(env::split_paths(&path)))
        .map_err(|error| Failure::new(format!("cannot add {} to PATH: {error}", first.display())))
}

fn package(package: &Value) -> Result<Package> {
    let features = package["features"].as_object().ok_or_else(|| odd("a package without features"))?;
    let targets = list(&package["targets"])?;
    Ok(Package {
        name: text(&package["name"])?.to_owned(),
        features: features.keys().cloned().collect(),
        is_library: targets.iter().any(|target| target["kind"][0] == "lib"),
    })
}

fn list(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| odd("no list where one was expected"))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| odd("no text where some was expected"))
}

fn odd(what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("cannot understand `cargo metadata`: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: PathBuf::from("/root-folder"), packages: Vec::new(), path: OsString::from("/bin") }
    }

    #[test]
    fn variables_come_before_the_program() {
        let command = workspace().command("A=1 B=x=y cargo check --features=z");
        assert_eq!(command.get_program(), "cargo");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["check", "--features=z"]);
        let given: Vec<_> = command.get_envs().filter(|(name, _)| *name != "PATH").collect();
        assert_eq!(
            given,
            [(OsStr::new("A"), Some(OsStr::new("1"))), (OsStr::new("B"), Some(OsStr::new("x=y")))]
        );
    }

    #[test]
    fn commands_run_in_the_root() {
        assert_eq!(workspace().command("ls").get_current_dir(), Some(Path::new("/root-folder")));
    }
}
