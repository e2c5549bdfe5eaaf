//! What an acknowledgement survives.

use std::fmt;

/// What acknowledged data survive, said truthfully.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: they are in the memory of this process.
    Memory,
    /// The death of the process; a crash of the operating system or a power failure may lose the newest.
    Buffered,
    /// A crash of the operating system too.
    Synced,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "nothing: memory only",
            Self::Buffered => "the death of the process, not a crash of the operating system",
            Self::Synced => "the death of the process and a crash of the operating system",
        })
    }
}
