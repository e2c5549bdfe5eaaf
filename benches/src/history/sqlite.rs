//! A long history in a SQLite file, and the bare query on it.

use std::{
    fs::File,
    io::{self, Seek, sink},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use im_engine::ConversationId;
use sqlx::{
    ConnectOptions, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{PAGE, Pages};
use crate::Outcome;

/// Fills the engine's own tables: message after message over all conversations in turn, as a busy server gets them, so that
/// neighbours in a conversation lie far apart in the file. The inbox's checkpoint goes behind them: nobody is to be told; and so does
/// what is said of the timelines.
pub(super) async fn fill(path: &Path, length: u64) -> Outcome {
    let mut conn = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-524288")
        .connect()
        .await?;
    for seq in 2..=length {
        sqlx::query("BEGIN").execute(&mut conn).await?;
        sqlx::query(
            "INSERT INTO messages (conversation_id, sequence_id, ordinal, created_at, send_from, send_to, client_msg_id, kind, \
             content_type, content, content_hash) \
             SELECT conversation_id, ?1, ?1, created_at + ?1, send_from, send_to, \
             printf('%012x-7%03x-%s', created_at + ?1, ?1 % 4096, lower(hex(randomblob(9)))), kind, content_type, content, \
             content_hash FROM messages WHERE sequence_id = 1 AND id <= (SELECT count(*) FROM conversation_facts) ORDER BY id",
        )
        .bind(seq.cast_signed())
        .execute(&mut conn)
        .await?;
        sqlx::query(
            "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
             SELECT conversation_id, sequence_id, '', '', ordinal, id FROM messages \
             WHERE id > (SELECT max(id) FROM messages) - (SELECT count(*) FROM conversation_facts)",
        )
        .execute(&mut conn)
        .await?;
        sqlx::query("COMMIT").execute(&mut conn).await?;
    }
    sqlx::query("UPDATE meta SET placed = (SELECT max(id) FROM messages)").execute(&mut conn).await?;
    let moved = sqlx::query(
        "UPDATE checkpoints SET offset = (SELECT max(id) FROM messages), rewind_offset = (SELECT max(id) FROM messages)",
    )
    .execute(&mut conn)
    .await?;
    if moved.rows_affected() == 0 {
        return Err("the file has no checkpoint to move".into());
    }
    sqlx::Connection::close(conn).await?;
    Ok(())
}

/// Whether the file is in the system's cache.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Warm,
    Cold,
}

/// The file in the system's cache, or out of it. To be dropped when SQLite has closed the file: closing one takes from the process
/// all locks on it, SQLite's too.
pub(super) struct Cache(File);

impl Cache {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    pub(super) fn bring(&mut self, state: State) -> io::Result<()> {
        match state {
            State::Warm => self.warm(),
            State::Cold => self.cool(),
        }
    }

    /// Reads the file once, so that the system has it. Some take out what nobody has asked for in the last seconds.
    fn warm(&mut self) -> io::Result<()> {
        self.0.rewind()?;
        io::copy(&mut self.0, &mut sink()).map(drop)
    }

    /// Takes it out.
    #[cfg(target_os = "linux")]
    fn cool(&self) -> io::Result<()> {
        // What the disk does not have would stay.
        self.0.sync_all()?;
        Ok(rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn cool(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The bare query on the same file, on a connection like those that the engine reads with.
pub(super) struct RawPages {
    conn: SqliteConnection,
}

impl RawPages {
    pub(super) async fn open(path: &Path) -> Outcome<Self> {
        let conn = SqliteConnectOptions::new()
            .filename(path)
            .row_buffer_size(1024)
            .pragma("query_only", "ON")
            .pragma("cache_size", "-4096")
            .connect()
            .await?;
        Ok(Self { conn })
    }
}

#[async_trait]
impl Pages for RawPages {
    async fn page(&mut self, id: &ConversationId, to: u64) -> Outcome<usize> {
        let rows = sqlx::query(
            "SELECT m.sequence_id, m.ordinal, m.created_at, m.send_from, m.client_msg_id, m.content \
             FROM timelines t CROSS JOIN messages m ON m.id = t.message \
             WHERE t.conversation_id = ? AND t.sequence_id BETWEEN 1 AND ? ORDER BY t.sequence_id DESC LIMIT ?",
        )
        .bind(id.as_str())
        .bind(to.cast_signed())
        .bind(PAGE as i64)
        .fetch_all(&mut self.conn)
        .await?;
        let text =
            |row: &sqlx::sqlite::SqliteRow, column: usize| row.try_get::<&str, _>(column).map(Arc::from);
        let page = rows.iter().map(|row| {
            let message: (i64, i64, i64, Arc<str>, Arc<str>, Arc<str>) = (
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                text(row, 3)?,
                text(row, 4)?,
                text(row, 5)?,
            );
            Ok(message)
        });
        Ok(page.collect::<sqlx::Result<Vec<_>>>()?.len())
    }
}
