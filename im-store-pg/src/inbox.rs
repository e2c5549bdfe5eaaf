//! The sync inbox: entries at dense places, by user; see `migrations/`.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, Entry, InboxInfo, Partition, Pull, Result, SyncInbox, UserId,
    codec,
};

use crate::{
    checkpoints::{self, Of},
    connect::Inner,
    cursor::{Stand, nonce},
    deliver,
    error::{BACKEND, corrupt, failed},
    expire,
    log::loss_window,
    messages::index,
    rows::{Columns, limit},
};

/// The most recipients of one delivery: with a few entries each it takes a second, far less than a statement may.
pub(crate) const MOST_RECIPIENTS: usize = 20_000;
/// The most entries of one page.
const MOST_ENTRIES: usize = 10_000;
const PULL: &str = "inbox.pull";

/// The inbox part.
#[derive(Debug, Clone)]
pub struct PgInbox(pub(crate) Arc<Inner>);

/// What a pull finds: where the inbox ends, and the entries after the cursor, as many as are wanted at most.
struct Found {
    end: Stand,
    entries: Vec<Row>,
}

/// An entry with the nonce of the place before, and its record.
struct Row {
    stand: Stand,
    previous: i64,
    record: Option<Vec<u8>>,
}

impl PgInbox {
    /// One statement, so that it sees one state. The limits stand within, so that only the page's rows are opened and only its records
    /// looked up, each by the key, whatever the planner thinks of the tables; tables of which everything has expired are left out.
    async fn find(&self, user: &UserId, after: i64, wanted: usize) -> Result<Option<Found>> {
        let sql = self.0.sql(
            "SELECT e.place, e.nonce, i.place, i.nonce, i.previous, r.record FROM {im}.inbox_ends e LEFT JOIN \
             (SELECT p.delivered, p.place - cardinality(p.numbers) + k.at AS place, p.delivery # k.number AS nonce, \
             CASE k.at WHEN 1 THEN p.previous ELSE p.delivery # p.numbers[k.at - 1] END AS previous, \
             p.delivery << 16 | k.number AS record \
             FROM (SELECT *, record >> 16 AS delivery, earlier || (record & 65535)::int AS numbers FROM {im}.inbox \
             WHERE user_id = $1 AND place > $2 AND delivered >= (extract(epoch FROM now()) * 1000)::bigint - $4 \
             ORDER BY place LIMIT $3) p CROSS JOIN LATERAL unnest(p.numbers) WITH ORDINALITY AS k (number, at) \
             WHERE p.place - cardinality(p.numbers) + k.at > $2 LIMIT $3) i ON true \
             LEFT JOIN LATERAL (SELECT record FROM {im}.inbox_records WHERE id = i.record AND delivered = i.delivered LIMIT 1) r \
             ON true WHERE e.user_id = $1",
        );
        let query = sqlx::query(sql)
            .bind(user.as_str())
            .bind(after)
            .bind(limit(wanted))
            .bind(self.0.spans.longest_life());
        let rows = self.0.pool.read(query).await.map_err(failed(PULL))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let first = Columns::new(first, 0, PULL);
        let end = Stand { place: first.int(0)?, nonce: first.int(1)? };
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let columns = Columns::new(row, 0, PULL);
            if let Some(place) = columns.optional_int(2)? {
                let stand = Stand { place, nonce: columns.int(3)? };
                entries.push(Row { stand, previous: columns.int(4)?, record: columns.get(5)? });
            }
        }
        // The statement reads them in order, but does not promise it. Were the limit to take others, they would not be dense.
        entries.sort_unstable_by_key(|entry| entry.stand.place);
        Ok(Some(Found { end, entries }))
    }
}

impl Found {
    /// The entries after a cursor, if its own entry is provably the one that the client saw, and nothing after it is gone. Of more
    /// than are wanted the rest is not looked at: it is younger, and goes later.
    fn after(self, cursor: Stand, wanted: usize) -> Option<Vec<Row>> {
        let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) else {
            return (cursor == self.end).then_some(self.entries);
        };
        let is_proven = first.previous == cursor.nonce;
        let is_dense = (1..).zip(&self.entries).all(|(n, entry)| entry.stand.place == cursor.place + n);
        let is_whole = self.entries.len() == wanted || last.stand == self.end;
        (is_proven && is_dense && is_whole).then_some(self.entries)
    }
}

fn entry(row: Row) -> Result<Entry> {
    let record = row.record.ok_or_else(|| corrupt(PULL, "an entry without its record"))?;
    let record = codec::decode(&record).map_err(|error| corrupt(PULL, error.to_string()))?;
    Ok(Entry { cursor: row.stand.cursor(), record: Arc::new(record) })
}

#[async_trait]
impl SyncInbox for PgInbox {
    async fn info(&self) -> Result<InboxInfo> {
        let incarnation = self.0.incarnation("inbox.info").await?;
        Ok(InboxInfo {
            backend: BACKEND,
            durability: self.0.durability,
            loss_window: loss_window(&incarnation),
            incarnation,
            expiry: self.0.expiry,
            max_recipients: MOST_RECIPIENTS,
            only_log: None,
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        checkpoints::load(&self.0, Of::Inbox, partition, "inbox.checkpoint").await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        deliver::deliver(&self.0, delivery).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let Some(cursor) = Stand::of(after) else { return Ok(Pull::Resync) };
        let max = max.clamp(1, MOST_ENTRIES);
        let found = self.find(user, cursor.place, max + 1).await?;
        let Some(mut entries) = found.and_then(|found| found.after(cursor, max + 1)) else {
            return Ok(Pull::Resync);
        };
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Pull::Page { entries: entries.into_iter().map(entry).collect::<Result<_>>()?, more })
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let operation = "inbox.ends";
        // A sub-select with a limit: each user is looked up by the key, whatever the planner thinks of the table.
        let sql = self.0.sql(
            "SELECT e.place, e.nonce, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (user_id, at) CROSS JOIN LATERAL \
             (SELECT place, nonce FROM {im}.inbox_ends e WHERE e.user_id = k.user_id LIMIT 1) e",
        );
        let query = sqlx::query(sql).bind(users.iter().map(UserId::as_str).collect::<Vec<_>>());
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
        let mut ends = vec![None; users.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            let end = Stand { place: columns.int(0)?, nonce: columns.int(1)? };
            ends[index(columns, 2)?] = Some(end.cursor());
        }
        Ok(ends)
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        if let Some(end) = self.ends(std::slice::from_ref(user)).await?.pop().flatten() {
            return Ok(end);
        }
        // Somebody may have been quicker.
        let sql = self.0.sql(
            "INSERT INTO {im}.inbox_ends AS known (user_id, place, nonce, previous) VALUES ($1, 0, $2, $2) \
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
        expire::expire(&self.0).await
    }
}
