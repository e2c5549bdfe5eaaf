//! What a session has still to be told: bounded, whatever its client does.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use im_core::{ConversationId, Cursor, Mark, SessionRef, StateVersion, UserId};
use tokio::time::Instant;

use crate::{config::Config, entries::Entries};

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
    /// A newer session took its place, or the host [ended](crate::Engine::end_sessions) it. Do not reconnect.
    Kicked,
    /// Signals were not acked. Reconnect.
    NoAck,
    /// No heartbeat came. Reconnect.
    Silent,
    /// The server stops. Reconnect.
    Draining,
}

/// One session on this node.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) user: UserId,
    pub(crate) session: SessionRef,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    outbox: VecDeque<Arc<Entries>>,
    outbox_bytes: usize,
    /// Where the client stands once it has taken everything that was sent with entries.
    stands: Option<Cursor>,
    /// An end that the client is to be told without entries.
    bare: Option<Cursor>,
    version: Option<StateVersion>,
    /// The newest head of each large group that the client was told, or is to be told.
    heads: BTreeMap<ConversationId, Head>,
    draining: bool,
    closed: Option<CloseReason>,
    /// The presence has taken it in.
    entered: bool,
    /// The newest end that the client was told, as long as it has not acked it.
    unacked: Option<Unacked>,
    seen: Instant,
    /// Who waits for the next event.
    waits: Option<Waker>,
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
            stands: None,
            bare: None,
            version: None,
            heads: BTreeMap::new(),
            draining: false,
            closed: None,
            entered: false,
            unacked: None,
            seen: Instant::now(),
            waits: None,
        };
        Self { user, session, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something; if there may now be an event, who waits for one is woken.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let mut state = self.state();
        let woken = if change(&mut state) { state.waits.take() } else { None };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// New entries. They are queued if they follow what the client has and the queue has room; else their end is. Of signals
    /// that were joined the client may have the first ones: the others follow then.
    pub(crate) fn entries(
        &self,
        previous: Option<&Cursor>,
        end: &Cursor,
        entries: Option<&Arc<Entries>>,
        limit: usize,
    ) {
        self.change(|state| {
            let tail = state.tail();
            let follow = state.bare.is_none() && previous.is_some() && previous == tail;
            if !follow && tail == Some(end) {
                return false;
            }
            let following = match tail {
                _ if follow => entries.cloned(),
                Some(tail) if state.bare.is_none() => entries.and_then(|all| all.after(tail)).map(Arc::new),
                _ => None,
            };
            match following {
                Some(entries) if state.outbox_bytes + entries.bytes <= limit => {
                    state.outbox_bytes += entries.bytes;
                    state.outbox.push_back(entries);
                }
                _ => state.collapse(end.clone()),
            }
            true
        });
    }

    pub(crate) fn version(&self, version: &StateVersion) {
        self.change(|state| {
            state.version = Some(version.clone());
            true
        });
    }

    /// A head of a large group; one that is not newer than what the client was told is passed over.
    pub(crate) fn head(&self, id: &ConversationId, mark: Mark) {
        self.change(|state| {
            match state.heads.get_mut(id) {
                Some(known) if known.mark >= mark => return false,
                Some(known) => *known = Head { mark, told: false },
                None => drop(state.heads.insert(id.clone(), Head { mark, told: false })),
            }
            true
        });
    }

    /// The heads that the client was not told yet.
    pub(crate) fn take_heads(&self) -> Vec<(ConversationId, Mark)> {
        self.state().take_heads()
    }

    pub(crate) fn drain(&self) {
        self.change(|state| {
            state.draining = true;
            true
        });
    }

    /// Closes the session; the first reason holds.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.change(|state| {
            state.closed.get_or_insert(reason);
            true
        });
    }

    /// The presence has taken the session in: from now on it may be missed there.
    pub(crate) fn entered(&self) {
        self.state().entered = true;
    }

    pub(crate) fn has_entered(&self) -> bool {
        self.state().entered
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    /// The client stands on this cursor: it pulled, or began here. What was still queued shrinks to its end, because it may
    /// lie before the cursor or after it.
    pub(crate) fn stands_on(&self, cursor: &Cursor) {
        let mut state = self.state();
        let queued = state.outbox.back().and_then(|entries| entries.end().cloned());
        state.outbox.clear();
        state.outbox_bytes = 0;
        state.bare = state.bare.take().or(queued).filter(|end| end != cursor);
        state.stands = Some(cursor.clone());
    }

    /// The client says that it has reached a cursor: the end that it was told, or where a pull has taken it.
    pub(crate) fn acked(&self, cursor: &Cursor) {
        let mut state = self.state();
        let reached = state.tail() == Some(cursor) && state.bare.is_none();
        match &mut state.unacked {
            Some(unacked) if reached || unacked.end == *cursor => state.unacked = None,
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
        self.change(|state| {
            if state.seen.elapsed() > config.heartbeat * 3 {
                state.closed.get_or_insert(CloseReason::Silent);
            }
            state.tell_again(config) || state.closed.is_some()
        });
    }

    /// The next event, if there is one.
    pub(crate) fn try_event(&self) -> Option<Event> {
        self.state().next()
    }

    /// The next event; who asks last is the one who is woken.
    pub(crate) async fn event(&self) -> Event {
        poll_fn(|cx| self.poll(cx, State::next)).await
    }

    /// The next events, with entries of up to about so many bytes; who asks last is the one who is woken.
    pub(crate) fn poll_events(&self, cx: &mut Context<'_>, bytes: usize) -> Poll<Vec<Event>> {
        self.poll(cx, |state| Some(state.take(bytes)).filter(|events| !events.is_empty()))
    }

    fn poll<T>(&self, cx: &mut Context<'_>, take: impl FnOnce(&mut State) -> Option<T>) -> Poll<T> {
        let mut state = self.state();
        if let Some(taken) = take(&mut state) {
            return Poll::Ready(taken);
        }
        match &mut state.waits {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
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
        self.stands = None;
        self.bare = Some(end);
    }

    /// What was not acked in time is told again, or the session closed; whether there is something to tell. Where something
    /// newer waits to be told, that is enough: it says more than the end that is overdue.
    fn tell_again(&mut self, config: &Config) -> bool {
        let Some(unacked) = &mut self.unacked else { return false };
        if unacked.since.elapsed() < backoff(config.ack_timeout, unacked.tries) {
            return false;
        }
        if unacked.tries >= config.ack_tries {
            self.closed.get_or_insert(CloseReason::NoAck);
            return true;
        }
        (unacked.since, unacked.tries) = (Instant::now(), unacked.tries + 1);
        if self.bare.is_none() && self.outbox.is_empty() {
            self.bare = Some(unacked.end.clone());
        }
        true
    }

    /// The cursor of the newest entries that wait, or where the client stands.
    fn tail(&self) -> Option<&Cursor> {
        match self.outbox.back() {
            Some(entries) => entries.end(),
            None => self.stands.as_ref(),
        }
    }

    /// Everything that the client is to be told now; entries up to so many bytes, the first ones in any case.
    fn take(&mut self, bytes: usize) -> Vec<Event> {
        let mut events = self.take_entries(bytes);
        while self.outbox.is_empty() || self.closed.is_some() {
            let Some(event) = self.next() else { break };
            let is_last = matches!(event, Event::Closed(_));
            events.push(event);
            if is_last {
                break;
            }
        }
        events
    }

    fn take_entries(&mut self, bytes: usize) -> Vec<Event> {
        let (mut events, mut taken) = (Vec::new(), 0);
        let fits = |taken, entries: &Entries| taken == 0 || taken + entries.bytes <= bytes;
        while self.closed.is_none()
            && let Some(entries) = self.outbox.pop_front_if(|entries| fits(taken, entries))
        {
            taken += entries.bytes;
            events.push(Event::Entries(entries));
        }
        self.outbox_bytes -= taken;
        if let Some(Event::Entries(newest)) = events.last()
            && let Some(end) = newest.end().cloned()
        {
            self.stands = Some(end.clone());
            self.told(end);
        }
        events
    }

    fn next(&mut self) -> Option<Event> {
        if let Some(reason) = self.closed {
            let last_word = std::mem::take(&mut self.draining);
            return Some(if last_word { Event::Draining } else { Event::Closed(reason) });
        }
        if let Some(event) = self.take_entries(0).pop() {
            return Some(event);
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

#[cfg(test)]
pub(crate) mod tests {
    use im_core::{
        ClientMsgId, ContentHash, ContentType, DeviceId, Entry, NodeId, Platform, Record, RecordKind, Seq,
        SessionId,
    };

    use super::*;

    const LIMIT: usize = 4096;

    fn cell() -> Cell {
        let session = SessionRef {
            id: SessionId::new("s").unwrap(),
            node: NodeId::new("n").unwrap(),
            device: DeviceId::new("d").unwrap(),
            platform: Platform::new("p").unwrap(),
        };
        Cell::new(UserId::new("u").unwrap(), session)
    }

    pub(crate) fn cursor(n: u64) -> Cursor {
        Cursor::new(n.to_string())
    }

    /// A record of 200 bytes.
    pub(crate) fn record(n: u64) -> Arc<Record> {
        Arc::new(Record {
            conversation: ConversationId::new("c").unwrap(),
            seq: Seq(n),
            ordinal: im_core::Ordinal(n),
            created_at: im_core::Timestamp(0),
            sender: UserId::new("x").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new("m").unwrap(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: "x".repeat(200).into(),
            hash: ContentHash(0),
        })
    }

    pub(crate) fn entries(n: u64) -> Arc<Entries> {
        Arc::new(Entries::new(vec![Entry { cursor: cursor(n), record: record(n) }]))
    }

    /// The entries of three signals, the last of which brought two: 1, 2, 3 and 4.
    pub(crate) fn run() -> Arc<Entries> {
        let entry = |n| Entry { cursor: cursor(n), record: record(n) };
        let mut run = Entries::new(vec![entry(1)]);
        for more in [vec![entry(2)], vec![entry(3), entry(4)]] {
            assert!(run.join(more, LIMIT));
        }
        Arc::new(run)
    }

    /// The cursors of entries, signal by signal.
    pub(crate) fn cursors(entries: &Entries) -> Vec<Vec<String>> {
        let texts = |part: &[Entry]| part.iter().map(|entry| entry.cursor.as_str().to_owned()).collect();
        entries.parts().map(texts).collect()
    }

    fn signal(cell: &Cell, n: u64) {
        cell.entries(Some(&cursor(n - 1)), &cursor(n), Some(&entries(n)), LIMIT);
    }

    /// What the client is told, in words.
    fn told(cell: &Cell) -> Vec<String> {
        std::iter::from_fn(|| cell.try_event()).take(100).map(in_words).collect()
    }

    fn in_words(event: Event) -> String {
        match event {
            Event::Entries(entries) => format!("entries {:?}", entries.end().unwrap()),
            Event::End(end) => format!("end {end:?}"),
            other => format!("{other:?}"),
        }
    }

    /// What a transport is given at once, with so many bytes of entries.
    fn taken(cell: &Cell, bytes: usize) -> Vec<String> {
        match cell.poll_events(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(events) => events.into_iter().map(in_words).collect(),
            Poll::Pending => Vec::new(),
        }
    }

    #[tokio::test]
    async fn entries_that_follow_are_sent_and_others_are_told_of() {
        let cell = cell();
        signal(&cell, 5);
        assert_eq!(told(&cell), ["end 5"], "where the client stands is not known yet");
        cell.stands_on(&cursor(5));
        signal(&cell, 6);
        signal(&cell, 7);
        signal(&cell, 9);
        assert_eq!(told(&cell), ["end 9"], "after a gap nothing can be sent");
        cell.stands_on(&cursor(9));
        signal(&cell, 10);
        assert_eq!(told(&cell), ["entries 10"]);
    }

    #[tokio::test]
    async fn of_joined_signals_a_session_is_sent_those_that_it_has_not() {
        let sent = |stands: u64| {
            let cell = cell();
            cell.stands_on(&cursor(stands));
            cell.entries(Some(&cursor(0)), &cursor(4), Some(&run()), LIMIT);
            let sent = match cell.try_event() {
                Some(Event::Entries(entries)) => {
                    assert_eq!(entries.bytes, entries.as_slice().len() * run().bytes / 4);
                    cursors(&entries).iter().map(|part| part.join("+")).collect::<Vec<_>>().join(" ")
                }
                other => other.map(in_words).unwrap_or_default(),
            };
            assert_eq!(cell.state().outbox_bytes, 0);
            signal(&cell, 5);
            (sent, told(&cell).concat())
        };
        let (all, next) = ("1 2 3+4".to_owned(), "entries 5".to_owned());
        assert_eq!(sent(0), (all, next.clone()));
        assert_eq!(sent(1), ("2 3+4".to_owned(), next.clone()));
        assert_eq!(sent(2), ("3+4".to_owned(), next.clone()));
        assert_eq!(sent(3), ("end 4".to_owned(), "end 5".to_owned()), "within a signal nobody stands");
        assert_eq!(sent(4), (String::new(), next));
        assert_eq!(sent(7), ("end 4".to_owned(), "end 5".to_owned()));
    }

    #[tokio::test]
    async fn joined_signals_that_do_not_fit_are_one_word() {
        for (stands, limit) in [(0, 4 * entries(1).bytes), (1, 3 * entries(1).bytes)] {
            let told = |limit| {
                let cell = cell();
                cell.stands_on(&cursor(stands));
                cell.entries(Some(&cursor(0)), &cursor(4), Some(&run()), limit);
                told(&cell)
            };
            assert_eq!(told(limit), ["entries 4"]);
            assert_eq!(told(limit - 1), ["end 4"]);
        }
    }

    #[tokio::test]
    async fn a_session_that_moves_into_joined_signals_is_told_where_they_end() {
        let cell = cell();
        cell.stands_on(&cursor(0));
        cell.entries(Some(&cursor(0)), &cursor(4), Some(&run()), LIMIT);
        cell.stands_on(&cursor(2));
        assert_eq!(told(&cell), ["end 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_within_joined_signals_gives_time_for_the_rest() {
        let (cell, config) = (cell(), Config { heartbeat: Duration::from_secs(1000), ..Config::default() });
        cell.stands_on(&cursor(0));
        cell.entries(Some(&cursor(0)), &cursor(4), Some(&run()), LIMIT);
        assert_eq!(told(&cell), ["entries 4"]);
        for reached in [1, 2] {
            tokio::time::advance(config.ack_timeout - Duration::from_secs(1)).await;
            cell.acked(&cursor(reached));
            cell.tick(&config);
            assert!(told(&cell).is_empty());
        }
        tokio::time::advance(config.ack_timeout).await;
        cell.tick(&config);
        assert_eq!(told(&cell), ["end 4"], "the rest was not acked");
        cell.acked(&cursor(4));
        tokio::time::advance(config.ack_timeout * 100).await;
        cell.tick(&config);
        assert!(told(&cell).is_empty());
    }

    #[tokio::test]
    async fn a_transport_takes_as_many_entries_as_it_has_room_for() {
        let cell = cell();
        cell.stands_on(&cursor(0));
        (1..=3).for_each(|n| signal(&cell, n));
        cell.version(&StateVersion::new("7"));
        assert_eq!(taken(&cell, 0), ["entries 1"], "one in any case");
        // What is acked is the newest that was taken, not the newest that waits.
        cell.acked(&cursor(1));
        assert!(cell.state().unacked.is_none());
        signal(&cell, 4);
        let two = 2 * entries(1).bytes;
        assert_eq!(taken(&cell, two), ["entries 2", "entries 3"]);
        assert_eq!(cell.state().outbox_bytes, entries(4).bytes);
        assert_eq!(taken(&cell, two), ["entries 4", "State(7)"]);
        signal(&cell, 5);
        assert_eq!(taken(&cell, two), ["entries 5"], "it follows the last that was taken");
        signal(&cell, 6);
        cell.close(CloseReason::Kicked);
        assert_eq!(taken(&cell, two), ["Closed(Kicked)"]);
    }

    #[tokio::test]
    async fn a_slow_session_holds_one_word_not_a_queue() {
        let cell = cell();
        cell.stands_on(&cursor(0));
        for n in 1..=1000 {
            signal(&cell, n);
            assert!(cell.state().outbox_bytes <= LIMIT);
        }
        assert_eq!(told(&cell), ["end 1000"]);
    }

    #[tokio::test]
    async fn what_is_queued_during_a_pull_is_not_forgotten() {
        let cell = cell();
        cell.stands_on(&cursor(0));
        signal(&cell, 1);
        signal(&cell, 2);
        // A pull that was answered before 2 was there.
        cell.stands_on(&cursor(1));
        assert_eq!(told(&cell), ["end 2"]);
        cell.stands_on(&cursor(2));
        assert!(told(&cell).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acked_is_told_again_and_at_last_the_session_is_closed() {
        let (cell, config) = (cell(), Config { heartbeat: Duration::from_secs(1000), ..Config::default() });
        cell.stands_on(&cursor(0));
        signal(&cell, 1);
        assert_eq!(told(&cell), ["entries 1"]);
        for wait in [5, 10, 20, 40, 80] {
            tokio::time::advance(Duration::from_secs(wait - 1)).await;
            cell.tick(&config);
            assert!(told(&cell).is_empty());
            tokio::time::advance(Duration::from_secs(1)).await;
            cell.tick(&config);
            assert_eq!(told(&cell), ["end 1"]);
        }
        tokio::time::advance(Duration::from_secs(160)).await;
        cell.tick(&config);
        assert!(matches!(cell.try_event(), Some(Event::Closed(CloseReason::NoAck))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_ends_the_telling() {
        let (cell, config) = (cell(), Config::default());
        cell.stands_on(&cursor(0));
        signal(&cell, 1);
        assert_eq!(told(&cell), ["entries 1"]);
        cell.acked(&cursor(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        cell.tick(&config);
        assert!(told(&cell).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_overdue_ack_hides_nothing_newer() {
        let (cell, config) = (cell(), Config::default());
        cell.stands_on(&cursor(0));
        signal(&cell, 1);
        assert_eq!(told(&cell), ["entries 1"]);
        // The transport is busy: what follows waits, as entries or, after a gap, as an end.
        signal(&cell, 2);
        tokio::time::advance(config.ack_timeout).await;
        cell.tick(&config);
        assert_eq!(told(&cell), ["entries 2"]);
        signal(&cell, 4);
        tokio::time::advance(config.ack_timeout * 2).await;
        cell.tick(&config);
        assert_eq!(told(&cell), ["end 4"]);
    }
}
