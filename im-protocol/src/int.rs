//! Integers that every JSON implementation keeps exactly.

use std::{borrow::Cow, fmt};

use im_core::{Ordinal, Seq, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};

/// An integer from 0 to 2⁵³ − 1. A greater one is refused when it is read.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Int(u64);

impl Int {
    /// 2⁵³ − 1.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The value.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The value as a size; the greatest one where it does not fit.
    #[must_use]
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What is above [`Int::MAX`] becomes that. A sequence id cannot get there: it grows by one a record and by 2²⁰ an epoch, of
/// which there is at most one a minute.
impl From<u64> for Int {
    fn from(value: u64) -> Self {
        Self(value).min(Self::MAX)
    }
}

impl From<usize> for Int {
    fn from(value: usize) -> Self {
        Self::from(u64::try_from(value).unwrap_or(u64::MAX))
    }
}

impl From<Seq> for Int {
    fn from(seq: Seq) -> Self {
        Self::from(seq.0)
    }
}

impl From<Ordinal> for Int {
    fn from(ordinal: Ordinal) -> Self {
        Self::from(ordinal.0)
    }
}

/// A moment before 1970 becomes 0.
impl From<Timestamp> for Int {
    fn from(time: Timestamp) -> Self {
        Self::from(u64::try_from(time.0).unwrap_or(0))
    }
}

impl From<Int> for Seq {
    fn from(int: Int) -> Self {
        Self(int.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(InRange)
    }
}

struct InRange;

impl Visitor<'_> for InRange {
    type Value = Int;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an integer from 0 to {}", Int::MAX)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Int, E> {
        if value > Int::MAX.0 {
            return Err(E::invalid_value(de::Unexpected::Unsigned(value), &self));
        }
        Ok(Int(value))
    }
}

impl JsonSchema for Int {
    fn schema_name() -> Cow<'static, str> {
        "Int".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An integer that every JSON implementation keeps exactly.",
            "type": "integer",
            "minimum": 0,
            "maximum": Self::MAX.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_double_cannot_hold_is_refused() {
        let read = |text| serde_json::from_str::<Int>(text);
        assert_eq!(read("9007199254740991").unwrap(), Int::MAX);
        for bad in ["9007199254740992", "-1", "1.5", "1e3", "\"1\"", "99999999999999999999999", "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
