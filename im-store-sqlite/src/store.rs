//! The store: timelines for ever.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Batch, Checkpoint, ConversationId, Direction, Epoch, Found, History, HistoryQuery, Incarnation,
    LogRecord, Mark, MessageStore, Partition, Position, Record, Result, SendKey, Seq, StoreInfo, StorePart,
};
use sqlx::{AssertSqlSafe, sqlite::SqliteRow};

use crate::{
    apply,
    checkpoints::{self, Of},
    connect::Inner,
    error::{BACKEND, corrupt},
    messages::{self, last_messages, messages_at},
    rows::{Columns, limit, message_text, number},
    store_epochs,
    timelines::Page,
    values::{MOST_ROWS, Values},
};

/// The most records of one page.
const MOST_RECORDS: usize = 10_000;

/// The store part: [`MessageStore`], [`ConversationStore`](im_core::ConversationStore) and
/// [`UserState`](im_core::UserState).
#[derive(Debug, Clone)]
pub struct SqliteStore(pub(crate) Arc<Inner>);

impl From<SqliteStore> for StorePart {
    fn from(store: SqliteStore) -> Self {
        let store = Arc::new(store);
        Self { messages: store.clone(), conversations: store.clone(), states: store, outbox: None }
    }
}

static GET: Values = Values::new(concat!("SELECT v.column1, ", message_text!(), " FROM"), 4, messages_at!());

static LAST: Values =
    Values::new(concat!("SELECT v.column1, ", message_text!(), " FROM"), 3, last_messages!());

/// The head of a conversation, and the records of a range one after the other in one text: each row is a message to another thread.
macro_rules! page {
    ($order:literal) => {
        concat!(
            "SELECT (SELECT h.sequence_id FROM timelines h WHERE h.conversation_id = ?1 \
             AND h.sequence_id < 9223372036854775807 ORDER BY h.sequence_id DESC LIMIT 1), \
             (SELECT h.ordinal FROM timelines h WHERE h.conversation_id = ?1 \
             AND h.sequence_id < 9223372036854775807 ORDER BY h.sequence_id DESC LIMIT 1), \
             (SELECT group_concat(message, '') FROM (SELECT ",
            message_text!(),
            " AS message FROM timelines t CROSS JOIN messages m ON m.id = t.message \
             WHERE t.conversation_id = ?1 AND t.sequence_id BETWEEN ?2 AND ?3 ORDER BY t.sequence_id ",
            $order,
            " LIMIT ?4))"
        )
    };
}

impl SqliteStore {
    /// Puts the records of rows, each behind its index, in their places.
    fn place(rows: &[SqliteRow], records: &mut [Option<Arc<Record>>], operation: &'static str) -> Result<()> {
        for row in rows {
            let index = Columns::new(row, 0, operation).int(0)?;
            records[index as usize] = Some(Columns::new(row, 0, operation).record(1)?);
        }
        Ok(())
    }

    /// The records of a page, in its direction, and the head that there was then.
    async fn page(&self, query: &HistoryQuery, wanted: usize) -> Result<(Vec<Arc<Record>>, Mark)> {
        let last = query.to.unwrap_or(Seq(u64::MAX));
        // Memory first: what is moved meanwhile is seen here or there.
        let newest = self.0.timelines.page(&query.conversation, query.from..=last, query.direction, wanted);
        let Some(Page { first, head, places }) = newest else { return self.old(query, last, wanted).await };
        let last = last.min(Seq(first.0.saturating_sub(1)));
        let is_backward = query.direction == Direction::Backward;
        let more = if is_backward { wanted - places.len() } else { wanted };
        let old = if query.from > last || more == 0 { vec![] } else { self.old(query, last, more).await?.0 };
        let places: Vec<_> = places.iter().map(|place| place.message).collect();
        let places = if is_backward { &places[..] } else { &places[..places.len().min(wanted - old.len())] };
        let new = messages::records(&self.0, places, "store.history").await?;
        Ok((if is_backward { [new, old] } else { [old, new] }.concat(), head))
    }

    /// The records of a page in the file, in its direction, and the head that the file had then.
    async fn old(&self, query: &HistoryQuery, to: Seq, wanted: usize) -> Result<(Vec<Arc<Record>>, Mark)> {
        let operation = "store.history";
        let sql = match query.direction {
            Direction::Forward => page!("ASC"),
            Direction::Backward => page!("DESC"),
        };
        let page = sqlx::query(sql)
            .bind(query.conversation.as_str())
            .bind(number(query.from.0))
            .bind(number(to.0))
            .bind(limit(wanted));
        let row = self.0.readers.one(page, operation).await?;
        let columns = Columns::new(&row, 0, operation);
        let records = columns.records(2)?;
        // SQLite keeps the order of what it puts together, and does not promise it.
        let is_in_order = match query.direction {
            Direction::Forward => records.is_sorted_by(|a, b| a.seq < b.seq),
            Direction::Backward => records.is_sorted_by(|a, b| a.seq > b.seq),
        };
        if !is_in_order {
            return Err(corrupt(operation, "a page that is not in order"));
        }
        Ok((records, columns.optional_mark(0)?.unwrap_or_default()))
    }
}

#[async_trait]
impl MessageStore for SqliteStore {
    async fn info(&self) -> Result<StoreInfo> {
        let mut conn = self.0.readers.lend("store.info").await?;
        let first_epoch = store_epochs::first(&mut conn).await;
        Ok(StoreInfo {
            backend: BACKEND,
            durability: self.0.durability,
            incarnation: self.0.incarnation.clone(),
            loss_window: Duration::ZERO,
            first_epoch: conn.back(first_epoch)?,
        })
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        self.0.thread.run("store.open_epoch", store_epochs::open(self.0.clone(), log.clone())).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        let operation = "store.checkpoint";
        let mut conn = self.0.readers.lend(operation).await?;
        let checkpoint = checkpoints::load(&mut conn, Of::Store, partition, operation).await;
        conn.back(checkpoint)
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.0.thread.run("store.apply", apply::apply(self.0.clone(), batch.clone())).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        let max = query.max.clamp(1, MOST_RECORDS);
        let (mut records, head) = self.page(query, max + 1).await?;
        if query.to.is_some_and(|to| to > head.seq) {
            return Ok(History::Behind { head });
        }
        let more = records.len() > max;
        records.truncate(max);
        if query.direction == Direction::Backward {
            records.reverse();
        }
        Ok(History::Page { records, more, head })
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        let operation = "store.get";
        let mut records = vec![None; places.len()];
        for (chunk, records) in places.chunks(MOST_ROWS).zip(records.chunks_mut(MOST_ROWS)) {
            let mut query = sqlx::query(AssertSqlSafe(GET.sql(chunk.len())));
            for (index, (conversation, seq)) in chunk.iter().enumerate() {
                query = messages::bind_place(query, index, conversation, *seq, &self.0.timelines);
            }
            let rows = self.0.readers.all(query, operation).await?;
            Self::place(&rows, records, operation)?;
        }
        Ok(records)
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let operation = "store.find";
        let mut conn = self.0.readers.lend(operation).await?;
        let found = messages::find(&mut conn, keys, &self.0.epochs(), operation).await;
        conn.back(found)
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        let operation = "store.last";
        let mut records = vec![None; conversations.len()];
        for (chunk, records) in conversations.chunks(MOST_ROWS).zip(records.chunks_mut(MOST_ROWS)) {
            let mut query = sqlx::query(AssertSqlSafe(LAST.sql(chunk.len())));
            for (index, id) in chunk.iter().enumerate() {
                query = messages::bind_last(query, index, id, &self.0.timelines);
            }
            let rows = self.0.readers.all(query, operation).await?;
            Self::place(&rows, records, operation)?;
        }
        Ok(records)
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        let operation = "store.above";
        let (epochs, max) = (self.0.epochs(), max.min(MOST_RECORDS));
        let query = sqlx::query(concat!(
            "SELECT ",
            message_text!(),
            " FROM messages m WHERE m.log_partition = ? AND (m.log_epoch, m.log_offset) > (?, ?) \
             ORDER BY m.log_epoch, m.log_offset LIMIT ?"
        ))
        .bind(partition.0)
        .bind(after.epoch.0)
        .bind(number(after.offset))
        .bind(limit(max));
        let mut rows = self.0.readers.all(query, operation).await?;
        if partition == Partition(0) && !epochs.is_empty() {
            let query = sqlx::query(concat!(
                "SELECT ",
                message_text!(),
                " FROM messages m WHERE m.id > ? AND m.log_partition IS NULL ORDER BY m.id LIMIT ?"
            ))
            .bind(epochs.id_at(after))
            .bind(limit(max));
            rows.extend(self.0.readers.all(query, operation).await?);
        }
        let records = rows.iter().map(|row| Columns::new(row, 0, operation).log_record(0, &epochs));
        let mut records = records.collect::<Result<Vec<_>>>()?;
        records.sort_by_key(|record| record.position);
        records.truncate(max);
        Ok(records)
    }
}
