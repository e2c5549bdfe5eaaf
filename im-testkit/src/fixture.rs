//! What a backend supplies to be tested.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use im_core::{Outgoing, Parts};

use crate::{Verdict, Violation};

/// Makes data for one clause after the other.
///
/// A fixture is made anew for each test. Let nothing but the data at hand depend on it: tests run in parallel.
#[async_trait]
pub trait Fixture: fmt::Debug + Send + Sync {
    /// Fresh, empty data that no other test sees: a new file, schema, or key prefix.
    ///
    /// # Errors
    /// When it cannot be made; the test fails.
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation>;

    /// The same with short windows (inbox expiry, dedupe window, presence TTL) where time has to pass for real, for the clauses that
    /// let them pass. On a busy machine a short window may end in the middle of any other clause, so those of
    /// [`fresh`](Self::fresh) are long.
    ///
    /// # Errors
    /// When it cannot be made; the test fails.
    async fn short_lived(&self) -> Result<Box<dyn Data>, Violation> {
        self.fresh().await
    }
}

/// The data of one test, and what may befall them.
#[async_trait]
pub trait Data: fmt::Debug + Send + Sync {
    /// The parts as one more node sees them: connections of its own where several processes may share the data, else clones.
    /// A part that the backend lacks is none.
    ///
    /// # Errors
    /// When the data cannot be opened.
    async fn node(&self) -> Result<Parts, Violation>;

    /// The parts as after a restart: everything is closed, and what was only in the process is gone.
    ///
    /// # Errors
    /// When the data cannot be opened again.
    async fn reopen(&self) -> Result<Parts, Violation>;

    /// Lets so much time pass for the backend. A fixture with a [`ManualClock`](crate::ManualClock) advances it; one whose
    /// server has its own time waits.
    async fn pass(&self, time: Duration);

    /// Why the inbox serves only the log of its own data, in words; none: it serves any log. The inbox's clauses then take their
    /// records from that log instead of making them up, and the inbox is certified for no other.
    fn own_log(&self) -> Option<&'static str> {
        None
    }

    /// Need `turn_back`: turns the backend's clock back.
    ///
    /// # Errors
    /// When the fixture cannot; it then declares the lack.
    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        Err(Violation::new(format!("this fixture cannot turn a clock back by {time:?}")))
    }

    /// Need `lose_tail`: remembers the present state, to which [`lose_tail`](Self::lose_tail) goes back. A fixture that can cut
    /// off the newest writes by their number has nothing to do here.
    ///
    /// # Errors
    /// When it could not be remembered.
    async fn save(&self) -> Result<(), Violation> {
        Ok(())
    }

    /// Need `lose_tail`: takes the part back to where it was at the last [`save`](Self::save), which is `n` records (log,
    /// store) or entries (inbox) ago, and makes it another incarnation. Handles handed out before keep working or fail with a
    /// transient error. Other parts of the same data may lose their tails too.
    ///
    /// # Errors
    /// When the fixture cannot; it then declares the lack.
    async fn lose_tail(&self, part: Part, n: usize) -> Result<(), Violation> {
        Err(Violation::new(format!("this fixture cannot lose {n} of {part:?}")))
    }

    /// Need `outbox`: begins a transaction of a host's. It counts as begun with its first send.
    ///
    /// # Errors
    /// When it cannot be begun; without an outbox that is declared as lacking.
    async fn host(&self) -> Result<Box<dyn Host>, Violation> {
        Err(Violation::new("this fixture has no transactions of a host's"))
    }

    /// Need `outbox`: the refused messages that are kept for the host, in any order, each with the code of its refusal.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn refused_sends(&self) -> Result<Vec<(Outgoing, String)>, Violation> {
        Err(Violation::new("this fixture has no transactions of a host's"))
    }
}

/// A transaction of a host's on the data of a store.
#[async_trait]
pub trait Host: fmt::Debug + Send {
    /// Sends a message inside it.
    ///
    /// # Errors
    /// When it is not taken.
    async fn send(&mut self, message: &Outgoing) -> Verdict;

    /// Commits.
    ///
    /// # Errors
    /// When it is not committed.
    async fn commit(self: Box<Self>) -> Verdict;

    /// Rolls back.
    ///
    /// # Errors
    /// When it is not rolled back.
    async fn roll_back(self: Box<Self>) -> Verdict;
}

/// The parts that can lose their tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The log.
    Log,
    /// The store.
    Store,
    /// The inbox.
    Inbox,
}
