//! Where fresh ids come from.

use std::fmt;

use uuid::Uuid;

/// Makes ids that nobody had before; the one source of chance in the engine, so that a simulation can replay.
pub trait IdSource: fmt::Debug + Send + Sync + 'static {
    /// A fresh id: 1 to 64 bytes of ASCII without control characters.
    fn fresh(&self) -> String;
}

/// UUIDs of version 7.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uuids;

impl IdSource for Uuids {
    fn fresh(&self) -> String {
        Uuid::now_v7().to_string()
    }
}
