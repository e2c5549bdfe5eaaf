//! Connections that were just used, to be used again next, the last one first.
//!
//! A pool gives out what lay idle longest and asks a connection how it is whenever it comes back: a node that does one thing after the
//! other would wake another process of the server each time, and twice.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sqlx::{Postgres, pool::PoolConnection};

/// After so many times a connection goes back to its pool, which looks at its age.
const TIMES: u32 = 1000;

/// A connection that lay ready.
#[derive(Debug)]
pub(crate) struct Rested {
    pub(crate) conn: PoolConnection<Postgres>,
    /// How often it was given out.
    pub(crate) times: u32,
    /// Since when it lies there.
    pub(crate) since: Instant,
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Ready(Mutex<Stack>);

#[derive(Debug)]
struct Stack {
    conns: Vec<Rested>,
    /// How many are kept at most, fewer than the pool has: it also gives out some by itself.
    most: usize,
    /// How many wait for one of the pool. What comes back meanwhile is theirs.
    waiting: usize,
}

/// Somebody waits for a connection of the pool.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Ready>);

impl Ready {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Stack { conns: Vec::new(), most, waiting: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Stack> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last one, or a place among those who wait for the pool.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Rested, Waiting> {
        let mut stack = self.lock();
        match stack.conns.pop() {
            Some(rested) => Ok(rested),
            None => {
                stack.waiting += 1;
                Err(Waiting(self.clone()))
            }
        }
    }

    /// Keeps a connection, or hands it back, to go to its pool.
    pub(crate) fn keep(
        &self,
        conn: PoolConnection<Postgres>,
        times: u32,
    ) -> Option<PoolConnection<Postgres>> {
        let mut stack = self.lock();
        if times >= TIMES || stack.waiting > 0 || stack.conns.len() >= stack.most {
            return Some(conn);
        }
        stack.conns.push(Rested { conn, times, since: Instant::now() });
        None
    }

    /// Keeps none any more, and gives those back that lie there.
    pub(crate) fn close(&self) {
        let mut stack = self.lock();
        stack.most = 0;
        let conns = std::mem::take(&mut stack.conns);
        drop(stack);
        drop(conns);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // Without the pool's work at their end, for which there may be no runtime any more.
        for Rested { conn, .. } in self.lock().conns.drain(..) {
            drop(conn.detach());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
