//! The only mapping from sqlx's and SQLite's errors to ours.

use std::io;

use im_core::{Error, ErrorKind, Outcome};

/// The name of this backend.
pub(crate) const BACKEND: &str = "sqlite";

/// What a SQLite result code means: (code, kind, outcome). An extended code stands before its primary one, which is its low
/// byte; the first match counts. <https://www.sqlite.org/rescode.html>
const CODES: &[(u32, ErrorKind, Outcome)] = &[
    (522, ErrorKind::Corrupt, Outcome::NotDone), // IOERR_SHORT_READ: the file ends where a page should be
    (8458, ErrorKind::Corrupt, Outcome::NotDone), // IOERR_CORRUPTFS
    (3082, ErrorKind::Full, Outcome::NotDone),   // IOERR_NOMEM
    (10, ErrorKind::Unavailable, Outcome::Unknown), // IOERR: a failed sync leaves open what reached the disk
    (1299, ErrorKind::Corrupt, Outcome::NotDone), // CONSTRAINT_NOTNULL: a place of another message, see `timelines`
    (3, ErrorKind::Denied, Outcome::NotDone),     // PERM
    (5, ErrorKind::Unavailable, Outcome::NotDone), // BUSY: another program holds the file
    (6, ErrorKind::Unavailable, Outcome::NotDone), // LOCKED
    (7, ErrorKind::Full, Outcome::NotDone),       // NOMEM
    (8, ErrorKind::Denied, Outcome::NotDone),     // READONLY
    (9, ErrorKind::Unavailable, Outcome::NotDone), // INTERRUPT
    (11, ErrorKind::Corrupt, Outcome::NotDone),   // CORRUPT
    (13, ErrorKind::Full, Outcome::NotDone),      // FULL
    (14, ErrorKind::Denied, Outcome::NotDone),    // CANTOPEN
    (18, ErrorKind::Invalid, Outcome::NotDone),   // TOOBIG
    (23, ErrorKind::Denied, Outcome::NotDone),    // AUTH
    (26, ErrorKind::Corrupt, Outcome::NotDone),   // NOTADB
];

fn of_code(code: u32) -> (ErrorKind, Outcome) {
    let primary = code & 0xff;
    CODES
        .iter()
        .find(|(known, ..)| *known == code || *known == primary)
        .map_or((ErrorKind::Other, Outcome::NotDone), |(_, kind, outcome)| (*kind, *outcome))
}

fn of_io(kind: io::ErrorKind) -> (ErrorKind, Outcome) {
    use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = match kind {
        StorageFull | QuotaExceeded => ErrorKind::Full,
        PermissionDenied | ReadOnlyFilesystem | NotFound => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    (kind, Outcome::NotDone)
}

fn of_sqlx(error: &sqlx::Error) -> (ErrorKind, Outcome) {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok());
            of_code(code.unwrap_or_default())
        }
        sqlx::Error::Io(error) => of_io(error.kind()),
        sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, Outcome::Unknown),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => (ErrorKind::Corrupt, Outcome::NotDone),
        _ => (ErrorKind::Other, Outcome::NotDone),
    }
}

/// Maps what sqlx says about an operation.
pub(crate) fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let (kind, outcome) = of_sqlx(&error);
        Error::new(kind, BACKEND, operation, error.to_string()).with_outcome(outcome).with_source(error)
    }
}

/// Maps an error of the file system.
pub(crate) fn io_failed(operation: &'static str, error: io::Error) -> Error {
    let (kind, outcome) = of_io(error.kind());
    Error::new(kind, BACKEND, operation, error.to_string()).with_outcome(outcome).with_source(error)
}

/// A value in the file that this version never wrote.
pub(crate) fn corrupt(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, BACKEND, operation, message)
}

/// Arguments that cannot be served.
pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, operation, message)
}

/// Something made under another incarnation than the present one.
pub(crate) fn other_incarnation(
    operation: &'static str,
    given: &im_core::Incarnation,
    present: &im_core::Incarnation,
) -> Error {
    let message = format!("made under incarnation {given:?}, the present one is {present:?}");
    Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_kind() {
        let cases = [
            (5, ErrorKind::Unavailable, Outcome::NotDone),
            (261, ErrorKind::Unavailable, Outcome::NotDone), // BUSY_RECOVERY
            (10, ErrorKind::Unavailable, Outcome::Unknown),
            (1034, ErrorKind::Unavailable, Outcome::Unknown), // IOERR_FSYNC
            (522, ErrorKind::Corrupt, Outcome::NotDone),
            (11, ErrorKind::Corrupt, Outcome::NotDone),
            (267, ErrorKind::Corrupt, Outcome::NotDone), // CORRUPT_VTAB
            (26, ErrorKind::Corrupt, Outcome::NotDone),
            (13, ErrorKind::Full, Outcome::NotDone),
            (3082, ErrorKind::Full, Outcome::NotDone),
            (8, ErrorKind::Denied, Outcome::NotDone),
            (1544, ErrorKind::Denied, Outcome::NotDone), // READONLY_DIRECTORY
            (14, ErrorKind::Denied, Outcome::NotDone),
            (18, ErrorKind::Invalid, Outcome::NotDone),
            (1, ErrorKind::Other, Outcome::NotDone),
            (1299, ErrorKind::Corrupt, Outcome::NotDone),
            (2067, ErrorKind::Other, Outcome::NotDone), // CONSTRAINT_UNIQUE
        ];
        for (code, kind, outcome) in cases {
            assert_eq!(of_code(code), (kind, outcome), "code {code}");
        }
    }

    #[test]
    fn a_full_disk_is_full_however_it_is_told() {
        assert_eq!(io_failed("x", io::ErrorKind::StorageFull.into()).kind(), ErrorKind::Full);
        assert_eq!(failed("x")(sqlx::Error::Io(io::ErrorKind::StorageFull.into())).kind(), ErrorKind::Full);
    }

    #[test]
    fn a_transient_kind_stays_transient_with_a_known_outcome() {
        let busy = failed("x")(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
        assert!(busy.is_transient());
        assert_eq!(busy.outcome(), Outcome::NotDone);
    }
}
