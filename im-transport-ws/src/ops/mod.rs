//! What a client may ask of its session: one function for each operation.

mod conversations;
mod groups;
mod messages;
mod own;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use im_engine::{ChatError, Cursor, InvalidId, Session, StateVersion};
use im_protocol::{ErrorBody, ErrorCode, Id, Int, Op, Opaque, Request, frame};
use tungstenite::Utf8Bytes;

pub(crate) use own::{heads_frames, paged};

use crate::{bootstrap::Bootstrap, codes, outgoing::text_frame};

/// A session and what its requests need.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) session: Session,
    /// The longest page, as the engine has it.
    pub(crate) page: usize,
    /// About the longest answer, in bytes.
    pub(crate) answer_bytes: usize,
    pub(crate) bootstrap: Bootstrap,
}

/// What became of a request.
pub(crate) enum Served {
    /// The frame of its answer.
    Answer(Bytes),
    /// It is under way, in order; its answer follows.
    Sending(BoxFuture<'static, Bytes>),
    /// It cannot be read; the frame of the error.
    Unreadable(Bytes),
    /// It is done, and wants no answer.
    Silent,
}

/// Why a request was not served.
pub(crate) struct Refused(ErrorBody<'static>);

impl From<ChatError> for Refused {
    fn from(error: ChatError) -> Self {
        Self(codes::error_body(&error))
    }
}

impl From<InvalidId> for Refused {
    fn from(error: InvalidId) -> Self {
        ChatError::from(error).into()
    }
}

/// Serves a request. It owns the frame, so that what is asked can be borrowed from it.
pub(crate) fn serve(asker: Arc<Asker>, text: Utf8Bytes) -> BoxFuture<'static, Served> {
    Box::pin(async move {
        let Request { id, op } = match Request::decode(&text) {
            Ok(request) => request,
            Err(undecodable) => {
                let re = undecodable.re;
                return Served::Unreadable(error_frame(re, undecodable.into()));
            }
        };
        match run(&asker, id, op).await {
            Ok(served) => served,
            Err(Refused(body)) => Served::Answer(error_frame(id, body)),
        }
    })
}

/// The frame of an error.
pub(crate) fn error_frame(re: Option<Int>, body: ErrorBody<'_>) -> Bytes {
    text_frame(frame::error(re, &body))
}

async fn run(asker: &Asker, id: Option<Int>, op: Op<'_>) -> Result<Served, Refused> {
    if let Op::Ack(asked) = op {
        return messages::ack(asker, id, asked);
    }
    // Only an ack may lack its id: the decoder sees to that.
    let re = id.unwrap_or_default();
    // What is rare has a future of its own, so that the usual ones stay small.
    let answer = match op {
        Op::Send(asked) => return messages::send(asker, re, asked).await,
        Op::Pull(asked) => messages::pull(asker, re, asked).await?,
        Op::Ping(_) => return own::ping(asker, re).await,
        Op::History(asked) => messages::history(asker, re, asked).await?,
        Op::MarkRead(asked) => own::mark_read(asker, re, asked).await?,
        Op::Set(asked) => Box::pin(own::set(asker, re, asked)).await?,
        Op::State(asked) => Box::pin(own::state(asker, re, asked)).await?,
        Op::Conversations(asked) => Box::pin(conversations::conversations(asker, re, asked)).await?,
        Op::OpenSingle(asked) => Box::pin(conversations::open_single(asker, re, asked)).await?,
        Op::CreateGroup(asked) => Box::pin(groups::create_group(asker, re, asked)).await?,
        Op::Join(asked) => Box::pin(groups::join(asker, re, asked)).await?,
        Op::Leave(asked) => Box::pin(groups::leave(asker, re, asked)).await?,
        Op::SetRole(asked) => Box::pin(groups::set_role(asker, re, asked)).await?,
        Op::Members(asked) => Box::pin(groups::members(asker, re, asked)).await?,
        Op::Hello(_) => return Err(refuse(ErrorCode::AlreadyHello, "the session has begun")),
        other => return Err(refuse(ErrorCode::UnknownOp, format!("there is no op {:?}", other.name()))),
    };
    Ok(Served::Answer(text_frame(answer)))
}

fn refuse(code: ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused(ErrorBody::new(code, message))
}

/// Takes a text of the wire as one of the engine's ids.
pub(crate) fn id<T: TryFrom<Arc<str>, Error = InvalidId>>(text: &Id<'_>) -> Result<T, InvalidId> {
    T::try_from(Arc::from(text.as_str()))
}

/// Takes a text as a cursor; none where it is too long to be one.
pub(crate) fn cursor(text: &Opaque<'_>) -> Option<Cursor> {
    (text.len() <= Cursor::MAX_BYTES).then(|| Cursor::new(text.as_str()))
}

/// Takes a text as a state version; none where it is too long to be one.
pub(crate) fn version(text: &Opaque<'_>) -> Option<StateVersion> {
    /// As the engine has it.
    const MAX_BYTES: usize = 128;
    (text.len() <= MAX_BYTES).then(|| StateVersion::new(text.as_str()))
}

/// How many are wanted at most; the engine knows the longest page.
fn wanted(max: Option<Int>) -> usize {
    max.map_or(usize::MAX, Int::size)
}

impl Asker {
    /// How many of the first items fit into an answer, at least one; none where all do.
    fn fitting(&self, sizes: impl IntoIterator<Item = usize>) -> Option<usize> {
        let mut bytes = 0;
        let over = sizes.into_iter().position(|size| {
            bytes += size;
            bytes > self.answer_bytes
        });
        over.map(|count| count.max(1))
    }
}

/// About what a record takes in a frame.
fn record_bytes(record: &im_engine::Record) -> usize {
    /// Names, numbers, ids.
    const OVERHEAD: usize = 256;
    escaped_bytes(&record.content) + OVERHEAD
}

/// How long a text is in JSON, without its quotation marks.
fn escaped_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_it_gets_in_a_frame() {
        for text in ["", "plain", "\"\\/", "\u{0}\u{1f}\u{7f}\n\r\t\u{8}\u{c}", "你好 \u{2028}🙂"] {
            let frame = serde_json::to_string(text).unwrap();
            assert_eq!(escaped_bytes(text) + 2, frame.len(), "{frame}");
        }
    }
}
