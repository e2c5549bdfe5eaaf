//! Devices that have read marks of their own.

use std::sync::Arc;

use im_core::{DeviceId, Outcome, Result, Timestamp, UserId};

use crate::{
    connect::{Inner, now},
    error::failed,
    pool::Conn,
};

/// How many devices are forgotten in one transaction.
const AT_ONCE: i64 = 100;

/// Notes that a device is there; a new one begins at the user's highest marks. Whether it is new.
pub(crate) async fn see(inner: Arc<Inner>, user: UserId, device: DeviceId) -> Result<bool> {
    let operation = "states.state";
    let mut transaction = inner.pool.begin().await.map_err(failed(operation))?;
    let is_new = note(&inner, &mut transaction, &user, &device).await.map_err(failed(operation))?;
    transaction.commit().await.map_err(failed(operation))?;
    Ok(is_new)
}

async fn note(inner: &Inner, conn: &mut Conn, user: &UserId, device: &DeviceId) -> sqlx::Result<bool> {
    // A row that this transaction has made has no deleting or locking one.
    let sql = inner.sql(concat!(
        "INSERT INTO {im}.devices (main_user, device, seen_at) VALUES ($1, $2, ",
        now!(),
        ") ON CONFLICT (main_user, device) DO UPDATE SET seen_at = excluded.seen_at RETURNING xmax = 0"
    ));
    let is_new: bool =
        sqlx::query_scalar(sql).bind(user.as_str()).bind(device.as_str()).fetch_one(&mut *conn).await?;
    if !is_new {
        return Ok(false);
    }
    let sql = inner.sql(
        "INSERT INTO {im}.read_marks AS known (conversation_id, main_user, device, sequence_id, ordinal) \
         SELECT r.conversation_id, r.main_user, $2, r.sequence_id, r.ordinal \
         FROM (SELECT DISTINCT conversation_id FROM {im}.group_members WHERE main_user = $1) g \
         CROSS JOIN LATERAL (SELECT * FROM {im}.read_marks r WHERE r.conversation_id = g.conversation_id AND r.main_user = $1 \
         ORDER BY r.sequence_id DESC LIMIT 1) r ORDER BY r.conversation_id \
         ON CONFLICT (conversation_id, main_user, device) DO UPDATE SET sequence_id = excluded.sequence_id, \
         ordinal = excluded.ordinal WHERE excluded.sequence_id > known.sequence_id",
    );
    sqlx::query(sql).bind(user.as_str()).bind(device.as_str()).execute(conn).await?;
    Ok(true)
}

/// Forgets devices that were not seen since a time, with their marks; how many.
pub(crate) async fn forget(inner: Arc<Inner>, before: Timestamp) -> Result<usize> {
    let operation = "states.forget_devices";
    let mut forgotten = 0;
    loop {
        let sql = inner.sql(
            "WITH gone AS (DELETE FROM {im}.devices WHERE (main_user, device) IN (SELECT main_user, device FROM {im}.devices \
             WHERE seen_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING main_user, device), \
             marks AS (DELETE FROM {im}.read_marks r USING gone WHERE r.main_user = gone.main_user AND r.device = gone.device \
             AND r.conversation_id IN (SELECT g.conversation_id FROM {im}.group_members g WHERE g.main_user = gone.main_user)) \
             SELECT count(*) FROM gone",
        );
        let some: i64 = sqlx::query_scalar(sql)
            .bind(before.0)
            .bind(AT_ONCE)
            .fetch_one(&inner.pool)
            .await
            .map_err(failed(operation))
            // Of the devices before this hundred it is done.
            .map_err(|error| if forgotten > 0 { error.with_outcome(Outcome::Unknown) } else { error })?;
        forgotten += usize::try_from(some).unwrap_or_default();
        if some < AT_ONCE {
            return Ok(forgotten);
        }
    }
}
