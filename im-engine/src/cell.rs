//! What a session has still to be told: bounded, whatever its client does.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use im_core::{ConversationId, Cursor, Entry, Mark, SessionRef, StateVersion, UserId};
use tokio::{sync::Notify, time::Instant};

use crate::config::Config;

/// What a session's client is to be told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// New inbox entries that follow what was sent on this session before.
    Entries(Arc<Entries>),
    /// The inbox has entries up to this cursor: pull, if it is not the client's own.
    End(Cursor),
    /// The user's own state has this version.
    State(StateVersion),
    /// Heads of large groups that moved.
    Heads(Vec<(ConversationId, Mark)>),
    /// The server is about to stop; the session will be closed soon.
    Draining,
    /// The session is closed; nothing follows.
    Closed(CloseReason),
}

/// Why a session was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// A newer session took its place. Do not reconnect.
    Kicked,
    /// Signals were not acked. Reconnect.
    NoAck,
    /// No heartbeat came. Reconnect.
    Silent,
    /// The server stops. Reconnect.
    Draining,
}

/// Inbox entries, shared by every session that is sent the same ones.
#[derive(Debug)]
pub struct Entries {
    entries: Vec<Entry>,
    bytes: usize,
    encoded: OnceLock<Bytes>,
}

impl Entries {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        /// About what a frame has beside the contents, per entry.
        const OVERHEAD: usize = 256;
        let bytes = entries.iter().map(|entry| entry.record.content.len() + OVERHEAD).sum();
        Self { entries, bytes, encoded: OnceLock::new() }
    }

    /// The entries, oldest first; at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Entry] {
        &self.entries
    }

    /// The cursor of the last entry.
    #[must_use]
    pub fn end(&self) -> Option<&Cursor> {
        self.entries.last().map(|entry| &entry.cursor)
    }

    /// What a transport makes of the entries: made once, by the first session that needs it.
    pub fn encoded(&self, encode: impl FnOnce(&[Entry]) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(&self.entries)).clone()
    }
}

/// One session on this node.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) user: UserId,
    pub(crate) session: SessionRef,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    outbox: VecDeque<Arc<Entries>>,
    outbox_bytes: usize,
    /// Where the client stands once it has taken everything sent or queued with entries.
    tail: Option<Cursor>,
    /// An end that the client is to be told without entries.
    bare: Option<Cursor>,
    version: Option<StateVersion>,
    /// The newest head of each large group that the client was told, or is to be told.
    heads: BTreeMap<ConversationId, Head>,
    draining: bool,
    closed: Option<CloseReason>,
    /// The newest end that the client was told, as long as it has not acked it.
    unacked: Option<Unacked>,
    seen: Instant,
}

#[derive(Debug)]
struct Head {
    mark: Mark,
    told: bool,
}

#[derive(Debug)]
struct Unacked {
    end: Cursor,
    since: Instant,
    tries: u32,
}

impl Cell {
    pub(crate) fn new(user: UserId, session: SessionRef) -> Self {
        let state = State {
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            tail: None,
            bare: None,
            version: None,
            heads: BTreeMap::new(),
            draining: false,
            closed: None,
            unacked: None,
            seen: Instant::now(),
        };
        Self { user, session, state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New entries. They are queued if they follow what the client has and the queue has room; else their end is.
    pub(crate) fn entries(
        &self,
        previous: Option<&Cursor>,
        end: &Cursor,
        entries: Option<&Arc<Entries>>,
        limit: usize,
    ) {
        let mut state = self.state();
        if state.tail.as_ref() == Some(end) {
            return;
        }
        match entries
            .filter(|_| state.bare.is_none() && previous.is_some() && previous == state.tail.as_ref())
        {
            Some(entries) if state.outbox_bytes + entries.bytes <= limit => {
                state.outbox_bytes += entries.bytes;
                state.outbox.push_back(entries.clone());
                state.tail = Some(end.clone());
            }
            _ => state.collapse(end.clone()),
        }
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn version(&self, version: &StateVersion) {
        self.state().version = Some(version.clone());
        self.wake.notify_one();
    }

    /// A head of a large group; one that is not newer than what the client was told is passed over.
    pub(crate) fn head(&self, id: &ConversationId, mark: Mark) {
        let mut state = self.state();
        match state.heads.get_mut(id) {
            Some(known) if known.mark >= mark => return,
            Some(known) => *known = Head { mark, told: false },
            None => {
                state.heads.insert(id.clone(), Head { mark, told: false });
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The heads that the client was not told yet.
    pub(crate) fn take_heads(&self) -> Vec<(ConversationId, Mark)> {
        self.state().take_heads()
    }

    pub(crate) fn drain(&self) {
        self.state().draining = true;
        self.wake.notify_one();
    }

    /// Closes the session; the first reason holds.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.state().closed.get_or_insert(reason);
        self.wake.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    /// The client stands on this cursor: it pulled, or began here.
    pub(crate) fn stands_on(&self, cursor: &Cursor) {
        let mut state = self.state();
        // Entries that are still queued lie behind the cursor already, or come again with a pull.
        state.outbox.clear();
        state.outbox_bytes = 0;
        if state.bare.as_ref() == Some(cursor) {
            state.bare = None;
        }
        state.tail = Some(cursor.clone());
    }

    /// The client says that it has reached a cursor.
    pub(crate) fn acked(&self, cursor: &Cursor) {
        let mut state = self.state();
        match &mut state.unacked {
            Some(unacked) if unacked.end == *cursor => state.unacked = None,
            Some(unacked) => (unacked.since, unacked.tries) = (Instant::now(), 0),
            None => {}
        }
    }

    /// The client sent something.
    pub(crate) fn seen(&self) {
        self.state().seen = Instant::now();
    }

    /// Looks after time: what was not acked is told again, a silent session is closed.
    pub(crate) fn tick(&self, config: &Config) {
        let mut state = self.state();
        if state.seen.elapsed() > config.heartbeat * 3 {
            state.closed.get_or_insert(CloseReason::Silent);
        }
        let overdue =
            |unacked: &&mut Unacked| unacked.since.elapsed() >= backoff(config.ack_timeout, unacked.tries);
        match state.unacked.as_mut().filter(overdue) {
            None => {}
            Some(unacked) if unacked.tries >= config.ack_tries => {
                state.closed.get_or_insert(CloseReason::NoAck);
            }
            Some(unacked) => {
                (unacked.since, unacked.tries) = (Instant::now(), unacked.tries + 1);
                state.bare = Some(unacked.end.clone());
            }
        }
        let wake = state.closed.is_some() || state.bare.is_some();
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// The next event, if there is one.
    pub(crate) fn try_event(&self) -> Option<Event> {
        self.state().next()
    }

    /// The next event.
    pub(crate) async fn event(&self) -> Event {
        loop {
            if let Some(event) = self.try_event() {
                return event;
            }
            self.wake.notified().await;
        }
    }
}

fn backoff(first: Duration, tries: u32) -> Duration {
    first * (1 << tries.min(16))
}

impl State {
    /// The queue shrinks to one word: there is something up to here.
    fn collapse(&mut self, end: Cursor) {
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.tail = None;
        self.bare = Some(end);
    }

    fn next(&mut self) -> Option<Event> {
        if let Some(reason) = self.closed {
            return Some(Event::Closed(reason));
        }
        if let Some(entries) = self.outbox.pop_front() {
            self.outbox_bytes -= entries.bytes;
            entries.end().cloned().into_iter().for_each(|end| self.told(end));
            return Some(Event::Entries(entries));
        }
        if let Some(end) = self.bare.take() {
            self.told(end.clone());
            return Some(Event::End(end));
        }
        if let Some(version) = self.version.take() {
            return Some(Event::State(version));
        }
        let heads = self.take_heads();
        if !heads.is_empty() {
            return Some(Event::Heads(heads));
        }
        std::mem::take(&mut self.draining).then_some(Event::Draining)
    }

    fn take_heads(&mut self) -> Vec<(ConversationId, Mark)> {
        let untold = self.heads.iter_mut().filter(|(_, head)| !head.told);
        untold
            .map(|(id, head)| {
                head.told = true;
                (id.clone(), head.mark)
            })
            .collect()
    }

    fn told(&mut self, end: Cursor) {
        match &mut self.unacked {
            Some(unacked) => unacked.end = end,
            none => *none = Some(Unacked { end, since: Instant::now(), tries: 0 }),
        }
    }
}
