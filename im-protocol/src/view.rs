//! What clients see of conversations and members.

use std::borrow::Cow;

use im_core::{ConversationId, ConversationKind, Member, Membership, Record, Role, Settings, UserId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Id, Int, RecordView, Text};

/// A sequence id with its ordinal: how many records up to it count as unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Mark")]
pub struct MarkView {
    /// The sequence id; 0: before the first record.
    pub seq: Int,
    /// The ordinal of the last record at or below it.
    pub ordinal: Int,
}

impl From<im_core::Mark> for MarkView {
    fn from(mark: im_core::Mark) -> Self {
        Self { seq: mark.seq.into(), ordinal: mark.ordinal.into() }
    }
}

/// The head of a large group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Head")]
pub struct HeadView<'a> {
    /// The group.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Its last sequence id.
    pub seq: Int,
    /// The ordinal there.
    pub ordinal: Int,
}

impl<'a> From<&'a (ConversationId, im_core::Mark)> for HeadView<'a> {
    fn from((id, mark): &'a (ConversationId, im_core::Mark)) -> Self {
        Self { conversation: id.into(), seq: mark.seq.into(), ordinal: mark.ordinal.into() }
    }
}

/// A user's own settings of one conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Settings")]
pub struct SettingsView<'a> {
    /// The user's nickname in the group, or for the other user.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<Text<'a>>,
    /// Not shown in the list.
    pub hidden: bool,
    /// Counted apart, no off-site push.
    pub undisturbed: bool,
    /// What lies at or below was cleared away by the user.
    pub cleared: MarkView,
}

impl<'a> From<&'a Settings> for SettingsView<'a> {
    fn from(settings: &'a Settings) -> Self {
        Self {
            nickname: settings.nickname.as_deref().map(Text::from),
            hidden: settings.hidden,
            undisturbed: settings.undisturbed,
            cleared: settings.cleared.into(),
        }
    }
}

/// A conversation as one user has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Conversation")]
pub struct ConversationView<'a> {
    /// Its id.
    #[serde(borrow)]
    pub id: Id<'a>,
    /// `SINGLE` or `GROUP`.
    #[schemars(schema_with = "conversation_kind")]
    pub kind: ConversationKind,
    /// The name of a group, if it has one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// The other user of a SINGLE.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Id<'a>>,
    /// When it was created, in milliseconds since 1970.
    pub created_at: Int,
    /// A large group: its records are not in the inbox, its heads are told, its history is paged.
    pub large: bool,
    /// The user's role.
    #[serde(deserialize_with = "known_role")]
    #[schemars(schema_with = "role_seen")]
    pub role: Role,
    /// The record with which the user joined, the last time; its ordinal is that of the record before it.
    pub joined: MarkView,
    /// The record with which the user left; absent while the user is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<MarkView>,
    /// The last record that the user has a right to; zero where there is none.
    pub head: MarkView,
    /// That record.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub last: Option<RecordView<'a>>,
    /// The read mark of the user (of the device, where devices have their own).
    pub read: MarkView,
    /// How many records count as unread, as of head and read.
    pub unread: Int,
    /// The user's settings.
    #[serde(borrow)]
    pub settings: SettingsView<'a>,
}

impl<'a> ConversationView<'a> {
    /// The view of what `user` is and has in a conversation whose head, as far as the user has a right to it, is `head`.
    #[must_use]
    pub fn new(
        user: &UserId,
        membership: &'a Membership,
        head: im_core::Mark,
        last: Option<&'a Record>,
    ) -> Self {
        let conversation = &membership.conversation;
        let interval = membership.intervals.last();
        let peer = conversation.users.as_ref().map(|(a, b)| if a == user { b } else { a });
        Self {
            id: (&conversation.id).into(),
            kind: conversation.kind,
            name: conversation.name.as_deref().map(Text::from),
            peer: peer.map(Id::from),
            created_at: conversation.created_at.into(),
            large: conversation.large_since.is_some(),
            role: membership.role,
            joined: interval.map(|interval| interval.joined.into()).unwrap_or_default(),
            left: interval.and_then(|interval| interval.left).map(MarkView::from),
            head: head.into(),
            last: last.map(RecordView::from),
            read: membership.read.into(),
            unread: membership.unread(head).into(),
            settings: (&membership.settings).into(),
        }
    }
}

/// A member of a group, as other members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Member")]
pub struct MemberView<'a> {
    /// The user.
    #[serde(borrow)]
    pub user: Id<'a>,
    /// The role.
    #[serde(deserialize_with = "known_role")]
    #[schemars(schema_with = "role_seen")]
    pub role: Role,
    /// The nickname in the group.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<Text<'a>>,
}

impl<'a> From<&'a Member> for MemberView<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            user: (&member.user).into(),
            role: member.role,
            nickname: member.nickname.as_deref().map(Text::from),
        }
    }
}

/// A role of a later version is taken for the least one.
fn known_role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
    Ok(match &*Cow::<'_, str>::deserialize(deserializer)? {
        "admin" => Role::Admin,
        "owner" => Role::Owner,
        _ => Role::Member,
    })
}

fn conversation_kind(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["SINGLE", "GROUP"] })
}

fn role_seen(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "description": "`member`, `admin` or `owner`; one that is not known is to be taken for `member`.",
    })
}

#[cfg(test)]
mod tests {
    use im_core::{Conversation, Interval, Mark, Ordinal, Seq, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    fn mark(seq: u64, ordinal: u64) -> Mark {
        Mark { seq: Seq(seq), ordinal: Ordinal(ordinal) }
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn membership() -> Membership {
        let interval = |joined, left| Interval { joined, left };
        Membership {
            conversation: Conversation {
                id: ConversationId::single(&user("a"), &user("b")).unwrap(),
                kind: ConversationKind::Single,
                name: Some("n".into()),
                users: Some((user("a"), user("b"))),
                created_at: Timestamp(5),
                large_since: Some(Seq(6)),
            },
            role: Role::Admin,
            intervals: vec![interval(mark(1, 0), Some(mark(2, 1))), interval(mark(4, 2), None)],
            settings: Settings {
                nickname: Some("x".into()),
                hidden: true,
                undisturbed: false,
                cleared: mark(4, 3),
            },
            read: mark(5, 4),
            unapplied: None,
        }
    }

    fn json(user: &UserId, membership: &Membership) -> Value {
        serde_json::to_value(ConversationView::new(user, membership, mark(9, 8), None)).unwrap()
    }

    #[test]
    fn a_conversation_is_shown_as_its_user_has_it() {
        let shown = json(&user("a"), &membership());
        let expected = json!({
            "id": membership().conversation.id, "kind": "SINGLE", "name": "n", "peer": "b", "created_at": 5,
            "large": true, "role": "admin", "joined": { "seq": 4, "ordinal": 2 }, "head": { "seq": 9, "ordinal": 8 },
            "read": { "seq": 5, "ordinal": 4 }, "unread": 4,
            "settings": {
                "nickname": "x", "hidden": true, "undisturbed": false, "cleared": { "seq": 4, "ordinal": 3 },
            },
        });
        assert_eq!(shown, expected);
        assert_eq!(json(&user("b"), &membership())["peer"], "a");
    }

    #[test]
    fn who_left_is_shown_where() {
        let mut membership = membership();
        membership.intervals.pop();
        let shown = json(&user("a"), &membership);
        assert_eq!(shown["left"], json!({ "seq": 2, "ordinal": 1 }));
        assert_eq!(shown["joined"], json!({ "seq": 1, "ordinal": 0 }));
    }

    #[test]
    fn a_role_of_a_later_version_is_the_least_one() {
        let read = |role: &str| -> MemberView<'static> {
            let text = format!(r#"{{"user":"u","role":"{role}"}}"#).leak();
            serde_json::from_str(text).unwrap()
        };
        assert_eq!(read("owner").role, Role::Owner);
        assert_eq!(read("moderator").role, Role::Member);
    }
}
