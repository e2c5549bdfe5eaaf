//! What another log's records become here: the store below a log that is not this schema's.
//!
//! Records of the schema's own log are there already; then only the checkpoint moves.

use std::{collections::HashMap, sync::Arc};

use im_core::{
    Batch, ClientMsgId, ContentHash, ConversationId, Error, ErrorKind, LogRecord, Outcome, Result, SendKey,
    Seq, UserId, arrivals,
};

use crate::{
    append::is_taken,
    checkpoints::{self, Of},
    connect::{Inner, incarnation},
    error::{BACKEND, failed, other_incarnation},
    messages::{self, NewRow},
    pool::Conn,
    rows::{Columns, number},
    store_epochs,
};

const OPERATION: &str = "store.apply";

/// Takes a batch and moves the checkpoint.
pub(crate) async fn apply(inner: Arc<Inner>, batch: Batch) -> Result<()> {
    // The lock keeps out who applies the same partition. A record that comes from another one, as after a change of how many there
    // are, is found at the second look.
    if try_apply(&inner, &batch).await? || try_apply(&inner, &batch).await? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, "somebody else applies the same records")
        .with_outcome(Outcome::NotDone))
}

/// One transaction; false, and nothing is done, where a record came in between.
async fn try_apply(inner: &Inner, batch: &Batch) -> Result<bool> {
    let mut transaction = inner.pool.begin().await.map_err(failed(OPERATION))?;
    lock(inner, &mut transaction, batch).await?;
    store_epochs::fence(inner, &mut transaction, &batch.checkpoint.lineage.log, OPERATION).await?;
    let new = new_records(inner, &mut transaction, &batch.records).await?;
    let row = |LogRecord { position, record }| NewRow {
        record,
        position,
        partition: batch.partition.0,
        own: false,
    };
    let rows: Vec<_> = new.into_iter().map(row).collect();
    let inserted = messages::insert(inner, &mut transaction, &rows).await;
    if inserted.as_ref().is_err_and(is_taken) {
        transaction.rollback().await.map_err(failed(OPERATION))?;
        return Ok(false);
    }
    inserted.map_err(failed(OPERATION))?;
    checkpoints::store(inner, &mut transaction, Of::Store, batch.partition, &batch.checkpoint)
        .await
        .map_err(failed(OPERATION))?;
    transaction.commit().await.map(|()| true).map_err(failed(OPERATION))
}

/// One apply of a partition at a time; refuses one that was made under another incarnation than this.
async fn lock(inner: &Inner, conn: &mut Conn, batch: &Batch) -> Result<()> {
    let sql = inner.sql(concat!(
        "SELECT ",
        incarnation!(),
        " FROM pg_advisory_xact_lock(hashtextextended($2 || '/apply/' || $1::text, 0))"
    ));
    let present: String = sqlx::query_scalar(sql)
        .bind(i32::from(batch.partition.0))
        .bind(&inner.name)
        .fetch_one(conn)
        .await
        .map_err(failed(OPERATION))?;
    let given = &batch.checkpoint.lineage.store;
    if given.as_str() == present { Ok(()) } else { Err(other_incarnation(OPERATION, given, &present)) }
}

/// The records that are not there yet; an error where a place or a key belongs to another record.
async fn new_records(inner: &Inner, conn: &mut Conn, records: &[LogRecord]) -> Result<Vec<LogRecord>> {
    let places = stored_places(inner, conn, records).await?;
    let keys = stored_keys(inner, conn, records).await?;
    arrivals::new_records(BACKEND, records, places, keys)
}

/// What stands at the places of these records.
async fn stored_places(
    inner: &Inner,
    conn: &mut Conn,
    records: &[LogRecord],
) -> Result<HashMap<(ConversationId, Seq), (SendKey, ContentHash)>> {
    let sql = inner.sql(
        "SELECT m.* FROM unnest($1::smallint[], $2::text[], $3::bigint[]) AS k (part, conversation_id, sequence_id) \
         CROSS JOIN LATERAL (SELECT m.conversation_id, m.sequence_id, m.send_from, m.client_msg_id, m.content_hash \
         FROM {im}.messages m WHERE m.part = k.part AND m.conversation_id = k.conversation_id \
         AND m.sequence_id = k.sequence_id LIMIT 1) m",
    );
    let each = || records.iter().map(|record| &*record.record);
    let rows = sqlx::query(sql)
        .bind(each().map(|record| inner.part(&record.conversation)).collect::<Vec<_>>())
        .bind(each().map(|record| record.conversation.as_str()).collect::<Vec<_>>())
        .bind(each().map(|record| number(record.seq.0)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    let place = |columns: Columns<'_>| -> Result<_> {
        let (conversation, seq) =
            (columns.parse(0, ConversationId::new)?, Seq(columns.int(1)?.unsigned_abs()));
        let key = SendKey {
            conversation: conversation.clone(),
            sender: columns.parse(2, UserId::sender)?,
            client_msg_id: columns.parse(3, ClientMsgId::new)?,
        };
        let hash = ContentHash(columns.int(4)?.cast_unsigned());
        Ok(((conversation, seq), (key, hash)))
    };
    rows.iter().map(|row| place(Columns::new(row, 0, OPERATION))).collect()
}

/// Where the send keys of these records stand.
async fn stored_keys(inner: &Inner, conn: &mut Conn, records: &[LogRecord]) -> Result<HashMap<SendKey, Seq>> {
    let keys: Vec<_> = records.iter().map(|candidate| candidate.record.key()).collect();
    let found = messages::find(inner, conn, &keys, OPERATION).await?;
    Ok(keys.into_iter().zip(found).filter_map(|(key, found)| Some((key, found?.receipt.mark.seq))).collect())
}
