//! Presence: the live sessions of each user, and when each node last beat.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;

use super::lock;
use crate::{
    Clock, Connect, Connected, Gone, NodeId, Presence, Result, SessionId, SessionRef, Timestamp, UserId,
    WhenFull,
};

/// The presence part.
#[derive(Clone)]
pub struct MemoryPresence {
    state: Arc<Mutex<State>>,
    ttl: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    /// The sessions of each user, oldest first.
    sessions: BTreeMap<UserId, Vec<Live>>,
    beats: BTreeMap<NodeId, Timestamp>,
    /// The displaced sessions that each node may still think its own, with their slots.
    displaced: BTreeMap<NodeId, BTreeMap<(UserId, SessionId), String>>,
}

struct Live {
    session: SessionRef,
    slot: String,
}

impl MemoryPresence {
    pub(super) fn new(ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { state: Arc::default(), ttl, clock }
    }

    /// The state without the nodes that are dead by now, and the time.
    fn living(&self) -> (MutexGuard<'_, State>, Timestamp) {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        state.bury(now, self.ttl);
        (state, now)
    }
}

impl fmt::Debug for MemoryPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPresence").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl State {
    fn bury(&mut self, now: Timestamp, ttl: Duration) {
        let known = self.beats.len();
        self.beats.retain(|_, beat| now < beat.plus(ttl));
        if self.beats.len() < known {
            let beats = std::mem::take(&mut self.beats);
            self.retain(|_, live| beats.contains_key(&live.session.node));
            self.beats = beats;
            self.displaced.retain(|node, _| self.beats.contains_key(node));
        }
    }

    fn retain(&mut self, keep: impl Fn(&UserId, &Live) -> bool) {
        self.sessions.retain(|user, sessions| {
            sessions.retain(|live| keep(user, live));
            !sessions.is_empty()
        });
    }

    fn why_gone(&self, node: &NodeId, session: &(UserId, SessionId)) -> Gone {
        let slot = self.displaced.get(node).and_then(|displaced| displaced.get(session));
        let mut rivals = self.sessions.get(&session.0).into_iter().flatten();
        match slot {
            Some(slot) if rivals.any(|live| live.slot == *slot) => Gone::Displaced,
            _ => Gone::Forgotten,
        }
    }

    fn connect(&mut self, request: &Connect) -> Connected {
        let sessions = self.sessions.entry(request.user.clone()).or_default();
        // A repeat of a connect whose outcome was not known.
        sessions.retain(|live| live.session.id != request.session.id);
        let rivals = sessions.iter().filter(|live| live.slot == request.slot).count();
        let mut over = (rivals + 1).saturating_sub(request.max.max(1));
        if over > 0 && request.when_full == WhenFull::RejectNew {
            return Connected::Refused;
        }
        let mut displaced = Vec::new();
        sessions.retain(|live| {
            let goes = over > 0 && live.slot == request.slot;
            if goes {
                over -= 1;
                displaced.push(live.session.clone());
            }
            !goes
        });
        for gone in &displaced {
            let key = (request.user.clone(), gone.id.clone());
            self.displaced.entry(gone.node.clone()).or_default().insert(key, request.slot.clone());
        }
        sessions.push(Live { session: request.session.clone(), slot: request.slot.clone() });
        Connected::Accepted(displaced)
    }
}

#[async_trait]
impl Presence for MemoryPresence {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        let (mut state, now) = self.living();
        state.beats.insert(request.session.node.clone(), now);
        Ok(state.connect(request))
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        let (mut state, _) = self.living();
        for (user, id) in sessions {
            if let Some(live) = state.sessions.get_mut(user) {
                live.retain(|live| live.session.id != *id);
                if live.is_empty() {
                    state.sessions.remove(user);
                }
            }
        }
        Ok(())
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        let (mut state, now) = self.living();
        state.beats.insert(node.clone(), now);
        let own: BTreeSet<_> = held.iter().collect();
        let mut known = BTreeSet::new();
        for (user, sessions) in &mut state.sessions {
            sessions.retain(|live| {
                let key = (user.clone(), live.session.id.clone());
                let ours = live.session.node == *node;
                let kept = !ours || own.contains(&key);
                if ours && kept {
                    known.insert(key);
                }
                kept
            });
        }
        state.sessions.retain(|_, sessions| !sessions.is_empty());
        // Kept until the node no longer holds them: the answer to this beat may be lost.
        if let Some(displaced) = state.displaced.get_mut(node) {
            displaced.retain(|session, _| own.contains(session));
        }
        let gone = held.iter().filter(|session| !known.contains(*session));
        Ok(gone.map(|session| (session.1.clone(), state.why_gone(node, session))).collect())
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        let (state, _) = self.living();
        let of = |user: &UserId| {
            state.sessions.get(user).map(|live| live.iter().map(|l| l.session.clone()).collect())
        };
        Ok(users.iter().map(|user| of(user).unwrap_or_default()).collect())
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        Ok(self.living().0.beats.keys().cloned().collect())
    }
}
