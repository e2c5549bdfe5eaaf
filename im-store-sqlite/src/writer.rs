//! The one connection that writes.
//!
//! SQLite takes one writer at a time. All writing goes through one connection behind a fair lock, so nothing ever waits for
//! SQLite's own lock, and the connection's page cache stays warm: a second one would empty it with each of its commits.

use std::{
    fs::File,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use futures::poll;
use im_core::{ConversationId, Error, ErrorKind, Mark, Outcome, Result, Timestamp};
use sqlx::{SqliteConnection, error::DatabaseError};
use tokio::sync::watch;

use crate::{
    cache::Cache,
    error::{BACKEND, failed},
    fresh::Fresh,
    rows::Statement,
    tail::{Tail, lock},
    timelines::{self, MadeAgain, Timelines},
};

/// A conversation's last record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) id: i64,
    pub(crate) mark: Mark,
    pub(crate) created_at: Timestamp,
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// That the disk has it (`synchronous=FULL`): nothing replays it.
    Full,
    /// Nothing: a crash of the operating system may undo it, and the log replays it (`synchronous=NORMAL`).
    Normal,
}

/// The writing connection and what is known about the file only because nobody else writes.
#[derive(Debug)]
pub(crate) struct Writer {
    conn: SqliteConnection,
    /// Keeps other processes out; the operating system lets go of it when the process dies.
    lock: File,
    /// Tells that there was a commit.
    pub(crate) commits: watch::Sender<()>,
    /// What `PRAGMA synchronous` stands at.
    sync: Option<Sync>,
    /// A transaction was begun and not ended: its task was dropped or it failed.
    is_open: bool,
    /// A sync of the file has failed: the system may have dropped what was not written, and say nothing of it at the next one.
    is_unsynced: bool,
    /// The last record of each conversation.
    pub(crate) heads: Cache<ConversationId, Head>,
    /// The last message that `timelines` knows of, here or in the file.
    last_id: i64,
    /// The file may have later ones.
    is_behind: bool,
    /// The newest places, shared with those who read them.
    pub(crate) timelines: Arc<Fresh<Timelines>>,
    /// The id of the log's last record.
    pub(crate) end: watch::Sender<i64>,
    /// The newest records, shared with those who read them.
    pub(crate) tail: Arc<Mutex<Tail>>,
}

/// Whether a statement met a key that is there already.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DatabaseError::is_unique_violation)
}

/// Whether the file could not be synced, by SQLite (`SQLITE_IOERR_FSYNC`) or beside it.
fn is_failed_sync(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Io(_)) {
        return true;
    }
    error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == "1034"))
}

impl Writer {
    /// `placed`: up to which message the file's timelines have everything. `end`: the log's last record.
    pub(crate) fn new(conn: SqliteConnection, lock: File, heads: usize, placed: i64, end: i64) -> Self {
        Self {
            conn,
            lock,
            commits: watch::Sender::new(()),
            sync: None,
            is_open: false,
            is_unsynced: false,
            heads: Cache::new(heads),
            last_id: placed,
            is_behind: true,
            timelines: Arc::new(Fresh::new()),
            end: watch::Sender::new(end),
            tail: Arc::default(),
        }
    }

    /// The connection, to read what the writer has written.
    pub(crate) fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.conn
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self, operation: &'static str, sync: Sync) -> Result<()> {
        self.prepare(sync).await.map_err(failed(operation))?;
        self.is_open = true;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await.map_err(failed(operation))?;
        Ok(())
    }

    /// Commits what went well, undoes what failed.
    pub(crate) async fn end<T>(&mut self, operation: &'static str, result: Result<T>) -> Result<T> {
        let result = match result {
            Ok(value) => {
                let committed = sqlx::query("COMMIT").execute(&mut self.conn).await;
                committed.map(|_| value).map_err(|error| self.noted(operation, error))
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => self.committed(),
            Err(_) => self.failed().await,
        }
        result
    }

    /// Runs a whole transaction, whose first statement begins it and whose last one commits it: no hop to SQLite's thread is for
    /// that alone, and each statement is bound while the thread runs the one before. False, and nothing is done, where a key is
    /// taken.
    pub(crate) async fn run(
        &mut self,
        operation: &'static str,
        sync: Sync,
        transaction: impl Iterator<Item = Statement<'static>> + Send,
    ) -> Result<bool> {
        self.prepare(sync).await.map_err(failed(operation))?;
        self.is_open = true;
        match execute_all(&mut self.conn, transaction).await {
            Ok(()) => self.committed(),
            Err(error) if is_taken(&error) => {
                self.undo().await;
                return Ok(false);
            }
            Err(error) => {
                self.failed().await;
                return Err(self.noted(operation, error));
            }
        }
        Ok(true)
    }

    /// Takes note of why the file could not be written.
    pub(crate) fn noted(&mut self, operation: &'static str, error: sqlx::Error) -> Error {
        self.is_unsynced |= is_failed_sync(&error);
        failed(operation)(error)
    }

    /// Refuses when nothing that this connection says of the file can be trusted any more.
    ///
    /// # Errors
    /// A sync of the file has failed before.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if !self.is_unsynced {
            return Ok(());
        }
        let message = "the disk has failed to take what was written: look at it, and open the file again";
        Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, message).with_outcome(Outcome::NotDone))
    }

    fn committed(&mut self) {
        self.is_open = false;
        self.commits.send_replace(());
    }

    async fn failed(&mut self) {
        self.forget();
        self.undo().await;
    }

    /// Takes back the transaction.
    pub(crate) async fn undo(&mut self) {
        // SQLite has rolled back already after some failures, and then says so.
        sqlx::query("ROLLBACK").execute(&mut self.conn).await.ok();
        self.is_open = false;
    }

    /// Takes back what a task left open that was dropped in mid-transaction: a read on this connection would see it.
    pub(crate) async fn mend(&mut self) {
        if self.is_open {
            self.failed().await;
        }
    }

    async fn prepare(&mut self, sync: Sync) -> sqlx::Result<()> {
        if self.sync != Some(sync) {
            // This pragma acts while it is prepared: a cached statement would do nothing.
            let pragma = match sync {
                Sync::Full => "PRAGMA synchronous = FULL",
                Sync::Normal => "PRAGMA synchronous = NORMAL",
            };
            self.sync = None;
            sqlx::query(pragma).persistent(false).execute(&mut self.conn).await?;
            self.sync = Some(sync);
        }
        Ok(())
    }

    /// After a failure nobody knows whether the file is as we thought.
    pub(crate) fn forget(&mut self) {
        self.heads.clear();
        self.is_behind = true;
        lock(&self.tail).clear();
    }

    /// Lets everybody know of messages that an append left in the file which failed, or ended before it was published.
    pub(crate) async fn catch_up(&mut self, operation: &'static str) -> Result<()> {
        while self.is_behind {
            let missed = timelines::made_again(&mut self.conn, self.last_id, operation).await?;
            if !missed.is_empty() {
                // What is remembered may be of before them.
                self.heads.clear();
                lock(&self.tail).clear();
            }
            self.timelines.add(operation, |open| {
                for MadeAgain { conversation, place, reader, .. } in &missed {
                    let reader = reader.as_ref().map(|(user, device)| (user, device.as_ref()));
                    open.push(conversation, *place, reader);
                }
            })?;
            let own = missed.iter().filter(|missed| missed.is_own).map(|missed| missed.place.message).max();
            if let Some(own) = own.filter(|own| own > &self.end.borrow()) {
                self.end.send_replace(own);
            }
            self.last_id = missed.last().map_or(self.last_id, |last| last.place.message);
            self.is_behind = !missed.is_empty();
        }
        Ok(())
    }

    /// The id of the next message.
    pub(crate) fn next_id(&self) -> i64 {
        self.last_id + 1
    }

    /// Notes that messages will be inserted, of which nobody knows until they are [published](Self::publish).
    pub(crate) fn will_append(&mut self) {
        self.is_behind = true;
    }

    /// Notes that everybody knows of all messages up to one.
    pub(crate) fn publish(&mut self, last_id: i64) {
        self.last_id = last_id;
        self.is_behind = false;
    }

    /// What is left to close when nobody will write any more: the connection, and then the lock.
    pub(crate) fn stop(self) -> (SqliteConnection, File) {
        (self.conn, self.lock)
    }
}

/// Runs one after the other.
async fn execute_all(
    conn: &mut SqliteConnection,
    mut statements: impl Iterator<Item = Statement<'static>> + Send,
) -> sqlx::Result<()> {
    let mut next = statements.next();
    while let Some(statement) = next {
        let mut running = pin!(statement.execute(&mut *conn));
        // The first poll hands it to SQLite's thread.
        let done = poll!(&mut running);
        next = statements.next();
        match done {
            Poll::Ready(done) => done?,
            Poll::Pending => running.await?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error as StdError, fmt};

    use sqlx::error::ErrorKind as SqlxKind;

    use crate::Sqlite;

    #[derive(Debug)]
    struct Code(&'static str);

    impl fmt::Display for Code {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Code {}

    impl sqlx::error::DatabaseError for Code {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> SqlxKind {
            SqlxKind::Other
        }
    }

    #[tokio::test]
    async fn nothing_is_written_any_more_after_a_sync_has_failed() {
        let code = |code| sqlx::Error::Database(Box::new(Code(code)));
        let beside = sqlx::Error::Io(std::io::Error::other("as it is meant to"));
        for failed_sync in [code("1034"), beside] {
            let folder = tempfile::tempdir().unwrap();
            let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
            sqlite.inner().writer("test").await.unwrap().noted("test", code("10"));
            sqlite.inner().writer("test").await.unwrap().noted("test", failed_sync);
            let refused = sqlite.inner().writer("test").await.err().unwrap();
            assert!(refused.to_string().contains("the disk"), "{refused}");
        }
    }
}
