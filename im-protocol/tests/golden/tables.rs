//! The tables of error and close codes, as data for clients and as Markdown.

use im_core::Outcome;
use im_protocol::{CloseCode, ErrorCode};
use serde::Serialize;

use crate::layout::laid_out;

#[derive(Serialize)]
struct ErrorRow {
    code: &'static str,
    transient: bool,
    /// Something may have been done.
    unknown: bool,
    meaning: &'static str,
    client: &'static str,
}

#[derive(Serialize)]
struct CloseRow {
    code: u16,
    reason: &'static str,
    reconnect: bool,
    meaning: &'static str,
    client: &'static str,
}

fn error_rows() -> Vec<ErrorRow> {
    let row = |code: &ErrorCode| ErrorRow {
        code: code.as_str(),
        transient: code.is_transient(),
        unknown: code.outcome() == Outcome::Unknown,
        meaning: code.meaning(),
        client: code.advice(),
    };
    ErrorCode::ALL.iter().map(row).collect()
}

fn close_rows() -> Vec<CloseRow> {
    let row = |code: &CloseCode| CloseRow {
        code: code.number(),
        reason: code.as_str(),
        reconnect: CloseCode::reconnects(code.number()),
        meaning: code.meaning(),
        client: code.advice(),
    };
    CloseCode::ALL.iter().map(row).collect()
}

pub(crate) fn errors_json() -> String {
    laid_out(&serde_json::to_string(&error_rows()).unwrap()) + "\n"
}

pub(crate) fn close_json() -> String {
    laid_out(&serde_json::to_string(&close_rows()).unwrap()) + "\n"
}

pub(crate) fn errors_markdown() -> String {
    let rows = error_rows().into_iter().map(|row| {
        let (transient, outcome) = (yes(row.transient), if row.unknown { "unknown" } else { "not done" });
        format!("| `{}` | {transient} | {outcome} | {} | {} |\n", row.code, row.meaning, row.client)
    });
    "| Code | Transient | Outcome | Meaning | What a client does |\n|---|---|---|---|---|\n".to_owned()
        + &rows.collect::<String>()
}

pub(crate) fn close_markdown() -> String {
    let rows = close_rows().into_iter().map(|row| {
        let reconnect = yes(row.reconnect);
        format!("| {} | `{}` | {reconnect} | {} | {} |\n", row.code, row.reason, row.meaning, row.client)
    });
    "| Code | Reason | Connect again | Meaning | What a client does |\n|---|---|---|---|---|\n".to_owned()
        + &rows.collect::<String>()
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
