//! The only mapping from sqlx's and Postgres' errors to ours.

use std::io;

use im_core::{Error, ErrorKind, Incarnation, Outcome};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::pool::NotSent;

/// The name of this backend.
pub(crate) const BACKEND: &str = "postgres";

/// What a SQLSTATE means: (beginning of the code, kind, outcome); the first match counts. A statement that the server answers with
/// an error has done nothing, but for a commit whose connection breaks.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const STATES: &[(&str, ErrorKind, Outcome)] = &[
    ("08", ErrorKind::Unavailable, Outcome::Unknown), // connection exceptions
    ("21000", ErrorKind::Invalid, Outcome::NotDone),  // a batch that names a row twice
    ("22021", ErrorKind::Invalid, Outcome::NotDone),  // not a character of the encoding, such as NUL
    ("22P05", ErrorKind::Invalid, Outcome::NotDone),  // the same
    ("25006", ErrorKind::Unavailable, Outcome::NotDone), // read only: a standby
    ("25P03", ErrorKind::Unavailable, Outcome::NotDone), // idle in transaction for too long
    ("25P04", ErrorKind::Timeout, Outcome::NotDone),  // a transaction that took too long
    ("28", ErrorKind::Denied, Outcome::NotDone),      // authorization
    ("3D000", ErrorKind::Denied, Outcome::NotDone),   // no such database
    ("40001", ErrorKind::Unavailable, Outcome::NotDone), // serialization failure
    ("40P01", ErrorKind::Unavailable, Outcome::NotDone), // deadlock
    ("40003", ErrorKind::Unavailable, Outcome::Unknown), // completion unknown
    ("42501", ErrorKind::Denied, Outcome::NotDone),   // no right to it
    ("53100", ErrorKind::Full, Outcome::NotDone),     // disk
    ("53200", ErrorKind::Full, Outcome::NotDone),     // memory
    ("53300", ErrorKind::Unavailable, Outcome::NotDone), // too many connections
    ("53", ErrorKind::Full, Outcome::NotDone),        // other limits
    ("54000", ErrorKind::Full, Outcome::NotDone),     // the queue of NOTIFY is full
    ("54", ErrorKind::Invalid, Outcome::NotDone),     // program limits
    ("55000", ErrorKind::Unavailable, Outcome::NotDone), // not in this state: recovery is in progress
    ("55006", ErrorKind::Unavailable, Outcome::NotDone), // object in use
    ("55P03", ErrorKind::Timeout, Outcome::NotDone),  // lock timeout
    ("57014", ErrorKind::Timeout, Outcome::NotDone),  // statement timeout
    ("57P", ErrorKind::Unavailable, Outcome::Unknown), // shutdown, crash, not yet started
    ("58", ErrorKind::Unavailable, Outcome::Unknown), // the server's system
    ("XX001", ErrorKind::Corrupt, Outcome::NotDone),
    ("XX002", ErrorKind::Corrupt, Outcome::NotDone),
];

fn of_state(state: &str) -> (ErrorKind, Outcome) {
    let known = STATES.iter().find(|(beginning, ..)| state.starts_with(beginning));
    known.map_or((ErrorKind::Other, Outcome::NotDone), |(_, kind, outcome)| (*kind, *outcome))
}

fn of_sqlx(error: &sqlx::Error) -> (ErrorKind, Outcome) {
    match error {
        sqlx::Error::Database(database) => {
            let (kind, outcome) = of_state(&database.code().unwrap_or_default());
            // Whatever its code: the server may have written the commit, and died of what came after it.
            let is_panic = database
                .try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|error| matches!(error.severity(), PgSeverity::Panic));
            (kind, if is_panic { Outcome::Unknown } else { outcome })
        }
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            (ErrorKind::Timeout, Outcome::Unknown)
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            (ErrorKind::Unavailable, Outcome::Unknown)
        }
        // Of a pool whose connections are in use the pool itself says otherwise.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => (ErrorKind::Unavailable, Outcome::NotDone),
        sqlx::Error::Tls(_) => (ErrorKind::Denied, Outcome::NotDone),
        sqlx::Error::Configuration(cause) => {
            (cause.downcast_ref().map_or(ErrorKind::Invalid, |NotSent { kind, .. }| *kind), Outcome::NotDone)
        }
        // An answer came: what it was asked for may be done.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => (ErrorKind::Corrupt, Outcome::Unknown),
        _ => (ErrorKind::Other, Outcome::NotDone),
    }
}

pub(crate) fn kind_of(error: &sqlx::Error) -> ErrorKind {
    of_sqlx(error).0
}

/// Whether the connection went away under a statement.
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    of_sqlx(error) == (ErrorKind::Unavailable, Outcome::Unknown)
}

/// Maps what sqlx says about an operation.
pub(crate) fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let (kind, outcome) = of_sqlx(&error);
        Error::new(kind, BACKEND, operation, error.to_string()).with_outcome(outcome).with_source(error)
    }
}

/// A value in the database that this version never wrote.
pub(crate) fn corrupt(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, BACKEND, operation, message)
}

/// Arguments that cannot be served.
pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, operation, message)
}

/// Something made under another incarnation than the present one.
pub(crate) fn other_incarnation(operation: &'static str, given: &Incarnation, present: &str) -> Error {
    let message = format!("made under incarnation {given:?}, the present one is {present}");
    Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_kind() {
        let cases = [
            ("08006", ErrorKind::Unavailable, Outcome::Unknown),
            ("22021", ErrorKind::Invalid, Outcome::NotDone),
            ("28P01", ErrorKind::Denied, Outcome::NotDone),
            ("40001", ErrorKind::Unavailable, Outcome::NotDone),
            ("42501", ErrorKind::Denied, Outcome::NotDone),
            ("53100", ErrorKind::Full, Outcome::NotDone),
            ("53300", ErrorKind::Unavailable, Outcome::NotDone),
            ("55P03", ErrorKind::Timeout, Outcome::NotDone),
            ("57014", ErrorKind::Timeout, Outcome::NotDone),
            ("57P01", ErrorKind::Unavailable, Outcome::Unknown),
            ("42601", ErrorKind::Other, Outcome::NotDone),
        ];
        for (state, kind, outcome) in cases {
            assert_eq!(of_state(state), (kind, outcome), "state {state}");
        }
    }

    #[test]
    fn silence_is_no_answer_and_what_was_not_sent_is_not_done() {
        let silent = sqlx::Error::Io(io::ErrorKind::TimedOut.into());
        assert_eq!(of_sqlx(&silent), (ErrorKind::Timeout, Outcome::Unknown));
        let broken = sqlx::Error::Io(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(of_sqlx(&broken), (ErrorKind::Unavailable, Outcome::Unknown));
        let not_sent = NotSent { kind: ErrorKind::Full, cause: sqlx::Error::PoolTimedOut };
        let not_sent = sqlx::Error::Configuration(Box::new(not_sent));
        assert_eq!(of_sqlx(&not_sent), (ErrorKind::Full, Outcome::NotDone));
        assert_eq!(of_sqlx(&sqlx::Error::PoolTimedOut), (ErrorKind::Unavailable, Outcome::NotDone));
        // Of an append, its commit may stand.
        let unreadable = sqlx::Error::Decode("no number".into());
        assert_eq!(of_sqlx(&unreadable), (ErrorKind::Corrupt, Outcome::Unknown));
    }
}
