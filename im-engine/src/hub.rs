//! This node's sessions, and the large groups that their users read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use im_core::{
    ConversationId, Cursor, Entry, Mark, Notice, SessionId, Signals, StateVersion, UserId, UserSignal,
};
use tokio::sync::Notify;

use crate::{
    cell::{Cell, CloseReason, Entries},
    config::Config,
};

/// The sessions of this node.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    look_up: Notify,
}

#[derive(Debug, Default)]
struct State {
    users: BTreeMap<UserId, User>,
    /// Users of this node whose large groups must be asked for anew.
    to_look_up: BTreeSet<UserId>,
    groups: HashMap<ConversationId, Group>,
}

#[derive(Debug, Default)]
struct User {
    cells: Vec<Arc<Cell>>,
    /// The large groups that the user is a member of.
    large: BTreeSet<ConversationId>,
    /// How often the user's state has changed.
    turn: u64,
}

#[derive(Debug, Default)]
struct Group {
    head: Mark,
    readers: BTreeSet<UserId>,
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, cell: Arc<Cell>) {
        self.state().users.entry(cell.user.clone()).or_default().cells.push(cell);
    }

    pub(crate) fn remove(&self, cell: &Arc<Cell>) {
        let mut state = self.state();
        let Some(user) = state.users.get_mut(&cell.user) else { return };
        user.cells.retain(|held| !Arc::ptr_eq(held, cell));
        if user.cells.is_empty() {
            let large = std::mem::take(&mut user.large);
            state.users.remove(&cell.user);
            state.to_look_up.remove(&cell.user);
            state.forget_reader(&cell.user, &large);
        }
    }

    /// Every session, for the presence.
    pub(crate) fn held(&self) -> Vec<(UserId, SessionId)> {
        let state = self.state();
        let cells = state.users.values().flat_map(|user| &user.cells);
        cells.map(|cell| (cell.user.clone(), cell.session.id.clone())).collect()
    }

    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.state().users.values().flat_map(|user| user.cells.iter().cloned()).collect()
    }

    pub(crate) fn users(&self) -> Vec<UserId> {
        self.state().users.keys().cloned().collect()
    }

    /// The large groups that are read here, each with one of its readers.
    pub(crate) fn large_groups(&self) -> Vec<(ConversationId, UserId)> {
        let state = self.state();
        let reader =
            |(id, group): (&ConversationId, &Group)| Some((id.clone(), group.readers.first()?.clone()));
        let mut groups: Vec<_> = state.groups.iter().filter_map(reader).collect();
        groups.sort();
        groups
    }

    /// Passes a notice on to its sessions.
    pub(crate) fn notice(&self, notice: Notice, config: &Config) {
        match notice {
            Notice::Signals(signals) => self.signals(&signals, config),
            Notice::State(user, version) => self.version(user, &version),
            Notice::Head(id, head) => self.head(&id, head),
            Notice::Kick(user, sessions) => self.kick(&user, &sessions),
            _ => {}
        }
    }

    fn signals(&self, signals: &Signals, config: &Config) {
        let state = self.state();
        let mut shared = Shared::default();
        for signal in &signals.users {
            let (Some(user), Some(end)) = (state.users.get(&signal.user), signal.cursors.last()) else {
                continue;
            };
            let entries = shared.entries(signals, signal);
            for cell in &user.cells {
                cell.entries(signal.previous.as_ref(), end, entries.as_ref(), config.outbox_bytes);
            }
        }
    }

    fn version(&self, user: UserId, version: &StateVersion) {
        let mut state = self.state();
        let Some(known) = state.users.get_mut(&user) else { return };
        known.cells.iter().for_each(|cell| cell.version(version));
        // Until its groups are looked up again the user hears of none: it may have left.
        known.turn += 1;
        let large = std::mem::take(&mut known.large);
        state.forget_reader(&user, &large);
        state.to_look_up.insert(user);
        drop(state);
        self.look_up.notify_one();
    }

    /// The next user whose large groups are to be looked up; waits for one.
    pub(crate) async fn to_look_up(&self) -> UserId {
        loop {
            if let Some(user) = self.state().to_look_up.pop_first() {
                return user;
            }
            self.look_up.notified().await;
        }
    }

    /// What [`reads`](Self::reads) is to be told: how often the user's state has changed so far.
    pub(crate) fn turn(&self, user: &UserId) -> u64 {
        self.state().users.get(user).map_or(0, |user| user.turn)
    }

    fn head(&self, id: &ConversationId, head: Mark) {
        let mut state = self.state();
        let State { users, groups, .. } = &mut *state;
        let Some(group) = groups.get_mut(id).filter(|group| head > group.head) else { return };
        group.head = head;
        for user in group.readers.iter().filter_map(|reader| users.get(reader)) {
            user.cells.iter().for_each(|cell| cell.head(id, head));
        }
    }

    pub(crate) fn kick(&self, user: &UserId, sessions: &[SessionId]) {
        let state = self.state();
        let cells = state.users.get(user).into_iter().flat_map(|user| &user.cells);
        cells
            .filter(|cell| sessions.contains(&cell.session.id))
            .for_each(|cell| cell.close(CloseReason::Kicked));
    }

    /// The user's inbox ends here, as asked from the inbox itself.
    pub(crate) fn end(&self, user: &UserId, end: &Cursor, config: &Config) {
        let state = self.state();
        let cells = state.users.get(user).into_iter().flat_map(|user| &user.cells);
        cells.for_each(|cell| cell.entries(None, end, None, config.outbox_bytes));
    }

    /// The large groups that a user reads, as the store says, with the heads that it may be told. Void if the user's state has
    /// changed since the store was asked: it may have left one of them.
    pub(crate) fn reads(&self, user: &UserId, groups: &[(ConversationId, Option<Mark>)], turn: u64) {
        let mut state = self.state();
        let Some(known) = state.users.get_mut(user).filter(|known| known.turn == turn) else { return };
        let now: BTreeSet<ConversationId> = groups.iter().map(|(id, _)| id.clone()).collect();
        let before = std::mem::replace(&mut known.large, now.clone());
        let gone: BTreeSet<ConversationId> = before.difference(&now).cloned().collect();
        let cells = known.cells.clone();
        state.forget_reader(user, &gone);
        for (id, head) in groups {
            // Not the group's head: the other readers have not been told of it.
            state.groups.entry(id.clone()).or_default().readers.insert(user.clone());
            if let Some(head) = head {
                cells.iter().for_each(|cell| cell.head(id, *head));
            }
        }
    }
}

impl State {
    fn forget_reader(&mut self, user: &UserId, groups: &BTreeSet<ConversationId>) {
        for id in groups {
            let Some(group) = self.groups.get_mut(id) else { continue };
            group.readers.remove(user);
            if group.readers.is_empty() {
                self.groups.remove(id);
            }
        }
    }
}

/// Users in a row who got the same entries under the same cursors share one event.
#[derive(Default)]
struct Shared {
    last: Option<(UserSignal, Arc<Entries>)>,
}

impl Shared {
    fn entries(&mut self, signals: &Signals, signal: &UserSignal) -> Option<Arc<Entries>> {
        if signal.records.is_empty() || signal.records.len() != signal.cursors.len() {
            return None;
        }
        if let Some((last, entries)) = &self.last
            && last.records == signal.records
            && last.cursors == signal.cursors
        {
            return Some(entries.clone());
        }
        let entry = |(index, cursor): (&u32, &Cursor)| {
            let record = signals.records.get(*index as usize)?.clone();
            Some(Entry { cursor: cursor.clone(), record })
        };
        let entries: Option<Vec<Entry>> = signal.records.iter().zip(&signal.cursors).map(entry).collect();
        let entries = Arc::new(Entries::new(entries?));
        self.last = Some((signal.clone(), entries.clone()));
        Some(entries)
    }
}
