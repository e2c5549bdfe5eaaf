//! What servers answer, taken apart.

use bytes::{Buf, Bytes};
use fred::types::Value;
use im_core::{Epoch, Position, Result};

use crate::error::corrupt;

/// A list of values.
pub(crate) fn list(operation: &'static str, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(corrupt(operation, format!("no list: {}", other.kind()))),
    }
}

/// The first of an answer's values, a word, and the rest.
pub(crate) fn word<'a>(operation: &'static str, answer: &'a [Value]) -> Result<(&'a str, &'a [Value])> {
    let (word, rest) = answer.split_first().ok_or_else(|| corrupt(operation, "an empty answer"))?;
    Ok((text(operation, word)?, rest))
}

pub(crate) fn text<'a>(operation: &'static str, value: &'a Value) -> Result<&'a str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bytes(bytes) => {
            std::str::from_utf8(bytes).map_err(|error| corrupt(operation, error.to_string()))
        }
        other => Err(corrupt(operation, format!("no text: {}", other.kind()))),
    }
}

pub(crate) fn bytes(operation: &'static str, value: &Value) -> Result<Bytes> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::String(text) => Ok(text.inner().clone()),
        other => Err(corrupt(operation, format!("no bytes: {}", other.kind()))),
    }
}

/// A number that is not negative.
pub(crate) fn number(operation: &'static str, value: &Value) -> Result<u64> {
    match value {
        Value::Integer(number) => {
            u64::try_from(*number).map_err(|error| corrupt(operation, error.to_string()))
        }
        other => text(operation, other)?.parse().map_err(|_| corrupt(operation, "no number")),
    }
}

/// A stream's id as a position.
pub(crate) fn position(operation: &'static str, value: &Value) -> Result<Position> {
    let id = text(operation, value)?;
    let parts =
        id.split_once('-').and_then(|(epoch, offset)| Some((epoch.parse().ok()?, offset.parse().ok()?)));
    let (epoch, offset) = parts.ok_or_else(|| corrupt(operation, format!("{id:?} is no position")))?;
    Ok(Position { epoch: Epoch(epoch), offset })
}

/// The first bytes; none where there are too few.
pub(crate) fn take<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let mut taken = [0; N];
    bytes.try_copy_to_slice(&mut taken).ok()?;
    Some(taken)
}
