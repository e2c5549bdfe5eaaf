//! What a caller of the engine is told.

use im_core::{Error, ErrorKind};

pub(crate) use im_core::{ChatError, ChatResult};

/// No answer in time: it may still happen.
pub(crate) fn unknown(operation: &'static str, message: &str) -> Error {
    Error::new(ErrorKind::Timeout, "engine", operation, message)
}
