//! The one error type of all backends.

use std::{error, fmt, sync::Arc};

/// The result of a backend's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The backend cannot be reached, is starting or shutting down.
    Unavailable,
    /// No answer came in time.
    Timeout,
    /// The backend has no room: disk full, memory limit, stream limit, pool exhausted.
    Full,
    /// The data are damaged or not what this version wrote.
    Corrupt,
    /// The data were written by a newer version of this program.
    NewerVersion,
    /// Another process has the data open and they cannot be shared.
    InUse,
    /// A record that is already stored came again with other content: two logs claim one place.
    Diverged,
    /// The part is of another incarnation than the caller's checkpoint or epoch.
    OtherIncarnation,
    /// The log has a newer epoch than the caller's.
    StaleEpoch,
    /// What was asked for lies above what the store has applied; ask again later.
    Behind,
    /// The arguments cannot be served by this backend.
    Invalid,
    /// The credentials or rights do not suffice.
    Denied,
    /// Anything else.
    Other,
}

/// Whether the effect of a failed operation is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing happened.
    NotDone,
    /// It may or may not have happened; repeating it is safe.
    Unknown,
}

/// A failure of a backend: opaque, cheap to clone, with its cause kept.
///
/// Transient never means "did not happen": see [`Error::outcome`].
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    transient: bool,
    outcome: Outcome,
    backend: &'static str,
    operation: &'static str,
    message: String,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `operation` in `backend`. Transient for [`ErrorKind::Unavailable`], [`ErrorKind::Timeout`],
    /// [`ErrorKind::Full`] and [`ErrorKind::Behind`]; the outcome is unknown for the first two.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        backend: &'static str,
        operation: &'static str,
        message: impl Into<String>,
    ) -> Self {
        use ErrorKind::{Behind, Full, Timeout, Unavailable};
        let transient = matches!(kind, Unavailable | Timeout | Full | Behind);
        let outcome = if matches!(kind, Unavailable | Timeout) { Outcome::Unknown } else { Outcome::NotDone };
        Self(Arc::new(Inner {
            kind,
            transient,
            outcome,
            backend,
            operation,
            message: message.into(),
            source: None,
        }))
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.rebuild(|inner| inner.source = Some(source.into()))
    }

    /// The same failure with another outcome than its kind implies.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        self.rebuild(|inner| inner.outcome = outcome)
    }

    /// The same failure, said to be transient or not.
    #[must_use]
    pub fn with_transient(self, transient: bool) -> Self {
        self.rebuild(|inner| inner.transient = transient)
    }

    fn rebuild(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            kind: shared.kind,
            transient: shared.transient,
            outcome: shared.outcome,
            backend: shared.backend,
            operation: shared.operation,
            message: shared.message.clone(),
            source: Some(Box::new(Self(shared))),
        });
        change(&mut inner);
        Self(Arc::new(inner))
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Whether the operation may have taken effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The backend, such as `sqlite`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// The operation, such as `log.append`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("transient", &self.0.transient)
            .field("outcome", &self.0.outcome)
            .field("backend", &self.0.backend)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.backend, self.0.operation, self.0.message)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_does_not_mean_not_done() {
        let error = Error::new(ErrorKind::Timeout, "memory", "log.append", "no answer in 5 s");
        assert!(error.is_transient());
        assert_eq!(error.outcome(), Outcome::Unknown);
        let full = Error::new(ErrorKind::Full, "memory", "log.append", "disk full");
        assert_eq!(full.outcome(), Outcome::NotDone);
    }

    #[test]
    fn a_changed_clone_keeps_its_cause() {
        let error = Error::new(ErrorKind::Other, "memory", "x", "why").with_source("cause");
        let kept = error.clone();
        let changed = error.with_transient(true);
        assert!(changed.is_transient() && !kept.is_transient());
        assert!(error::Error::source(&changed).is_some());
    }
}
