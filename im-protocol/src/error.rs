//! Errors on the wire: one table of stable codes for transport, clients, documents and tests.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Int, Text};

macro_rules! codes {
    ($($variant:ident $name:literal $transient:literal $outcome:ident $meaning:literal $client:literal;)*) => {
        /// A stable code of an error. One that a client does not know is to be treated as [`ErrorCode::Internal`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(
                #[doc = concat!($meaning, " Client: ", $client)]
                $variant,
            )*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code, as on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the same request may succeed later without anybody's doing.
            #[must_use]
            pub fn is_transient(self) -> bool {
                match self { $(Self::$variant => $transient,)* }
            }

            /// Whether something may have been done.
            #[must_use]
            pub fn outcome(self) -> im_core::Outcome {
                match self { $(Self::$variant => im_core::Outcome::$outcome,)* }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a client does.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $client,)* }
            }
        }
    };
}

codes! {
    Malformed "malformed" false NotDone
        "The frame is not one JSON object in a text message."
        "It has a fault; mend it.";
    MissingOp "missing_op" false NotDone
        "The frame has no `op`."
        "It has a fault; mend it.";
    UnknownOp "unknown_op" false NotDone
        "The server has no such operation; an older server may lack a newer one."
        "Do without it.";
    WrongType "wrong_type" false NotDone
        "A field is missing, has another type, or is an integer out of range."
        "It has a fault; mend it.";
    HelloFirst "hello_first" false NotDone
        "The first frame was no `hello`; close code 4502 follows."
        "It has a fault; mend it.";
    AlreadyHello "already_hello" false NotDone
        "The session has begun; a connection takes one `hello`."
        "It has a fault; mend it.";
    Unauthorized "unauthorized" false NotDone
        "The token is not valid; close code 4501 follows."
        "Sign in again.";
    TokenExpired "token_expired" false NotDone
        "The token was valid until lately. The connection waits for another `hello`."
        "Get a new token and say hello again, on the same connection.";
    SessionsFull "sessions_full" false NotDone
        "The user has as many sessions as are allowed; close code 4504 follows."
        "Tell the user.";
    Invalid "invalid" false NotDone
        "A value cannot be served: not an id, an empty list, a content type that users cannot send."
        "Tell the user, or mend a fault.";
    TooLarge "too_large" false NotDone
        "Frame, content, name or list is over its limit."
        "Tell the user.";
    TooFast "too_fast" true NotDone
        "The connection is over its rate; nothing was done."
        "Send it again after `retry_after_ms`, and less from then on.";
    UnknownConversation "unknown_conversation" false NotDone
        "There is no such conversation."
        "Tell the user.";
    NotMember "not_member" false NotDone
        "The user is no member of the conversation, or was none at these records."
        "Fetch the state, tell the user.";
    Denied "denied" false NotDone
        "The user's role, or the host application, does not allow it."
        "Tell the user.";
    Conflict "conflict" false NotDone
        "The same `client_msg_id` named another content before, or the id another conversation."
        "Never reuse an id: with a new one it is a new message.";
    ClientClock "client_clock" false NotDone
        "The time in the `client_msg_id` is ahead of the server's, which is in `server_time`."
        "Correct the clock by `server_time`; send as a new message, with a new id.";
    Behind "behind" true NotDone
        "The store has not applied this far yet."
        "Ask again after `retry_after_ms`.";
    Overloaded "overloaded" true NotDone
        "A queue is full; nothing was done."
        "Send it again after `retry_after_ms`, doubled each time, with the same `client_msg_id`.";
    Unavailable "unavailable" true NotDone
        "A part of the server cannot be reached, or the server is shutting down; nothing was done."
        "Send it again after a backoff, with the same `client_msg_id`.";
    TimeoutUnknown "timeout_unknown" true Unknown
        "No answer in time: it may have been done, or may yet be."
        "Send it again with the same `client_msg_id` until there is another answer; never show it as failed.";
    Internal "internal" false Unknown
        "The server failed; its log tells why."
        "Tell the user; a retry carries the same `client_msg_id`.";
}

impl ErrorCode {
    /// The code of a name, if this version knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Text::deserialize(deserializer)?;
        Ok(Self::from_name(&name).unwrap_or(Self::Internal))
    }
}

impl JsonSchema for ErrorCode {
    fn schema_name() -> Cow<'static, str> {
        "ErrorCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let known: Vec<_> = Self::ALL.iter().map(|code| code.as_str()).collect();
        json_schema!({
            "description": "One that is not known is to be treated as `internal`.",
            "anyOf": [{ "enum": known }, { "type": "string" }],
        })
    }
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody<'a> {
    /// The code: what a client acts upon.
    pub code: ErrorCode,
    /// The same for people; may change at any time.
    #[serde(borrow)]
    pub message: Text<'a>,
    /// Not to be tried again earlier than this, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<Int>,
    /// The server's time, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<Int>,
}

impl<'a> ErrorBody<'a> {
    /// A code with a message for people.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self { code, message: message.into().into(), retry_after_ms: None, server_time: None }
    }
}
