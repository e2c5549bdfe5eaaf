//! The table `messages`: how rows get in, and how they are found.

use std::sync::Arc;

use im_core::{Found, Position, Record, Result, SendKey};
use sqlx::{Postgres, postgres::PgArguments, query::Query};

use crate::{
    connect::Inner,
    error::failed,
    pool::Conn,
    rows::{Columns, number, receipt_columns},
};

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// A row to insert.
#[derive(Debug)]
pub(crate) struct NewRow {
    pub(crate) record: Arc<Record>,
    pub(crate) position: Position,
    pub(crate) partition: u16,
    /// Of this schema's own log.
    pub(crate) own: bool,
}

/// The rows to insert, of `$1` to `$18`, by the names of their columns.
macro_rules! new_rows {
    () => {
        "unnest($1::smallint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], \
         $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::int[], $12::text[], $13::text[], $14::bigint[], \
         $15::bool[], $16::int[], $17::bigint[], $18::bigint[]) \
         AS new (part, conversation_id, sequence_id, ordinal, created_at, send_from, device, send_to, client_msg_id, hole_after, \
         kind, content_type, content, content_hash, own, log_partition, log_epoch, log_offset)"
    };
}
pub(crate) use new_rows;

/// Inserts the rows `new`, moves the ends of their conversations, and the read marks of those who sent messages. Conversations before
/// marks, by the look at how many moved: who locks in another order could wait for this in a circle.
macro_rules! inserts {
    () => {
        "inserted AS (INSERT INTO {im}.messages (part, conversation_id, sequence_id, ordinal, created_at, send_from, device, \
         send_to, client_msg_id, hole_after, kind, content_type, content, content_hash, own, log_partition, log_epoch, log_offset) \
         SELECT part, conversation_id, sequence_id, ordinal, created_at, send_from, device, \
         send_to, client_msg_id, hole_after, kind, content_type, content, content_hash, own, log_partition, log_epoch, log_offset \
         FROM new), \
         ends AS (INSERT INTO {im}.conversations AS known (id, updated_at, last_message_id, last_ordinal, last_epoch) \
         SELECT DISTINCT ON (conversation_id COLLATE \"C\") conversation_id, created_at, sequence_id, ordinal, \
         CASE WHEN own THEN log_epoch ELSE 0 END FROM new ORDER BY conversation_id COLLATE \"C\", sequence_id DESC \
         ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, last_message_id = excluded.last_message_id, \
         last_ordinal = excluded.last_ordinal, last_epoch = excluded.last_epoch \
         WHERE excluded.last_message_id > known.last_message_id RETURNING 1), \
         marks AS (INSERT INTO {im}.read_marks AS known (conversation_id, main_user, device, sequence_id, ordinal) \
         SELECT DISTINCT ON (conversation_id COLLATE \"C\", send_from COLLATE \"C\", coalesce(device, '') COLLATE \"C\") \
         conversation_id, send_from, coalesce(device, ''), sequence_id, ordinal FROM new WHERE kind = 1 AND send_from <> '' \
         AND (SELECT count(*) FROM ends) >= 0 \
         ORDER BY conversation_id COLLATE \"C\", send_from COLLATE \"C\", coalesce(device, '') COLLATE \"C\", sequence_id DESC \
         ON CONFLICT (conversation_id, main_user, device) DO UPDATE SET sequence_id = excluded.sequence_id, \
         ordinal = excluded.ordinal WHERE excluded.sequence_id > known.sequence_id)"
    };
}
pub(crate) use inserts;

/// Binds the rows: `$1` to `$18`.
pub(crate) fn bind<'q>(inner: &Inner, query: PgQuery<'q>, rows: &'q [NewRow]) -> PgQuery<'q> {
    let each = || rows.iter().map(|row| &*row.record);
    query
        .bind(each().map(|record| inner.part(&record.conversation)).collect::<Vec<_>>())
        .bind(each().map(|record| record.conversation.as_str()).collect::<Vec<_>>())
        .bind(each().map(|record| number(record.seq.0)).collect::<Vec<_>>())
        .bind(each().map(|record| number(record.ordinal.0)).collect::<Vec<_>>())
        .bind(each().map(|record| record.created_at.0).collect::<Vec<_>>())
        .bind(each().map(|record| record.sender.as_str()).collect::<Vec<_>>())
        .bind(each().map(|record| record.device.as_ref().map(|id| id.as_str())).collect::<Vec<_>>())
        .bind(each().map(|record| record.send_to.as_ref().map(|id| id.as_str())).collect::<Vec<_>>())
        .bind(each().map(|record| record.client_msg_id.as_str()).collect::<Vec<_>>())
        .bind(each().map(|record| record.hole_after.map(|seq| number(seq.0))).collect::<Vec<_>>())
        .bind(each().map(|record| i32::from(u16::from(record.kind))).collect::<Vec<_>>())
        .bind(each().map(|record| record.content_type.as_str()).collect::<Vec<_>>())
        .bind(each().map(|record| &*record.content).collect::<Vec<_>>())
        .bind(each().map(|record| record.hash.0.cast_signed()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.own).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i32::from(row.partition)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.position.epoch.0)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| number(row.position.offset)).collect::<Vec<_>>())
}

/// Inserts rows within a transaction: one statement for all that belongs to them.
pub(crate) async fn insert(inner: &Inner, conn: &mut Conn, rows: &[NewRow]) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = inner.sql(concat!(
        "WITH new AS MATERIALIZED (SELECT * FROM ",
        new_rows!(),
        "), ",
        inserts!(),
        " SELECT"
    ));
    bind(inner, sqlx::query(sql), rows).execute(conn).await.map(drop)
}

/// What became of sends, at any age.
pub(crate) async fn find(
    inner: &Inner,
    conn: &mut Conn,
    keys: &[SendKey],
    operation: &'static str,
) -> Result<Vec<Option<Found>>> {
    // A sub-select with a limit: each key is looked up by the index, whatever the planner thinks of the table.
    let sql = inner.sql(concat!(
        "SELECT m.*, k.at FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY \
         AS k (part, client_msg_id, conversation_id, send_from, at) CROSS JOIN LATERAL (SELECT ",
        receipt_columns!(),
        " FROM {im}.messages m WHERE m.part = k.part AND m.client_msg_id = k.client_msg_id \
         AND m.conversation_id = k.conversation_id AND m.send_from = k.send_from LIMIT 1) m"
    ));
    let rows = sqlx::query(sql)
        .bind(keys.iter().map(|key| inner.part(&key.conversation)).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.client_msg_id.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.conversation.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.sender.as_str()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(operation))?;
    let mut found = vec![None; keys.len()];
    for row in &rows {
        let columns = Columns::new(row, 0, operation);
        found[index(columns, 6)?] = Some(columns.found()?);
    }
    Ok(found)
}

/// The place in a batch that a column of `WITH ORDINALITY` names.
pub(crate) fn index(columns: Columns<'_>, column: usize) -> Result<usize> {
    Ok(columns.int(column)?.unsigned_abs() as usize - 1)
}
