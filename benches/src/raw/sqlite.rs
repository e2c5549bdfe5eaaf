//! The raw limit of SQLite: the rows of the engine's own schema, inserted and nothing else.
//!
//! No look-up, no numbering, no read marks, no checkpoint: one connection with the engine's settings, a prepared statement of
//! many rows, as few hops to SQLite's thread as there can be.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use im_engine::{ClientMsgId, ContentHash, ContentType, Partition, RecordKind};
use im_store_sqlite::Sqlite;
use sqlx::{
    AssertSqlSafe, ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{Raw, Rows, Singles};
use crate::{Outcome, backend::content, watch::Write};

/// How many rows a statement takes; what is left over goes in smaller ones.
const SIZES: [usize; 6] = [1024, 256, 64, 16, 4, 1];

/// A file with the engine's schema, and the one connection that writes it.
#[derive(Debug)]
pub(super) struct File {
    conn: SqliteConnection,
    rows: Rows,
    texts: HashMap<(usize, bool, bool), Arc<str>>,
    next_id: i64,
    created_at: i64,
    content: Arc<str>,
}

/// A message to insert.
#[derive(Debug)]
struct Message {
    id: i64,
    conversation: Arc<str>,
    seq: i64,
    from: Arc<str>,
    to: Arc<str>,
    client_msg_id: Arc<str>,
}

impl File {
    /// A new file with the schema that the engine's has, and the settings of the writer of such rows.
    pub(super) async fn open(path: &Path, rows: Rows) -> Outcome<Self> {
        Sqlite::open(path).await?.close().await?;
        let synchronous = match rows {
            Rows::Messages | Rows::MessagesAndInbox => SqliteSynchronous::Full,
            Rows::Inbox => SqliteSynchronous::Normal,
        };
        let conn = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("cache_size", "-65536")
            .pragma("temp_store", "MEMORY")
            .connect()
            .await?;
        Ok(Self {
            conn,
            rows,
            texts: HashMap::new(),
            next_id: 1,
            created_at: 1_795_400_000_000,
            content: content(),
        })
    }

    fn make(&mut self, size: usize, conversations: &Singles) -> Vec<Message> {
        let count = conversations.len() as i64;
        let ids = self.next_id..self.next_id + size as i64;
        self.next_id = ids.end;
        ids.map(|id| {
            let (conversation, [low, high]) = &conversations[(id % count) as usize];
            let (from, to) = if (id / count) % 2 == 0 { (low, high) } else { (high, low) };
            Message {
                id,
                conversation: conversation.clone().into(),
                seq: id / count + 1,
                from: from.clone().into(),
                to: to.clone().into(),
                client_msg_id: ClientMsgId::fresh().into(),
            }
        })
        .collect()
    }

    async fn insert_messages(&mut self, batch: &[Message]) -> Outcome {
        let hash = ContentHash::of(RecordKind::Message, ContentType::Text, &self.content).0.cast_signed();
        let mut rest = batch;
        while !rest.is_empty() {
            let size = chunk(rest.len(), 256);
            let (some, after) = rest.split_at(size);
            let text = self.text(size, rest.len() == batch.len(), after.is_empty());
            let mut query = sqlx::query(AssertSqlSafe(text));
            for message in some {
                query = query
                    .bind(message.id)
                    .bind(message.conversation.clone())
                    .bind(message.seq)
                    .bind(message.seq)
                    .bind(self.created_at)
                    .bind(message.from.clone())
                    .bind(message.to.clone())
                    .bind(message.client_msg_id.clone())
                    .bind(1_i64)
                    .bind("text")
                    .bind(self.content.clone())
                    .bind(hash);
            }
            query.execute(&mut self.conn).await?;
            rest = after;
        }
        Ok(())
    }

    async fn insert_inbox(&mut self, entries: &[(Arc<str>, i64)]) -> Outcome {
        let mut rest = entries;
        while !rest.is_empty() {
            let size = chunk(rest.len(), SIZES[0]);
            let (some, after) = rest.split_at(size);
            let text = self.text(size, rest.len() == entries.len(), after.is_empty());
            let query = some.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, (user, message)| {
                query.bind(user.clone()).bind(*message)
            });
            query.execute(&mut self.conn).await?;
            rest = after;
        }
        Ok(())
    }

    fn text(&mut self, size: usize, first: bool, last: bool) -> Arc<str> {
        let rows = self.rows;
        self.texts.entry((size, first, last)).or_insert_with(|| text(rows, size, first, last).into()).clone()
    }
}

#[async_trait]
impl Raw for File {
    async fn messages(&mut self, batches: &[(Partition, usize)], singles: &Singles) -> Outcome<Duration> {
        let mut took = Duration::ZERO;
        for (_, size) in batches {
            let batch = self.make(*size, singles);
            let begun = Instant::now();
            self.insert_messages(&batch).await?;
            took += begun.elapsed();
        }
        Ok(took)
    }

    async fn inbox(&mut self, writes: &[Write]) -> Outcome<(u64, Duration)> {
        let (mut rows, mut took) = (0, Duration::ZERO);
        for write in writes {
            let entries = entries(write);
            rows += entries.len() as u64;
            let begun = Instant::now();
            self.insert_inbox(&entries).await?;
            took += begun.elapsed();
        }
        Ok((rows, took))
    }
}

/// How many of these rows the next statement takes.
fn chunk(rows: usize, most: usize) -> usize {
    SIZES.into_iter().find(|size| *size <= rows.min(most)).unwrap_or(1)
}

/// A statement for this many rows; the first one of a transaction begins it, the last one commits it. `?1` is the id of the
/// statement's first message.
fn text(rows: Rows, size: usize, first: bool, last: bool) -> String {
    const MESSAGES: &str = "INSERT INTO messages (id, conversation_id, sequence_id, ordinal, created_at, send_from, send_to, \
        client_msg_id, kind, content_type, content, content_hash) VALUES ";
    const TIMELINES: &str = "; INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
        SELECT conversation_id, sequence_id, '', '', ordinal, id FROM messages WHERE id >= ?1";
    const ENTRIES: &str = "; INSERT INTO inbox (user_id, message) SELECT send_from, id FROM messages WHERE id >= ?1 \
        UNION ALL SELECT send_to, id FROM messages WHERE id >= ?1 ORDER BY 1, 2";
    let (insert, columns, after) = match rows {
        Rows::Messages => (MESSAGES, 12, [TIMELINES, ""]),
        Rows::MessagesAndInbox => (MESSAGES, 12, [TIMELINES, ENTRIES]),
        Rows::Inbox => ("INSERT INTO inbox (user_id, message) VALUES ", 2, ["", ""]),
    };
    let row = format!("({})", vec!["?"; columns].join(","));
    let begin = if first { "BEGIN IMMEDIATE; " } else { "" };
    let commit = if last { "; COMMIT" } else { "" };
    format!("{begin}{insert}{}{}{commit}", vec![row; size].join(","), after.concat())
}

/// The rows of a delivery, in the order of the table.
fn entries(write: &Write) -> Vec<(Arc<str>, i64)> {
    let mut entries: Vec<(Arc<str>, i64)> = Vec::new();
    for recipient in &write.recipients {
        let user: Arc<str> = recipient.user.clone().into();
        let message = |index: &u32| write.messages[*index as usize].cast_signed();
        entries.extend(recipient.records.iter().map(|index| (user.clone(), message(index))));
    }
    entries.sort_unstable();
    entries
}

#[cfg(test)]
mod tests {
    use im_engine::{ConversationId, UserId};

    use super::*;

    async fn raw(folder: &tempfile::TempDir, rows: Rows) -> File {
        File::open(&folder.path().join(format!("{rows:?}.db")), rows).await.unwrap()
    }

    async fn count(raw: &mut File, table: &'static str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(sql).fetch_one(&mut raw.conn).await.unwrap()
    }

    fn single() -> (ConversationId, [UserId; 2]) {
        let users = ["a", "b"].map(|name| UserId::new(name).unwrap());
        (ConversationId::single(&users[0], &users[1]).unwrap(), users)
    }

    #[tokio::test]
    async fn every_row_of_every_batch_is_inserted() {
        let folder = tempfile::tempdir().unwrap();
        for (rows, inbox) in [(Rows::Messages, 0), (Rows::MessagesAndInbox, 620)] {
            let mut raw = raw(&folder, rows).await;
            let batches = [1, 7, 300, 2].map(|size| (Partition(0), size));
            raw.messages(&batches, &[single()]).await.unwrap();
            assert_eq!((count(&mut raw, "messages").await, count(&mut raw, "timelines").await), (310, 310));
            assert_eq!(count(&mut raw, "inbox").await, inbox);
        }
    }

    #[tokio::test]
    async fn an_inbox_is_written_again_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut raw = raw(&folder, Rows::Inbox).await;
        let recipient = |user: &str, records: &[u32]| im_engine::Recipient {
            user: UserId::new(user).unwrap(),
            records: records.into(),
        };
        let write = Write {
            partition: Partition(0),
            messages: vec![10, 11, 12],
            recipients: vec![recipient("b", &[0, 2]), recipient("a", &[1])],
        };
        assert_eq!(raw.inbox(&[write]).await.unwrap().0, 3);
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT user_id, message FROM inbox").fetch_all(&mut raw.conn).await.unwrap();
        assert_eq!(rows, [("a".into(), 11), ("b".into(), 10), ("b".into(), 12)]);
    }
}
