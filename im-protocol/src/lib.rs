//! The wire protocol `im.v1.json`: types, frames, error codes, close codes, JSON Schema.
//!
//! One WebSocket text message is one frame. A client sends [`Request`]s `{id, op, …}`; a server answers `{re, ok}` or
//! `{re, error}` and sends [`Event`]s `{ev, …}`. Members that a reader does not know are passed over, so that fields, operations
//! and events can be added; an operation that the server does not know is refused.
//!
//! `docs/protocol.md` tells how to write a client; `golden/` has an example of every frame; `schema/` the JSON Schema.
//!
//! Types borrow from the frame they were read from, or from the engine's values they are made of. No socket is here, and no
//! mapping from the engine's errors: a transport does that.
//!
//! ```
//! use im_protocol::{ErrorCode, Op, Request, frame, ok};
//!
//! let request = Request::decode(r#"{"id": 7, "op": "mark_read", "conversation": "g1", "seq": 42}"#)?;
//! let Op::MarkRead(asked) = request.op else { unreachable!() };
//! let read = im_protocol::MarkView { seq: asked.seq, ordinal: 40_u64.into() };
//! let answer = frame::answer(request.id.unwrap(), &ok::MarkRead { read });
//! assert_eq!(answer, r#"{"re":7,"ok":{"read":{"seq":42,"ordinal":40}}}"#);
//!
//! let refused = Request::decode(r#"{"id": 8, "op": "fly"}"#).unwrap_err();
//! assert_eq!((refused.code, refused.re), (ErrorCode::UnknownOp, Some(8_u64.into())));
//! # Ok::<(), im_protocol::Undecodable>(())
//! ```

mod close;
mod error;
mod event;
pub mod frame;
mod int;
pub mod ok;
pub mod op;
mod record;
mod request;
mod schema;
mod text;
mod view;

pub use close::CloseCode;
pub use error::{ErrorBody, ErrorCode};
pub use event::{Draining, Event, Heads, Kicked, Signal, StateChanged};
pub use frame::ServerFrame;
pub use int::Int;
pub use record::{EncodedRecord, EntryView, RecordView, kind_name, kind_of};
pub use request::{Level, Op, Operation, Request, Undecodable};
pub use schema::schema;
pub use text::{Id, Opaque, Text, Token};
pub use view::{ConversationView, HeadView, MarkView, MemberView, SettingsView};

/// The name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "im.v1.json";
