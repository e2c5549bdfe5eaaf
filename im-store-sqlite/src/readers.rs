//! The connections that the file is read with.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use im_core::{Error, ErrorKind, Outcome, Result};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
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
pub(crate) struct Readers {
    options: SqliteConnectOptions,
    turns: Semaphore,
    most: u32,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    pub(crate) fn new(options: SqliteConnectOptions, most: u32) -> Self {
        Self { options, turns: Semaphore::new(most as usize), most, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a connection, when it is our turn.
    pub(crate) async fn lend(&self, operation: &'static str) -> Result<Reader<'_>> {
        let turn = match timeout(PATIENCE, self.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => return Err(closed(operation)),
            Err(_) => {
                let message = format!("{} reads are under way, and none has ended", self.most);
                let full = Error::new(ErrorKind::Full, BACKEND, operation, message);
                return Err(full.with_outcome(Outcome::NotDone));
            }
        };
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.options.connect().await.map_err(failed(operation))?,
        };
        Ok(Reader { conn: Some(conn), readers: self, _turn: turn })
    }

    /// Closes them all, when the reads that are under way have ended. Nothing is lent from then on.
    pub(crate) async fn close(&self) {
        let turns = self.turns.acquire_many(self.most).await;
        self.turns.close();
        drop(turns);
        let idle = std::mem::take(&mut *self.idle());
        for conn in idle {
            // It has only read.
            conn.close().await.ok();
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("most", &self.most).finish_non_exhaustive()
    }
}

/// A connection that is lent until this is dropped.
pub(crate) struct Reader<'a> {
    /// There until then.
    conn: Option<SqliteConnection>,
    readers: &'a Readers,
    _turn: SemaphorePermit<'a>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // Before the turn ends. A read that was given up half-way has stopped by the time its connection takes the next.
        self.readers.idle().extend(self.conn.take());
    }
}

const LENT: &str = "a connection is lent until its reader is dropped";

impl Deref for Reader<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.conn.as_ref().expect(LENT)
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect(LENT)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use futures::poll;

    fn readers(most: u32) -> Readers {
        Readers::new(SqliteConnectOptions::new().filename(":memory:"), most)
    }

    /// Marks a connection, so that it is known again.
    async fn mark(reader: &mut Reader<'_>, number: i64) {
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {number}"));
        sqlx::query(sql).execute(&mut **reader).await.unwrap();
    }

    async fn marked(reader: &mut Reader<'_>) -> i64 {
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut **reader).await.unwrap()
    }

    #[tokio::test]
    async fn the_last_to_come_back_is_the_next_to_go() {
        let readers = readers(2);
        let (mut one, mut two) = (readers.lend("a").await.unwrap(), readers.lend("a").await.unwrap());
        mark(&mut one, 1).await;
        mark(&mut two, 2).await;
        drop((two, one));
        for _ in 0..2 {
            assert_eq!(marked(&mut readers.lend("a").await.unwrap()).await, 1);
        }
    }

    #[tokio::test]
    async fn one_more_than_there_are_waits_for_its_turn() {
        let readers = readers(2);
        let (one, _two) = (readers.lend("a").await.unwrap(), readers.lend("a").await.unwrap());
        let mut third = pin!(readers.lend("a"));
        assert!(poll!(&mut third).is_pending());
        drop(one);
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told() {
        let readers = readers(1);
        // Not a reader: under paused time nobody waits for SQLite's thread to open one.
        let _turn = readers.turns.acquire().await.unwrap();
        let error = readers.lend("a").await.err().unwrap();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone));
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_leaves_its_connection_to_the_next() {
        let readers = readers(1);
        let mut reader = readers.lend("a").await.unwrap();
        mark(&mut reader, 7).await;
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT i FROM n";
        {
            let mut reading = pin!(sqlx::query(endless).fetch_all(&mut *reader));
            // As far as SQLite's thread: it is asked with the first poll.
            assert!(poll!(&mut reading).is_pending());
        }
        drop(reader);
        assert_eq!(marked(&mut readers.lend("a").await.unwrap()).await, 7);
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_read_and_lends_no_more() {
        let readers = readers(2);
        let reader = readers.lend("a").await.unwrap();
        let mut closing = pin!(readers.close());
        assert!(poll!(&mut closing).is_pending());
        drop(reader);
        closing.await;
        assert!(readers.idle().is_empty());
        let error = readers.lend("a").await.err().unwrap();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone));
    }
}
