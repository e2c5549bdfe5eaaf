//! Frames of a server: how they are encoded, and how a client reads them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{EncodedRecord, ErrorBody, Event, Int, Request, Text};

#[derive(Serialize)]
struct OkFrame<'a, T> {
    re: Int,
    ok: &'a T,
}

#[derive(Serialize)]
struct ErrorFrame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    re: Option<Int>,
    error: &'a ErrorBody<'a>,
}

/// The frame of a request.
#[must_use]
pub fn request(request: &Request<'_>) -> String {
    encode(request)
}

/// The frame of an answer; `ok` is one of [`ok`](crate::ok).
#[must_use]
pub fn answer(re: Int, ok: &impl Serialize) -> String {
    encode(&OkFrame { re, ok })
}

/// The frame of an error; without `re` where the request had no id that could be read.
#[must_use]
pub fn error(re: Option<Int>, error: &ErrorBody<'_>) -> String {
    encode(&ErrorFrame { re, error })
}

/// The frame of an event.
#[must_use]
pub fn event<R: Serialize>(event: &Event<'_, R>) -> String {
    encode(event)
}

/// Texts, integers and raw JSON under string keys always encode, so the empty frame is never seen.
fn encode(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

/// The frame of a signal with entries, at least one, put together from their cursors and records that are encoded already.
///
/// The same as [`event`] of that signal, without its detours: fan-out sends little else.
#[must_use]
pub fn signal<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a EncodedRecord), IntoIter: Clone + DoubleEndedIterator>,
) -> String {
    const FRAME: &str = r#"{"ev":"signal","end":,"entries":[]}"#;
    const ENTRY: &str = r#"{"cursor":"","record":},"#;
    let entries = entries.into_iter();
    let end = entries.clone().next_back().map_or("", |(cursor, _)| cursor);
    let sizes = entries.clone().map(|(cursor, record)| ENTRY.len() + cursor.len() + record.as_str().len());
    let mut frame = String::with_capacity(FRAME.len() + 2 + end.len() + sizes.sum::<usize>());
    frame.push_str(r#"{"ev":"signal","end":"#);
    push_string(&mut frame, end);
    frame.push_str(r#","entries":["#);
    for (index, (cursor, record)) in entries.enumerate() {
        frame.push_str(if index == 0 { r#"{"cursor":"# } else { r#",{"cursor":"# });
        push_string(&mut frame, cursor);
        frame.push_str(r#","record":"#);
        frame.push_str(record.as_str());
        frame.push('}');
    }
    frame.push_str("]}");
    frame
}

/// Adds a text as a JSON string.
fn push_string(frame: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        frame.push('"');
        frame.push_str(text);
        frame.push('"');
    } else {
        frame.push_str(&encode(&text));
    }
}

/// A frame of a server, as a client reads it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// A request was served. Read `ok` as the [`Operation`](crate::Operation)'s answer.
    Ok {
        /// The request's id.
        re: Int,
        /// The answer, still to be read.
        ok: &'a RawValue,
    },
    /// A request was not served.
    Error {
        /// The request's id, if it could be read.
        re: Option<Int>,
        /// Why.
        error: ErrorBody<'a>,
    },
    /// An event.
    Event(Event<'a>),
    /// Something of a later version: to be passed over.
    Unknown,
}

#[derive(Deserialize)]
struct Head<'a> {
    re: Option<Int>,
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<ErrorBody<'a>>,
    #[serde(borrow)]
    ev: Option<Text<'a>>,
}

impl<'a> ServerFrame<'a> {
    /// Reads the text of a frame.
    ///
    /// # Errors
    /// When it is not JSON, or not of the shape that its names ask for.
    pub fn decode(text: &'a str) -> serde_json::Result<Self> {
        Ok(match serde_json::from_str(text)? {
            Head { ev: Some(name), .. } => match Event::decode(&name, text) {
                Some(event) => Self::Event(event?),
                None => Self::Unknown,
            },
            Head { re, error: Some(error), .. } => Self::Error { re, error },
            Head { re: Some(re), ok: Some(ok), .. } => Self::Ok { re, ok },
            Head { .. } => Self::Unknown,
        })
    }
}
