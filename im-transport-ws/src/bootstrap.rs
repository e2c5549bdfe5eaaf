//! Where a session stands in its bootstrap.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use im_engine::{BootstrapPage, ConversationId, Fresh};

/// The bootstrap of a session; it takes no memory once the client has everything.
#[derive(Debug, Default)]
pub(crate) struct Bootstrap {
    state: Mutex<Option<Box<State>>>,
}

#[derive(Debug)]
struct State {
    fresh: Arc<Fresh>,
    /// Whether there are more pages to list.
    more: bool,
    /// What the store was not far enough for.
    behind: BTreeSet<ConversationId>,
}

impl Bootstrap {
    fn state(&self) -> MutexGuard<'_, Option<Box<State>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a bootstrap, in place of another one.
    pub(crate) fn begin(&self, fresh: Fresh) -> Arc<Fresh> {
        let fresh = Arc::new(fresh);
        *self.state() = Some(Box::new(State { fresh: fresh.clone(), more: true, behind: BTreeSet::new() }));
        fresh
    }

    /// Where it began, while pages are listed.
    pub(crate) fn fresh(&self) -> Option<Arc<Fresh>> {
        self.state().as_ref().filter(|state| state.more).map(|state| state.fresh.clone())
    }

    /// Where it began, if it still lacks one of these conversations.
    pub(crate) fn fresh_for(&self, ids: &[ConversationId]) -> Option<Arc<Fresh>> {
        let state = self.state();
        let state = state.as_ref().filter(|state| ids.iter().any(|id| state.behind.contains(id)))?;
        Some(state.fresh.clone())
    }

    /// Notes a page.
    pub(crate) fn listed(&self, page: &BootstrapPage) {
        self.change(|state| {
            state.more = page.more;
            state.behind.extend(page.behind.iter().cloned());
        });
    }

    /// Notes an answer to what was asked for by id.
    pub(crate) fn fetched(&self, ids: &[ConversationId], page: &BootstrapPage) {
        self.change(|state| {
            for id in ids.iter().filter(|id| !page.behind.contains(id)) {
                state.behind.remove(id);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut slot = self.state();
        let Some(state) = slot.as_mut() else { return };
        change(state);
        if !state.more && state.behind.is_empty() {
            *slot = None;
        }
    }
}
