//! A golden file: examples of one operation, event or error.

use im_protocol::{ErrorBody, ErrorCode, Event, Op, Operation, Request, frame};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The examples of one name; `op.send` is `golden/op.send.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) cases: Vec<Case>,
}

/// One example.
#[derive(Serialize, Deserialize)]
pub(crate) struct Case {
    /// What it shows.
    pub(crate) about: String,
    /// What the client sends, if it is a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Box<RawValue>>,
    /// What the client sends, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// What the server answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Box<RawValue>>,
    /// What the server says without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<Box<RawValue>>,
}

impl Case {
    fn new(about: &str) -> Self {
        Self { about: about.into(), request: None, text: None, answer: None, event: None }
    }

    /// Every frame of the example.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &str> {
        [&self.request, &self.answer, &self.event].into_iter().flatten().map(|frame| frame.get())
    }
}

pub(crate) fn file(name: &str, cases: impl Into<Vec<Case>>) -> File {
    File { name: name.into(), cases: cases.into() }
}

/// A request that is served.
pub(crate) fn served<'a, O>(about: &str, id: u64, op: O, ok: &O::Ok<'_>) -> Case
where
    O: Operation<'a>,
    for<'b> O::Ok<'b>: Serialize,
{
    let request = Request { id: Some(id.into()), op: op.into() };
    Case {
        request: Some(raw(frame::request(&request))),
        answer: Some(raw(frame::answer(id.into(), ok))),
        ..Case::new(about)
    }
}

/// A request that gets no answer.
pub(crate) fn silent<'a>(about: &str, op: impl Into<Op<'a>>) -> Case {
    Case { request: Some(raw(frame::request(&Request { id: None, op: op.into() }))), ..Case::new(about) }
}

/// A request that the server refuses.
pub(crate) fn refused<'a>(about: &str, id: u64, op: impl Into<Op<'a>>, error: &ErrorBody<'_>) -> Case {
    let request = Request { id: Some(id.into()), op: op.into() };
    Case {
        request: Some(raw(frame::request(&request))),
        answer: Some(raw(frame::error(Some(id.into()), error))),
        ..Case::new(about)
    }
}

/// A text that is no request: what decoding says is what the server answers.
pub(crate) fn unread(about: &str, text: &str, code: ErrorCode) -> Case {
    let error = Request::decode(text).unwrap_err();
    assert_eq!(error.code, code, "{text}");
    let is_object = code != ErrorCode::Malformed;
    Case {
        request: is_object.then(|| raw(text.into())),
        text: (!is_object).then(|| text.into()),
        answer: Some(raw(frame::error(error.re, &error.into()))),
        ..Case::new(about)
    }
}

/// An event.
pub(crate) fn said(about: &str, event: &Event<'_>) -> Case {
    Case { event: Some(raw(frame::event(event))), ..Case::new(about) }
}

fn raw(frame: String) -> Box<RawValue> {
    RawValue::from_string(frame).unwrap()
}
