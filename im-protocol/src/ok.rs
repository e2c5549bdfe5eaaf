//! What a client is answered: one type for each operation of [`op`](crate::op), under the same name.
//!
//! Where a type has a parameter `R`, it is a [`RecordView`], or an [`EncodedRecord`](crate::EncodedRecord) to be sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ConversationView, EntryView, HeadView, Id, Int, Level, MarkView, MemberView, Opaque, RecordView,
};

/// The session has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.hello")]
pub struct Hello<'a> {
    /// The user that the token names.
    #[serde(borrow)]
    pub user: Id<'a>,
    /// The session, for logs.
    #[serde(borrow)]
    pub session: Id<'a>,
    /// The cursor was absent or cannot be served: the client must bootstrap.
    pub resync: bool,
    /// The inbox end; absent where the inbox has no entry.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Opaque<'a>>,
    /// The state version.
    #[serde(borrow)]
    pub state: Opaque<'a>,
    /// The server's time, in milliseconds since 1970.
    pub time: Int,
    /// How often the client is to ping, in milliseconds.
    pub heartbeat_ms: Int,
    /// Whose read marks are.
    pub read_marks: ReadMarks,
    /// What the server takes.
    pub limits: Limits,
    /// Heads of the user's large groups; those beyond a page follow in events.
    #[serde(borrow)]
    pub heads: Vec<HeadView<'a>>,
}

/// Whose read marks are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadMarks {
    /// The user's: what one device reads is read on all.
    #[default]
    PerUser,
    /// Each device's own.
    PerDevice,
}

/// What a server takes. The default has the values of the default configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// The longest content, in bytes of UTF-8.
    pub content_bytes: Int,
    /// The longest frame from a client, in bytes.
    pub frame_bytes: Int,
    /// The longest page of anything.
    pub page: Int,
    /// How many members a group may have.
    pub group_members: Int,
    /// How many users one operation may name.
    pub users: Int,
    /// How many frames a second the server takes in the long run.
    pub frames_per_second: Int,
    /// How many frames it takes at once after a pause.
    pub frames_burst: Int,
    /// In how many milliseconds a signal is to be acked.
    pub ack_ms: Int,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            content_bytes: (64_u64 << 10).into(),
            frame_bytes: (128_u64 << 10).into(),
            page: 200_u64.into(),
            group_members: 100_000_u64.into(),
            users: 400_u64.into(),
            frames_per_second: 50_u64.into(),
            frames_burst: 200_u64.into(),
            ack_ms: 5_000_u64.into(),
        }
    }
}

/// A message, or a change of members, has its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.send")]
pub struct Send<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// The record's place there.
    pub seq: Int,
    /// When the server took it, in milliseconds since 1970.
    pub created_at: Int,
    /// An earlier attempt had stored it.
    pub duplicate: bool,
    /// How far it has come.
    pub level: Level,
}

/// The group is there and its members are in.
pub type CreateGroup<'a> = Send<'a>;
/// The users are members.
pub type Join<'a> = Send<'a>;
/// The users are members no more.
pub type Leave<'a> = Send<'a>;
/// The member has the role.
pub type SetRole<'a> = Send<'a>;

/// The entries after the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.pull")]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
pub struct Pull<'a, R = RecordView<'a>> {
    /// The entries, oldest first.
    #[serde(borrow)]
    pub entries: Vec<EntryView<'a, R>>,
    /// Whether there are more.
    pub more: bool,
    /// The cursor cannot be served: there are no entries here and the client must bootstrap.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resync: bool,
}

/// Done; nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.ack")]
pub struct Ack {}

/// A page of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.history")]
pub struct History<R> {
    /// The records, in ascending order.
    pub records: Vec<R>,
    /// Whether the range holds more beyond the page's far end.
    pub more: bool,
}

/// The read mark that holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.mark_read")]
pub struct MarkRead {
    /// As high as asked, or higher.
    pub read: MarkView,
}

/// The settings are changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.set")]
pub struct Set<'a> {
    /// The state version after it. There may be other changes below it: it is no `since`.
    #[serde(borrow)]
    pub state: Opaque<'a>,
}

/// The user's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.state")]
pub struct State<'a> {
    /// The version that this leads to.
    #[serde(borrow)]
    pub version: Opaque<'a>,
    /// The conversations that changed, as they are now.
    #[serde(borrow)]
    pub changes: Vec<ConversationView<'a>>,
    /// Anything may have changed: there are no changes here, list the conversations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// The conversation is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.open_single")]
pub struct OpenSingle<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: ConversationView<'a>,
}

/// Some of the user's conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.conversations")]
pub struct Conversations<'a> {
    /// The conversations, by ascending id.
    #[serde(borrow)]
    pub conversations: Vec<ConversationView<'a>>,
    /// The store is not far enough for these: ask for them again by their ids.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Id<'a>>,
    /// The `after` of the next page; absent: there is none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Id<'a>>,
    /// With `fresh`: the cursor that the client stands on from now on.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Opaque<'a>>,
    /// With `fresh`: the state version that it has from now on.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Opaque<'a>>,
}

/// Some members of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.members")]
pub struct Members<'a> {
    /// The members, by ascending user id.
    #[serde(borrow)]
    pub members: Vec<MemberView<'a>>,
    /// The `after` of the next page; absent: there is none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Id<'a>>,
}

/// Where everything stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ok.ping")]
pub struct Ping<'a> {
    /// The server's time, in milliseconds since 1970.
    pub time: Int,
    /// The inbox end; absent where the inbox has no entry.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Opaque<'a>>,
    /// The state version.
    #[serde(borrow)]
    pub state: Opaque<'a>,
    /// Heads of the user's large groups that moved since the client was last told; those beyond a page follow in events.
    #[serde(borrow)]
    pub heads: Vec<HeadView<'a>>,
}
