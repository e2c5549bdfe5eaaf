//! The store: timelines, send keys, checkpoints and epochs.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    BACKEND, Names, lock, other_incarnation,
    tables::{Journaled, Row, Tables},
};
use crate::{
    Batch, Checkpoint, Clock, ConversationId, Direction, Durability, Epoch, Error, ErrorKind, Found, History,
    HistoryQuery, Incarnation, LogRecord, MessageStore, Partition, Position, Record, RecordKind, Result,
    SendKey, Seq, StoreInfo, Timestamp,
};

/// 2026-01-01T00:00:00Z, from which epochs are counted in minutes.
const EPOCHS_BEGIN: Timestamp = Timestamp(1_767_225_600_000);

/// The store part: [`MessageStore`], [`ConversationStore`](crate::ConversationStore) and [`UserState`](crate::UserState).
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    loss_window: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

pub(super) struct State {
    pub(super) incarnation: Incarnation,
    names: Names,
    /// The epochs given, in order, with the log incarnation of each.
    epochs: Vec<(Epoch, Incarnation)>,
    pub(super) data: Journaled,
}

impl MemoryStore {
    pub(super) fn new(mut names: Names, loss_window: Duration, clock: Arc<dyn Clock>) -> Self {
        let state =
            State { incarnation: names.next(), names, epochs: Vec::new(), data: Journaled::default() };
        Self { state: Arc::new(Mutex::new(state)), loss_window, clock }
    }

    /// Loses the newest `n` applied records and whatever was written after the batch that brought the first of them:
    /// checkpoints, conversations, memberships, read marks, settings; and takes a new incarnation. Epochs stay: they are few,
    /// and a store that loses its tail has to keep them safer than that.
    pub fn lose_tail(&self, n: usize) {
        let mut state = self.state();
        state.data.lose(n);
        state.incarnation = state.names.next();
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("incarnation", &self.state().incarnation).finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn tables(&self) -> &Tables {
        self.data.tables()
    }

    pub(super) fn fence(&self, operation: &'static str, store: &Incarnation) -> Result<()> {
        if *store == self.incarnation {
            Ok(())
        } else {
            Err(other_incarnation(operation, store, &self.incarnation))
        }
    }

    fn fence_log(&self, operation: &'static str, log: &Incarnation) -> Result<()> {
        match self.epochs.last() {
            Some((_, newest)) if newest == log => Ok(()),
            Some((_, newest)) => Err(other_incarnation(operation, log, newest)),
            None => Err(Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, "no epoch is open")),
        }
    }

    fn open_epoch(&mut self, log: &Incarnation, now: Timestamp) -> Result<Epoch> {
        if let Some((epoch, newest)) = self.epochs.last() {
            if newest == log {
                return Ok(*epoch);
            }
            if self.epochs.iter().any(|(_, old)| old == log) {
                let message = format!("log incarnation {log:?} was followed by {newest:?}");
                return Err(Error::new(ErrorKind::StaleEpoch, BACKEND, "store.open_epoch", message));
            }
        }
        let last = self.epochs.last().map_or(0, |(epoch, _)| epoch.0);
        let minutes = u32::try_from(now.since(EPOCHS_BEGIN).as_secs() / 60).unwrap_or(u32::MAX);
        let epoch = Epoch(minutes.max(last + 1));
        self.epochs.push((epoch, log.clone()));
        Ok(epoch)
    }
}

impl Tables {
    fn row(&self, conversation: &ConversationId, seq: Seq) -> Option<&Row> {
        self.timelines.get(conversation)?.get(&seq)
    }

    fn find(&self, key: &SendKey) -> Option<Found> {
        self.row(&key.conversation, *self.keys.get(key)?).map(Row::found)
    }

    /// Whether the record is new here; an error when its place or its key belongs to another.
    fn is_new(&self, record: &Record) -> Result<bool> {
        if let Some(row) = self.row(&record.conversation, record.seq) {
            let same = row.record.key() == record.key() && row.record.hash == record.hash;
            return if same { Ok(false) } else { Err(diverged(record, row.record.seq)) };
        }
        match self.keys.get(&record.key()) {
            Some(seq) => Err(diverged(record, *seq)),
            None => Ok(true),
        }
    }

    fn insert(&mut self, partition: Partition, new: &LogRecord) {
        let LogRecord { position, record } = new;
        let row = Row { record: record.clone(), position: *position };
        self.timelines.entry(record.conversation.clone()).or_default().insert(record.seq, row);
        self.keys.insert(record.key(), record.seq);
        self.positions.entry(partition).or_default().insert(*position, record.clone());
        self.records += 1;
        if record.kind == RecordKind::Message && !record.sender.is_system() {
            let marks = self.user(&record.sender).marks.entry(record.conversation.clone()).or_default();
            let mark = marks.slot(record.device.as_ref());
            *mark = record.mark().max(*mark);
        }
    }

    fn move_checkpoint(&mut self, partition: Partition, checkpoint: &Checkpoint) {
        let kept = self.checkpoints.entry(partition).or_insert_with(|| checkpoint.clone());
        if kept.lineage != checkpoint.lineage || kept.position <= checkpoint.position {
            *kept = checkpoint.clone();
        }
    }

    fn history(&self, query: &HistoryQuery) -> History {
        let head = self.head(&query.conversation);
        let to = query.to.unwrap_or(head.seq);
        if to > head.seq {
            return History::Behind { head };
        }
        let none = History::Page { records: Vec::new(), more: false, head };
        let Some(rows) = self.timelines.get(&query.conversation).filter(|_| query.from <= to) else {
            return none;
        };
        let range = rows.range(query.from..=to).map(|(_, row)| row.record.clone());
        let wanted = query.max.max(1).saturating_add(1);
        let mut records: Vec<_> = match query.direction {
            Direction::Forward => range.take(wanted).collect(),
            Direction::Backward => range.rev().take(wanted).collect(),
        };
        let more = records.len() == wanted;
        records.truncate(wanted - 1);
        if query.direction == Direction::Backward {
            records.reverse();
        }
        History::Page { records, more, head }
    }
}

fn diverged(record: &Record, there: Seq) -> Error {
    let message =
        format!("{:?} came for {}, but stands otherwise at {}", record.key(), record.seq.0, there.0);
    Error::new(ErrorKind::Diverged, BACKEND, "store.apply", message)
}

/// A batch may repeat or contradict itself, not only what is stored.
fn new_records(tables: &Tables, batch: &Batch) -> Result<Vec<LogRecord>> {
    let (mut new, mut keys, mut places) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for candidate in &batch.records {
        let record = &candidate.record;
        let place = (&record.conversation, record.seq);
        match (keys.get(&record.key()), places.get(&place)) {
            (Some(&seq), Some(&hash)) if seq == record.seq && hash == record.hash => continue,
            (None, None) => {}
            (twin, _) => return Err(diverged(record, twin.copied().unwrap_or(record.seq))),
        }
        if tables.is_new(record)? {
            new.push(candidate.clone());
        }
        keys.insert(record.key(), record.seq);
        places.insert(place, record.hash);
    }
    Ok(new)
}

#[async_trait]
impl MessageStore for MemoryStore {
    async fn info(&self) -> Result<StoreInfo> {
        let state = self.state();
        Ok(StoreInfo {
            backend: BACKEND,
            durability: Durability::Memory,
            incarnation: state.incarnation.clone(),
            loss_window: self.loss_window,
            first_epoch: state.epochs.first().map(|(epoch, _)| *epoch),
        })
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.state().open_epoch(log, self.clock.now())
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        Ok(self.state().tables().checkpoints.get(&partition).cloned())
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state();
        state.fence("store.apply", &batch.checkpoint.lineage.store)?;
        state.fence_log("store.apply", &batch.checkpoint.lineage.log)?;
        let new = new_records(state.tables(), batch)?;
        let (partition, checkpoint) = (batch.partition, batch.checkpoint.clone());
        state.data.write(move |tables| {
            for record in &new {
                tables.insert(partition, record);
            }
            tables.move_checkpoint(partition, &checkpoint);
        });
        Ok(())
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        Ok(self.state().tables().history(query))
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        let state = self.state();
        let record = |(conversation, seq): &(ConversationId, Seq)| {
            state.tables().row(conversation, *seq).map(|row| row.record.clone())
        };
        Ok(places.iter().map(record).collect())
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.tables().find(key)).collect())
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        let state = self.state();
        Ok(conversations.iter().map(|id| state.tables().last(id).cloned()).collect())
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        let state = self.state();
        let Some(positions) = state.tables().positions.get(&partition) else { return Ok(Vec::new()) };
        let above = positions.range((Bound::Excluded(after), Bound::Unbounded)).take(max);
        Ok(above
            .map(|(position, record)| LogRecord { position: *position, record: record.clone() })
            .collect())
    }
}
