//! This node's sessions, and the large groups that their users read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;
use im_core::{ConversationId, Cursor, Mark, Notice, SessionId, Signals, StateVersion, UserId};
use indexmap::IndexMap;
use tokio::sync::Notify;

use crate::{
    burst::{self, Run},
    cell::{Cell, CloseReason},
    config::Config,
};

/// The sessions of this node.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    outdated: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Looked up by every signal; in the order of their coming, so that what goes through all of them can be replayed.
    users: IndexMap<UserId, User, RandomState>,
    groups: BTreeMap<ConversationId, Group>,
    /// Whose large groups are to be looked up: each user once, however many notices came.
    outdated: BTreeSet<UserId>,
    generation: u64,
}

#[derive(Debug, Default)]
struct User {
    cells: Vec<Arc<Cell>>,
    /// The large groups that the user is a member of.
    large: BTreeSet<ConversationId>,
    /// The user may have left some of them: until they are looked up again it hears of none.
    doubtful: bool,
    since: Generation,
}

/// When a user's own state was last heard to change, or the user came; what was read from the store before is void.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

#[derive(Debug, Default)]
struct Group {
    /// The newest head that the fan-out has told of. A head that one reader found in the store is not it: the others have not
    /// heard of that one.
    head: Mark,
    readers: BTreeSet<UserId>,
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, cell: Arc<Cell>) {
        let mut state = self.state();
        let since = state.next_generation();
        let new = || User { since, ..User::default() };
        state.users.entry(cell.user.clone()).or_insert_with(new).cells.push(cell);
    }

    pub(crate) fn remove(&self, cell: &Arc<Cell>) {
        let mut state = self.state();
        let Some(user) = state.users.get_mut(&cell.user) else { return };
        user.cells.retain(|held| !Arc::ptr_eq(held, cell));
        if user.cells.is_empty() {
            let large = std::mem::take(&mut user.large);
            state.users.swap_remove(&cell.user);
            state.outdated.remove(&cell.user);
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

    /// Passes a notice on to its sessions.
    pub(crate) fn notice(&self, notice: Notice, config: &Config) {
        match notice {
            Notice::Signals(signals) => self.signals(&[signals], config),
            Notice::State(user, version) => self.version(user, &version),
            Notice::Head(id, head) => self.head(&id, head),
            Notice::Kick(user, sessions) => self.kick(&user, &sessions),
            _ => {}
        }
    }

    /// Passes on the signals of notices that follow each other.
    pub(crate) fn signals(&self, burst: &[Signals], config: &Config) {
        match burst {
            // A notice by itself names nobody twice.
            [only] => {
                let state = self.state();
                burst::signals(only).for_each(|signal| state.tell(&signal, config));
            }
            _ => {
                burst::runs(burst, config.outbox_bytes).iter().for_each(|run| self.state().tell(run, config))
            }
        }
    }

    fn version(&self, user: UserId, version: &StateVersion) {
        let mut state = self.state();
        let since = state.next_generation();
        let Some(known) = state.users.get_mut(&user) else { return };
        known.cells.iter().for_each(|cell| cell.version(version));
        (known.doubtful, known.since) = (true, since);
        state.outdated.insert(user);
        drop(state);
        self.outdated.notify_one();
    }

    fn head(&self, id: &ConversationId, head: Mark) {
        let mut state = self.state();
        let State { users, groups, .. } = &mut *state;
        let Some(group) = groups.get_mut(id).filter(|group| head > group.head) else { return };
        group.head = head;
        let readers = group.readers.iter().filter_map(|reader| users.get(reader));
        for user in readers.filter(|user| !user.doubtful) {
            user.cells.iter().for_each(|cell| cell.head(id, head));
        }
    }

    /// At most `max` users whose large groups are to be looked up, as soon as there are some.
    pub(crate) async fn outdated(&self, max: usize) -> Vec<UserId> {
        loop {
            let users = self.take_outdated(max);
            if !users.is_empty() {
                return users;
            }
            self.outdated.notified().await;
        }
    }

    fn take_outdated(&self, max: usize) -> Vec<UserId> {
        let mut state = self.state();
        std::iter::from_fn(|| state.outdated.pop_first()).take(max).collect()
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

    /// What the store is asked after this holds, if the generation is still the same then; none without a session here.
    pub(crate) fn generation(&self, user: &UserId) -> Option<Generation> {
        self.state().users.get(user).map(|known| known.since)
    }

    /// The large groups that a user reads, as the store said after `since`, with their heads. Void if the user's own state has
    /// changed since then: it may have left one of them.
    pub(crate) fn reads(&self, user: &UserId, groups: &[(ConversationId, Mark)], since: Generation) {
        let mut state = self.state();
        let Some(known) = state.users.get_mut(user).filter(|known| known.since == since) else { return };
        let now: BTreeSet<ConversationId> = groups.iter().map(|(id, _)| id.clone()).collect();
        let before = std::mem::replace(&mut known.large, now.clone());
        known.doubtful = false;
        let gone: BTreeSet<ConversationId> = before.difference(&now).cloned().collect();
        let cells = known.cells.clone();
        state.forget_reader(user, &gone);
        for (id, head) in groups {
            let group = state.groups.entry(id.clone()).or_default();
            group.readers.insert(user.clone());
            // The fan-out may have told of a newer head while the user's groups were in doubt.
            let head = group.head.max(*head);
            cells.iter().for_each(|cell| cell.head(id, head));
        }
    }
}

impl State {
    fn tell(&self, run: &Run<'_>, config: &Config) {
        let tell = |user: &User, previous: &Option<Cursor>| {
            for cell in &user.cells {
                cell.entries(previous.as_ref(), run.end, run.entries.as_ref(), config.outbox_bytes);
            }
        };
        let known = |(user, previous)| Some((self.users.get(user)?, previous));
        let users = run.users.iter().map(|(user, previous)| (user, previous)).filter_map(known);
        if run.users.len() == 1 {
            users.for_each(|(user, previous)| tell(user, previous));
        } else {
            // All look-ups first: they wait for the memory side by side, as they cannot between the locks of the sessions.
            let users: Vec<(&User, &Option<Cursor>)> = users.collect();
            users.into_iter().for_each(|(user, previous)| tell(user, previous));
        }
    }

    fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        Generation(self.generation)
    }

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

#[cfg(test)]
mod tests {
    use im_core::{DeviceId, NodeId, Ordinal, Platform, Seq, SessionRef, Signal};

    use super::*;
    use crate::{
        Event,
        cell::tests::{cursors, record},
    };

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn group() -> ConversationId {
        ConversationId::group("big").unwrap()
    }

    fn mark(n: u64) -> Mark {
        Mark { seq: Seq(n), ordinal: Ordinal(n) }
    }

    fn session(hub: &Hub, name: &str) -> Arc<Cell> {
        let session = SessionRef {
            id: SessionId::new(name).unwrap(),
            node: NodeId::new("n").unwrap(),
            device: DeviceId::new("d").unwrap(),
            platform: Platform::new("p").unwrap(),
        };
        let cell = Arc::new(Cell::new(user(name), session));
        hub.add(cell.clone());
        cell
    }

    fn finds(hub: &Hub, name: &str, head: u64) {
        let since = hub.generation(&user(name)).unwrap();
        hub.reads(&user(name), &[(group(), mark(head))], since);
    }

    fn tell(hub: &Hub, head: u64) {
        hub.notice(Notice::Head(group(), mark(head)), &Config::default());
    }

    fn state_changes(hub: &Hub, name: &str) {
        hub.notice(Notice::State(user(name), StateVersion::new("1")), &Config::default());
    }

    /// The heads that the session is told now.
    fn told(cell: &Cell) -> Vec<u64> {
        let heads = std::iter::from_fn(|| cell.try_event()).take(10).filter_map(|event| match event {
            Event::Heads(heads) => Some(heads.into_iter().map(|(_, head)| head.seq.0)),
            _ => None,
        });
        heads.flatten().collect()
    }

    #[test]
    fn users_who_got_the_same_share_one_event() {
        let hub = Hub::default();
        let cells = [session(&hub, "bob"), session(&hub, "carol")];
        cells.iter().for_each(|cell| cell.stands_on(&Cursor::new("0")));
        let mut signals = Vec::new();
        for name in ["bob", "nobody", "carol"] {
            let stands = (user(name), Some(Cursor::new("0")));
            Signal::push(&mut signals, stands, [0].into(), [Cursor::new("1")].into());
        }
        assert_eq!(signals.len(), 1);
        let other = (user("bob"), Some(Cursor::new("1")));
        Signal::push(&mut signals, other, [0].into(), [Cursor::new("2")].into());
        assert_eq!(signals.len(), 2);
        let signals = Signals { records: [record(1)].into(), signals };
        hub.notice(Notice::Signals(signals), &Config::default());
        let taken = cells.map(|cell| match cell.try_event() {
            Some(Event::Entries(entries)) => entries,
            other => panic!("{other:?}"),
        });
        assert!(Arc::ptr_eq(&taken[0], &taken[1]));
    }

    /// Numbers that look like chance, the same ones for a seed.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |sides| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        }
    }

    /// Notices of three users' inboxes, of which some are lost.
    fn play(dice: &mut impl FnMut(u64) -> u64) -> Vec<Signals> {
        let mut ends = [0; 3];
        let mut notices = Vec::new();
        for number in 1..=40 {
            let lists: [&[usize]; 4] = [&[0, 1, 2], &[0, 1], &[1, 2], &[2]];
            let mut signals = Vec::new();
            for at in lists[[0, 0, 0, 1, 2, 3][dice(6) as usize]] {
                let previous = Cursor::new(std::mem::replace(&mut ends[*at], number).to_string());
                let previous = Some(previous).filter(|_| dice(40) > 0);
                let records = if dice(40) > 0 { [0].into() } else { Arc::default() };
                let user = (user(["a", "b", "c"][*at]), previous);
                Signal::push(&mut signals, user, records, [Cursor::new(number.to_string())].into());
            }
            if dice(20) > 0 {
                notices.push(Signals { records: [record(number)].into(), signals });
            }
        }
        notices
    }

    /// What is told of notices that come some at a time: the cursor of each entry, or the end.
    fn told_of(notices: &[Signals], burst: usize, stands: [u64; 3], limit: usize) -> Vec<Vec<String>> {
        let (hub, config) = (Hub::default(), Config { outbox_bytes: limit, ..Config::default() });
        let cells = ["a", "b", "c"].map(|name| session(&hub, name));
        for (cell, stands) in cells.iter().zip(stands) {
            cell.stands_on(&Cursor::new(stands.to_string()));
        }
        notices.chunks(burst).for_each(|burst| hub.signals(burst, &config));
        let told = |cell: Arc<Cell>| {
            let events = std::iter::from_fn(|| cell.try_event()).take(100);
            let words = events.flat_map(|event| match event {
                Event::Entries(entries) => cursors(&entries).concat(),
                other => vec![format!("{other:?}")],
            });
            words.collect()
        };
        cells.into_iter().map(told).collect()
    }

    #[test]
    fn signals_tell_the_same_together_as_one_by_one() {
        let mut joined = 0;
        for seed in 0..500 {
            let mut dice = dice(seed);
            let notices = play(&mut dice);
            let stands = [0; 3].map(|_| if dice(2) == 0 { 0 } else { dice(10) });
            let limit = [0, 1000, 3000, 10_000, 1 << 20][dice(5) as usize];
            let burst = 2 + dice(40) as usize;
            let alone = told_of(&notices, 1, stands, limit);
            assert_eq!(told_of(&notices, burst, stands, limit), alone, "seed {seed}");
            let signals: usize = notices.iter().map(|notice| notice.signals.len()).sum();
            joined += signals - burst::runs(&notices, limit).len();
        }
        assert!(joined > 1000, "{joined}");
    }

    #[test]
    fn every_reader_hears_of_a_head_that_one_has_found_by_itself() {
        let hub = Hub::default();
        let (bob, carol) = (session(&hub, "bob"), session(&hub, "carol"));
        finds(&hub, "bob", 1);
        finds(&hub, "carol", 1);
        assert_eq!((told(&bob), told(&carol)), (vec![1], vec![1]));
        finds(&hub, "bob", 2);
        tell(&hub, 2);
        assert_eq!((told(&bob), told(&carol)), (vec![2], vec![2]), "each once");
    }

    #[test]
    fn what_was_read_before_the_state_changed_makes_nobody_a_reader() {
        let hub = Hub::default();
        let bob = session(&hub, "bob");
        let since = hub.generation(&user("bob")).unwrap();
        state_changes(&hub, "bob");
        hub.reads(&user("bob"), &[(group(), mark(1))], since);
        tell(&hub, 2);
        assert!(told(&bob).is_empty());
    }

    #[test]
    fn nor_does_what_was_read_for_a_session_before() {
        let hub = Hub::default();
        let before = session(&hub, "bob");
        let since = hub.generation(&user("bob")).unwrap();
        hub.remove(&before);
        let bob = session(&hub, "bob");
        hub.reads(&user("bob"), &[(group(), mark(1))], since);
        assert!(told(&bob).is_empty());
    }

    #[test]
    fn a_head_that_came_while_the_groups_were_in_doubt_is_told_after_it() {
        let hub = Hub::default();
        let bob = session(&hub, "bob");
        finds(&hub, "bob", 1);
        assert_eq!(told(&bob), [1]);
        state_changes(&hub, "bob");
        tell(&hub, 2);
        assert!(told(&bob).is_empty(), "it may have left");
        // The store is a little behind the log.
        finds(&hub, "bob", 1);
        assert_eq!(told(&bob), [2]);
    }

    #[tokio::test]
    async fn a_user_is_looked_up_once_for_many_changes() {
        let hub = Hub::default();
        let _sessions = (session(&hub, "bob"), session(&hub, "carol"));
        for _ in 0..100 {
            state_changes(&hub, "bob");
            state_changes(&hub, "carol");
            state_changes(&hub, "who has no session here");
        }
        assert_eq!(hub.outdated(1).await, [user("bob")]);
        assert_eq!(hub.outdated(9).await, [user("carol")]);
        assert!(hub.take_outdated(9).is_empty());
    }
}
