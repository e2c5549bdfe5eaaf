//! The table `messages` with its timelines: how rows get in, and how they are found.

use std::sync::Arc;

use im_core::{ConversationId, Found, Position, Record, Result, SendKey, Timestamp};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    epochs::Epochs,
    error::failed,
    rows::{Columns, Statement, number, receipt_columns},
    values::{MOST_ROWS, Values},
    writer::Head,
};

/// A row to insert; the position in a log that is not this file, with its partition.
#[derive(Debug)]
pub(crate) struct NewRow {
    pub(crate) id: i64,
    pub(crate) record: Arc<Record>,
    pub(crate) foreign: Option<(i64, Position)>,
}

/// A conflict rolls the whole transaction back: so SQLite needs no undo journal for the statement, which would copy every
/// page that it touches.
macro_rules! insert_messages {
    () => {
        "INSERT OR ROLLBACK INTO messages (id, conversation_id, sequence_id, ordinal, created_at, send_from, device, send_to, \
         client_msg_id, hole_after, kind, content_type, content, content_hash, log_partition, log_epoch, log_offset) \
         SELECT * FROM"
    };
}

/// Puts the messages from `?1` on into their timelines.
macro_rules! insert_timelines {
    () => {
        "INSERT OR ROLLBACK INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
         SELECT conversation_id, sequence_id, '', '', ordinal, id FROM messages WHERE id >= ?1"
    };
}

/// Moves the read marks of those who sent the messages from `?1` on. SQLite takes the ordinal from the row with the maximum.
macro_rules! move_own_marks {
    () => {
        "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, mark) \
         SELECT conversation_id, 9223372036854775807, send_from, coalesce(device, ''), ordinal, max(sequence_id) \
         FROM messages WHERE id >= ?1 AND kind = 1 AND send_from <> '' GROUP BY conversation_id, send_from, device \
         ON CONFLICT DO UPDATE SET mark = excluded.mark, ordinal = excluded.ordinal WHERE excluded.mark > mark"
    };
}

const COLUMNS: usize = 17;

static INSERT: Values = Values::new(insert_messages!(), COLUMNS, "WHERE column1 IS NOT NULL");

/// All of it as one transaction in one text. `?1` is the first id: an argument of the first row.
static INSERT_ALL: Values = Values::new(
    concat!("BEGIN IMMEDIATE; ", insert_messages!()),
    COLUMNS,
    concat!("WHERE column1 IS NOT NULL; ", insert_timelines!(), "; ", move_own_marks!(), "; COMMIT"),
);

/// The transaction that inserts these rows, as one statement; none when they are too many for one.
pub(crate) fn insert_all(rows: &[NewRow]) -> Option<Statement<'static>> {
    (rows.len() <= MOST_ROWS).then(|| bind(&INSERT_ALL, rows))
}

/// Inserts rows, of which the first has the lowest id, within a transaction.
pub(crate) async fn insert(conn: &mut SqliteConnection, rows: &[NewRow]) -> sqlx::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    for chunk in rows.chunks(MOST_ROWS) {
        bind(&INSERT, chunk).execute(&mut *conn).await?;
    }
    sqlx::query(insert_timelines!()).bind(first.id).execute(&mut *conn).await?;
    sqlx::query(move_own_marks!()).bind(first.id).execute(&mut *conn).await?;
    Ok(())
}

fn bind(statement: &Values, rows: &[NewRow]) -> Statement<'static> {
    rows.iter().fold(sqlx::query(AssertSqlSafe(statement.sql(rows.len()))), bind_row)
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

static HEADS: Values = Values::new(
    "SELECT v.column1, m.id, t.sequence_id, t.ordinal, m.created_at FROM",
    2,
    "v CROSS JOIN timelines t ON t.conversation_id = v.column2 AND t.main_user = '' AND t.device = '' AND t.sequence_id = \
     (SELECT max(sequence_id) FROM timelines WHERE conversation_id = v.column2 AND sequence_id < 9223372036854775807) \
     CROSS JOIN messages m ON m.id = t.message",
);

/// The last record of each conversation.
pub(crate) async fn heads(
    conn: &mut SqliteConnection,
    conversations: &[ConversationId],
    operation: &'static str,
) -> Result<Vec<Option<Head>>> {
    let mut heads = vec![None; conversations.len()];
    for (chunk, heads) in conversations.chunks(MOST_ROWS).zip(heads.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(HEADS.sql(chunk.len())));
        for (index, id) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(id.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            let (id, mark, created_at) = (columns.int(1)?, columns.mark(2)?, Timestamp(columns.int(4)?));
            heads[columns.int(0)? as usize] = Some(Head { id, mark, created_at });
        }
    }
    Ok(heads)
}
