//! Frames of a client: the table of operations, and how a frame is decoded.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ErrorBody, ErrorCode, Int, RecordView, Text, ok, op};

/// How far a message has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is in the log, with the log's durability.
    #[default]
    Logged,
    /// It is in the store too.
    Stored,
}

/// A frame of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Request<'a> {
    /// Comes back as `re`. Only an `ack` may be without; it then gets no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Int>,
    /// What is asked.
    #[serde(flatten)]
    pub op: Op<'a>,
}

/// Ties what is asked to what it is answered with.
pub trait Operation<'a>: Into<Op<'a>> {
    /// The answer.
    type Ok<'b>: Deserialize<'b>;
}

macro_rules! operations {
    ($($variant:ident $name:literal $op:ty => $ok:ty;)*) => {
        /// What a client can ask.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
        #[serde(tag = "op")]
        #[non_exhaustive]
        pub enum Op<'a> {
            $(
                #[doc = concat!("`", $name, "`: see [`op`](crate::op).")]
                #[serde(rename = $name)]
                $variant($op),
            )*
        }

        impl<'a> Op<'a> {
            /// The names of all operations.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// The operation's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Name and schemas (of a request's own fields, of an `ok`) of each operation.
            pub(crate) fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema, Schema)> {
                vec![$((
                    $name,
                    generator.subschema_for::<$op>(),
                    generator.subschema_for::<<$op as Operation<'a>>::Ok<'a>>(),
                ),)*]
            }

            /// None: there is no operation of this name.
            fn decode(name: &str, text: &'a str) -> Option<serde_json::Result<Self>> {
                match name {
                    $($name => Some(serde_json::from_str::<$op>(text).map(Self::$variant)),)*
                    _ => None,
                }
            }
        }

        $(
            impl<'a> From<$op> for Op<'a> {
                fn from(op: $op) -> Self {
                    Self::$variant(op)
                }
            }

            impl<'a> Operation<'a> for $op {
                type Ok<'b> = $ok;
            }
        )*
    };
}

operations! {
    Hello         "hello"         op::Hello<'a>         => ok::Hello<'b>;
    Send          "send"          op::Send<'a>          => ok::Send<'b>;
    Pull          "pull"          op::Pull<'a>          => ok::Pull<'b, RecordView<'b>>;
    Ack           "ack"           op::Ack<'a>           => ok::Ack;
    History       "history"       op::History<'a>       => ok::History<RecordView<'b>>;
    MarkRead      "mark_read"     op::MarkRead<'a>      => ok::MarkRead;
    Set           "set"           op::Set<'a>           => ok::Set<'b>;
    State         "state"         op::State<'a>         => ok::State<'b>;
    OpenSingle    "open_single"   op::OpenSingle<'a>    => ok::OpenSingle<'b>;
    CreateGroup   "create_group"  op::CreateGroup<'a>   => ok::CreateGroup<'b>;
    Join          "join"          op::Join<'a>          => ok::Join<'b>;
    Leave         "leave"         op::Leave<'a>         => ok::Leave<'b>;
    SetRole       "set_role"      op::SetRole<'a>       => ok::SetRole<'b>;
    Conversations "conversations" op::Conversations<'a> => ok::Conversations<'b>;
    Members       "members"       op::Members<'a>       => ok::Members<'b>;
    Ping          "ping"          op::Ping              => ok::Ping<'b>;
}

impl<'a> Request<'a> {
    /// Reads the text of a frame. Members that are not known are passed over.
    ///
    /// # Errors
    /// [`Undecodable`], whose code is [`Malformed`](ErrorCode::Malformed), [`MissingOp`](ErrorCode::MissingOp),
    /// [`UnknownOp`](ErrorCode::UnknownOp) or [`WrongType`](ErrorCode::WrongType), with the request's id if one can be read.
    pub fn decode(text: &'a str) -> Result<Self, Undecodable> {
        let head = Head::read(text).map_err(|why| Undecodable::new(None, ErrorCode::Malformed, &why))?;
        let id = head.id.map(|id| serde_json::from_str::<Int>(id.get())).transpose();
        let re = id.as_ref().ok().copied().flatten();
        let fail = |code, message: &str| Undecodable::new(re, code, message);
        let name = head.op.ok_or_else(|| fail(ErrorCode::MissingOp, "op is missing"))?;
        let name: Text<'_> =
            serde_json::from_str(name.get()).map_err(|_| fail(ErrorCode::WrongType, "op is not a string"))?;
        let op = Op::decode(&name, text)
            .ok_or_else(|| fail(ErrorCode::UnknownOp, &format!("there is no op {name:?}")))?
            .map_err(|error| fail(ErrorCode::WrongType, &error.to_string()))?;
        let id = id.map_err(|error| fail(ErrorCode::WrongType, &format!("id: {error}")))?;
        if id.is_none() && !matches!(op, Op::Ack(_)) {
            return Err(fail(ErrorCode::WrongType, "id is missing"));
        }
        Ok(Self { id, op })
    }
}

/// What must be known before the rest can be read.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    op: Option<&'a RawValue>,
}

impl<'a> Head<'a> {
    /// An array is refused here: serde would take it for the fields in their order.
    fn read(text: &'a str) -> Result<Self, String> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err("a frame is one JSON object".into());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// Why a frame is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// The request's id, if it could be read.
    pub re: Option<Int>,
    /// What is wrong.
    pub code: ErrorCode,
    /// The same for people; at most 256 bytes.
    pub message: String,
}

impl Undecodable {
    fn new(re: Option<Int>, code: ErrorCode, message: &str) -> Self {
        /// Messages quote the frame, which may be long.
        const MESSAGE_BYTES: usize = 256;
        let message = message[..message.floor_char_boundary(MESSAGE_BYTES)].to_owned();
        Self { re, code, message }
    }
}

impl From<Undecodable> for ErrorBody<'_> {
    fn from(undecodable: Undecodable) -> Self {
        Self::new(undecodable.code, undecodable.message)
    }
}
