//! What tests and checks need beside cargo: found, named, installed.

use std::path::Path;

use crate::run::{Failure, Result, output, run};
use crate::services::{NATS, OLDEST_REDIS, VALKEY, postgres_version, redis_version, wheel};
use crate::workspace::{TOOLS, Workspace};

/// What a need is for; each task provides only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `cargo xtask test`
    Test,
    /// `cargo xtask check`
    Check,
    /// `cargo xtask services up`, and the tests that need it
    Services,
}

struct Need {
    name: &'static str,
    purpose: Purpose,
    /// Its version, or why it does not serve.
    look: fn(&Workspace) -> Result<String>,
    remedy: Remedy,
}

enum Remedy {
    /// A package of Debian.
    Package(&'static str),
    /// A command of the workspace.
    Run(&'static str),
    /// A package of PyPI with a version, unpacked for this workspace alone.
    Wheel(&'static str),
    /// A crate of this version, installed for this workspace alone.
    Crate(&'static str, &'static str),
}

/// In the order in which they are installed: npm's packages need npm.
const NEEDS: &[Need] = &[
    Need {
        name: "Node 20.10 or newer",
        purpose: Purpose::Test,
        look: node,
        remedy: Remedy::Package("nodejs"),
    },
    Need {
        name: "npm",
        purpose: Purpose::Test,
        look: |workspace| output(&mut workspace.command("npm --version")),
        remedy: Remedy::Package("npm"),
    },
    Need {
        name: "Postgres 14 or newer",
        purpose: Purpose::Services,
        look: postgres_version,
        remedy: Remedy::Package("postgresql"),
    },
    Need {
        name: "Redis 6.2 or newer",
        purpose: Purpose::Services,
        look: redis_version,
        remedy: Remedy::Package("redis-server"),
    },
    Need {
        name: "pip",
        purpose: Purpose::Services,
        look: |workspace| output(&mut workspace.command("python3 -m pip --version")),
        remedy: Remedy::Package("python3-pip"),
    },
    Need {
        name: "Redis 6.2, the oldest that is supported",
        purpose: Purpose::Services,
        look: |workspace| output(workspace.program(OLDEST_REDIS.path(workspace)).arg("--version")),
        remedy: Remedy::Wheel(OLDEST_REDIS.package),
    },
    Need {
        name: "Valkey",
        purpose: Purpose::Services,
        look: |workspace| output(workspace.program(VALKEY.path(workspace)).arg("--version")),
        remedy: Remedy::Wheel(VALKEY.package),
    },
    Need {
        name: "NATS 2.9 or newer",
        purpose: Purpose::Services,
        look: |workspace| output(&mut workspace.command("nats-server --version")),
        remedy: Remedy::Package("nats-server"),
    },
    Need {
        name: "the newest NATS",
        purpose: Purpose::Services,
        look: |workspace| output(workspace.program(NATS.path(workspace)).arg("--version")),
        remedy: Remedy::Wheel(NATS.package),
    },
    Need { name: "Chromium", purpose: Purpose::Test, look: chromium, remedy: Remedy::Package("chromium") },
    Need {
        name: "npm packages of tests/browser",
        purpose: Purpose::Test,
        look: |workspace| output(&mut workspace.command("npm ls --prefix tests/browser")),
        remedy: Remedy::Run("npm ci --prefix tests/browser --no-audit --no-fund"),
    },
    Need {
        name: "rustfmt",
        purpose: Purpose::Check,
        look: |workspace| output(&mut workspace.command("cargo fmt --version")),
        remedy: Remedy::Run("rustup component add rustfmt"),
    },
    Need {
        name: "clippy",
        purpose: Purpose::Check,
        look: |workspace| output(&mut workspace.command("cargo clippy --version")),
        remedy: Remedy::Run("rustup component add clippy"),
    },
    Need {
        name: "cargo-deny",
        purpose: Purpose::Check,
        look: |workspace| tool(workspace, "cargo-deny", DENY),
        remedy: Remedy::Crate("cargo-deny", DENY),
    },
    Need {
        name: "cargo-machete",
        purpose: Purpose::Check,
        look: |workspace| tool(workspace, "cargo-machete", MACHETE),
        remedy: Remedy::Crate("cargo-machete", MACHETE),
    },
];

const DENY: &str = "0.20.2";
const MACHETE: &str = "0.9.2";

/// Says what is there and what is missing, and installs the latter if asked to.
///
/// # Errors
/// When something is missing in the end.
pub(crate) fn provide(workspace: &Workspace, purposes: &[Purpose], install: bool) -> Result<()> {
    let needs = NEEDS.iter().filter(|need| purposes.contains(&need.purpose));
    let missing: Vec<_> = needs.filter_map(|need| need.settle(workspace, install).err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nxtask: ")))
}

impl Need {
    fn settle(&self, workspace: &Workspace, install: bool) -> Result<()> {
        let Err(reason) = self.find(workspace) else { return Ok(()) };
        let line = self.remedy.line();
        println!("missing  {}: {reason}\n         {line}", self.name);
        if !install {
            return Err(Failure::new(format!("{} is missing: {line}", self.name)));
        }
        self.remedy.apply(workspace, &line)?;
        self.find(workspace).map_err(|reason| {
            Failure::new(format!("{} is still missing after `{line}`: {reason}", self.name))
        })
    }

    fn find(&self, workspace: &Workspace) -> Result<()> {
        let version = (self.look)(workspace)?;
        println!("found    {}: {}", self.name, version.lines().last().unwrap_or_default());
        Ok(())
    }
}

impl Remedy {
    /// What one would type.
    fn line(&self) -> String {
        match self {
            Self::Package(package) => format!("{INSTALL} {package}"),
            Self::Run(line) => (*line).to_owned(),
            Self::Wheel(package) => format!(
                "PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
                 --only-binary :all: --python-version 3.11 \
                 --target {} {package}",
                wheel(package)
            ),
            Self::Crate(name, version) => {
                format!(
                    "{QUICKLY} CARGO_TARGET_DIR={TOOLS}/build cargo install {name} --version {version} --locked --root {TOOLS}"
                )
            }
        }
    }

    fn apply(&self, workspace: &Workspace, line: &str) -> Result<()> {
        if let Self::Package(_) = self {
            may_install(workspace, line)?;
            run(&mut workspace.command("apt-get update"))?;
        }
        run(&mut workspace.command(line))
    }
}

const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends";

/// A tool runs for seconds, and its own optimised build takes minutes. What two of them need is built once.
const QUICKLY: &str = "CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
     CARGO_PROFILE_RELEASE_PANIC=abort";

/// Packages are installed only where that cannot ask or surprise: as root, on a Debian.
fn may_install(workspace: &Workspace, line: &str) -> Result<()> {
    let debian = Path::new("/etc/debian_version").exists();
    let root = output(&mut workspace.command("id -u"))? == "0";
    if debian && root {
        return Ok(());
    }
    Err(Failure::new(format!("only root on a Debian can install this; run yourself: {line}")))
}

fn node(workspace: &Workspace) -> Result<String> {
    let version = output(&mut workspace.command("node --version"))?;
    let mut numbers =
        version.trim_start_matches('v').split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(20), Some(10..)) | (Some(21..), _) => Ok(version),
        _ => Err(Failure::new(format!("{version} is too old, newer ones are at https://nodejs.org"))),
    }
}

/// The same browser that tests/browser/browser.mjs takes.
fn chromium(workspace: &Workspace) -> Result<String> {
    let program = std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
    output(workspace.program(program).arg("--version"))
}

/// Only the pinned version serves: another one may judge differently.
fn tool(workspace: &Workspace, name: &str, version: &str) -> Result<String> {
    let found = output(workspace.program(name).arg("--version"))?;
    if found.split_whitespace().any(|word| word == version) {
        return Ok(found);
    }
    Err(Failure::new(format!("{found}, not {version}")))
}
