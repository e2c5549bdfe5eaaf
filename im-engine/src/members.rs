//! The members at each record, as the fan-out worker goes through the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use im_core::{
    Batch, Conversation, ConversationChange, ConversationId, Effect, Error, ErrorKind, MembersChange,
    NewConversation, Record, RecordKind, Result, Seq, UserId,
};
use lru::LruCache;

use crate::{builder::Complete, commit::ordinal_before};

/// How many members are read at once.
const PAGE: usize = 1000;

/// Who is to learn of a record.
pub(crate) enum Audience {
    /// These users, by their inboxes: the members before the record and those after it.
    Inboxes(Arc<[UserId]>),
    /// The members of a large group, by reading it.
    Readers,
}

/// The member lists that one worker knows. Valid only as long as the worker sees every record of its partition in order.
#[derive(Debug)]
pub(crate) struct Members {
    lists: LruCache<ConversationId, List>,
    changed: BTreeSet<UserId>,
}

/// The members of one conversation after the record at `seq`.
#[derive(Debug)]
struct List {
    seq: Seq,
    users: Users,
}

#[derive(Debug)]
enum Users {
    Few(Arc<[UserId]>),
    Large,
}

impl Members {
    pub(crate) fn new(entries: usize) -> Self {
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        Self { lists: LruCache::new(entries), changed: BTreeSet::new() }
    }

    /// The users whose own memberships the last batch changed, or whose group became large in it: their nodes look up anew
    /// what they read.
    pub(crate) fn changed_users(&self) -> Vec<UserId> {
        self.changed.iter().cloned().collect()
    }

    /// Brings the batch's changes into the store, before any record of the batch is delivered.
    ///
    /// All at once and ahead of the records between them: the members at a record follow from intervals.
    pub(crate) async fn apply(&mut self, parts: &Complete, batch: &Batch) -> Result<()> {
        self.changed.clear();
        let (mut groups, mut changes) = (Vec::new(), Vec::new());
        for entry in &batch.records {
            let record = &entry.record;
            let Some(effect) = effect(record)? else { continue };
            if let Effect::Members(change) = &effect {
                self.changed.extend(change.join.iter().map(|(user, _)| user.clone()));
                self.changed.extend(change.leave.iter().cloned());
                self.changed.extend(change.role.iter().map(|(user, _)| user.clone()));
                groups.extend(change.create.as_ref().map(|group| NewConversation::Group {
                    id: record.conversation.clone(),
                    name: group.name.clone(),
                }));
            }
            changes.push(ConversationChange {
                conversation: record.conversation.clone(),
                at: record.mark(),
                ordinal_before: ordinal_before(entry),
                created_at: record.created_at,
                effect,
            });
        }
        if !groups.is_empty() {
            parts.store.conversations.create(&groups).await?;
        }
        if changes.is_empty() {
            return Ok(());
        }
        parts.store.conversations.apply_members(&batch.checkpoint.lineage.store, &changes).await
    }

    /// Who is to learn of a record whose changes are applied.
    pub(crate) async fn audience(&mut self, parts: &Complete, record: &Record) -> Result<Audience> {
        // A hole may hide changes of members: applied, and then lost with the log's tail.
        let known = record.hole_after.is_none()
            && self.lists.get(&record.conversation).is_some_and(|list| list.seq < record.seq);
        if !known {
            let list = load(parts, record).await?;
            self.lists.put(record.conversation.clone(), list);
        }
        let Some(list) = self.lists.get_mut(&record.conversation) else { return Ok(Audience::Readers) };
        let audience = list.audience(record, known)?;
        list.seq = record.seq;
        if let (RecordKind::Large, Audience::Inboxes(users)) = (record.kind, &audience) {
            self.changed.extend(users.iter().cloned());
        }
        Ok(audience)
    }
}

impl List {
    /// Who learns of the record; then the list as it is after it. A list that was loaded at the record has its joins already.
    fn audience(&mut self, record: &Record, known: bool) -> Result<Audience> {
        let Users::Few(users) = &mut self.users else { return Ok(Audience::Readers) };
        let effect = effect(record)?;
        if let (true, Some(Effect::Members(change))) = (known, &effect) {
            let joining = change.join.iter().map(|(user, _)| user.clone());
            let all: BTreeSet<UserId> = users.iter().cloned().chain(joining).collect();
            *users = all.into_iter().collect();
        }
        let audience = Audience::Inboxes(users.clone());
        match effect {
            Some(Effect::Members(change)) if !change.leave.is_empty() => {
                *users = users.iter().filter(|user| !change.leave.contains(user)).cloned().collect();
            }
            Some(Effect::Large) => self.users = Users::Large,
            _ => {}
        }
        Ok(audience)
    }
}

/// What a record does to its conversation. A creating record that is not its conversation's first does nothing.
pub(crate) fn effect(record: &Record) -> Result<Option<Effect>> {
    match record.kind {
        RecordKind::Members => {
            let change: MembersChange = serde_json::from_str(&record.content).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "engine", "fanout", "a members record cannot be read")
                    .with_source(error)
            })?;
            let first = record.seq == Seq(1) || record.hole_after == Some(Seq(0));
            // Without effect, but applied: what is not applied keeps everybody from reading on.
            let effective = change.create.is_none() || first;
            Ok(Some(Effect::Members(if effective { change } else { MembersChange::default() })))
        }
        RecordKind::Large => Ok(Some(Effect::Large)),
        _ => Ok(None),
    }
}

async fn load(parts: &Complete, record: &Record) -> Result<List> {
    let conversation = conversation(parts, record).await?;
    let large_before = conversation.large_since.is_some_and(|since| since < record.seq);
    let users = if large_before {
        Users::Large
    } else if let Some((low, high)) = conversation.users {
        Users::Few([low, high].into())
    } else {
        Users::Few(members_at(parts, &record.conversation, record.seq).await?)
    };
    Ok(List { seq: record.seq, users })
}

/// A SINGLE conversation that the store lost is made again from what the record says.
async fn conversation(parts: &Complete, record: &Record) -> Result<Conversation> {
    let conversations = &parts.store.conversations;
    let ids = [record.conversation.clone()];
    if let Some(conversation) = conversations.get(&ids).await?.pop().flatten() {
        return Ok(conversation);
    }
    let missing = || {
        let message = format!("the store does not know conversation {}", record.conversation);
        Error::new(ErrorKind::Corrupt, "engine", "fanout", message)
    };
    let Some(other) = record.send_to.clone() else { return Err(missing()) };
    let single = [NewConversation::Single(record.sender.clone(), other)];
    conversations.create(&single).await?.pop().flatten().ok_or_else(missing)
}

async fn members_at(parts: &Complete, id: &ConversationId, at: Seq) -> Result<Arc<[UserId]>> {
    let mut users = BTreeMap::new();
    let mut after = None;
    loop {
        let page = parts.store.conversations.members(id, at, &after, PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|member| member.user.clone());
        users.extend(page.into_iter().map(|member| (member.user, ())));
        if !full {
            return Ok(users.into_keys().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use im_core::{
        Append, Checkpoint, Epoch, Incarnation, Lineage, LogRecord, Mark, Ordinal, Partition, Parts,
        Position, Role, Timestamp, memory::Memory,
    };

    use super::*;
    use crate::commit::tests::append;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn joining(name: &str, seq: u64, create: bool) -> Record {
        let change = MembersChange {
            create: create.then(Default::default),
            join: vec![(user(name), Role::Member)],
            ..MembersChange::default()
        };
        let content = serde_json::to_string(&change).unwrap().into();
        record(Append { kind: RecordKind::Members, content, ..append(name) }, seq, None)
    }

    fn record(append: Append, seq: u64, hole_after: Option<Seq>) -> Record {
        let conversation = ConversationId::group("g").unwrap();
        let place = Mark { seq: Seq(seq), ordinal: Ordinal(0) };
        Append { conversation, ..append }.at(place, Timestamp(0), hole_after)
    }

    async fn apply(members: &mut Members, parts: &Complete, record: &Record) {
        let store = parts.store.messages.info().await.unwrap().incarnation;
        let position = Position { epoch: Epoch(1), offset: record.seq.0 };
        let lineage = Lineage { log: Incarnation::new("log"), store, inbox: Incarnation::new("inbox") };
        let batch = Batch {
            partition: Partition(0),
            records: vec![LogRecord { position, record: Arc::new(record.clone()) }],
            checkpoint: Checkpoint { position, rewind: position, lineage },
        };
        members.apply(parts, &batch).await.unwrap();
    }

    async fn recipients(members: &mut Members, parts: &Complete, record: &Record) -> Vec<UserId> {
        match members.audience(parts, record).await.unwrap() {
            Audience::Inboxes(users) => users.to_vec(),
            Audience::Readers => panic!("the group is small"),
        }
    }

    #[tokio::test]
    async fn who_joined_in_a_hole_of_the_log_is_a_recipient_after_it() {
        let parts = Complete::try_from(Parts::from(Memory::new())).unwrap();
        let mut members = Members::new(10);
        let (alice, bob) = (joining("alice", 1, true), joining("bob", 2, false));
        apply(&mut members, &parts, &alice).await;
        // Another worker applied the second record; the log has lost it, and this worker never sees it.
        apply(&mut Members::new(10), &parts, &bob).await;
        assert_eq!(recipients(&mut members, &parts, &alice).await, [user("alice")]);
        let next = record(append("m"), 1000, Some(Seq(2)));
        assert_eq!(recipients(&mut members, &parts, &next).await, [user("alice"), user("bob")]);
    }
}
