//! Moving the write-ahead log into the file, beside the writer instead of within its commits.

use std::{sync::Weak, time::Duration};

use sqlx::{Connection, SqliteConnection};
use tokio::sync::watch;

use crate::{connect::Inner, disk::Disk};

/// How often a log that grows is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// So many pages (2 MiB) are worth a pass. While the disk takes them, commits wait behind them: for 8 MiB, scattered over the file,
/// 7 ms in the median and up to 20.
const WORTH: i64 = 512;
/// A log of so many pages (24 MiB) is begun again from its start. That stops the writer until the disk has what was moved: a
/// longer log stops it longer, and a p99 is made of that.
const LONG: i64 = 6 * 1024;
/// Without a runtime that runs the task, the writer's own commits move the log at this length (512 MiB).
pub(crate) const TOO_LONG: &str = "131072";
/// A log that a slow reader has kept from beginning again is cut to this, in bytes, when it does.
pub(crate) const KEPT_BYTES: &str = "268435456";

/// How long the writer may stand still because a reader still needs the log's end: hardly any …
pub(crate) const PATIENCE: Duration = Duration::from_millis(3);
/// … unless the log has grown to so many pages (128 MiB) meanwhile.
const MUCH_TOO_LONG: i64 = 32 * 1024;
const MORE_PATIENCE: &str = "PRAGMA busy_timeout = 200";
const LESS_PATIENCE: &str = "PRAGMA busy_timeout = 3";

/// Runs until the writer is gone.
pub(crate) async fn run(
    mut conn: SqliteConnection,
    disk: Disk,
    inner: Weak<Inner>,
    mut commits: watch::Receiver<()>,
) {
    let mut long = LONG;
    while commits.changed().await.is_ok() {
        let is_over = async { while commits.changed().await.is_ok() {} };
        if tokio::time::timeout(INTERVAL, is_over).await.is_ok() {
            break;
        }
        if let Err(error) = pass(&mut conn, &disk, &inner, &mut long).await {
            tracing::warn!(%error, "the write-ahead log was not moved into the file");
            let Some(inner) = inner.upgrade() else { break };
            inner.note("checkpoint", error).await;
        }
    }
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, "the checkpointer's connection was not closed in order");
    }
}

/// `long`: the length at which the log is begun again.
async fn pass(
    conn: &mut SqliteConnection,
    disk: &Disk,
    inner: &Weak<Inner>,
    long: &mut i64,
) -> sqlx::Result<()> {
    let (_, pages, moved) = checkpoint(conn, "PRAGMA wal_checkpoint(NOOP)").await?;
    if pages - moved < WORTH {
        return Ok(());
    }
    let pages = move_gently(conn, disk).await?;
    if pages < *long {
        return Ok(());
    }
    // What came meanwhile, so that hardly anything is left to do while the writer waits.
    let pages = move_gently(conn, disk).await?;
    let is_much = pages > MUCH_TOO_LONG;
    if is_much {
        sqlx::query(MORE_PATIENCE).execute(&mut *conn).await?;
    }
    let begun_again = begin_again(conn, inner).await;
    if is_much {
        sqlx::query(LESS_PATIENCE).execute(&mut *conn).await?;
    }
    // A reader that is at it is not waited for again at once. Perhaps it does not matter: with the whole log in the file, the
    // next commit begins it again by itself if no reader is there at that moment.
    *long = if begun_again? { LONG } else { pages + LONG / 4 };
    Ok(())
}

/// Moves what is in the log into the file while the writer goes on; how many pages the log has.
async fn move_gently(conn: &mut SqliteConnection, disk: &Disk) -> sqlx::Result<i64> {
    let (_, pages, _) = checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)").await?;
    disk.sync().await?;
    Ok(pages)
}

/// Lets the next commit go to the log's start; whether no reader kept it from that.
async fn begin_again(conn: &mut SqliteConnection, inner: &Weak<Inner>) -> sqlx::Result<bool> {
    let Some(inner) = inner.upgrade() else { return Ok(true) };
    let Ok(_writer) = inner.writer("checkpoint").await else { return Ok(true) };
    let (is_kept, _, _) = checkpoint(conn, "PRAGMA wal_checkpoint(RESTART)").await?;
    Ok(is_kept == 0)
}

/// Whether it was kept from its end, the pages in the log, and those of them that are in the file.
async fn checkpoint(conn: &mut SqliteConnection, pragma: &'static str) -> sqlx::Result<(i64, i64, i64)> {
    sqlx::query_as(pragma).fetch_one(conn).await
}
