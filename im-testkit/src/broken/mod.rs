//! A deliberately wrong backend for every clause: right parts, wrapped in one defect that the clause must catch.
//!
//! They test the clauses, and they show what each clause is about. A clause without one in [`all`] fails the table test.

mod conversations;
mod inbox;
mod leases;
mod log;
mod notifier;
mod outbox;
mod presence;
mod store;
mod user_state;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use im_core::{Incarnation, LogPart, Outgoing, Parts, StorePart};

use crate::{Data, Fixture, Host, Part, Violation};

/// A defect, and the clause that must catch it.
#[derive(Clone, Copy)]
pub struct Broken {
    /// The clause, named as in [`CLAUSES`](crate::CLAUSES).
    pub clause: &'static str,
    /// What is wrong, for people.
    pub defect: &'static str,
    wrap: fn(Parts, &Arc<Shared>) -> Parts,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.clause, self.defect)
    }
}

/// All defects; every clause has at least one.
pub fn all() -> impl Iterator<Item = &'static Broken> {
    let tables = [
        log::BROKEN,
        leases::BROKEN,
        store::BROKEN,
        conversations::BROKEN,
        user_state::BROKEN,
        inbox::BROKEN,
        presence::BROKEN,
        notifier::BROKEN,
        outbox::BROKEN,
    ];
    tables.into_iter().flatten()
}

/// A fixture whose parts have the defect.
#[derive(Debug)]
pub struct BrokenFixture<F> {
    right: F,
    broken: &'static Broken,
}

impl<F: Fixture> BrokenFixture<F> {
    /// Breaks the parts of a right fixture, which must offer everything.
    pub fn new(right: F, broken: &'static Broken) -> Self {
        Self { right, broken }
    }
}

#[async_trait]
impl<F: Fixture> Fixture for BrokenFixture<F> {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(self.broken(self.right.fresh().await?))
    }

    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(self.broken(self.right.short_lived().await?))
    }
}

impl<F> BrokenFixture<F> {
    fn broken(&self, right: Box<dyn Data>) -> Box<dyn Data> {
        Box::new(BrokenData { right, broken: self.broken, shared: Arc::default() })
    }
}

#[derive(Debug)]
struct BrokenData {
    right: Box<dyn Data>,
    broken: &'static Broken,
    shared: Arc<Shared>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Data for BrokenData {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok((self.broken.wrap)(self.right.node().await?, &self.shared))
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.shared.reopened.store(true, Ordering::SeqCst);
        Ok((self.broken.wrap)(self.right.reopen().await?, &self.shared))
    }

    fn own_log(&self) -> Option<&'static str> {
        self.right.own_log()
    }

    async fn pass(&self, time: Duration) {
        self.right.pass(time).await;
    }

    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        self.shared.turned_back.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
        self.right.turn_back(time).await
    }

    async fn save(&self) -> Result<(), Violation> {
        self.right.save().await
    }

    async fn lose_tail(&self, part: Part, n: usize) -> Result<(), Violation> {
        self.right.lose_tail(part, n).await
    }

    async fn host(&self) -> Result<Box<dyn Host>, Violation> {
        self.right.host().await
    }

    async fn refused_sends(&self) -> Result<Vec<(Outgoing, String)>, Violation> {
        self.right.refused_sends().await
    }
}

/// What all wrappers of one data share, as wrong backends share a wrong table.
#[derive(Debug, Default)]
struct Shared {
    reopened: AtomicBool,
    /// In milliseconds.
    turned_back: AtomicU64,
    count: AtomicU64,
    /// The incarnation that was seen first.
    incarnation: Mutex<Option<Incarnation>>,
    notes: Mutex<Notes>,
}

/// What wrong backends remember.
#[derive(Debug, Default)]
struct Notes {
    holders: BTreeMap<String, im_core::NodeId>,
    receipts: BTreeMap<im_core::SendKey, (im_core::Receipt, im_core::ContentHash)>,
    checkpoints: BTreeMap<im_core::Partition, im_core::Checkpoint>,
    log: Option<Incarnation>,
    /// The last one seen.
    place: Option<im_core::Place>,
    slots: BTreeMap<(im_core::UserId, String), Vec<im_core::SessionRef>>,
    sessions: BTreeMap<im_core::UserId, Vec<im_core::SessionRef>>,
    nodes: std::collections::BTreeSet<im_core::NodeId>,
    subscribers: BTreeMap<im_core::NodeId, Vec<tokio::sync::mpsc::Sender<im_core::Noticed>>>,
}

impl Shared {
    fn reopened(&self) -> bool {
        self.reopened.load(Ordering::SeqCst)
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first incarnation ever seen, whatever the present one is.
    fn first(&self, present: Incarnation) -> Incarnation {
        self.incarnation.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(present).clone()
    }
}

/// Lets others run in the middle of what should be one step.
async fn interleave() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn with_log(parts: Parts, wrap: impl FnOnce(LogPart) -> LogPart) -> Parts {
    Parts { log: parts.log.map(wrap), ..parts }
}

fn with_store(parts: Parts, wrap: impl FnOnce(StorePart) -> StorePart) -> Parts {
    Parts { store: parts.store.map(wrap), ..parts }
}
