//! The inbox: a queue per user, every entry with a nonce that is never given again.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;

use super::{BACKEND, Names, invalid, lock, other_incarnation};
use crate::{
    Checkpoint, Clock, Cursor, Delivered, Delivery, Durability, Entry, InboxInfo, Incarnation, Partition,
    Pull, Recipient, Record, Result, SyncInbox, Timestamp, UserId,
};

const MAX_RECIPIENTS: usize = 10_000;

/// The inbox part.
#[derive(Clone)]
pub struct MemoryInbox {
    state: Arc<Mutex<State>>,
    expiry: Duration,
    loss_window: Duration,
    clock: Arc<dyn Clock>,
}

struct State {
    incarnation: Incarnation,
    names: Names,
    /// What tells this inbox's cursors from those of any other.
    name: Incarnation,
    users: BTreeMap<UserId, VecDeque<Kept>>,
    /// All entries in the order in which they were written.
    written: VecDeque<Written>,
    /// Never goes back: an entry that is lost and written again gets another number.
    nonce: u64,
    checkpoints: BTreeMap<Partition, Checkpoint>,
    /// Every checkpoint with the nonce of the last entry before it, to go back to.
    moved: VecDeque<(u64, Partition, Checkpoint)>,
}

struct Kept {
    nonce: u64,
    /// None: an anchor.
    record: Option<Arc<Record>>,
}

struct Written {
    nonce: u64,
    user: UserId,
    at: Timestamp,
}

impl MemoryInbox {
    pub(super) fn new(
        mut names: Names,
        expiry: Duration,
        loss_window: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let incarnation = names.next();
        let state = State {
            name: incarnation.clone(),
            incarnation,
            names,
            users: BTreeMap::new(),
            written: VecDeque::new(),
            nonce: 0,
            checkpoints: BTreeMap::new(),
            moved: VecDeque::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), expiry, loss_window, clock }
    }

    /// Loses the newest `n` entries of all inboxes together, with the checkpoints that came after them, and takes a new
    /// incarnation.
    pub fn lose_tail(&self, n: usize) {
        self.state().lose_tail(n);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox").field("incarnation", &self.state().incarnation).finish_non_exhaustive()
    }
}

impl State {
    fn cursor(&self, nonce: u64) -> Cursor {
        Cursor::new(format!("{nonce}/{}", self.name.as_str()))
    }

    fn nonce_of(&self, cursor: &Cursor) -> Option<u64> {
        let (nonce, name) = cursor.as_str().split_once('/')?;
        (name == self.name.as_str()).then(|| nonce.parse().ok())?
    }

    fn write(&mut self, user: &UserId, record: Option<Arc<Record>>, at: Timestamp) -> Cursor {
        self.nonce += 1;
        let nonce = self.nonce;
        self.users.entry(user.clone()).or_default().push_back(Kept { nonce, record });
        self.written.push_back(Written { nonce, user: user.clone(), at });
        self.cursor(nonce)
    }

    fn end(&self, user: &UserId) -> Option<Cursor> {
        Some(self.cursor(self.users.get(user)?.back()?.nonce))
    }

    fn check(&self, delivery: &Delivery) -> Result<()> {
        let operation = "inbox.deliver";
        if delivery.inbox != self.incarnation {
            return Err(other_incarnation(operation, &delivery.inbox, &self.incarnation));
        }
        if delivery.recipients.len() > MAX_RECIPIENTS {
            return Err(invalid(operation, format!("more than {MAX_RECIPIENTS} recipients")));
        }
        let known = |recipient: &Recipient| {
            recipient.records.iter().all(|index| (*index as usize) < delivery.records.len())
        };
        if delivery.recipients.iter().all(known) {
            Ok(())
        } else {
            Err(invalid(operation, "a recipient of a record that is not there"))
        }
    }

    fn deliver(&mut self, delivery: &Delivery, recipient: &Recipient, now: Timestamp) -> Delivered {
        let previous = self.end(&recipient.user);
        let record = |index: &u32| delivery.records[*index as usize].record.clone();
        let cursors = recipient
            .records
            .iter()
            .map(|index| self.write(&recipient.user, Some(record(index)), now))
            .collect();
        Delivered { previous, cursors }
    }

    fn move_checkpoint(&mut self, partition: Partition, checkpoint: &Checkpoint) {
        let kept = self.checkpoints.get(&partition);
        if kept.is_none_or(|kept| kept.lineage != checkpoint.lineage || kept.position <= checkpoint.position)
        {
            self.checkpoints.insert(partition, checkpoint.clone());
            let repeated =
                |last: &mut (u64, Partition, Checkpoint)| (last.0, last.1) == (self.nonce, partition);
            self.moved.pop_back_if(repeated);
            self.moved.push_back((self.nonce, partition, checkpoint.clone()));
        }
    }

    fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Pull {
        let Some((nonce, entries)) = self.nonce_of(after).zip(self.users.get(user)) else {
            return Pull::Resync;
        };
        // Nonces increase along an inbox, and what expires goes from its front: an entry that is there has everything after
        // it behind it.
        let Ok(place) = entries.binary_search_by_key(&nonce, |kept| kept.nonce) else { return Pull::Resync };
        let mut rest = entries
            .range(place + 1..)
            .filter_map(|kept| Some(Entry { cursor: self.cursor(kept.nonce), record: kept.record.clone()? }));
        let entries = rest.by_ref().take(max.max(1)).collect();
        Pull::Page { entries, more: rest.next().is_some() }
    }

    /// Removes the oldest entries as long as they were written before `before`; whether there are more.
    fn expire(&mut self, before: Timestamp, max: usize) -> bool {
        for _ in 0..max {
            let Some(oldest) = self.written.pop_front_if(|oldest| oldest.at < before) else { break };
            if let Some(entries) = self.users.get_mut(&oldest.user) {
                entries.pop_front();
                if entries.is_empty() {
                    self.users.remove(&oldest.user);
                }
            }
        }
        self.forget_checkpoints();
        self.written.front().is_some_and(|oldest| oldest.at < before)
    }

    /// Of the checkpoints below what can be lost only the newest of each partition is needed.
    fn forget_checkpoints(&mut self) {
        let floor = self.written.front().map_or(self.nonce, |oldest| oldest.nonce - 1);
        let mut newest = BTreeMap::new();
        for (nonce, partition, checkpoint) in self.moved.drain(..self.moved.partition_point(|m| m.0 <= floor))
        {
            newest.insert(partition, (nonce, partition, checkpoint));
        }
        for kept in newest.into_values().rev() {
            self.moved.push_front(kept);
        }
    }

    fn lose_tail(&mut self, n: usize) {
        for _ in 0..n {
            let Some(newest) = self.written.pop_back() else { break };
            if let Some(entries) = self.users.get_mut(&newest.user) {
                entries.pop_back();
                if entries.is_empty() {
                    self.users.remove(&newest.user);
                }
            }
        }
        self.incarnation = self.names.next();
        if n == 0 {
            return;
        }
        let end = self.written.back().map_or(0, |newest| newest.nonce);
        self.moved.retain(|(nonce, _, _)| *nonce <= end);
        self.checkpoints =
            self.moved.iter().map(|(_, partition, checkpoint)| (*partition, checkpoint.clone())).collect();
    }
}

#[async_trait]
impl SyncInbox for MemoryInbox {
    async fn info(&self) -> Result<InboxInfo> {
        Ok(InboxInfo {
            backend: BACKEND,
            durability: Durability::Memory,
            incarnation: self.state().incarnation.clone(),
            loss_window: self.loss_window,
            expiry: self.expiry,
            max_recipients: MAX_RECIPIENTS,
            only_log: None,
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        Ok(self.state().checkpoints.get(&partition).cloned())
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let mut state = self.state();
        state.check(delivery)?;
        // Under the lock: the entries' times must not run backwards, or one that is older would outlive one that is younger.
        let now = self.clock.now();
        let delivered =
            delivery.recipients.iter().map(|recipient| Ok(state.deliver(delivery, recipient, now))).collect();
        if let Some(checkpoint) = &delivery.checkpoint {
            state.move_checkpoint(delivery.partition, checkpoint);
        }
        Ok(delivered)
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        Ok(self.state().pull(user, after, max))
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let state = self.state();
        Ok(users.iter().map(|user| state.end(user)).collect())
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let mut state = self.state();
        if let Some(end) = state.end(user) {
            return Ok(end);
        }
        let now = self.clock.now();
        Ok(state.write(user, None, now))
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        let before = self.clock.now().minus(self.expiry);
        Ok(self.state().expire(before, max))
    }
}
