//! The golden frames are read as server and client read them, and written again.

use im_protocol::{ErrorCode, Op, Operation, Request, ServerFrame, frame};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use crate::{case::Case, checked_in};

/// The same JSON with a member of a later version in every object.
fn with_later_members(json: &str) -> String {
    fn add(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(add);
                members.insert("of_a_later_version".into(), json!({ "op": [1, null], "ev": "?" }));
            }
            Value::Array(items) => items.iter_mut().for_each(add),
            _ => {}
        }
    }
    let mut value = value(json);
    add(&mut value);
    value.to_string()
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

/// The request as it is written again, and the `ok` as the client of that operation writes it again.
fn read_again(request: &str, answer: Option<&str>) -> (String, Option<String>) {
    let request = Request::decode(request).unwrap();
    let answer = answer.map(|answer| match ServerFrame::decode(answer).unwrap() {
        ServerFrame::Ok { re, ok } => {
            assert_eq!(Some(re), request.id);
            frame::answer(re, &answer_again(&request.op, ok))
        }
        ServerFrame::Error { re, error } => {
            assert_eq!(re, request.id);
            frame::error(re, &error)
        }
        other => panic!("no answer: {other:?}"),
    });
    (frame::request(&request), answer)
}

fn answer_again(op: &Op<'_>, ok: &RawValue) -> Box<RawValue> {
    fn again<'a, O>(_: &O, ok: &RawValue) -> Box<RawValue>
    where
        O: Operation<'a>,
        for<'b> O::Ok<'b>: Serialize,
    {
        let ok: O::Ok<'_> = serde_json::from_str(ok.get()).unwrap();
        serde_json::value::to_raw_value(&ok).unwrap()
    }
    macro_rules! again {
        ($($variant:ident)*) => {
            match op { $(Op::$variant(op) => again(op, ok),)* other => panic!("not listed here: {other:?}") }
        };
    }
    again!(Hello Send Pull Ack History MarkRead Set State OpenSingle CreateGroup Join Leave SetRole
        Conversations Members Ping)
}

fn event_again(event: &str) -> String {
    match ServerFrame::decode(event).unwrap() {
        ServerFrame::Event(event) => frame::event(&event),
        other => panic!("no event: {other:?}"),
    }
}

fn replay(case: &Case, decodable: bool) {
    let (request, answer, event) =
        (case.request.as_deref(), case.answer.as_deref().map(RawValue::get), case.event.as_deref());
    for change in [str::to_owned, with_later_members] {
        if let Some(request) = request.filter(|_| decodable) {
            let (again, answered) = read_again(&change(request.get()), answer.map(change).as_deref());
            assert_eq!(value(&again), value(request.get()));
            assert_eq!(answered.as_deref().map(value), answer.map(value));
        }
        if let Some(event) = event {
            assert_eq!(value(&event_again(&change(event.get()))), value(event.get()));
        }
    }
    if !decodable {
        let text = request.map(RawValue::get).or(case.text.as_deref()).unwrap();
        let refused = Request::decode(text).unwrap_err();
        let ServerFrame::Error { re, error } = ServerFrame::decode(answer.unwrap()).unwrap() else {
            panic!("no error: {answer:?}")
        };
        // The message names a column, which the layout moved.
        assert_eq!((refused.re, refused.code), (re, error.code));
    }
}

#[test]
fn golden_frames_read_back_the_same_also_with_members_of_a_later_version() {
    let undecodable =
        [ErrorCode::Malformed, ErrorCode::MissingOp, ErrorCode::UnknownOp, ErrorCode::WrongType]
            .map(|code| format!("error.{code}"));
    for (name, file) in checked_in() {
        for case in &file.cases {
            replay(case, !undecodable.contains(&name));
        }
    }
}

#[test]
fn an_event_or_answer_of_a_later_version_is_passed_over() {
    for later in [r#"{"ev":"typing","user":"bob"}"#, r#"{"note":"?"}"#, r#"{"re":1}"#] {
        assert!(matches!(ServerFrame::decode(later).unwrap(), ServerFrame::Unknown), "{later}");
    }
}
