//! Every check that is not a test.

use crate::report::Report;
use crate::run::{Result, run};
use crate::setup::{self, Purpose};
use crate::workspace::{Package, Workspace};

/// What is checked: name, and command as one would type it. A further check is a further line.
const STEPS: &[(&str, &str)] = &[
    ("format", "cargo fmt --all --check"),
    ("lints", "cargo clippy --workspace --all-targets --all-features -- -D warnings"),
    ("docs", "RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --lib --no-deps"),
    ("bans, licenses, sources", "cargo-deny check bans licenses sources"),
    ("unused dependencies", "cargo-machete --skip-target-dir"),
];

/// Runs them all, also after one failed.
///
/// # Errors
/// When one failed, or a tool is missing.
pub(crate) fn check(workspace: &Workspace, install: bool) -> Result<()> {
    let mut report = Report::default();
    let ready = report.step("setup", || setup::provide(workspace, &[Purpose::Check], install));
    if ready.is_some() {
        let steps = STEPS.iter().map(|(name, line)| ((*name).to_owned(), (*line).to_owned()));
        let libraries = workspace.packages().iter().filter(|package| package.is_library);
        for (name, line) in steps.chain(libraries.flat_map(alone)) {
            report.step(&name, || {
                println!("$ {line}");
                run(&mut workspace.command(&line))
            });
        }
    }
    report.finish()
}

/// A library by itself, and each of its features by itself.
///
/// Built together, crates lend each other their features: one that forgot to ask for what it uses fails only at a user's.
fn alone(package: &Package) -> Vec<(String, String)> {
    let name = &package.name;
    let bare = format!("cargo check -p {name} --no-default-features");
    let features = package
        .features
        .iter()
        .map(|feature| (format!("{name}, feature {feature}"), format!("{bare} --features {feature}")));
    std::iter::once((format!("{name}, no feature"), bare.clone())).chain(features).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_checked_by_itself() {
        let package = Package {
            name: "a".to_owned(),
            features: vec!["x".to_owned(), "y".to_owned()],
            is_library: true,
        };
        let lines: Vec<_> = alone(&package).into_iter().map(|(_, line)| line).collect();
        assert_eq!(
            lines,
            [
                "cargo check -p a --no-default-features",
                "cargo check -p a --no-default-features --features x",
                "cargo check -p a --no-default-features --features y",
            ]
        );
    }
}
