//! The inbox: which records stand in whose timeline, in log order.
//!
//! An entry's place is the id of its message, which the log gave durably before anything could be delivered: so deliveries
//! need no sync of their own, and what a crash undoes comes back at the same place.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, Durability, Entry, InboxInfo, Partition, Pull, Result,
    SyncInbox, UserId,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    checkpoints::{self, Of},
    connect::{Inner, detached},
    cursor, deliver,
    error::{BACKEND, failed},
    expire,
    rows::{Columns, limit, record_columns},
    values::{MOST_ROWS, Values},
};

/// The most recipients of one delivery.
pub(crate) const MOST_RECIPIENTS: usize = 10_000;
/// The most entries of one page.
const MOST_ENTRIES: usize = 10_000;

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
    conn: &mut SqliteConnection,
    users: &[UserId],
    operation: &'static str,
) -> Result<Vec<Option<i64>>> {
    let mut ends = vec![None; users.len()];
    for (chunk, ends) in users.chunks(MOST_ROWS).zip(ends.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(ENDS.sql(chunk.len())));
        for (index, user) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(user.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            ends[columns.int(0)? as usize] = columns.optional_int(1)?.max(columns.optional_int(2)?);
        }
    }
    Ok(ends)
}

impl SqliteInbox {
    fn cursor(&self, message: i64) -> Cursor {
        cursor::of(&self.0.incarnation, message)
    }

    async fn ends(&self, users: &[UserId], operation: &'static str) -> Result<Vec<Option<i64>>> {
        let mut conn = self.0.readers().acquire().await.map_err(failed(operation))?;
        ends(&mut conn, users, operation).await
    }
}

/// A pull as one statement, so that it sees one state of the file: where the inbox begins, and the entries from the cursor's
/// own on.
const PULL: &str = concat!(
    "SELECT x.start, i.message, ",
    record_columns!(),
    " FROM (SELECT coalesce((SELECT message FROM inbox_starts WHERE user_id = ?1), 0) AS start) x \
     LEFT JOIN inbox i ON i.user_id = ?1 AND i.message >= ?2 LEFT JOIN messages m ON m.id = i.message \
     ORDER BY i.message LIMIT ?3"
);

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
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        checkpoints::load(self.0.readers(), Of::Inbox, partition, "inbox.checkpoint").await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        detached("inbox.deliver", deliver::deliver(self.0.clone(), delivery.clone())).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let operation = "inbox.pull";
        let Some(after) = cursor::message(&self.0.incarnation, after) else { return Ok(Pull::Resync) };
        let max = max.clamp(1, MOST_ENTRIES);
        let rows = sqlx::query(PULL)
            .bind(user.as_str())
            .bind(after)
            .bind(limit(max + 2))
            .fetch_all(self.0.readers())
            .await
            .map_err(failed(operation))?;
        let mut is_proven = false;
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            let start = columns.int(0)?;
            // Nothing after the cursor is gone, if the inbox begins there or before; and the user has the entry, or had it
            // until it expired.
            is_proven |= after == start;
            match columns.optional_int(1)? {
                None => {}
                Some(message) if message == after => is_proven |= after > start,
                Some(message) => {
                    let record = Arc::new(Columns::new(row, 2, operation).record()?);
                    entries.push(Entry { cursor: self.cursor(message), record });
                }
            }
        }
        if !is_proven {
            return Ok(Pull::Resync);
        }
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Pull::Page { entries, more })
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let ends = Self::ends(self, users, "inbox.ends").await?;
        Ok(ends.into_iter().map(|end| Some(self.cursor(end?))).collect())
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let operation = "inbox.anchor";
        let ends = Self::ends(self, std::slice::from_ref(user), operation).await?;
        if let Some(end) = ends.into_iter().flatten().next() {
            return Ok(self.cursor(end));
        }
        detached(operation, deliver::anchor(self.0.clone(), user.clone())).await?;
        Ok(self.cursor(0))
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        detached("inbox.expire", expire::expire(self.0.clone(), max.clamp(1, MOST_ENTRIES))).await
    }
}
