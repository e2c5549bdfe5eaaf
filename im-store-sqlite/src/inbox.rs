//! The inbox: which records stand in whose timeline, in log order.
//!
//! An entry's place is the id of its message, which the log gave durably before anything could be delivered: so deliveries
//! need no sync of their own, and what a crash undoes comes back at the same place. The newest entries are in memory, see
//! [`entries`](crate::entries).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::TryStreamExt;
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, Durability, Entry, Error, ErrorKind, InboxInfo, Partition, Pull,
    Result, SyncInbox, UserId,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    connect::Inner,
    cursor, deliver,
    error::{BACKEND, failed},
    expire, messages,
    pack::Pack,
    rows::{Columns, limit, number},
    values::{MOST_ROWS, Values},
};

/// The most recipients of one delivery.
pub(crate) const MOST_RECIPIENTS: usize = 10_000;
/// The most entries of one page.
const MOST_ENTRIES: usize = 10_000;
/// How long a pull waits until the fan-out has delivered again what a crash took.
const REPLAY: Duration = Duration::from_secs(5);

/// The inbox part.
#[derive(Debug, Clone)]
pub struct SqliteInbox(pub(crate) Arc<Inner>);

/// The newest entry of each user, and where the inbox begins.
static ENDS: Values = Values::new(
    "SELECT v.column1, (SELECT max(message) FROM inbox WHERE user_id = v.column2), \
     (SELECT message FROM inbox_starts WHERE user_id = v.column2) FROM",
    2,
    "v WHERE v.column1 IS NOT NULL",
);

/// The newest place of each user's inbox, expired or not; none where there never was one.
pub(crate) async fn ends(
    inner: &Inner,
    users: &[UserId],
    operation: &'static str,
) -> Result<Vec<Option<i64>>> {
    // Before the file: what is moved meanwhile is then seen here or there.
    let mut ends = inner.entries.ends(users);
    for (chunk, ends) in users.chunks(MOST_ROWS).zip(ends.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(ENDS.sql(chunk.len())));
        for (index, user) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(user.clone()));
        }
        for row in inner.readers.all(query, operation).await? {
            let columns = Columns::new(&row, 0, operation);
            let end = &mut ends[columns.int(0)? as usize];
            *end = (*end).max(columns.optional_int(1)?).max(columns.optional_int(2)?);
        }
    }
    Ok(ends)
}

impl SqliteInbox {
    fn cursor(&self, message: i64) -> Cursor {
        cursor::of(&self.0.incarnation, message)
    }

    /// The entries after an entry; none if that one cannot be proven to be the user's, or something after it is gone.
    async fn after(&self, user: &UserId, after: i64, max: usize) -> Result<Option<Vec<Entry>>> {
        let operation = "inbox.pull";
        // Before the file, as above.
        let fresh = self.0.entries.from(user, after, max + 1);
        let mut conn = self.0.readers.lend(operation).await?;
        let read = Self::old(&mut conn, user, after, max, &fresh, operation).await;
        // Before the records are read, which takes a connection too.
        let (is_proven, mut entries) = conn.back(read)?;
        if !is_proven {
            return Ok(None);
        }
        entries.extend(fresh.into_iter().filter(|entry| *entry > after));
        let entries: Vec<_> = entries.into_iter().take(max).collect();
        let records = messages::records(&self.0, &entries, operation).await?;
        let entry = |(entry, record)| Entry { cursor: self.cursor(entry), record };
        Ok(Some(entries.into_iter().zip(records).map(entry).collect()))
    }

    /// The entries in the file after an entry, and whether that one is proven to be the user's.
    async fn old(
        conn: &mut SqliteConnection,
        user: &UserId,
        after: i64,
        max: usize,
        fresh: &[i64],
        operation: &'static str,
    ) -> Result<(bool, BTreeSet<i64>)> {
        let mut rows = sqlx::query(PULL).bind(user.as_str()).bind(after).bind(limit(max + 1)).fetch(conn);
        let mut is_proven = false;
        let mut entries = BTreeSet::new();
        // A row has at least one entry, and mostly many: no more rows are read than the page takes.
        while entries.len() < max
            && let Some(row) = rows.try_next().await.map_err(failed(operation))?
        {
            let columns = Columns::new(&row, 0, operation);
            let start = columns.int(0)?;
            // Nothing after the cursor is gone, if the inbox begins there or before; and the user has the entry, or had it
            // until it expired.
            is_proven |= after == start || (after > start && fresh.first() == Some(&after));
            let Some(newest) = columns.optional_int(1)? else { continue };
            let row = Pack::read(newest, columns.optional_text(2)?, operation)?;
            is_proven |= after > start && row.entries().contains(&after);
            entries.extend(row.entries().iter().filter(|entry| **entry > after));
        }
        Ok((is_proven, entries))
    }

    /// Waits until the fan-out has delivered again what an end without [`close`](crate::Sqlite::close) may have taken. Until
    /// then a cursor that is not found proves nothing. Whether it is worth to look again.
    async fn delivered_again(&self, operation: &'static str) -> Result<bool> {
        let Some(last) = self.0.undelivered else { return Ok(false) };
        let mut grown = self.0.entries.grown.subscribe();
        let wait = async {
            loop {
                let mut standing = self.0.standing.lock().await;
                let checkpoint = standing.checkpoint(&self.0, Partition(0), operation).await?;
                if checkpoint.as_ref().is_some_and(|at| number(at.position.offset) >= last) {
                    return Ok(true);
                }
                drop(standing);
                // The sender is ours.
                let _ = grown.changed().await;
            }
        };
        tokio::time::timeout(REPLAY, wait).await.unwrap_or_else(|_| {
            let message = "entries that a crash took are being delivered again";
            Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, message))
        })
    }
}

/// A pull as one statement, so that it sees one state of the file: where the inbox begins, and the rows from the cursor's own
/// entry on.
const PULL: &str = "SELECT x.start, i.message, i.earlier \
     FROM (SELECT coalesce((SELECT message FROM inbox_starts WHERE user_id = ?1), 0) AS start) x LEFT JOIN \
     (SELECT message, earlier FROM inbox WHERE user_id = ?1 AND message >= ?2 ORDER BY message LIMIT ?3) i";

#[async_trait]
impl SyncInbox for SqliteInbox {
    async fn info(&self) -> Result<InboxInfo> {
        Ok(InboxInfo {
            backend: BACKEND,
            durability: Durability::Buffered,
            incarnation: self.0.incarnation.clone(),
            loss_window: Duration::ZERO,
            expiry: self.0.expiry,
            max_recipients: MOST_RECIPIENTS,
            only_log: Some(self.0.incarnation.clone()),
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        let mut standing = self.0.standing.lock().await;
        standing.checkpoint(&self.0, partition, "inbox.checkpoint").await.cloned()
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        deliver::deliver(&self.0, delivery).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let Some(after) = cursor::message(&self.0.incarnation, after) else { return Ok(Pull::Resync) };
        let max = max.clamp(1, MOST_ENTRIES);
        let mut entries = self.after(user, after, max + 1).await?;
        if entries.is_none() && self.delivered_again("inbox.pull").await? {
            entries = self.after(user, after, max + 1).await?;
        }
        let Some(mut entries) = entries else { return Ok(Pull::Resync) };
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Pull::Page { entries, more })
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let ends = ends(&self.0, users, "inbox.ends").await?;
        Ok(ends.into_iter().map(|end| Some(self.cursor(end?))).collect())
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let operation = "inbox.anchor";
        let ends = ends(&self.0, std::slice::from_ref(user), operation).await?;
        if let Some(end) = ends.into_iter().flatten().next() {
            return Ok(self.cursor(end));
        }
        self.0.thread.run(operation, deliver::anchor(self.0.clone(), user.clone())).await?;
        Ok(self.cursor(0))
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        self.0.thread.run("inbox.expire", expire::expire(self.0.clone(), max.clamp(1, MOST_ENTRIES))).await
    }
}
