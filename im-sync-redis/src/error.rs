//! The only mapping from fred's and Redis' errors to ours.

use fred::error::ErrorKind as Fred;
use im_core::{Error, ErrorKind, Incarnation, Outcome};

/// The name of this backend.
pub(crate) const BACKEND: &str = "redis";

/// What a server's error means, by how it begins; the first match counts. A script that is refused at its beginning has done nothing,
/// and ours do not fail half-way.
/// <https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>
const ANSWERS: &[(&str, ErrorKind)] = &[
    ("OOM", ErrorKind::Full),               // maxmemory is reached
    ("MISCONF", ErrorKind::Full),           // it cannot write its file
    ("READONLY", ErrorKind::Unavailable),   // a replica
    ("MASTERDOWN", ErrorKind::Unavailable), // a replica without its master
    ("LOADING", ErrorKind::Unavailable),    // it starts
    ("BUSY", ErrorKind::Unavailable),       // another script runs for too long
    ("TRYAGAIN", ErrorKind::Unavailable),   // a slot moves
    ("MOVED", ErrorKind::Unavailable),      // and too often
    ("ASK", ErrorKind::Unavailable),
    ("NOREPLICAS", ErrorKind::Unavailable), // too few for its own rule
    ("NOSCRIPT", ErrorKind::Unavailable),   // forgotten again at once
    ("NOAUTH", ErrorKind::Denied),
    ("WRONGPASS", ErrorKind::Denied),
    ("NOPERM", ErrorKind::Denied),
    ("WRONGTYPE", ErrorKind::Corrupt), // somebody else's key
    ("ERR max number of clients", ErrorKind::Unavailable),
    ("ERR invalid password", ErrorKind::Denied),
];

/// What a server says, without what Redis 6.2 puts before it when a script's command is refused: "ERR Error running script (call to …):
/// @user_script:1: @user_script: 1: -OOM …".
fn said(details: &str) -> &str {
    let script = details.strip_prefix("ERR Error running script");
    let Some((_, said)) = script.and_then(|script| script.rsplit_once("@user_script")) else {
        return details;
    };
    said.trim_start_matches([':', ' ', '-'])
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start_matches([':', ' ', '-'])
}

/// What the client says by itself, as if it were a server's unknown error.
const OWN: &[(&str, Outcome)] = &[
    // What was under way on a connection that it gave up, and is not to be sent twice.
    ("Too many failed write attempts", Outcome::Unknown),
    // Nobody serves a slot. fred 10.1 says so of everything under way on that connection.
    ("CLUSTERDOWN", Outcome::Unknown),
    ("Failed to route command", Outcome::Unknown), // no connection; it may have been sent over an earlier one
    ("Failed to send command to router", Outcome::NotDone), // closed
    ("Client is not initialized", Outcome::NotDone), // closed
    (TOO_MANY_REDIRECTIONS, Outcome::NotDone),
];

/// The client follows none by itself.
const TOO_MANY_REDIRECTIONS: &str = "Too many redirections";

/// Whether the keys of a command were on their way to another server, or there already: it has done nothing.
pub(crate) fn is_redirected(error: &fred::error::Error) -> bool {
    [TOO_MANY_REDIRECTIONS, "TRYAGAIN"].iter().any(|beginning| error.details().starts_with(beginning))
}

/// Whether nobody waits for the answer to a command any more.
pub(crate) fn is_late(error: &fred::error::Error) -> bool {
    *error.kind() == Fred::Timeout
}

fn of(error: &fred::error::Error) -> (ErrorKind, Outcome) {
    let said = said(error.details());
    let answer = ANSWERS.iter().find(|(beginning, _)| said.starts_with(beginning));
    if let Some((_, kind)) = answer {
        return (*kind, Outcome::NotDone);
    }
    if let Some((_, outcome)) = OWN.iter().find(|(beginning, _)| error.details().starts_with(beginning)) {
        return (ErrorKind::Unavailable, *outcome);
    }
    match error.kind() {
        Fred::Timeout => (ErrorKind::Timeout, Outcome::Unknown),
        Fred::Backpressure => (ErrorKind::Full, Outcome::NotDone),
        Fred::Auth | Fred::Tls => (ErrorKind::Denied, Outcome::NotDone),
        Fred::Config | Fred::Url | Fred::InvalidArgument => (ErrorKind::Invalid, Outcome::NotDone),
        Fred::Protocol | Fred::Parse => (ErrorKind::Corrupt, Outcome::Unknown),
        Fred::Unknown | Fred::InvalidCommand | Fred::NotFound => (ErrorKind::Other, Outcome::Unknown),
        _ => (ErrorKind::Unavailable, Outcome::Unknown),
    }
}

/// Maps what fred says about an operation.
pub(crate) fn failed(operation: &'static str) -> impl Fn(fred::error::Error) -> Error {
    move |error| {
        let (kind, outcome) = of(&error);
        Error::new(kind, BACKEND, operation, error.to_string()).with_outcome(outcome)
    }
}

/// A value on the server that this version never wrote.
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
    fn what_a_server_answers_is_not_done_and_silence_is_unknown() {
        let answer = |details: &'static str| of(&fred::error::Error::new(Fred::Unknown, details));
        for (details, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable),
            ("WRONGPASS invalid username-password pair", ErrorKind::Denied),
            (
                "ERR Error running script (call to f_56b9): @user_script:1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.",
                ErrorKind::Full,
            ),
            (
                "ERR Error running script (call to f_8c55): @user_script:12: WRONGTYPE Operation against a key holding the wrong kind of value",
                ErrorKind::Corrupt,
            ),
        ] {
            assert_eq!(answer(details), (kind, Outcome::NotDone), "{details}");
        }
        for lost in ["Too many failed write attempts.", "CLUSTERDOWN The cluster is down"] {
            assert_eq!(answer(lost), (ErrorKind::Unavailable, Outcome::Unknown), "{lost}");
        }
        assert_eq!(answer("Failed to route command."), (ErrorKind::Unavailable, Outcome::Unknown));
        assert_eq!(answer("Client is not initialized."), (ErrorKind::Unavailable, Outcome::NotDone));
        let silent = fred::error::Error::new(Fred::Timeout, "");
        assert_eq!(of(&silent), (ErrorKind::Timeout, Outcome::Unknown));
        let broken = fred::error::Error::new(Fred::IO, "broken pipe");
        assert_eq!(of(&broken), (ErrorKind::Unavailable, Outcome::Unknown));
        let full = fred::error::Error::new(Fred::Backpressure, "");
        assert_eq!(of(&full), (ErrorKind::Full, Outcome::NotDone));
    }
}
