//! Expiry: inbox entries are kept for a time from their delivery on.
//!
//! Entries carry no time. Each span of time notes the lowest and the highest id that were delivered in it; what lies below
//! everything that was delivered lately is expired, whatever its own span.

use std::{sync::Arc, time::Duration};

use im_core::{Result, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    connect::Inner,
    error::failed,
    rows::{Columns, Statement, limit},
    values::{MOST_ROWS, Values},
    writer::Sync,
};

const OPERATION: &str = "inbox.expire";

/// A walk over all inboxes.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// What it removes: spans that began before a time, and the highest id of which all entries are expired; none between
    /// two walks.
    goal: Option<(i64, i64)>,
    /// The inboxes from here on are still to be seen.
    from: String,
}

/// The length of a span of time: so many of them in an expiry.
fn span(expiry: Duration) -> i64 {
    i64::try_from(expiry.as_millis() / 4096).unwrap_or(i64::MAX).max(1)
}

/// Notes what is delivered in a span of time.
macro_rules! note_delivery {
    () => {
        "INSERT INTO inbox_deliveries (delivered_at, lowest, highest) VALUES (?, ?, ?) \
         ON CONFLICT DO UPDATE SET lowest = min(lowest, excluded.lowest), highest = max(highest, excluded.highest)"
    };
}
pub(crate) use note_delivery;

/// A span of time, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(i64);

impl Span {
    /// The one that it is now.
    pub(crate) fn now(inner: &Inner) -> Self {
        let span = span(inner.expiry);
        Self(inner.clock.now().0.div_euclid(span) * span)
    }
}

/// Which entries were delivered in a span of time: from one id to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    lowest: i64,
    highest: i64,
}

impl Note {
    /// Of these entries; none where there are none.
    pub(crate) fn of(messages: impl Iterator<Item = i64>) -> Option<Self> {
        messages.map(|message| Self { lowest: message, highest: message }).reduce(Self::joined)
    }

    /// Of the entries of both.
    pub(crate) fn joined(self, other: Self) -> Self {
        Self { lowest: self.lowest.min(other.lowest), highest: self.highest.max(other.highest) }
    }

    /// The lowest of them.
    pub(crate) fn lowest(&self) -> i64 {
        self.lowest
    }

    /// Binds the arguments of [`note_delivery`].
    pub(crate) fn bind(self, span: Span, query: Statement<'_>) -> Statement<'_> {
        query.bind(span.0).bind(self.lowest).bind(self.highest)
    }
}

/// Removes about `max` expired entries; whether there may be more.
pub(crate) async fn expire(inner: Arc<Inner>, max: usize) -> Result<bool> {
    let mut pass = inner.pass.lock().await;
    // What was delivered lately must be noted in the file, or more would seem to be expired.
    inner.entries.settle(&Arc::downgrade(&inner)).await?;
    // A span that began before this ended before the expiry.
    let before = inner.clock.now().minus(inner.expiry).0.saturating_sub(span(inner.expiry));
    let (before, most) = pass.goal.unwrap_or((before, i64::MAX));
    // Asked again in the midst of a walk: an old record may have been delivered for the first time just now.
    let highest = highest_expired(&inner, before).await?.map(|highest| highest.min(most));
    pass.goal = highest.map(|highest| (before, highest));
    let Some((before, highest)) = pass.goal else { return Ok(false) };
    let (expired, next) = find(&inner, &pass.from, highest, max).await?;
    remove(&inner, &expired).await?;
    match next {
        Some(next) => {
            pass.from = next;
            Ok(true)
        }
        None => {
            forget_spans(&inner, before, highest).await?;
            *pass = Pass::default();
            Ok(false)
        }
    }
}

/// The highest id of which all entries are expired; none if there is none.
async fn highest_expired(inner: &Inner, before: i64) -> Result<Option<i64>> {
    let query = sqlx::query(
        "SELECT min(coalesce((SELECT min(lowest) - 1 FROM inbox_deliveries WHERE delivered_at >= ?1), max(highest)), \
         max(highest)) FROM inbox_deliveries WHERE delivered_at < ?1",
    )
    .bind(before);
    let row = inner.readers.one(query, OPERATION).await?;
    Columns::new(&row, 0, OPERATION).optional_int(0)
}

/// Walks over the users from `from` on, each found by one seek, and their expired entries: each user with its last one, and
/// where to go on.
async fn find(
    inner: &Inner,
    from: &str,
    highest: i64,
    max: usize,
) -> Result<(Vec<(UserId, i64)>, Option<String>)> {
    let query = sqlx::query(
        "WITH RECURSIVE users (id) AS (SELECT min(user_id) FROM inbox WHERE user_id >= ?1 UNION ALL \
         SELECT (SELECT min(user_id) FROM inbox WHERE user_id > users.id) FROM users WHERE users.id IS NOT NULL) \
         SELECT users.id, i.message, coalesce(json_array_length(i.earlier), 0) \
         FROM users LEFT JOIN inbox i ON i.user_id = users.id AND i.message <= ?2 \
         WHERE users.id IS NOT NULL LIMIT ?3",
    )
    .bind(from)
    .bind(highest)
    .bind(limit(max));
    let rows = inner.readers.all(query, OPERATION).await?;
    let mut expired: Vec<(UserId, i64)> = Vec::new();
    let (mut next, mut entries) = (None, 0);
    for row in &rows {
        let columns = Columns::new(row, 0, OPERATION);
        let user = columns.parse(0, UserId::new)?;
        let Some(message) = columns.optional_int(1)? else {
            // Behind a user without any, nul leads to the next id, since no id has it.
            next = Some(format!("{user}\0"));
            continue;
        };
        entries += 1 + columns.int(2)?;
        next = Some(user.to_string());
        if !expired.is_empty() && entries > limit(max) {
            return Ok((expired, next));
        }
        match expired.last_mut() {
            Some((last, highest)) if *last == user => *highest = message.max(*highest),
            _ => expired.push((user, message)),
        }
    }
    Ok((expired, next.filter(|_| rows.len() == max)))
}

static MARK: Values = Values::new(
    "INSERT INTO inbox_starts (user_id, message) SELECT * FROM",
    2,
    "WHERE column1 IS NOT NULL ON CONFLICT DO UPDATE SET message = max(message, excluded.message)",
);

static REMOVE: Values = Values::new(
    "DELETE FROM inbox WHERE (user_id, message) IN (SELECT i.user_id, i.message FROM",
    2,
    "v CROSS JOIN inbox i ON i.user_id = v.column1 AND i.message <= v.column2)",
);

async fn remove(inner: &Inner, expired: &[(UserId, i64)]) -> Result<()> {
    if expired.is_empty() {
        return Ok(());
    }
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, Sync::Normal).await?;
    let removed = write(writer.conn(), expired).await.map_err(failed(OPERATION));
    writer.end(OPERATION, removed).await
}

async fn write(conn: &mut SqliteConnection, expired: &[(UserId, i64)]) -> sqlx::Result<()> {
    for chunk in expired.chunks(MOST_ROWS) {
        for statement in [&MARK, &REMOVE] {
            let mut query = sqlx::query(AssertSqlSafe(statement.sql(chunk.len())));
            for (user, message) in chunk {
                query = query.bind(Arc::<str>::from(user.clone())).bind(*message);
            }
            query.execute(&mut *conn).await?;
        }
    }
    Ok(())
}

/// After a whole walk nothing is left of what these spans delivered.
async fn forget_spans(inner: &Inner, before: i64, highest: i64) -> Result<()> {
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, Sync::Normal).await?;
    let forgotten = sqlx::query("DELETE FROM inbox_deliveries WHERE delivered_at < ? AND highest <= ?")
        .bind(before)
        .bind(highest)
        .execute(writer.conn())
        .await
        .map_err(failed(OPERATION));
    writer.end(OPERATION, forgotten).await.map(drop)
}
