//! Examples of every error.

use im_core::{ContentType, Role};
use im_protocol::{ErrorBody, ErrorCode, op};

use crate::{
    case::{Case, File, file, refused, unread},
    people::*,
};

pub(crate) fn files() -> Vec<File> {
    ErrorCode::ALL.iter().map(|code| file(&format!("error.{code}"), cases(*code))).collect()
}

fn cases(code: ErrorCode) -> Vec<Case> {
    match code {
        ErrorCode::Malformed | ErrorCode::MissingOp | ErrorCode::UnknownOp | ErrorCode::WrongType => {
            undecodable(code)
        }
        ErrorCode::TooFast | ErrorCode::Overloaded | ErrorCode::Behind => vec![later(code)],
        ErrorCode::HelloFirst => vec![refused("A ping before hello.", 1, op::Ping {}, &body(code))],
        ErrorCode::AlreadyHello => vec![refused("A second hello.", 2, hello(), &body(code))],
        ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::SessionsFull => {
            vec![refused("A hello.", 1, hello(), &body(code))]
        }
        ErrorCode::ClientClock => {
            let error = ErrorBody { server_time: Some(NOW.into()), ..body(code) };
            vec![refused("The client's clock is ahead.", 7, send(), &error)]
        }
        ErrorCode::Invalid => {
            let group = op::CreateGroup {
                conversation: Some("s_mine".into()),
                name: None,
                members: vec![BOB.into()],
                client_msg_id: msg_id(121),
            };
            vec![refused("Ids that begin with s_ are not for groups.", 7, group, &body(code))]
        }
        ErrorCode::Denied => vec![refused("Only an owner gives roles.", 7, set_role(), &body(code))],
        _ => vec![refused("A send.", 7, send(), &body(code))],
    }
}

/// The message of an example is the meaning of its code; a server says more.
fn body(code: ErrorCode) -> ErrorBody<'static> {
    ErrorBody::new(code, code.meaning())
}

fn later(code: ErrorCode) -> Case {
    let error = ErrorBody { retry_after_ms: Some(200_u64.into()), ..body(code) };
    if code == ErrorCode::Behind {
        let read = op::MarkRead { conversation: SINGLE.into(), seq: 9_u64.into() };
        return refused("The store is not there yet.", 7, read, &error);
    }
    refused("A send.", 7, send(), &error)
}

fn undecodable(code: ErrorCode) -> Vec<Case> {
    match code {
        ErrorCode::Malformed => vec![
            unread("No JSON.", r#"{"id":1,"op":"#, code),
            unread("No object.", "[1,2]", code),
            unread("A name stands there twice.", r#"{"id":1,"id":2,"op":"ping"}"#, code),
            unread("Nothing.", "", code),
        ],
        ErrorCode::MissingOp => {
            vec![unread("With an id.", r#"{"id":1}"#, code), unread("Without.", "{}", code)]
        }
        ErrorCode::UnknownOp => {
            vec![unread("An operation of a later version.", r#"{"id":1,"op":"recall","seq":4}"#, code)]
        }
        _ => vec![
            unread("A field is missing.", r#"{"id":1,"op":"pull"}"#, code),
            unread("A number for a text.", r#"{"id":1,"op":"pull","after":7}"#, code),
            unread(
                "An integer above 2⁵³ − 1.",
                r#"{"id":1,"op":"mark_read","conversation":"x","seq":9007199254740992}"#,
                code,
            ),
            unread("An integer below 0.", r#"{"id":1,"op":"mark_read","conversation":"x","seq":-1}"#, code),
            unread(
                "A content type that does not exist.",
                r#"{"id":1,"op":"send","conversation":"x","client_msg_id":"y","type":"smell","content":""}"#,
                code,
            ),
            unread("The id is missing.", r#"{"op":"ping"}"#, code),
            unread("The id is no integer.", r#"{"id":"one","op":"ping"}"#, code),
            unread("The op is no text.", r#"{"id":1,"op":7}"#, code),
        ],
    }
}

fn hello() -> op::Hello<'static> {
    op::Hello {
        token: "eyJhbGciOiJFZERTQSJ9.e30.c2ln".into(),
        device: "web-5f0c".into(),
        platform: None,
        cursor: None,
        state: None,
    }
}

fn send() -> op::Send<'static> {
    op::Send {
        conversation: SINGLE.into(),
        client_msg_id: msg_id(122),
        content_type: ContentType::Text,
        content: "Hello".into(),
        ack: None,
    }
}

fn set_role() -> op::SetRole<'static> {
    op::SetRole {
        conversation: CIRCLE.into(),
        user: BOB.into(),
        role: Role::Owner,
        client_msg_id: msg_id(123),
    }
}
