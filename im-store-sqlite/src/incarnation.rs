//! What the data in a file are: another incarnation where acked data may be missing.

use im_core::{Incarnation, Result};
use sqlx::SqliteConnection;

use crate::error::failed;

const OPERATION: &str = "open";

/// Reads the incarnation, or begins a new one: in a new file, after a restore, and where acks did not wait for the disk and the
/// operating system has stopped since. `buffered`: acks will not wait for the disk.
pub(crate) async fn load(conn: &mut SqliteConnection, restored: bool, buffered: bool) -> Result<Incarnation> {
    let kept: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT incarnation, buffered_boot FROM meta")
            .fetch_optional(&mut *conn)
            .await
            .map_err(failed(OPERATION))?;
    let boot = boot();
    let is_whole = |left: &Option<String>| left.as_ref().is_none_or(|left| *left == boot);
    let name = match &kept {
        Some((name, left)) if !restored && is_whole(left) => name.clone(),
        _ => uuid::Uuid::new_v4().simple().to_string(),
    };
    let now = (name, buffered.then_some(boot));
    if kept.as_ref() != Some(&now) {
        store(conn, &now).await.map_err(failed(OPERATION))?;
    }
    Ok(Incarnation::new(now.0))
}

async fn store(conn: &mut SqliteConnection, (name, boot): &(String, Option<String>)) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO meta (one, incarnation, buffered_boot) VALUES (1, ?, ?) \
         ON CONFLICT DO UPDATE SET incarnation = excluded.incarnation, buffered_boot = excluded.buffered_boot",
    )
    .bind(name)
    .bind(boot)
    .execute(conn)
    .await
    .map(drop)
}

/// Notes that the file is closed in order.
pub(crate) async fn close(conn: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("UPDATE meta SET buffered_boot = NULL").execute(conn).await.map(drop)
}

/// Names this run of the operating system; where it has no name, each call gives another one, which errs on the safe side.
fn boot() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    named.map_or_else(|_| uuid::Uuid::new_v4().to_string(), |name| name.trim().to_owned())
}
