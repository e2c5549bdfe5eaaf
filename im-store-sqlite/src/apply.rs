//! What another log's records become here: the store below a log that is not this file.
//!
//! Records of the file's own log are there already; then only the checkpoint moves.

use std::{collections::HashMap, sync::Arc};

use im_core::{
    Batch, ClientMsgId, ContentHash, ConversationId, LogRecord, Result, SendKey, Seq, UserId, arrivals,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    checkpoints::{self, Of},
    connect::Inner,
    epochs::Epochs,
    error::{BACKEND, failed, other_incarnation},
    fresh::Fresh,
    messages::{self, NewRow, messages_at},
    rows::Columns,
    store_epochs,
    timelines::Timelines,
    values::{MOST_ROWS, Values},
    writer::Writer,
};

const OPERATION: &str = "store.apply";

/// Takes a batch and moves the checkpoint.
pub(crate) async fn apply(inner: Arc<Inner>, batch: Batch) -> Result<()> {
    let lineage = &batch.checkpoint.lineage;
    if lineage.store != inner.incarnation {
        return Err(other_incarnation(OPERATION, &lineage.store, &inner.incarnation));
    }
    let (mut writer, new) = loop {
        let mut writer = inner.writer(OPERATION).await?;
        store_epochs::fence(writer.conn(), &lineage.log, OPERATION).await?;
        let new = new_records(writer.conn(), &inner, &batch.records).await?;
        if new.is_empty() || inner.timelines.is_empty() {
            break (writer, new);
        }
        // Theirs go into the file at once, behind all that are there.
        drop(writer);
        inner.timelines.settle(&Arc::downgrade(&inner)).await?;
    };
    let next_id = writer.next_id();
    let rows: Vec<_> = (next_id..)
        .zip(new)
        .map(|(id, LogRecord { position, record })| NewRow {
            id,
            record,
            foreign: Some((i64::from(batch.partition.0), position)),
        })
        .collect();
    // The other log may trim what the checkpoint says is here: so it must be on the disk.
    writer.will_append();
    writer.begin(OPERATION, inner.acked).await?;
    let written = write(&mut writer, &rows, &batch).await.map_err(failed(OPERATION));
    writer.end(OPERATION, written).await?;
    writer.publish(next_id + rows.len() as i64 - 1);
    // Known of conversations that have another record now.
    writer.heads.clear();
    Ok(())
}

async fn write(writer: &mut Writer, rows: &[NewRow], batch: &Batch) -> sqlx::Result<()> {
    messages::insert(writer.conn(), rows).await?;
    checkpoints::store(writer.conn(), Of::Store, batch.partition, &batch.checkpoint).await
}

/// The records that are not there yet; an error where a place or a key belongs to another record.
async fn new_records(
    conn: &mut SqliteConnection,
    inner: &Inner,
    records: &[LogRecord],
) -> Result<Vec<LogRecord>> {
    let places = stored_places(conn, &inner.timelines, records).await?;
    let keys = stored_keys(conn, records, &inner.epochs()).await?;
    arrivals::new_records(BACKEND, records, places, keys)
}

static PLACES: Values = Values::new(
    "SELECT m.conversation_id, m.sequence_id, m.send_from, m.client_msg_id, m.content_hash FROM",
    4,
    messages_at!(),
);

/// What stands at the places of these records.
async fn stored_places(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    records: &[LogRecord],
) -> Result<HashMap<(ConversationId, Seq), (SendKey, ContentHash)>> {
    let mut places = HashMap::new();
    for chunk in records.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(PLACES.sql(chunk.len())));
        for (index, LogRecord { record, .. }) in chunk.iter().enumerate() {
            query = messages::bind_place(query, index, &record.conversation, record.seq, fresh);
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(OPERATION))? {
            let columns = Columns::new(&row, 0, OPERATION);
            let (conversation, seq) =
                (columns.parse(0, ConversationId::new)?, Seq(columns.int(1)?.unsigned_abs()));
            let key = SendKey {
                conversation: conversation.clone(),
                sender: columns.parse(2, UserId::sender)?,
                client_msg_id: columns.parse(3, ClientMsgId::new)?,
            };
            let hash = ContentHash(columns.int(4)?.cast_unsigned());
            places.insert((conversation, seq), (key, hash));
        }
    }
    Ok(places)
}

/// Where the send keys of these records stand.
async fn stored_keys(
    conn: &mut SqliteConnection,
    records: &[LogRecord],
    epochs: &Epochs,
) -> Result<HashMap<SendKey, Seq>> {
    let keys: Vec<_> = records.iter().map(|candidate| candidate.record.key()).collect();
    let found = messages::find(conn, &keys, epochs, OPERATION).await?;
    Ok(keys.into_iter().zip(found).filter_map(|(key, found)| Some((key, found?.receipt.mark.seq))).collect())
}
