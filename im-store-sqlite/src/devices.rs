//! Devices that have read marks of their own.

use std::sync::Arc;

use im_core::{DeviceId, Result, Timestamp, UserId};
use sqlx::SqliteConnection;

use crate::{connect::Inner, error::failed, user_state, writer::Sync};

/// How many devices are forgotten in one transaction.
const AT_ONCE: i64 = 100;

/// Notes that a device is there; a new one begins at the user's highest marks. Whether it is new.
pub(crate) async fn see(inner: Arc<Inner>, user: UserId, device: DeviceId) -> Result<bool> {
    let operation = "states.state";
    let mut writer = inner.writer(operation).await?;
    // Without a sync: a device that a crash makes us forget begins again at the highest marks.
    writer.begin(operation, Sync::Normal).await?;
    let seen = note(writer.conn(), &inner, &user, &device).await.map_err(failed(operation));
    writer.end(operation, seen).await
}

async fn note(
    conn: &mut SqliteConnection,
    inner: &Inner,
    user: &UserId,
    device: &DeviceId,
) -> sqlx::Result<bool> {
    let now = inner.clock.now();
    let known = sqlx::query("UPDATE devices SET seen_at = ? WHERE main_user = ? AND device = ?")
        .bind(now.0)
        .bind(user.as_str())
        .bind(device.as_str())
        .execute(&mut *conn)
        .await?;
    if known.rows_affected() > 0 {
        return Ok(false);
    }
    // Before the file.
    let fresh = inner.timelines.all_reads(user);
    sqlx::query("INSERT INTO devices (main_user, device, seen_at) VALUES (?, ?, ?)")
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(now.0)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, mark) \
         SELECT r.conversation_id, r.sequence_id, r.main_user, ?2, r.ordinal, max(r.mark) \
         FROM (SELECT DISTINCT conversation_id FROM group_members WHERE main_user = ?1) g \
         CROSS JOIN timelines r ON r.conversation_id = g.conversation_id AND r.sequence_id = 9223372036854775807 \
         AND r.main_user = ?1 GROUP BY r.conversation_id \
         ON CONFLICT DO UPDATE SET mark = excluded.mark, ordinal = excluded.ordinal",
    )
    .bind(user.as_str())
    .bind(device.as_str())
    .execute(&mut *conn)
    .await?;
    let newest = fresh.into_iter().map(|(id, mark)| ((user.clone(), Some(device.clone()), id), mark));
    user_state::write_marks(conn, &newest.collect::<Vec<_>>()).await?;
    Ok(true)
}

/// Forgets devices that were not seen since a time, with their marks; how many.
pub(crate) async fn forget(inner: Arc<Inner>, before: Timestamp) -> Result<usize> {
    let operation = "states.forget_devices";
    let mut forgotten = 0;
    loop {
        let mut writer = inner.writer(operation).await?;
        writer.begin(operation, inner.acked).await?;
        let some = forget_some(writer.conn(), before).await.map_err(failed(operation));
        match writer.end(operation, some).await? {
            0 => return Ok(forgotten),
            some => forgotten += some,
        }
    }
}

async fn forget_some(conn: &mut SqliteConnection, before: Timestamp) -> sqlx::Result<usize> {
    let devices: Vec<(String, String)> = sqlx::query_as(
        "DELETE FROM devices WHERE (main_user, device) IN (SELECT main_user, device FROM devices \
                        WHERE seen_at < ? LIMIT ?) RETURNING main_user, device",
    )
    .bind(before.0)
    .bind(AT_ONCE)
    .fetch_all(&mut *conn)
    .await?;
    for (user, device) in &devices {
        sqlx::query(
            "DELETE FROM timelines WHERE sequence_id = 9223372036854775807 AND main_user = ?1 AND device = ?2 \
             AND conversation_id IN (SELECT conversation_id FROM group_members WHERE main_user = ?1)",
        )
        .bind(user)
        .bind(device)
        .execute(&mut *conn)
        .await?;
    }
    Ok(devices.len())
}
