//! A long history in Postgres, and the bare query on it.

use std::sync::Arc;

use async_trait::async_trait;
use im_engine::ConversationId;
use sqlx::PgConnection;

use super::{PAGE, Pages};
use crate::{Outcome, schema::Schema};

/// About how many rows a statement makes.
const ROWS: u64 = 100_000;

/// Fills the engine's own tables: message after message over all conversations in turn, as a busy server gets them, so that
/// neighbours in a conversation lie far apart. The inbox's checkpoints go behind them: nobody is to be told.
pub(super) async fn fill(schema: &Schema, length: u64) -> Outcome {
    let mut conn = schema.connect().await?;
    sqlx::raw_sql(
        "SET synchronous_commit TO off; \
         CREATE TEMP TABLE first AS SELECT *, row_number() OVER (PARTITION BY part ORDER BY log_offset) AS place, \
         count(*) OVER (PARTITION BY part) AS conversations FROM messages",
    )
    .execute(&mut conn)
    .await?;
    let conversations: i64 = sqlx::query_scalar("SELECT count(*) FROM first").fetch_one(&mut conn).await?;
    let step = (ROWS / conversations.unsigned_abs().max(1)).max(1);
    for from in (2..=length).step_by(step as usize) {
        sqlx::query(
            "INSERT INTO messages SELECT part, conversation_id, seq, seq, created_at + seq, send_from, device, send_to, \
             lpad(to_hex(created_at + seq), 12, '0') || '-7' || lpad(to_hex(seq % 4096), 3, '0') || '-' || \
             left(md5(conversation_id || seq), 18), hole_after, kind, content_type, content, content_hash, own, log_partition, \
             log_epoch, (seq - 1) * conversations + place FROM generate_series($1::bigint, $2) AS seq, first ORDER BY seq, log_offset",
        )
        .bind(from.cast_signed())
        .bind((from + step - 1).min(length).cast_signed())
        .execute(&mut conn)
        .await?;
    }
    sqlx::query(
        "UPDATE conversations SET last_message_id = $1, last_ordinal = $1, updated_at = updated_at + $1 \
         WHERE id IN (SELECT conversation_id FROM first)",
    )
    .bind(length.cast_signed())
    .execute(&mut conn)
    .await?;
    sqlx::query("UPDATE log_partitions SET last_offset = last_offset * $1")
        .bind(length.cast_signed())
        .execute(&mut conn)
        .await?;
    let moved = sqlx::query(
        "UPDATE checkpoints SET log_offset = log_offset * $1, rewind_offset = log_offset * $1 WHERE projection = 'inbox'",
    )
    .bind(length.cast_signed())
    .execute(&mut conn)
    .await?;
    if moved.rows_affected() == 0 {
        return Err("there is no checkpoint to move".into());
    }
    sqlx::raw_sql("VACUUM (ANALYZE) messages, conversations").execute(&mut conn).await?;
    Ok(())
}

pub(super) struct RawPages {
    conn: PgConnection,
    partitions: u16,
}

impl RawPages {
    pub(super) async fn open(schema: &Schema) -> Outcome<Self> {
        let mut conn = schema.connect().await?;
        let partitions: i16 = sqlx::query_scalar("SELECT partitions FROM meta").fetch_one(&mut conn).await?;
        Ok(Self { conn, partitions: partitions.unsigned_abs() })
    }
}

#[async_trait]
impl Pages for RawPages {
    async fn page(&mut self, id: &ConversationId, to: u64) -> Outcome<usize> {
        let page: Vec<(i64, i64, i64, Arc<str>, Arc<str>, Arc<str>)> = sqlx::query_as(
            "SELECT sequence_id, ordinal, created_at, send_from, client_msg_id, content FROM messages \
             WHERE part = $1 AND conversation_id = $2 AND sequence_id BETWEEN 1 AND $3 ORDER BY sequence_id DESC LIMIT $4",
        )
        .bind(im_engine::Partition::of(id, self.partitions).0.cast_signed())
        .bind(id.as_str())
        .bind(to.cast_signed())
        .bind(PAGE as i64)
        .fetch_all(&mut self.conn)
        .await?;
        Ok(page.len())
    }
}
