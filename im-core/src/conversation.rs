//! Conversations, their members, and what a user keeps about them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ConversationId, Mark, Seq, Timestamp, UserId};

/// SINGLE or GROUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ConversationKind {
    /// Two users, for ever.
    Single,
    /// Members come and go.
    Group,
}

/// A conversation without its timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// SINGLE or GROUP.
    pub kind: ConversationKind,
    /// The name of a GROUP.
    pub name: Option<Arc<str>>,
    /// The two users of a SINGLE, sorted.
    pub users: Option<(UserId, UserId)>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The record that switched it to read diffusion.
    pub large_since: Option<Seq>,
}

/// A conversation to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewConversation {
    /// The SINGLE conversation of two users; both are members from the first record on.
    Single(UserId, UserId),
    /// A GROUP; its members join by records.
    Group {
        /// Its id.
        id: ConversationId,
        /// Its name, at most 256 bytes.
        name: Option<Arc<str>>,
    },
}

/// What a member may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads and writes.
    #[default]
    Member,
    /// Also adds and removes members.
    Admin,
    /// Also changes roles.
    Owner,
}

impl Role {
    /// The name that backends keep.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == name)
    }
}

/// A span of a timeline that a member has a right to, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The joining record; its mark's ordinal is that *before* the record.
    pub joined: Mark,
    /// The leaving record; none while the user is a member.
    pub left: Option<Mark>,
}

impl Interval {
    /// Whether the record at `seq` lies in the interval.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.joined.seq <= seq && self.left.is_none_or(|left| seq <= left.seq)
    }
}

/// A user's own settings of one conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The user's nickname in the group, or for the other user.
    pub nickname: Option<Arc<str>>,
    /// The conversation is not shown in the list.
    pub hidden: bool,
    /// Counted apart, no off-site push.
    pub undisturbed: bool,
    /// What lies at or below was cleared away by the user.
    pub cleared: Mark,
}

/// A change of a user's own settings; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// A new nickname, at most 256 bytes; the empty one removes it.
    pub nickname: Option<Arc<str>>,
    /// Hide or show.
    pub hidden: Option<bool>,
    /// Disturb or not.
    pub undisturbed: Option<bool>,
    /// Clear up to here; only ever moves forward.
    pub cleared: Option<Seq>,
}

/// What one user is and has in one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The conversation.
    pub conversation: Conversation,
    /// The role; meaningful while the user is a member.
    pub role: Role,
    /// The user's intervals, in order; never empty.
    pub intervals: Vec<Interval>,
    /// The user's settings.
    pub settings: Settings,
    /// The read mark that holds for the asking device.
    pub read: Mark,
    /// The first stored record of the conversation that changes members and is not applied yet. Whose right ends there is not
    /// known before: nothing above it may be read.
    pub unapplied: Option<Seq>,
}

impl Membership {
    /// Whether the user is a member now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.intervals.last().is_some_and(|interval| interval.left.is_none())
    }

    /// Whether the user has a right to the record at `seq`.
    #[must_use]
    pub fn may_read(&self, seq: Seq) -> bool {
        self.intervals.iter().any(|interval| interval.contains(seq))
    }

    /// How many records count as unread while the conversation's head is `head`.
    ///
    /// The ordinal of min(head, left) less that of the highest of read mark, joined − 1 and cleared.
    #[must_use]
    pub fn unread(&self, head: Mark) -> u64 {
        let Some(last) = self.intervals.last() else { return 0 };
        let top = last.left.map_or(head.ordinal, |left| left.ordinal.min(head.ordinal));
        let base = self.read.ordinal.max(last.joined.ordinal).max(self.settings.cleared.ordinal);
        top.0.saturating_sub(base.0)
    }
}

/// One member of a group, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The role.
    pub role: Role,
    /// The nickname in the group.
    pub nickname: Option<Arc<str>>,
}

/// The content of a [`RecordKind::Members`](crate::RecordKind::Members) record, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersChange {
    /// Present in the record that creates the group. Without effect, like the whole record, where it is not the
    /// conversation's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<GroupInfo>,
    /// Who joins, with the role. Who is a member already keeps interval and role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<(UserId, Role)>,
    /// Who leaves. Who is no member stays none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave: Vec<UserId>,
    /// Whose role changes. Who is no member is passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<(UserId, Role)>,
}

/// What a group is created with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
}

/// What a record does to its conversation, for [`ConversationStore::apply_members`](crate::ConversationStore::apply_members).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationChange {
    /// The conversation.
    pub conversation: ConversationId,
    /// The record's place.
    pub at: Mark,
    /// The ordinal of the record before it.
    pub ordinal_before: crate::Ordinal,
    /// When the record was taken.
    pub created_at: Timestamp,
    /// What changes.
    pub effect: Effect,
}

/// See [`ConversationChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Members join, leave, change roles.
    Members(MembersChange),
    /// The group switches to read diffusion.
    Large,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Ordinal;

    fn mark(n: u64) -> Mark {
        Mark { seq: Seq(n), ordinal: Ordinal(n) }
    }

    fn membership(joined: u64, left: Option<u64>, read: u64, cleared: u64) -> Membership {
        let id = ConversationId::group("g").unwrap();
        let conversation = Conversation {
            id,
            kind: ConversationKind::Group,
            name: None,
            users: None,
            created_at: Timestamp(0),
            large_since: None,
        };
        let joined = Mark { seq: Seq(joined), ordinal: Ordinal(joined - 1) };
        Membership {
            conversation,
            role: Role::Member,
            intervals: vec![Interval { joined, left: left.map(mark) }],
            settings: Settings { cleared: mark(cleared), ..Settings::default() },
            read: mark(read),
            unapplied: None,
        }
    }

    proptest! {
        /// Against the definition, counted one by one, where every record counts.
        #[test]
        fn unread_is_what_may_be_read_and_was_not(
            joined in 1_u64..20, length in 0_u64..20, left in any::<bool>(), read in 0_u64..40, cleared in 0_u64..40,
            more in 0_u64..20,
        ) {
            let left = left.then_some(joined + length);
            let head = joined + length + more;
            let membership = membership(joined, left, read, cleared);
            let counted = (1..=head)
                .filter(|seq| membership.may_read(Seq(*seq)) && *seq > read && *seq > cleared)
                .count() as u64;
            prop_assert_eq!(membership.unread(mark(head)), counted);
        }
    }
}
