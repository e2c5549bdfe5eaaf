//! Moving the write-ahead log into the file, beside the writer instead of within its commits.

use std::{sync::Weak, time::Duration};

use sqlx::SqliteConnection;
use tokio::sync::watch;

use crate::connect::Inner;

/// How often a log that grows is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// So many pages (16 MiB) are worth a pass.
const WORTH: i64 = 4096;
/// A log of so many pages (128 MiB) is begun again from its start; that stops the writer for a moment.
const LONG: i64 = 32 * 1024;
/// Without a runtime that runs the task, the writer's own commits move the log at this length (512 MiB).
pub(crate) const TOO_LONG: &str = "131072";
/// A log that a slow reader has kept from beginning again is cut to this, in bytes, when it does.
pub(crate) const KEPT_BYTES: &str = "268435456";

/// How long the writer may stand still because a reader still needs the log's end.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// Runs until the writer is gone.
pub(crate) async fn run(mut conn: SqliteConnection, inner: Weak<Inner>, mut commits: watch::Receiver<()>) {
    let mut long = LONG;
    while commits.changed().await.is_ok() {
        let is_over = async { while commits.changed().await.is_ok() {} };
        if tokio::time::timeout(INTERVAL, is_over).await.is_ok() {
            break;
        }
        if let Err(error) = pass(&mut conn, &inner, &mut long).await {
            tracing::warn!(%error, "the write-ahead log was not moved into the file");
        }
    }
}

/// `long`: the length at which the log is begun again.
async fn pass(conn: &mut SqliteConnection, inner: &Weak<Inner>, long: &mut i64) -> sqlx::Result<()> {
    let (_, pages, moved) = checkpoint(conn, "PRAGMA wal_checkpoint(NOOP)").await?;
    if pages - moved < WORTH {
        return Ok(());
    }
    // While the writer goes on.
    let (_, pages, _) = checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)").await?;
    if pages < *long {
        return Ok(());
    }
    let Some(inner) = inner.upgrade() else { return Ok(()) };
    let Ok(_writer) = inner.writer("checkpoint").await else { return Ok(()) };
    // Only what came since is left to do.
    let (is_kept, pages, _) = checkpoint(conn, "PRAGMA wal_checkpoint(RESTART)").await?;
    // A reader that is at it for so long is not waited for again at once.
    *long = if is_kept == 0 { LONG } else { pages + LONG / 4 };
    Ok(())
}

/// Whether it was kept from its end, the pages in the log, and those of them that are in the file.
async fn checkpoint(conn: &mut SqliteConnection, pragma: &'static str) -> sqlx::Result<(i64, i64, i64)> {
    sqlx::query_as(pragma).fetch_one(conn).await
}
