//! The one test command: Rust, the JavaScript client, the browser.

use std::env;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use serde_json::Value;

use crate::closing::Runner;
use crate::report::Report;
use crate::run::{Failure, Result, each_line, spelled};
use crate::services::Services;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

/// The folders with JavaScript tests.
const SCRIPTS: &[(&str, &str)] = &[("client tests", "clients/js/test"), ("browser tests", "tests/browser")];

/// Runs every test, also after one failed; what is skipped or missing has failed.
///
/// # Errors
/// When one failed, or something they need is missing.
pub(crate) fn test(workspace: &Workspace, install: bool) -> Result<()> {
    let mut report = Report::default();
    let mut closing = Vec::new();
    let purposes = [Purpose::Services, Purpose::Test];
    if report.step("setup", || setup::provide(workspace, &purposes, install)).is_some() {
        let services = Services::of(workspace);
        let server = report.step("build", || build(workspace));
        let up = report.step("servers", || services.up(&[], true)).unwrap_or_default();
        report.step("cargo test", || rust(workspace, &up, &mut closing));
        report.step("servers down", || services.down());
        for (name, folder) in SCRIPTS {
            report.step(name, || scripts(workspace, folder, server.as_deref(), &mut closing));
        }
    }
    println!("\n{}", closing.join("\n"));
    report.finish()
}

/// What cargo tests. One selection, so that it compiles each crate once.
const TESTED: &str = "cargo test --workspace --all-features";

/// Builds all that is tested, and says where the server lies.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command =
        workspace.command(&format!("{TESTED} --no-run --message-format json-render-diagnostics"));
    let mut server = None;
    each_line(&mut command, |line| server = program(line, "im-server").or(server.take()))?;
    server.ok_or_else(|| Failure::new("im-server has no program"))
}

/// Where a program lies, if a line of cargo's JSON output says that it was built.
fn program(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let is_it = target["name"] == name && target["kind"][0] == "bin" && message["profile"]["test"] == false;
    is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
}

/// How many tests of a program run at once.
const THREADS: &str = "RUST_TEST_THREADS";

fn rust(workspace: &Workspace, services: &[(&str, String)], closing: &mut Vec<String>) -> Result<()> {
    let mut command = workspace.command(&format!("{TESTED} --no-fail-fast"));
    command.envs(services.iter().map(|(name, address)| (name, address)));
    // Most tests wait: for a disk, a server, a time.
    if env::var_os(THREADS).is_none() {
        command.env(THREADS, (2 * cores()).to_string());
    }
    watched(&mut command, Runner::Rust, closing)
}

/// Runs the JavaScript tests of a folder; the server is theirs to start.
fn scripts(
    workspace: &Workspace,
    folder: &str,
    server: Option<&Path>,
    closing: &mut Vec<String>,
) -> Result<()> {
    let server = server.ok_or_else(|| Failure::new("not run: there is no server"))?;
    let files = test_files(&workspace.root().join(folder))
        .filter(|files| !files.is_empty())
        .ok_or_else(|| Failure::new(format!("{folder} has no *.test.mjs")))?;
    // Named one by one: what a folder means to `node --test` differs between Node 20 and 22.
    let mut command = workspace.command("node --test --test-reporter=spec");
    // By itself Node leaves one core idle.
    command.arg(format!("--test-concurrency={}", cores()));
    command.args(files).env("IM_SERVER_BIN", server).env_remove("FORCE_COLOR");
    watched(&mut command, Runner::Node, closing)
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

fn test_files(folder: &Path) -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut files: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| is_test(file)).collect();
    files.sort();
    Some(files)
}

fn is_test(file: &Path) -> bool {
    file.to_string_lossy().ends_with(".test.mjs")
}

/// Runs a test runner, shows what it prints, keeps its closing lines and judges them.
fn watched(command: &mut Command, runner: Runner, closing: &mut Vec<String>) -> Result<()> {
    let mut lines = Vec::new();
    let outcome = each_line(command, |line| {
        println!("{line}");
        lines.extend(runner.closes(line).then(|| line.to_owned()));
    });
    closing.push(format!("$ {}", spelled(command)));
    closing.extend(lines.iter().filter(|line| runner.tells(line)).cloned());
    outcome.and(runner.judge(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_told_from_its_tests() {
        let line = |kind: &str, test: bool| {
            format!(
                r#"{{"target":{{"kind":["{kind}"],"name":"im-server"}},"profile":{{"test":{test}}},"executable":"/t/im-server"}}"#
            )
        };
        assert_eq!(program(&line("bin", false), "im-server"), Some(PathBuf::from("/t/im-server")));
        for other in [line("bin", true), line("test", false), "no JSON".to_owned()] {
            assert_eq!(program(&other, "im-server"), None, "{other}");
        }
        assert_eq!(program(&line("bin", false), "replay"), None);
    }
}
