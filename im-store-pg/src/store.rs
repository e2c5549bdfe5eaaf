//! The store: timelines for ever.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Batch, Checkpoint, ConversationId, Direction, Epoch, Found, History, HistoryQuery, Incarnation,
    LogRecord, Mark, MessageStore, Partition, Position, Record, Result, SendKey, Seq, StoreInfo, StorePart,
};
use sqlx::postgres::PgRow;

use crate::{
    PgOutbox, apply,
    checkpoints::{self, Of},
    connect::{Inner, detached, incarnation},
    error::{BACKEND, failed},
    log::{epoch, loss_window},
    messages::{self, index},
    rows::{Columns, limit, number, record_columns},
    store_epochs,
};

/// The most records of one page.
const MOST_RECORDS: usize = 10_000;

/// How many columns a record has.
const RECORD: usize = 15;
/// How many columns a head has.
const HEAD: usize = 2;

/// The store part: [`MessageStore`], [`ConversationStore`](im_core::ConversationStore) and
/// [`UserState`](im_core::UserState).
#[derive(Debug, Clone)]
pub struct PgStore(pub(crate) Arc<Inner>);

impl From<PgStore> for StorePart {
    fn from(store: PgStore) -> Self {
        let outbox = Arc::new(PgOutbox(store.0.clone()));
        let store = Arc::new(store);
        Self { messages: store.clone(), conversations: store.clone(), states: store, outbox: Some(outbox) }
    }
}

/// Puts the records of rows, each before its index, in their places.
fn place(rows: &[PgRow], count: usize, operation: &'static str) -> Result<Vec<Option<Arc<Record>>>> {
    let mut records = vec![None; count];
    for row in rows {
        let columns = Columns::new(row, 0, operation);
        records[index(columns, RECORD)?] = Some(Arc::new(columns.record()?));
    }
    Ok(records)
}

/// A page, each row behind the head. From what lies above the head nothing is read: that range is not to be answered.
macro_rules! page {
    ($order:literal) => {
        concat!(
            "SELECT h.seq, h.ordinal, m.* FROM (SELECT coalesce(max(last_message_id), 0) AS seq, \
             coalesce(max(last_ordinal), 0) AS ordinal FROM {im}.conversations WHERE id = $2) h LEFT JOIN LATERAL (SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE m.part = $1 AND m.conversation_id = $2 AND m.sequence_id BETWEEN $3 \
             AND coalesce($4, h.seq) AND coalesce($4, 0) <= h.seq ORDER BY m.sequence_id ",
            $order,
            " LIMIT $5) m ON true"
        )
    };
}

impl PgStore {
    /// The head, and the first records of the range from its near end on, in whatever order, as they are at one moment.
    async fn page(&self, query: &HistoryQuery, max: usize) -> Result<(Mark, Vec<Arc<Record>>)> {
        let operation = "store.history";
        let sql = match query.direction {
            Direction::Forward => self.0.sql(page!("ASC")),
            Direction::Backward => self.0.sql(page!("DESC")),
        };
        let asked = sqlx::query(sql)
            .bind(self.0.part(&query.conversation))
            .bind(query.conversation.as_str())
            .bind(number(query.from.0))
            .bind(query.to.map(|to| number(to.0)))
            .bind(limit(max));
        let rows = self.0.pool.read(asked).await.map_err(failed(operation))?;
        let (mut head, mut records) = (Mark::default(), Vec::with_capacity(rows.len()));
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            head = columns.mark(0)?;
            let columns = columns.skip(HEAD);
            if columns.optional_int(0)?.is_some() {
                records.push(Arc::new(columns.record()?));
            }
        }
        Ok((head, records))
    }
}

#[async_trait]
impl MessageStore for PgStore {
    async fn info(&self) -> Result<StoreInfo> {
        let operation = "store.info";
        let sql =
            self.0.sql(concat!("SELECT ", incarnation!(), ", (SELECT min(epoch) FROM {im}.store_epochs)"));
        let row = sqlx::query(sql).fetch_one(&self.0.pool).await.map_err(failed(operation))?;
        let columns = Columns::new(&row, 0, operation);
        let incarnation = Incarnation::new(columns.text(0)?);
        Ok(StoreInfo {
            backend: BACKEND,
            durability: self.0.durability,
            loss_window: loss_window(&incarnation),
            incarnation,
            first_epoch: columns.optional_int(1)?.map(|number| epoch(number, operation)).transpose()?,
        })
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        detached("store.open_epoch", store_epochs::open(self.0.clone(), log.clone())).await
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        checkpoints::load(&self.0, Of::Store, partition, "store.checkpoint").await
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        detached("store.apply", apply::apply(self.0.clone(), batch.clone())).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        let max = query.max.clamp(1, MOST_RECORDS);
        let (head, mut records) = self.page(query, max + 1).await?;
        if query.to.is_some_and(|to| to > head.seq) {
            return Ok(History::Behind { head });
        }
        records.sort_unstable_by_key(|record| record.seq);
        let more = records.len() > max;
        match query.direction {
            Direction::Forward => records.truncate(max),
            Direction::Backward => drop(records.drain(..records.len().saturating_sub(max))),
        }
        Ok(History::Page { records, more, head })
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        let operation = "store.get";
        let sql = self.0.sql(concat!(
            "SELECT m.*, k.at FROM unnest($1::smallint[], $2::text[], $3::bigint[]) WITH ORDINALITY \
             AS k (part, conversation_id, sequence_id, at) CROSS JOIN LATERAL (SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE m.part = k.part AND m.conversation_id = k.conversation_id \
             AND m.sequence_id = k.sequence_id LIMIT 1) m"
        ));
        let query = sqlx::query(sql)
            .bind(places.iter().map(|(id, _)| self.0.part(id)).collect::<Vec<_>>())
            .bind(places.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
            .bind(places.iter().map(|(_, seq)| number(seq.0)).collect::<Vec<_>>());
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
        place(&rows, places.len(), operation)
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let operation = "store.find";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        messages::find(&self.0, &mut conn, keys, operation).await
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        let operation = "store.last";
        let sql = self.0.sql(concat!(
            "SELECT m.*, k.at FROM unnest($1::smallint[], $2::text[]) WITH ORDINALITY AS k (part, conversation_id, at) \
             CROSS JOIN LATERAL (SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE m.part = k.part AND m.conversation_id = k.conversation_id \
             ORDER BY m.sequence_id DESC LIMIT 1) m"
        ));
        let query = sqlx::query(sql)
            .bind(conversations.iter().map(|id| self.0.part(id)).collect::<Vec<_>>())
            .bind(conversations.iter().map(ConversationId::as_str).collect::<Vec<_>>());
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
        place(&rows, conversations.len(), operation)
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        let operation = "store.above";
        let max = max.min(MOST_RECORDS);
        let own = self.0.sql(concat!(
            "SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE m.part = $1::int AND m.own AND (m.log_epoch, m.log_offset) > ($2, $3) \
             ORDER BY m.log_epoch, m.log_offset LIMIT $4"
        ));
        let other = self.0.sql(concat!(
            "SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE NOT m.own AND m.log_partition = $1::int \
             AND (m.log_epoch, m.log_offset) > ($2, $3) ORDER BY m.log_epoch, m.log_offset LIMIT $4"
        ));
        let mut records = Vec::new();
        for sql in [own, other] {
            let rows = sqlx::query(sql)
                .bind(i32::from(partition.0))
                .bind(i64::from(after.epoch.0))
                .bind(number(after.offset))
                .bind(limit(max))
                .fetch_all(&self.0.pool)
                .await
                .map_err(failed(operation))?;
            for row in &rows {
                records.push(Columns::new(row, 0, operation).log_record()?);
            }
        }
        records.sort_by_key(|record: &LogRecord| record.position);
        records.truncate(max);
        Ok(records)
    }
}
