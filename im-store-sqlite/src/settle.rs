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
    error::{corrupt, failed},
    expire::note_delivery,
    fresh::{ENOUGH, Layer},
    rows::Statement,
    values::{MOST_PAIRS, Steps},
    writer::Sync,
};

const OPERATION: &str = "inbox.settle";

/// How long entries wait for others at most.
const INTERVAL: Duration = Duration::from_secs(5);
/// How soon what could not be moved is tried again: before deliveries that wait for room give up.
const RETRY: Duration = Duration::from_secs(1);
/// How much one transaction moves: appends wait for it. So many users, each of whom has a page of the file to be written …
const SLICE: usize = 512;
/// … or fewer, for so many entries of one user cost about as much as another page.
const ENTRIES_PER_PAGE: usize = 8;

static INSERT: Steps = Steps::new(
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
            tracing::warn!(%error, "inbox entries were not moved into the file; again in {RETRY:?}");
            drop(inner);
            tokio::time::sleep(RETRY).await;
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
    let entries = layer.entries();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(slice(rest));
        rest = after;
        let mut writer = inner.writer(OPERATION).await?;
        if !writer.run(OPERATION, Sync::Normal, transaction(slice)).await? {
            // Then the checkpoint must not go in: the statement passes over keys that are there.
            return Err(corrupt(OPERATION, "a key of the inbox was taken"));
        }
    }
    // Behind all entries: from here on nobody delivers them again.
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, Sync::Normal).await?;
    let written = write_rest(writer.conn(), layer).await.map_err(failed(OPERATION));
    writer.end(OPERATION, written).await
}

/// How many of these entries make a slice.
fn slice(entries: &[(&UserId, i64)]) -> usize {
    let (mut user, mut cost) = (None, 0);
    let over = entries.iter().position(|(next, _)| {
        cost += if user.replace(*next) == Some(*next) { 1 } else { ENTRIES_PER_PAGE };
        cost > SLICE * ENTRIES_PER_PAGE
    });
    over.unwrap_or(entries.len())
}

fn transaction(entries: &[(&UserId, i64)]) -> impl Iterator<Item = Statement<'static>> {
    INSERT.transaction(entries, MOST_PAIRS).map(|(sql, entries)| {
        entries.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, (user, message)| {
            query.bind(Arc::<str>::from(UserId::clone(user))).bind(*message)
        })
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_many_users_or_many_entries() {
        let users: Vec<_> = (0..1000).map(|n| UserId::new(format!("{n:04}")).unwrap()).collect();
        let of_many: Vec<_> = users.iter().map(|user| (user, 1)).collect();
        assert_eq!(slice(&of_many), SLICE);
        assert_eq!(slice(&of_many[..10]), 10);
        let of_one: Vec<_> = (0..10_000).map(|message| (&users[0], message)).collect();
        assert_eq!(slice(&of_one), 1 + (SLICE - 1) * ENTRIES_PER_PAGE);
        assert_eq!(slice(&of_one[..1]), 1);
    }
}
