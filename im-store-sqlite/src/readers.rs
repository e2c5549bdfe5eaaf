//! The connections that the file is read with.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use im_core::{Error, ErrorKind, Outcome, Result};
use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    error::{BACKEND, failed},
    fresh::closed,
};

/// How long a read waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lends connections, each of which has a thread of its own, and opens them when they are first needed. The last to come back is
/// the next to go: its pages are in its cache.
///
/// Not sqlx's pool. That asks each connection for a sign of life when it comes back, which wakes two threads again after every read,
/// and the next read takes another connection meanwhile.
///
/// Whoever has one asks for no other: of those who do, as many as there are connections would wait for each other.
pub(crate) struct Readers(Arc<Shared>);

struct Shared {
    options: SqliteConnectOptions,
    most: u32,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<SqliteConnection>>,
    is_closed: AtomicBool,
}

impl Readers {
    pub(crate) fn new(options: SqliteConnectOptions, most: u32) -> Self {
        let turns = Arc::new(Semaphore::new(most as usize));
        let (idle, is_closed) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { options, most, turns, idle, is_closed }))
    }

    /// Lends a connection, when it is our turn.
    pub(crate) async fn lend(&self, operation: &'static str) -> Result<Reader> {
        self.check(operation)?;
        let waiting = timeout(PATIENCE, self.0.turns.clone().acquire_owned());
        let turn = match waiting.await {
            Ok(turn) => turn.map_err(|_| closed(operation))?,
            Err(_) => {
                let message = format!("{} reads are under way, and none has ended", self.0.most);
                let full = Error::new(ErrorKind::Full, BACKEND, operation, message);
                return Err(full.with_outcome(Outcome::NotDone));
            }
        };
        self.check(operation)?;
        let idle = self.0.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.0.options.connect().await.map_err(failed(operation))?,
        };
        Ok(Reader { lent: Some((conn, turn)), shared: self.0.clone() })
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        if self.0.is_closed.load(Ordering::Acquire) { Err(closed(operation)) } else { Ok(()) }
    }

    /// All rows of a query.
    pub(crate) async fn all(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
        operation: &'static str,
    ) -> Result<Vec<SqliteRow>> {
        let mut conn = self.lend(operation).await?;
        let rows = query.fetch_all(&mut *conn).await.map_err(failed(operation));
        conn.back(rows)
    }

    /// The first row of a query that has one.
    pub(crate) async fn one(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
        operation: &'static str,
    ) -> Result<SqliteRow> {
        let mut conn = self.lend(operation).await?;
        let row = query.fetch_one(&mut *conn).await.map_err(failed(operation));
        conn.back(row)
    }

    /// Closes them all, when the reads that are under way have ended. Nothing is lent from the first call on, also where this is
    /// given up half-way.
    pub(crate) async fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        let _all = self.0.turns.acquire_many(self.0.most).await;
        let idle = std::mem::take(&mut *self.0.idle());
        for conn in idle {
            // It has only read.
            conn.close().await.ok();
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("most", &self.0.most).finish_non_exhaustive()
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is lent, until it is given back or dropped.
pub(crate) struct Reader {
    /// There until then; with the turn, which ends after it.
    lent: Option<(SqliteConnection, OwnedSemaphorePermit)>,
    shared: Arc<Shared>,
}

impl Reader {
    /// Gives it back with what was read. After an error it is seen first whether it still works.
    pub(crate) fn back<T>(mut self, read: Result<T>) -> Result<T> {
        if read.is_ok()
            && let Some((conn, _turn)) = self.lent.take()
        {
            self.shared.idle().push(conn);
        }
        read
    }
}

impl Drop for Reader {
    /// What was not given back may still be at work, or broken: it comes back when it answers, and is the last to go then.
    fn drop(&mut self) {
        let Some((mut conn, turn)) = self.lent.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let _turn = turn;
            if conn.ping().await.is_ok() {
                shared.idle().insert(0, conn);
            }
        });
    }
}

const LENT: &str = "a connection is lent until its reader is gone";

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        let (conn, _) = self.lent.as_ref().expect(LENT);
        conn
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        let (conn, _) = self.lent.as_mut().expect(LENT);
        conn
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    fn readers(most: u32) -> Readers {
        Readers::new(SqliteConnectOptions::new().filename(":memory:"), most)
    }

    /// Marks a connection, so that it is known again.
    async fn mark(reader: &mut Reader, number: i64) {
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {number}"));
        sqlx::query(sql).execute(&mut **reader).await.unwrap();
    }

    /// The mark of the next connection.
    async fn next(readers: &Readers) -> i64 {
        let mut reader = readers.lend("test").await.unwrap();
        let mark = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *reader).await;
        reader.back(mark.map_err(failed("test"))).unwrap()
    }

    #[tokio::test]
    async fn the_last_to_come_back_is_the_next_to_go() {
        let readers = readers(2);
        let (mut one, mut two) = (readers.lend("test").await.unwrap(), readers.lend("test").await.unwrap());
        mark(&mut one, 1).await;
        mark(&mut two, 2).await;
        two.back(Ok(())).unwrap();
        one.back(Ok(())).unwrap();
        assert_eq!((next(&readers).await, next(&readers).await), (1, 1));
    }

    #[tokio::test]
    async fn one_more_than_there_are_waits_for_its_turn() {
        let readers = readers(2);
        let (one, _two) = (readers.lend("test").await.unwrap(), readers.lend("test").await.unwrap());
        let mut third = pin!(readers.lend("test"));
        assert!(poll!(&mut third).is_pending());
        one.back(Ok(())).unwrap();
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told() {
        let readers = readers(1);
        // Not a reader: under paused time nobody waits for SQLite's thread to open one.
        let _turn = readers.0.turns.acquire().await.unwrap();
        let error = readers.lend("test").await.err().unwrap();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone));
    }

    #[tokio::test]
    async fn what_was_given_up_goes_last_and_only_when_it_has_stopped() {
        let readers = readers(2);
        let (mut one, mut two) = (readers.lend("test").await.unwrap(), readers.lend("test").await.unwrap());
        mark(&mut one, 1).await;
        mark(&mut two, 2).await;
        two.back(Ok(())).unwrap();
        // One row, behind many steps: nothing stops it before.
        let long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n";
        {
            let mut reading = pin!(sqlx::query(long).fetch_all(&mut *one));
            // As far as SQLite's thread: it is asked with the first poll.
            assert!(poll!(&mut reading).is_pending());
        }
        drop(one);
        assert_eq!(readers.0.turns.available_permits(), 1, "it has its turn until it has stopped");
        assert_eq!(next(&readers).await, 2);
        // Both turns: it has come back.
        drop(readers.0.turns.acquire_many(2).await.unwrap());
        assert_eq!((next(&readers).await, readers.0.idle().len()), (2, 2));
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_read_and_lends_no_more() {
        let readers = readers(2);
        let reader = readers.lend("test").await.unwrap();
        {
            let mut closing = pin!(readers.close());
            assert!(poll!(&mut closing).is_pending());
            // And is given up.
        }
        let error = readers.lend("test").await.err().unwrap();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone));
        let mut closing = pin!(readers.close());
        assert!(poll!(&mut closing).is_pending());
        reader.back(Ok(())).unwrap();
        closing.await;
        assert!(readers.0.idle().is_empty());
    }
}
