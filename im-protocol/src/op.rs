//! What a client asks: one type for each operation. What it is answered has the same name in [`ok`](crate::ok).

use im_core::{ContentType, Role};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Id, Int, Level, Opaque, Text, Token};

/// Who connects, and where it stands. The first frame of every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.hello")]
pub struct Hello<'a> {
    /// Proves who the user is.
    #[serde(borrow)]
    pub token: Token<'a>,
    /// The device: made once per installation, kept for ever.
    #[serde(borrow)]
    pub device: Id<'a>,
    /// What the device runs, such as `web`; the token's, or `unknown`, if absent.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Id<'a>>,
    /// The cursor that the client stands on; absent: it has none and will bootstrap.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Opaque<'a>>,
    /// The state version that it has.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Opaque<'a>>,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.send")]
pub struct Send<'a> {
    /// Where to.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Names the message for ever; a retry carries the same. A UUID of version 7.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
    /// How the content is to be read.
    #[serde(rename = "type")]
    #[schemars(schema_with = "sendable")]
    pub content_type: ContentType,
    /// Text, or JSON text.
    #[serde(borrow)]
    pub content: Text<'a>,
    /// What the answer waits for; absent: `logged`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Level>,
}

/// The next inbox entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.pull")]
pub struct Pull<'a> {
    /// The cursor that the client stands on.
    #[serde(borrow)]
    pub after: Opaque<'a>,
    /// How many at most; absent, or above the server's `page`: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Int>,
}

/// The client has taken everything up to a cursor. Without an id it gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.ack")]
pub struct Ack<'a> {
    /// The cursor.
    #[serde(borrow)]
    pub cursor: Opaque<'a>,
}

/// A page of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.history")]
pub struct History<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// The lowest sequence id wanted; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Int>,
    /// The highest wanted; absent: up to the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Int>,
    /// How many at most; absent, or above the server's `page`: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Int>,
    /// The page is taken from the range's upper end. Its records are in ascending order either way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backward: bool,
}

/// Moves the read mark forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.mark_read")]
pub struct MarkRead<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Everything up to this sequence id was read.
    pub seq: Int,
}

/// Changes the user's own settings of a conversation; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.set")]
pub struct Set<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// A new nickname, at most 256 bytes; the empty one removes it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<Text<'a>>,
    /// Hide or show in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<bool>,
    /// Disturb or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undisturbed: Option<bool>,
    /// Clear away everything up to this sequence id; only ever moves forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared: Option<Int>,
}

/// What changed in the user's own state: read marks, settings, memberships.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.state")]
pub struct State<'a> {
    /// The version that the client has; absent: none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Opaque<'a>>,
}

/// The SINGLE conversation with another user, made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.open_single")]
pub struct OpenSingle<'a> {
    /// The other user.
    #[serde(borrow)]
    pub user: Id<'a>,
}

/// Creates a group; the user becomes its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.create_group")]
pub struct CreateGroup<'a> {
    /// Its id, not beginning with `s_`; absent: one that follows from the user and `client_msg_id`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Id<'a>>,
    /// Its name, at most 256 bytes.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// Who else is in it.
    #[serde(borrow)]
    pub members: Vec<Id<'a>>,
    /// Names the creation; a retry carries the same.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
}

/// Joins a group, or brings others in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.join")]
pub struct Join<'a> {
    /// The group.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Who joins; absent: the user itself.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<Id<'a>>>,
    /// Names the change; a retry carries the same.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
}

/// Leaves a group, or puts others out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.leave")]
pub struct Leave<'a> {
    /// The group.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Who leaves; absent: the user itself.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<Id<'a>>>,
    /// Names the change; a retry carries the same.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
}

/// Gives a member a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.set_role")]
pub struct SetRole<'a> {
    /// The group.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// The member.
    #[serde(borrow)]
    pub user: Id<'a>,
    /// The role.
    #[schemars(schema_with = "role_given")]
    pub role: Role,
    /// Names the change; a retry carries the same.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
}

/// The user's conversations: a page by id, or some of them; with `fresh` the beginning of a bootstrap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.conversations")]
pub struct Conversations<'a> {
    /// The `next` of the page before; absent: from the beginning.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Id<'a>>,
    /// How many at most; absent, or above the server's `page`: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Int>,
    /// These only, at most a page of them; `after`, `max` and `fresh` are then passed over.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Id<'a>>>,
    /// Begins a bootstrap: the answer carries cursor and state version too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// The members of a conversation, a page by user id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.members")]
pub struct Members<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// The `next` of the page before; absent: from the beginning.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Id<'a>>,
    /// How many at most; absent, or above the server's `page`: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Int>,
}

/// The heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "op.ping")]
pub struct Ping {}

fn sendable(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> =
        ContentType::ALL.iter().filter(|one| **one != ContentType::System).map(|one| one.as_str()).collect();
    json_schema!({ "enum": names })
}

fn role_given(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["member", "admin", "owner"] })
}
