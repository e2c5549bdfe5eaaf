//! The table `messages`: how rows get in, and how they are found.

use std::{collections::HashMap, sync::Arc};

use im_core::{ConversationId, Found, Position, Record, Result, SendKey, Seq, Timestamp};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    connect::Inner,
    epochs::Epochs,
    error::{corrupt, failed},
    fresh::Fresh,
    rows::{Columns, Statement, message_text, number, receipt_columns},
    tail,
    timelines::{self, Timelines},
    values::{MOST_ROWS, Steps, Values},
    writer::Head,
};

/// A row to insert; the position in a log that is not this file, with its partition.
#[derive(Debug)]
pub(crate) struct NewRow {
    pub(crate) id: i64,
    pub(crate) record: Arc<Record>,
    pub(crate) foreign: Option<(i64, Position)>,
}

const COLUMNS: usize = 17;

/// A conflict rolls the whole transaction back: so SQLite needs no undo journal for the statement, which would copy every page that
/// it touches.
static INSERT: Steps = Steps::new(
    "INSERT OR ROLLBACK INTO messages (id, conversation_id, sequence_id, ordinal, created_at, send_from, device, send_to, \
     client_msg_id, hole_after, kind, content_type, content, content_hash, log_partition, log_epoch, log_offset) \
     SELECT * FROM",
    COLUMNS,
    "WHERE column1 IS NOT NULL",
);

/// Their places in the timelines, and the read marks of those who sent them. `?1` is the lowest id. The ordinal of a mark is that
/// of the row with the maximum.
const PLACE: [&str; 2] = [
    "INSERT OR ROLLBACK INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
     SELECT conversation_id, sequence_id, '', '', ordinal, id FROM messages WHERE id >= ?1",
    "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, mark) \
     SELECT conversation_id, 9223372036854775807, send_from, coalesce(device, ''), ordinal, max(sequence_id) \
     FROM messages WHERE id >= ?1 AND kind = 1 AND send_from <> '' GROUP BY conversation_id, send_from, device \
     ON CONFLICT DO UPDATE SET mark = excluded.mark, ordinal = excluded.ordinal WHERE excluded.mark > mark",
];

/// The transaction that inserts these rows, of which each has a higher id than those before. Each statement is bound when it is
/// asked for.
pub(crate) fn transaction(rows: &[NewRow]) -> impl Iterator<Item = Statement<'static>> {
    INSERT.transaction(rows, MOST_ROWS).map(|(sql, rows)| bind(sql, rows))
}

/// Inserts such rows within a transaction, with what they add to the timelines: nothing older may be waiting to be added.
pub(crate) async fn insert(conn: &mut SqliteConnection, rows: &[NewRow]) -> sqlx::Result<()> {
    for chunk in rows.chunks(MOST_ROWS) {
        bind(INSERT.sql(chunk.len()), chunk).execute(&mut *conn).await?;
    }
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    for sql in PLACE {
        sqlx::query(sql).bind(first.id).execute(&mut *conn).await?;
    }
    timelines::note(conn, last.id).await
}

fn bind(sql: Arc<str>, rows: &[NewRow]) -> Statement<'static> {
    rows.iter().fold(sqlx::query(AssertSqlSafe(sql)), bind_row)
}

fn bind_row(query: Statement<'static>, row: &NewRow) -> Statement<'static> {
    let NewRow { id, record, foreign } = row;
    query
        .bind(*id)
        .bind(Arc::<str>::from(record.conversation.clone()))
        .bind(number(record.seq.0))
        .bind(number(record.ordinal.0))
        .bind(record.created_at.0)
        .bind(Arc::<str>::from(record.sender.clone()))
        .bind(record.device.clone().map(Arc::<str>::from))
        .bind(record.send_to.clone().map(Arc::<str>::from))
        .bind(Arc::<str>::from(record.client_msg_id.clone()))
        .bind(record.hole_after.map(|seq| number(seq.0)))
        .bind(i64::from(u16::from(record.kind)))
        .bind(record.content_type.as_str())
        .bind(record.content.clone())
        .bind(record.hash.0.cast_signed())
        .bind(foreign.map(|(partition, _)| partition))
        .bind(foreign.map(|(_, position)| i64::from(position.epoch.0)))
        .bind(foreign.map(|(_, position)| number(position.offset)))
}

static FIND: Values = Values::new(
    concat!("SELECT v.column1, ", receipt_columns!(), " FROM"),
    4,
    "v CROSS JOIN messages m ON m.client_msg_id = v.column2 AND m.conversation_id = v.column3 AND m.send_from = v.column4",
);

/// What became of sends, at any age.
pub(crate) async fn find(
    conn: &mut SqliteConnection,
    keys: &[SendKey],
    epochs: &Epochs,
    operation: &'static str,
) -> Result<Vec<Option<Found>>> {
    let mut found = vec![None; keys.len()];
    for (chunk, found) in keys.chunks(MOST_ROWS).zip(found.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(FIND.sql(chunk.len())));
        for (index, key) in chunk.iter().enumerate() {
            query = query
                .bind(index as i64)
                .bind(Arc::<str>::from(key.client_msg_id.clone()))
                .bind(Arc::<str>::from(key.conversation.clone()))
                .bind(Arc::<str>::from(key.sender.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let index = Columns::new(&row, 0, operation).int(0)?;
            found[index as usize] = Some(Columns::new(&row, 1, operation).found(epochs)?);
        }
    }
    Ok(found)
}

/// The messages at places: index, conversation, sequence id, and the message where memory has the place.
macro_rules! messages_at {
    () => {
        "v CROSS JOIN messages m ON m.id = coalesce(v.column4, (SELECT t.message FROM timelines t \
         WHERE t.conversation_id = v.column2 AND t.sequence_id = v.column3 AND t.main_user = '' AND t.device = ''))"
    };
}
pub(crate) use messages_at;

/// Binds a row of [`messages_at`].
pub(crate) fn bind_place<'q>(
    query: Statement<'q>,
    index: usize,
    conversation: &ConversationId,
    seq: Seq,
    fresh: &Fresh<Timelines>,
) -> Statement<'q> {
    query
        .bind(index as i64)
        .bind(Arc::<str>::from(conversation.clone()))
        .bind(number(seq.0))
        .bind(fresh.at(conversation, seq).map(|place| place.message))
}

/// The last messages of conversations: index, conversation, and the message where memory has it.
macro_rules! last_messages {
    () => {
        "v CROSS JOIN messages m ON m.id = coalesce(v.column3, (SELECT t.message FROM timelines t \
         WHERE t.conversation_id = v.column2 AND t.sequence_id < 9223372036854775807 \
         ORDER BY t.sequence_id DESC LIMIT 1))"
    };
}
pub(crate) use last_messages;

/// Binds a row of [`last_messages`].
pub(crate) fn bind_last<'q>(
    query: Statement<'q>,
    index: usize,
    conversation: &ConversationId,
    fresh: &Fresh<Timelines>,
) -> Statement<'q> {
    query
        .bind(index as i64)
        .bind(Arc::<str>::from(conversation.clone()))
        .bind(fresh.head(conversation).map(|place| place.message))
}

static HEADS: Values =
    Values::new("SELECT v.column1, m.id, m.sequence_id, m.ordinal, m.created_at FROM", 3, last_messages!());

/// The last record of each conversation.
pub(crate) async fn heads(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    conversations: &[ConversationId],
    operation: &'static str,
) -> Result<Vec<Option<Head>>> {
    let mut heads = vec![None; conversations.len()];
    for (chunk, heads) in conversations.chunks(MOST_ROWS).zip(heads.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(HEADS.sql(chunk.len())));
        for (index, id) in chunk.iter().enumerate() {
            query = bind_last(query, index, id, fresh);
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            let (id, mark, created_at) = (columns.int(1)?, columns.mark(2)?, Timestamp(columns.int(4)?));
            heads[columns.int(0)? as usize] = Some(Head { id, mark, created_at });
        }
    }
    Ok(heads)
}

static RECORDS: Values = Values::new(
    concat!("SELECT ", message_text!(), " FROM"),
    1,
    "v CROSS JOIN messages m ON m.id = v.column1",
);

/// The records of messages that are there: from memory the newest, from the file the others.
pub(crate) async fn records(inner: &Inner, ids: &[i64], operation: &'static str) -> Result<Vec<Arc<Record>>> {
    let known: Vec<Option<Arc<Record>>> = {
        let tail = tail::lock(&inner.tail);
        ids.iter().map(|id| Some(tail.get(*id)?.record.clone())).collect()
    };
    let missing = ids.iter().zip(&known).filter(|(_, record)| record.is_none());
    let missing: Vec<_> = missing.map(|(id, _)| *id).collect();
    let mut found = HashMap::with_capacity(missing.len());
    for chunk in missing.chunks(MOST_ROWS) {
        let query = sqlx::query(AssertSqlSafe(RECORDS.sql(chunk.len())));
        let query = chunk.iter().fold(query, |query, id| query.bind(*id));
        for row in inner.readers.all(query, operation).await? {
            let message = Columns::new(&row, 0, operation).message(0)?;
            let record = message.record().map_err(|error| corrupt(operation, error))?;
            found.insert(message.id(), record);
        }
    }
    let record = |(id, known): (&i64, Option<Arc<Record>>)| {
        known
            .or_else(|| found.remove(id))
            .ok_or_else(|| corrupt(operation, format!("message {id} is missing")))
    };
    ids.iter().zip(known).map(record).collect()
}
