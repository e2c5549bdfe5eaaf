//! What the clauses share: ids, appends, and a log that is ready to append.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use im_core::{
    Append, AppendOutcome, Batch, Checkpoint, ClientMsgId, ContentHash, ContentType, ConversationChange,
    ConversationId, Delivery, DeviceId, Effect, Epoch, ErrorKind, Floor, GroupInfo, Incarnation, Lineage,
    LogInfo, LogRead, LogRecord, Mark, MembersChange, Membership, MessageLog, Ordinal, Partition, Parts,
    Position, Receipt, Recipient, RecordKind, Result, Role, Seq, StateVersion, StorePart, Timestamp, UserId,
};

use tokio::sync::Barrier;

use crate::{Data, Violation, violation::ensure};

/// Texts that an id may be, and that a key, a subject, a pattern or a statement may choke on.
pub(crate) const HOSTILE: &[&str] = &[
    "o'brien",
    "\"quoted\"",
    "back\\slash",
    "a.b.*.>",
    "*",
    ">",
    "{tag}",
    "a}b{c",
    "two words ",
    " ",
    "%_%",
    "$1",
    ":a/b:c",
    "a:b",
    "😀🀄",
    "用户",
    "e\u{301}",
    "é",
    "'; DROP TABLE messages; --",
    "null",
    "0",
    "-1",
    "A",
    "a",
    "\u{feff}",
    "1234567890123456789012345678901234567890123456789012345678901234",
    "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀",
];

pub(crate) fn user(name: &str) -> Result<UserId, Violation> {
    Ok(UserId::new(name)?)
}

pub(crate) fn group(name: &str) -> Result<ConversationId, Violation> {
    Ok(ConversationId::group(name)?)
}

/// A text message.
pub(crate) fn message(
    conversation: &ConversationId,
    sender: &str,
    id: &str,
    text: &str,
) -> Result<Append, Violation> {
    of_kind(conversation, sender, id, text, RecordKind::Message)
}

/// A record of some kind.
pub(crate) fn of_kind(
    conversation: &ConversationId,
    sender: &str,
    id: &str,
    text: &str,
    kind: RecordKind,
) -> Result<Append, Violation> {
    Ok(Append {
        conversation: conversation.clone(),
        sender: user(sender)?,
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new(id)?,
        kind,
        content_type: ContentType::Text,
        content: text.into(),
        hash: ContentHash::of(kind, ContentType::Text, text),
        floor: None,
    })
}

/// The floor of a conversation of which nobody knows anything, while there was no earlier epoch.
pub(crate) const NEW: Floor =
    Floor { mark: Mark { seq: Seq(0), ordinal: Ordinal(0) }, created_at: Timestamp(0), direct: true };

pub(crate) fn store_of(parts: &Parts) -> Result<&StorePart, Violation> {
    parts.store.as_ref().ok_or_else(|| Violation::new("the store part is missing"))
}

/// A log with an open epoch, used as the engine uses it.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) log: Arc<dyn MessageLog>,
    pub(crate) epoch: Epoch,
    pub(crate) partitions: u16,
}

impl Log {
    /// Opens an epoch unless one is open for the present incarnation: the store's, where there is a store.
    pub(crate) async fn open(parts: &Parts) -> Result<Self, Violation> {
        let log = log_of(parts)?;
        let LogInfo { incarnation, partitions, epoch, .. } = log.info().await?;
        let epoch = match (epoch, &parts.store) {
            (Some((epoch, owner)), _) if owner == incarnation => epoch,
            (_, Some(store)) => store.messages.open_epoch(&incarnation).await?,
            (earlier, None) => Epoch(earlier.map_or(1, |(epoch, _)| epoch.0 + 1)),
        };
        log.open_epoch(epoch, &incarnation).await?;
        Ok(Self { log, epoch, partitions })
    }

    pub(crate) fn partition(&self, conversation: &ConversationId) -> Partition {
        Partition::of(conversation, self.partitions)
    }

    /// Appends to the partition of the first append, as it is.
    pub(crate) async fn append_bare(&self, batch: &[Append]) -> Result<Vec<Outcome>, Violation> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let outcomes = self.log.append(self.partition(&first.conversation), self.epoch, batch).await?;
        ensure!(outcomes.len() == batch.len(), "{} outcomes for {} appends", outcomes.len(), batch.len());
        outcomes.into_iter().map(Outcome::of).collect()
    }

    /// Appends to the partition of the first append; with a floor where the log asks for one.
    pub(crate) async fn append(&self, batch: &[Append]) -> Result<Vec<Outcome>, Violation> {
        let mut outcomes = self.append_bare(batch).await?;
        if outcomes.contains(&Outcome::Unseeded) {
            // In order: an append that follows an unseeded one of its conversation was unseeded too.
            for (append, outcome) in batch.iter().zip(&mut outcomes) {
                if *outcome == Outcome::Unseeded {
                    let seeded = Append { floor: Some(NEW), ..append.clone() };
                    *outcome = one(self.append_bare(&[seeded]).await?)?;
                }
            }
        }
        Ok(outcomes)
    }

    /// Appends one; it must be stored now.
    pub(crate) async fn store(&self, append: &Append) -> Result<Receipt, Violation> {
        appended(one(self.append(std::slice::from_ref(append)).await?)?)
    }

    /// Appends `count` messages to one conversation, one by one.
    pub(crate) async fn fill(
        &self,
        conversation: &ConversationId,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<Receipt>, Violation> {
        let mut receipts = Vec::new();
        for n in 0..count {
            receipts
                .push(self.store(&message(conversation, "filler", &format!("{prefix}{n}"), "text")?).await?);
        }
        Ok(receipts)
    }

    /// Everything after a position, in small pages; fails where something is trimmed.
    pub(crate) async fn after(
        &self,
        partition: Partition,
        position: Position,
    ) -> Result<Vec<LogRecord>, Violation> {
        let (mut all, mut at) = (Vec::new(), position);
        loop {
            let page = records(self.log.read(partition, at, 7, Duration::ZERO).await?)?;
            ensure!(page.len() <= 7, "a read of at most 7 brought {}", page.len());
            let Some(last) = page.last() else { return Ok(all) };
            ensure!(last.position > at, "a read after {at:?} brought {:?}", last.position);
            at = last.position;
            all.extend(page);
        }
    }

    /// Everything in a partition.
    pub(crate) async fn all(&self, partition: Partition) -> Result<Vec<LogRecord>, Violation> {
        self.after(partition, Position::START).await
    }

    /// Everything of one conversation.
    pub(crate) async fn timeline(&self, conversation: &ConversationId) -> Result<Vec<LogRecord>, Violation> {
        let mut all = self.all(self.partition(conversation)).await?;
        all.retain(|record| record.record.conversation == *conversation);
        Ok(all)
    }
}

pub(crate) fn log_of(parts: &Parts) -> Result<Arc<dyn MessageLog>, Violation> {
    parts.log.as_ref().map(|part| part.log.clone()).ok_or_else(|| Violation::new("the log part is missing"))
}

pub(crate) fn records(read: LogRead) -> Result<Vec<LogRecord>, Violation> {
    match read {
        LogRead::Records(records) => Ok(records),
        LogRead::Trimmed(to) => Err(Violation::new(format!("trimmed up to {to:?}, which nothing allowed"))),
    }
}

/// The one answer to one argument.
pub(crate) fn one<T>(answers: Vec<T>) -> Result<T, Violation> {
    let count = answers.len();
    answers
        .into_iter()
        .next()
        .filter(|_| count == 1)
        .ok_or_else(|| Violation::new(format!("{count} answers to one argument")))
}

/// An [`AppendOutcome`] that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Appended(Receipt),
    Duplicate(Receipt),
    Conflict,
    Unseeded,
}

impl Outcome {
    fn of(outcome: AppendOutcome) -> Result<Self, Violation> {
        match outcome {
            AppendOutcome::Appended(receipt) => Ok(Self::Appended(receipt)),
            AppendOutcome::Duplicate(receipt) => Ok(Self::Duplicate(receipt)),
            AppendOutcome::Conflict => Ok(Self::Conflict),
            AppendOutcome::Unseeded => Ok(Self::Unseeded),
            AppendOutcome::Failed(error) => Err(error.into()),
        }
    }
}

pub(crate) fn appended(outcome: Outcome) -> Result<Receipt, Violation> {
    match outcome {
        Outcome::Appended(receipt) => Ok(receipt),
        other => Err(Violation::new(format!("{other:?}, where an append was due"))),
    }
}

/// Runs all at once, on several threads, from one starting line; answers in their order.
pub(crate) async fn together<T, F>(works: impl IntoIterator<Item = F>) -> Result<Vec<T>, Violation>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Violation>> + Send + 'static,
{
    let works: Vec<_> = works.into_iter().collect();
    let line = Arc::new(Barrier::new(works.len()));
    let start = |work: F| {
        let line = line.clone();
        tokio::spawn(async move {
            line.wait().await;
            work.await
        })
    };
    let running: Vec<_> = works.into_iter().map(start).collect();
    let mut answers = Vec::new();
    for work in running {
        answers.push(work.await.map_err(|why| Violation::new(format!("a task died: {why}")))??);
    }
    Ok(answers)
}

/// A log that exists on paper only: records as a worker would hand them to store and inbox.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) lineage: Lineage,
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
    offset: u64,
    heads: BTreeMap<ConversationId, Mark>,
}

impl Script {
    /// For a store, which opens the epoch, and an inbox that is not there.
    pub(crate) async fn for_store(parts: &Parts, log: &str) -> Result<Self, Violation> {
        let store = &store_of(parts)?.messages;
        let log = Incarnation::new(log);
        let epoch = store.open_epoch(&log).await?;
        let inbox = Incarnation::new("the inbox of a script");
        let lineage = Lineage { log, store: store.info().await?.incarnation, inbox };
        Ok(Self { lineage, partition: Partition(0), epoch, offset: 0, heads: BTreeMap::new() })
    }

    /// For nobody.
    pub(crate) fn on_paper(lineage: Lineage, partition: Partition) -> Self {
        Self { lineage, partition, epoch: Epoch(1), offset: 0, heads: BTreeMap::new() }
    }

    /// The next record of an append's conversation.
    pub(crate) fn record(&mut self, append: &Append) -> LogRecord {
        self.record_after(append, 1)
    }

    /// The same, `step` above the record before; more than 1 declares a hole.
    pub(crate) fn record_after(&mut self, append: &Append, step: u64) -> LogRecord {
        self.offset += 1;
        let head = self.heads.entry(append.conversation.clone()).or_default();
        let hole_after = (step > 1).then_some(head.seq);
        let ordinal = Ordinal(head.ordinal.0 + u64::from(append.kind.counts()));
        *head = Mark { seq: Seq(head.seq.0 + step), ordinal };
        let created_at = Timestamp(1_800_000_000_000 + self.offset as i64);
        let position = Position { epoch: self.epoch, offset: self.offset };
        LogRecord { position, record: Arc::new(append.at(*head, created_at, hole_after)) }
    }

    /// The next text message of a conversation; its client_msg_id is its place in the script.
    pub(crate) fn message(
        &mut self,
        conversation: &ConversationId,
        sender: &str,
    ) -> Result<LogRecord, Violation> {
        let id = format!("m{}", self.offset + 1);
        Ok(self.record(&message(conversation, sender, &id, &format!("text of {id}"))?))
    }

    /// The next `count` messages of a conversation.
    pub(crate) fn messages(
        &mut self,
        conversation: &ConversationId,
        sender: &str,
        count: usize,
    ) -> Result<Vec<LogRecord>, Violation> {
        (0..count).map(|_| self.message(conversation, sender)).collect()
    }

    /// Records with the checkpoint after the last of them.
    pub(crate) fn batch(&self, records: &[LogRecord]) -> Batch {
        let end = records.last().map_or(Position::START, |last| last.position);
        Batch { partition: self.partition, records: records.to_vec(), checkpoint: self.checkpoint(end) }
    }

    pub(crate) fn checkpoint(&self, position: Position) -> Checkpoint {
        Checkpoint { position, rewind: position, lineage: self.lineage.clone() }
    }

    /// All records for all users, with the checkpoint after the last of them.
    pub(crate) fn delivery(&self, records: &[LogRecord], users: &[UserId]) -> Delivery {
        let indices: Arc<[u32]> = (0..records.len() as u32).collect();
        let recipient = |user: &UserId| Recipient { user: user.clone(), records: indices.clone() };
        let batch = self.batch(records);
        Delivery {
            partition: self.partition,
            inbox: self.lineage.inbox.clone(),
            records: batch.records,
            recipients: users.iter().map(recipient).collect(),
            checkpoint: Some(batch.checkpoint),
        }
    }
}

/// The records of one partition for an inbox: made up, or of the inbox's own log where it serves no other.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) script: Script,
    own: Option<Log>,
}

impl Feed {
    pub(crate) async fn open(data: &dyn Data) -> Result<Self, Violation> {
        Self::of(data, Partition(0)).await
    }

    /// One for each of several partitions: at most as many as wanted, and as the own log has.
    pub(crate) async fn several(data: &dyn Data, wanted: u16) -> Result<Vec<Self>, Violation> {
        let count = match data.own_log() {
            Some(_) => log_of(&data.node().await?)?.info().await?.partitions.min(wanted),
            None => wanted,
        };
        let mut feeds = Vec::new();
        for partition in Partition::all(count) {
            feeds.push(Self::of(data, partition).await?);
        }
        Ok(feeds)
    }

    async fn of(data: &dyn Data, partition: Partition) -> Result<Self, Violation> {
        let parts = data.node().await?;
        let own = match data.own_log() {
            Some(_) => Some(Log::open(&parts).await?),
            None => None,
        };
        let log = match &own {
            Some(own) => own.log.info().await?.incarnation,
            None => Incarnation::new("a log"),
        };
        let inbox = parts.inbox.as_ref().ok_or_else(|| Violation::new("the inbox part is missing"))?;
        let lineage =
            Lineage { log, store: Incarnation::new("a store"), inbox: inbox.info().await?.incarnation };
        Ok(Self { script: Script::on_paper(lineage, partition), own })
    }

    /// After the parts have changed: goes on for the present incarnations.
    pub(crate) async fn renew(&mut self, data: &dyn Data) -> crate::Verdict {
        let renewed = Self::of(data, self.script.partition).await?;
        self.own = renewed.own;
        self.script.lineage = renewed.script.lineage;
        Ok(())
    }

    /// A group of this partition.
    pub(crate) fn group(&self, name: &str) -> Result<ConversationId, Violation> {
        let Some(own) = &self.own else { return group(name) };
        for n in 0.. {
            let id = group(&format!("{name}{n}"))?;
            if own.partition(&id) == self.script.partition {
                return Ok(id);
            }
        }
        Err(Violation::new("no group belongs to the partition"))
    }

    /// The next messages of a conversation.
    pub(crate) async fn messages(
        &mut self,
        conversation: &ConversationId,
        sender: &str,
        count: usize,
    ) -> Result<Vec<LogRecord>, Violation> {
        let Some(own) = &self.own else { return self.script.messages(conversation, sender, count) };
        let partition = self.script.partition;
        let end = own.log.ends().await?.get(usize::from(partition.0)).copied().unwrap_or_default();
        let append = |_| message(conversation, sender, ClientMsgId::fresh().as_str(), "text");
        let batch = (0..count).map(append).collect::<Result<Vec<_>, _>>()?;
        for outcome in own.append(&batch).await? {
            appended(outcome)?;
        }
        let records = own.after(partition, end).await?;
        ensure!(records.len() == count, "{count} appends became {} records", records.len());
        Ok(records)
    }

    /// All records for all users, with the checkpoint after the last of them.
    pub(crate) fn delivery(&self, records: &[LogRecord], users: &[UserId]) -> Delivery {
        self.script.delivery(records, users)
    }
}

/// What records do to a group's members, at consecutive places from 1 on, none of them counting.
pub(crate) fn changes(conversation: &ConversationId, effects: Vec<Effect>) -> Vec<ConversationChange> {
    let change = |(n, effect)| ConversationChange {
        conversation: conversation.clone(),
        at: Mark { seq: Seq(n as u64 + 1), ordinal: Ordinal(0) },
        ordinal_before: Ordinal(0),
        created_at: Timestamp(1_800_000_000_000 + n as i64),
        effect,
    };
    effects.into_iter().enumerate().map(change).collect()
}

/// The effect of a group's first record: it is created, and these join.
pub(crate) fn create(name: &str, users: &[&UserId]) -> Effect {
    Effect::Members(MembersChange {
        create: Some(GroupInfo { name: Some(name.into()) }),
        join: users.iter().map(|user| ((*user).clone(), Role::Member)).collect(),
        ..MembersChange::default()
    })
}

pub(crate) fn join(users: &[&UserId]) -> Effect {
    let join = users.iter().map(|user| ((*user).clone(), Role::Member)).collect();
    Effect::Members(MembersChange { join, ..MembersChange::default() })
}

pub(crate) fn leave(users: &[&UserId]) -> Effect {
    let leave = users.iter().map(|user| (*user).clone()).collect();
    Effect::Members(MembersChange { leave, ..MembersChange::default() })
}

/// Makes a group by its first record.
pub(crate) async fn make_group(store: &StorePart, id: &ConversationId, users: &[&UserId]) -> crate::Verdict {
    let incarnation = store.messages.info().await?.incarnation;
    let changes = changes(id, vec![create("group", users)]);
    Ok(store.conversations.apply_members(&incarnation, &changes).await?)
}

/// What a user is and has in a conversation; the user must be or have been a member.
pub(crate) async fn membership(
    store: &StorePart,
    conversation: &ConversationId,
    user: &UserId,
    device: &Option<DeviceId>,
) -> Result<Membership, Violation> {
    let wanted = [(conversation.clone(), user.clone())];
    let found = one(store.conversations.memberships(&wanted, device).await?)?;
    found.ok_or_else(|| Violation::new(format!("{user} is not a member of {conversation}")))
}

pub(crate) async fn version(store: &StorePart, user: &UserId) -> Result<StateVersion, Violation> {
    one(store.states.versions(std::slice::from_ref(user)).await?)
}

/// An error of one of these kinds is due.
pub(crate) fn fails<T: std::fmt::Debug>(
    answer: Result<T>,
    kinds: &[ErrorKind],
    what: &str,
) -> crate::Verdict {
    match answer {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        other => Err(Violation::new(format!("{what}: {other:?}, where an error of {kinds:?} was due"))),
    }
}

/// Does work while it is watched: by a watcher on another thread, and by one that has a look at each pause of the work, so that
/// what is half done for no longer than that is seen too. Watchers return when they have looked once more after the work was done.
pub(crate) async fn watched<F>(
    work: impl Future<Output = crate::Verdict>,
    watch: impl Fn(Arc<AtomicBool>) -> F,
) -> crate::Verdict
where
    F: Future<Output = crate::Verdict> + Send + 'static,
{
    let done = Arc::new(AtomicBool::new(false));
    let aside = tokio::spawn(watch(done.clone()));
    let work = async {
        let worked = work.await;
        done.store(true, Ordering::SeqCst);
        worked
    };
    let (worked, seen) = tokio::join!(work, watch(done.clone()));
    let aside = aside.await.map_err(|why| Violation::new(format!("a watcher died: {why}")))?;
    worked.and(seen).and(aside)
}
