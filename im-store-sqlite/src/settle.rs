//! Moving fresh inbox entries into the file, beside everything else that is written.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use im_core::{Result, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::sync::watch;

use crate::{
    checkpoints::{self, Of},
    connect::Inner,
    error::failed,
    expire::note_delivery,
    fresh::{ENOUGH, Layer},
    values::{MOST_ROWS, Values},
    writer::Sync,
};

const OPERATION: &str = "inbox.settle";

/// How long entries wait for others at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many entries one transaction moves: appends wait for it.
const SLICE: usize = 512;

static INSERT: Values = Values::new(
    "INSERT OR IGNORE INTO inbox (user_id, message) SELECT * FROM",
    2,
    "WHERE column1 IS NOT NULL",
);

/// Runs until the file is closed.
pub(crate) async fn run(inner: Weak<Inner>, mut grown: watch::Receiver<usize>) {
    while grown.changed().await.is_ok() {
        // Too few by then are moved all the same.
        let _ = tokio::time::timeout(INTERVAL, grown.wait_for(|entries| *entries >= ENOUGH)).await;
        while let Some(inner) = inner.upgrade().filter(|inner| !inner.fresh.is_closed()) {
            let Err(error) = settle(&inner).await else { break };
            // They wait in memory; when there are too many, deliveries wait.
            tracing::warn!(%error, "inbox entries were not moved into the file; again in {INTERVAL:?}");
            drop(inner);
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Moves everything that was delivered before the call.
pub(crate) async fn settle(inner: &Inner) -> Result<()> {
    let _one_at_a_time = inner.settling.lock().await;
    // What an earlier call could not move comes first.
    for _ in 0..2 {
        let Some(layer) = inner.fresh.to_move() else { break };
        write(inner, &layer).await?;
        inner.fresh.moved();
    }
    Ok(())
}

async fn write(inner: &Inner, layer: &Layer) -> Result<()> {
    for slice in layer.entries().chunks(SLICE) {
        let mut writer = inner.writer(OPERATION).await?;
        writer.begin(OPERATION, Sync::Normal).await?;
        let written = write_entries(writer.conn(), slice).await.map_err(failed(OPERATION));
        writer.end(OPERATION, written).await?;
    }
    // Behind all entries: from here on nobody delivers them again.
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, Sync::Normal).await?;
    let written = write_rest(writer.conn(), layer).await.map_err(failed(OPERATION));
    writer.end(OPERATION, written).await
}

async fn write_entries(conn: &mut SqliteConnection, entries: &[(&UserId, i64)]) -> sqlx::Result<()> {
    for chunk in entries.chunks(MOST_ROWS) {
        let insert = sqlx::query(AssertSqlSafe(INSERT.sql(chunk.len())));
        let bound = chunk.iter().fold(insert, |query, (user, message)| {
            query.bind(Arc::<str>::from(UserId::clone(user))).bind(*message)
        });
        bound.execute(&mut *conn).await?;
    }
    Ok(())
}

async fn write_rest(conn: &mut SqliteConnection, layer: &Layer) -> sqlx::Result<()> {
    for (span, note) in layer.notes() {
        note.bind(*span, sqlx::query(note_delivery!())).execute(&mut *conn).await?;
    }
    for (partition, checkpoint) in layer.checkpoints() {
        checkpoints::store(conn, Of::Inbox, *partition, checkpoint).await?;
    }
    Ok(())
}
