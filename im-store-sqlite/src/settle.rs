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
    pack::Pack,
    rows::{Columns, Statement},
    values::{MOST_ROWS, Steps},
    writer::Sync,
};

const OPERATION: &str = "inbox.settle";

/// How long entries wait for others at most.
const INTERVAL: Duration = Duration::from_secs(5);
/// How soon what could not be moved is tried again: before deliveries that wait for room give up.
const RETRY: Duration = Duration::from_secs(1);
/// How many rows one transaction moves, mostly each to a page of its own: appends wait for it.
const SLICE: usize = 512;
/// The same for users whose rows are read first.
const USERS: usize = 32;

static INSERT: Steps = Steps::new(
    "INSERT OR IGNORE INTO inbox (user_id, message, earlier) SELECT * FROM",
    3,
    "WHERE column1 IS NOT NULL",
);

/// The end of the rows that entries from one to another may touch: those between, and the one that they end in.
macro_rules! touched {
    () => {
        " FROM inbox WHERE user_id = ?1 AND message >= ?2 AND message <= \
         coalesce((SELECT min(message) FROM inbox WHERE user_id = ?1 AND message >= ?3), 9223372036854775807)"
    };
}
const TOUCHED: &str = concat!("SELECT message, earlier", touched!(), " ORDER BY message");
const REMOVE: &str = concat!("DELETE", touched!());

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
    let breaks = layer.breaks();
    let rows = layer
        .users(false)
        .into_iter()
        .flat_map(|(user, entries)| Pack::all(entries, &breaks).into_iter().map(move |row| (user, row)));
    let rows: Vec<_> = rows.collect();
    for slice in rows.chunks(SLICE) {
        let mut writer = inner.writer(OPERATION).await?;
        if !writer.run(OPERATION, Sync::Normal, transaction(slice)).await? {
            // Then the checkpoint must not go in: the statement passes over keys that are there.
            return Err(corrupt(OPERATION, "a key of the inbox was taken"));
        }
    }
    for users in layer.users(true).chunks(USERS) {
        let mut writer = inner.writer(OPERATION).await?;
        writer.begin(OPERATION, Sync::Normal).await?;
        let written = merge(writer.conn(), users, &breaks).await;
        writer.end(OPERATION, written).await?;
    }
    // Behind all entries: from here on nobody delivers them again.
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, Sync::Normal).await?;
    let written = write_rest(writer.conn(), layer).await.map_err(failed(OPERATION));
    writer.end(OPERATION, written).await
}

fn transaction(rows: &[(&UserId, Pack)]) -> impl Iterator<Item = Statement<'static>> {
    INSERT
        .transaction(rows, MOST_ROWS)
        .map(|(sql, rows)| bind_all(sql, rows.iter().map(|(user, row)| (*user, row))))
}

fn bind_all<'r>(sql: Arc<str>, rows: impl Iterator<Item = (&'r UserId, &'r Pack)>) -> Statement<'static> {
    rows.fold(sqlx::query(AssertSqlSafe(sql)), |query, (user, row)| {
        query.bind(Arc::<str>::from(UserId::clone(user))).bind(row.newest()).bind(row.earlier())
    })
}

/// Brings entries into the rows that are there.
async fn merge(conn: &mut SqliteConnection, users: &[(&UserId, &[i64])], breaks: &[i64]) -> Result<()> {
    for (user, entries) in users {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { continue };
        let bind = |sql| sqlx::query(sql).bind(user.as_str()).bind(first).bind(last);
        let found = bind(TOUCHED).fetch_all(&mut *conn).await.map_err(failed(OPERATION))?;
        let row = |row| {
            let columns = Columns::new(row, 0, OPERATION);
            Pack::read(columns.int(0)?, columns.optional_text(1)?, OPERATION)
        };
        let known: Vec<Pack> = found.iter().map(row).collect::<Result<_>>()?;
        let merged = Pack::merge(known.clone(), entries, breaks);
        if merged == known {
            continue;
        }
        bind(REMOVE).execute(&mut *conn).await.map_err(failed(OPERATION))?;
        for rows in merged.chunks(MOST_ROWS) {
            let query = bind_all(INSERT.sql(rows.len()), rows.iter().map(|row| (*user, row)));
            query.execute(&mut *conn).await.map_err(failed(OPERATION))?;
        }
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
