//! What the store keeps, and the journal by which it can lose its tail.

use std::ops::Bound;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Checkpoint, Conversation, ConversationId, DeviceId, Found, Incarnation, Interval, Mark, Membership,
    Ordinal, Partition, Position, Receipt, Record, RecordKind, Role, SendKey, Seq, Settings, StateVersion,
    Timestamp, UserId,
};

/// All tables of the store. A real one has them in SQL.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) timelines: BTreeMap<ConversationId, BTreeMap<Seq, Row>>,
    pub(super) keys: BTreeMap<SendKey, Seq>,
    pub(super) positions: BTreeMap<Partition, BTreeMap<Position, Arc<Record>>>,
    pub(super) checkpoints: BTreeMap<Partition, Checkpoint>,
    pub(super) conversations: BTreeMap<ConversationId, Conversation>,
    pub(super) applied: BTreeMap<ConversationId, Mark>,
    pub(super) members: BTreeMap<ConversationId, BTreeMap<UserId, MemberRow>>,
    pub(super) member_of: BTreeMap<UserId, BTreeSet<ConversationId>>,
    pub(super) users: BTreeMap<UserId, UserRow>,
    /// How many records were ever applied.
    pub(super) records: usize,
}

/// A record with its place in the log.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) record: Arc<Record>,
    pub(super) position: Position,
}

impl Row {
    pub(super) fn found(&self) -> Found {
        let Record { created_at, hash, .. } = *self.record;
        Found { receipt: Receipt { mark: self.record.mark(), position: self.position, created_at }, hash }
    }
}

/// A member, present or past.
#[derive(Debug, Clone)]
pub(super) struct MemberRow {
    pub(super) role: Role,
    pub(super) intervals: Vec<Interval>,
}

impl MemberRow {
    pub(super) fn is_current(&self) -> bool {
        self.intervals.last().is_some_and(|interval| interval.left.is_none())
    }
}

/// A user's own state.
#[derive(Debug, Default)]
pub(super) struct UserRow {
    pub(super) version: u64,
    /// The version of each conversation's last change.
    pub(super) changed: BTreeMap<ConversationId, u64>,
    /// When each device last asked for the state.
    pub(super) devices: BTreeMap<DeviceId, Timestamp>,
    pub(super) settings: BTreeMap<ConversationId, Settings>,
    pub(super) marks: BTreeMap<ConversationId, Marks>,
}

impl UserRow {
    pub(super) fn raise(&mut self, conversation: &ConversationId) {
        self.version += 1;
        self.changed.insert(conversation.clone(), self.version);
    }
}

/// The read marks of one user in one conversation.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) user: Mark,
    pub(super) devices: BTreeMap<DeviceId, Mark>,
}

impl Marks {
    pub(super) fn highest(&self) -> Mark {
        self.devices.values().copied().fold(self.user, Mark::max)
    }

    pub(super) fn slot(&mut self, device: Option<&DeviceId>) -> &mut Mark {
        match device {
            Some(device) => self.devices.entry(device.clone()).or_default(),
            None => &mut self.user,
        }
    }
}

impl Tables {
    pub(super) fn user(&mut self, user: &UserId) -> &mut UserRow {
        self.users.entry(user.clone()).or_default()
    }

    pub(super) fn last(&self, conversation: &ConversationId) -> Option<&Arc<Record>> {
        Some(&self.timelines.get(conversation)?.last_key_value()?.1.record)
    }

    pub(super) fn head(&self, conversation: &ConversationId) -> Mark {
        self.last(conversation).map(|record| record.mark()).unwrap_or_default()
    }

    /// The mark at a sequence id: with the ordinal of the last record at or below it.
    pub(super) fn mark_at(&self, conversation: &ConversationId, seq: Seq) -> Mark {
        let below = self.timelines.get(conversation).and_then(|rows| rows.range(..=seq).next_back());
        Mark { seq, ordinal: below.map_or(Ordinal(0), |(_, row)| row.record.ordinal) }
    }

    pub(super) fn member(&self, conversation: &ConversationId, user: &UserId) -> Option<&MemberRow> {
        self.members.get(conversation)?.get(user)
    }

    pub(super) fn membership(
        &self,
        conversation: &ConversationId,
        user: &UserId,
        device: Option<&DeviceId>,
    ) -> Option<Membership> {
        let member = self.member(conversation, user)?;
        let own = self.users.get(user);
        Some(Membership {
            conversation: self.conversations.get(conversation)?.clone(),
            role: member.role,
            intervals: member.intervals.clone(),
            settings: own.and_then(|own| own.settings.get(conversation)).cloned().unwrap_or_default(),
            read: own.map(|own| read_mark(own, conversation, device)).unwrap_or_default(),
            unapplied: self.unapplied(conversation),
        })
    }

    fn unapplied(&self, conversation: &ConversationId) -> Option<Seq> {
        let applied = self.applied.get(conversation).copied().unwrap_or_default().seq;
        let above = self.timelines.get(conversation)?.range((Bound::Excluded(applied), Bound::Unbounded));
        let mut changes = above.filter(|(_, row)| row.record.kind == RecordKind::Members);
        changes.next().map(|(seq, _)| *seq)
    }
}

/// The read mark that holds for a device: its own, or for one without marks of its own the one it would begin with.
fn read_mark(own: &UserRow, conversation: &ConversationId, device: Option<&DeviceId>) -> Mark {
    let Some(marks) = own.marks.get(conversation) else { return Mark::default() };
    match device {
        None => marks.user,
        Some(device) if own.devices.contains_key(device) => {
            marks.devices.get(device).copied().unwrap_or_default()
        }
        Some(_) => marks.highest(),
    }
}

/// A change that can be made again.
type Write = Box<dyn Fn(&mut Tables) + Send>;

/// The tables, and every change ever made to them.
#[derive(Default)]
pub(super) struct Journaled {
    tables: Tables,
    journal: Vec<Write>,
}

impl Journaled {
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Makes a change and notes it. It must depend on nothing but the tables and what it carries.
    pub(super) fn write<R>(&mut self, change: impl Fn(&mut Tables) -> R + Send + 'static) -> R {
        let answer = change(&mut self.tables);
        self.journal.push(Box::new(move |tables| drop(change(tables))));
        answer
    }

    /// Goes back to the moment at which `n` records fewer were applied, or to the batch boundary before it.
    pub(super) fn lose(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        let kept = self.tables.records.saturating_sub(n);
        let (mut tables, mut length) = (Tables::default(), 0);
        for change in &self.journal {
            change(&mut tables);
            if tables.records > kept {
                break;
            }
            length += 1;
        }
        self.journal.truncate(length);
        self.tables = Tables::default();
        for change in &self.journal {
            change(&mut self.tables);
        }
    }
}

/// Formats a state version.
pub(super) fn version(incarnation: &Incarnation, number: u64) -> StateVersion {
    StateVersion::new(format!("{}/{number}", incarnation.as_str()))
}

/// The number of a state version, if it is of this incarnation.
pub(super) fn version_number(incarnation: &Incarnation, version: &StateVersion) -> Option<u64> {
    let (name, number) = version.as_str().rsplit_once('/')?;
    (name == incarnation.as_str()).then(|| number.parse().ok())?
}
