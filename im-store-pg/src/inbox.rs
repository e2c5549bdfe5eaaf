//! The sync inbox: entries at dense places, by user; see `migrations/`.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, Durability, Entry, InboxInfo, Partition, Pull, Result,
    SyncInbox, UserId, codec,
};

use crate::{
    checkpoints::{self, Of},
    connect::{Inner, detached},
    cursor::{Stand, nonce},
    deliver,
    error::{BACKEND, corrupt, failed},
    log::loss_window,
    messages::index,
    rows::{Columns, limit},
};

/// The most recipients of one delivery.
pub(crate) const MOST_RECIPIENTS: usize = 50_000;
/// The most entries of one page.
const MOST_ENTRIES: usize = 10_000;
const PULL: &str = "inbox.pull";

/// The inbox part.
#[derive(Debug, Clone)]
pub struct PgInbox(pub(crate) Arc<Inner>);

/// What a pull finds: where the inbox ends and begins, and the entries from the cursor's own on.
struct Found {
    end: Stand,
    anchor: i64,
    entries: Vec<(Stand, Vec<u8>)>,
}

impl PgInbox {
    async fn find(&self, user: &UserId, from: i64, wanted: usize) -> Result<Option<Found>> {
        let sql = self.0.sql(
            "SELECT e.place, e.nonce, e.anchor, x.place, x.nonce, x.record FROM {im}.inbox_ends e LEFT JOIN LATERAL \
             (SELECT i.place, i.nonce, r.record FROM {im}.inbox i JOIN {im}.inbox_records r ON r.delivered = i.delivered \
             AND r.id = i.record WHERE i.user_id = $1 AND i.place >= $2 ORDER BY i.place LIMIT $3) x ON true \
             WHERE e.user_id = $1 ORDER BY x.place",
        );
        let rows = sqlx::query(sql)
            .bind(user.as_str())
            .bind(from)
            .bind(limit(wanted))
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(PULL))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let first = Columns::new(first, 0, PULL);
        let mut found = Found {
            end: Stand { place: first.int(0)?, nonce: first.int(1)? },
            anchor: first.int(2)?,
            entries: Vec::with_capacity(rows.len()),
        };
        for row in &rows {
            let columns = Columns::new(row, 0, PULL);
            if let Some(place) = columns.optional_int(3)? {
                found.entries.push((Stand { place, nonce: columns.int(4)? }, columns.get(5)?));
            }
        }
        Ok(Some(found))
    }
}

impl Found {
    /// The entries after a cursor, if they are provably all of them, and the cursor's own entry is the one that the client saw.
    fn after(mut self, cursor: Stand) -> Option<Vec<(Stand, Vec<u8>)>> {
        if cursor.place == self.end.place {
            return (cursor == self.end).then(Vec::new);
        }
        let own = match cursor.place {
            0 => Stand { place: 0, nonce: self.anchor },
            _ if self.entries.is_empty() => return None,
            _ => self.entries.remove(0).0,
        };
        let is_dense =
            (cursor.place + 1..).zip(&self.entries).all(|(place, (entry, _))| entry.place == place);
        (own == cursor && is_dense && !self.entries.is_empty()).then_some(self.entries)
    }
}

fn entry((stand, record): (Stand, Vec<u8>)) -> Result<Entry> {
    let record = codec::decode(&record).map_err(|error| corrupt(PULL, error.to_string()))?;
    Ok(Entry { cursor: stand.cursor(), record: Arc::new(record) })
}

#[async_trait]
impl SyncInbox for PgInbox {
    async fn info(&self) -> Result<InboxInfo> {
        let incarnation = self.0.incarnation("inbox.info").await?;
        Ok(InboxInfo {
            backend: BACKEND,
            durability: Durability::Synced,
            loss_window: loss_window(&incarnation),
            incarnation,
            expiry: self.0.expiry,
            max_recipients: MOST_RECIPIENTS,
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        checkpoints::load(&self.0, Of::Inbox, partition, "inbox.checkpoint").await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        detached("inbox.deliver", deliver::deliver(self.0.clone(), delivery.clone())).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let Some(cursor) = Stand::of(after) else { return Ok(Pull::Resync) };
        let max = max.clamp(1, MOST_ENTRIES);
        // The cursor's own entry, and one more than wanted.
        let found = self.find(user, cursor.place, max + 2).await?;
        let Some(mut entries) = found.and_then(|found| found.after(cursor)) else { return Ok(Pull::Resync) };
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Pull::Page { entries: entries.into_iter().map(entry).collect::<Result<_>>()?, more })
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let operation = "inbox.ends";
        let sql = self.0.sql(
            "SELECT e.place, e.nonce, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (user_id, at) \
             JOIN {im}.inbox_ends e ON e.user_id = k.user_id",
        );
        let rows = sqlx::query(sql)
            .bind(users.iter().map(UserId::as_str).collect::<Vec<_>>())
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let mut ends = vec![None; users.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            let end = Stand { place: columns.int(0)?, nonce: columns.int(1)? };
            ends[index(columns, 2)?] = Some(end.cursor());
        }
        Ok(ends)
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let sql = self.0.sql(
            "INSERT INTO {im}.inbox_ends AS known (user_id, place, nonce, previous, anchor) VALUES ($1, 0, $2, $2, $2) \
             ON CONFLICT (user_id) DO UPDATE SET place = known.place RETURNING place, nonce",
        );
        let (place, nonce): (i64, i64) = sqlx::query_as(sql)
            .bind(user.as_str())
            .bind(nonce())
            .fetch_one(&self.0.pool)
            .await
            .map_err(failed("inbox.anchor"))?;
        Ok(Stand { place, nonce }.cursor())
    }

    async fn expire(&self, _: usize) -> Result<bool> {
        let inner = self.0.clone();
        detached("inbox.expire", async move { inner.spans.expire(&inner, "inbox.expire").await }).await
    }
}
