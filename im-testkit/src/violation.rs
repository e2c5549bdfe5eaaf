//! Why a backend did not pass.

use std::{error, fmt};

use im_core::{Error, InvalidId};

/// What a clause answers.
pub type Verdict = Result<(), Violation>;

/// How a backend breaks a clause.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation(String);

impl Violation {
    /// A violation, told to people.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

// A test prints this one.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Violation {}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error:?}"))
    }
}

impl From<InvalidId> for Violation {
    fn from(error: InvalidId) -> Self {
        Self(format!("the suite made a bad id: {error}"))
    }
}

/// Breaks the clause unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::Violation::new(format!($($why)+)));
        }
    };
}

/// Breaks the clause unless both are equal; shows both.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($why:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    let why = format!($($why)+);
                    return Err($crate::Violation::new(format!("{why}: {left:?}, where {right:?} was due")));
                }
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};
