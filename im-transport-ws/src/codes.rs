//! The one table from what the engine says to what the wire says.

use std::time::Duration;

use im_engine::{ChatError, CloseReason, ErrorKind, Outcome, Refusal};
use im_protocol::{CloseCode, ErrorBody, ErrorCode, Int};

/// When to ask again for what the store has not applied yet.
const BEHIND: Duration = Duration::from_millis(200);

/// What a client is told of an error. A backend's own words stay in the log.
pub(crate) fn error_body(error: &ChatError) -> ErrorBody<'static> {
    match error {
        ChatError::Refused(refusal) => refused(refusal),
        ChatError::Failed(failed) => {
            let code = failed_code(failed.kind(), failed.outcome());
            tracing::warn!(error = %failed, kind = ?failed.kind(), %code, "a request failed");
            ErrorBody::new(code, failed_message(code))
        }
    }
}

fn refused(refusal: &Refusal) -> ErrorBody<'static> {
    let body = ErrorBody::new(refused_code(refusal), refusal.to_string());
    match refusal {
        Refusal::ClientClock { now } => ErrorBody { server_time: Some((*now).into()), ..body },
        Refusal::Overloaded(wait) => retry_after(body, *wait),
        Refusal::Behind { .. } => retry_after(body, BEHIND),
        _ => body,
    }
}

/// Adds how long to wait, at least a millisecond.
pub(crate) fn retry_after(body: ErrorBody<'static>, wait: Duration) -> ErrorBody<'static> {
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    ErrorBody { retry_after_ms: Some(Int::from(ms)), ..body }
}

fn refused_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Invalid(_) => ErrorCode::Invalid,
        Refusal::TooLarge { .. } => ErrorCode::TooLarge,
        Refusal::UnknownConversation => ErrorCode::UnknownConversation,
        Refusal::NotMember => ErrorCode::NotMember,
        Refusal::NotAllowed | Refusal::Denied(_) => ErrorCode::Denied,
        Refusal::Conflict => ErrorCode::Conflict,
        Refusal::ClientClock { .. } => ErrorCode::ClientClock,
        Refusal::Overloaded(_) => ErrorCode::Overloaded,
        Refusal::Behind { .. } => ErrorCode::Behind,
        Refusal::SessionsFull => ErrorCode::SessionsFull,
        Refusal::Closed | Refusal::ShuttingDown => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    }
}

/// Where the outcome is unknown a client must hear that before anything else.
fn failed_code(kind: ErrorKind, outcome: Outcome) -> ErrorCode {
    match (outcome, kind) {
        (Outcome::Unknown, _) => ErrorCode::TimeoutUnknown,
        (_, ErrorKind::Unavailable | ErrorKind::Timeout) => ErrorCode::Unavailable,
        (_, ErrorKind::Full) => ErrorCode::Overloaded,
        (_, ErrorKind::Behind) => ErrorCode::Behind,
        (_, ErrorKind::Invalid) => ErrorCode::Invalid,
        // The log changes under the engine; it takes up the new one by itself.
        (_, ErrorKind::OtherIncarnation | ErrorKind::StaleEpoch) => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    }
}

fn failed_message(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TimeoutUnknown => "no answer in time: it may have been done, or may yet be",
        ErrorCode::Unavailable => "a part of the server cannot be reached",
        ErrorCode::Overloaded => "a part of the server has no room",
        ErrorCode::Behind => "the store has not applied this yet",
        ErrorCode::Invalid => "a part of the server cannot serve this",
        _ => "the server failed",
    }
}

/// How a connection is closed whose session the engine closed.
pub(crate) fn close_code(reason: CloseReason) -> CloseCode {
    match reason {
        CloseReason::Kicked => CloseCode::Kicked,
        CloseReason::NoAck => CloseCode::Slow,
        CloseReason::Silent => CloseCode::Silent,
        CloseReason::Draining => CloseCode::Draining,
        _ => CloseCode::Internal,
    }
}

/// How a connection is closed that could not begin a session, after the error has been told.
pub(crate) fn refused_close(code: ErrorCode) -> CloseCode {
    match code {
        ErrorCode::Unauthorized => CloseCode::Unauthorized,
        ErrorCode::SessionsFull => CloseCode::SessionsFull,
        ErrorCode::Invalid | ErrorCode::WrongType | ErrorCode::Malformed => CloseCode::Protocol,
        ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::TimeoutUnknown => CloseCode::Overloaded,
        _ => CloseCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use im_engine::{Error, Mark, Timestamp};

    use super::*;

    #[test]
    fn every_refusal_has_its_code() {
        let table = [
            (Refusal::Invalid("x".into()), "invalid"),
            (Refusal::TooLarge { what: "content bytes", limit: 1 }, "too_large"),
            (Refusal::UnknownConversation, "unknown_conversation"),
            (Refusal::NotMember, "not_member"),
            (Refusal::NotAllowed, "denied"),
            (Refusal::Denied("no".into()), "denied"),
            (Refusal::Conflict, "conflict"),
            (Refusal::ClientClock { now: Timestamp(7) }, "client_clock"),
            (Refusal::Overloaded(Duration::from_millis(100)), "overloaded"),
            (Refusal::Behind { head: Mark::default() }, "behind"),
            (Refusal::SessionsFull, "sessions_full"),
            (Refusal::Closed, "unavailable"),
            (Refusal::ShuttingDown, "unavailable"),
        ];
        for (refusal, code) in table {
            let body = error_body(&ChatError::from(refusal.clone()));
            assert_eq!(body.code.as_str(), code, "{refusal:?}");
            assert_eq!(refusal.code(), code);
            assert!(!body.message.is_empty());
            assert_eq!(body.code.outcome(), Outcome::NotDone, "a refusal does nothing: {refusal:?}");
            if refusal.is_transient() {
                assert!(body.code.is_transient(), "{refusal:?}");
            }
        }
    }

    #[test]
    fn every_failure_has_its_code_and_keeps_the_backends_words() {
        use ErrorKind::*;
        let table = [
            (Unavailable, "timeout_unknown"),
            (Timeout, "timeout_unknown"),
            (Full, "overloaded"),
            (Corrupt, "internal"),
            (NewerVersion, "internal"),
            (InUse, "internal"),
            (Diverged, "internal"),
            (OtherIncarnation, "unavailable"),
            (StaleEpoch, "unavailable"),
            (Behind, "behind"),
            (Invalid, "invalid"),
            (Denied, "internal"),
            (Other, "internal"),
        ];
        for (kind, code) in table {
            let failed = Error::new(kind, "memory", "log.append", "secret");
            let body = error_body(&ChatError::from(failed));
            assert_eq!(body.code.as_str(), code, "{kind:?}");
            assert!(!body.message.contains("secret"));
        }
        for kind in [Unavailable, Timeout] {
            let failed = Error::new(kind, "memory", "store.get", "").with_outcome(Outcome::NotDone);
            assert_eq!(error_body(&failed.into()).code, ErrorCode::Unavailable);
        }
        let other = Error::new(Other, "memory", "log.append", "").with_outcome(Outcome::Unknown);
        assert_eq!(error_body(&other.into()).code, ErrorCode::TimeoutUnknown);
    }

    #[test]
    fn what_tells_the_time_tells_it() {
        let clock = error_body(&Refusal::ClientClock { now: Timestamp(7) }.into());
        assert_eq!(clock.server_time, Some(7_u64.into()));
        let overloaded = error_body(&Refusal::Overloaded(Duration::from_millis(100)).into());
        assert_eq!(overloaded.retry_after_ms, Some(100_u64.into()));
        let soon = error_body(&Refusal::Overloaded(Duration::from_nanos(1)).into());
        assert_eq!(soon.retry_after_ms, Some(1_u64.into()));
    }

    #[test]
    fn every_close_reason_has_its_code() {
        let table = [
            (CloseReason::Kicked, 4500),
            (CloseReason::NoAck, 4001),
            (CloseReason::Silent, 4002),
            (CloseReason::Draining, 4000),
        ];
        for (reason, code) in table {
            assert_eq!(close_code(reason).number(), code, "{reason:?}");
        }
    }

    #[test]
    fn who_may_try_again_is_told_so_by_the_close_code() {
        for code in ErrorCode::ALL {
            let close = refused_close(*code).number();
            if code.is_transient() {
                assert!(CloseCode::reconnects(close), "{code}");
            }
        }
        assert!(!CloseCode::reconnects(refused_close(ErrorCode::Unauthorized).number()));
    }
}
