//! The tables of the inbox, each for a span of time: made ahead, dropped as a whole by [`expire`](crate::expire).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use im_core::Result;
use sqlx::{AssertSqlSafe, PgExecutor};

use crate::{
    connect::{Inner, detached, now},
    error::failed,
    pool::Conn,
    rows::Columns,
};

/// How many spans an entry lives through.
const SPANS: u32 = 8;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Tables are there for at least so long ahead: longer than a statement may take, for its time is only known when it has all locks.
const AHEAD: Duration = Duration::from_secs(6);

/// What this node knows of the spans.
#[derive(Debug)]
pub(crate) struct Spans {
    length: i64,
    ahead: i64,
    expiry: i64,
    /// Up to here, by the server's clock, there are tables.
    until: AtomicI64,
    /// Some are being made.
    busy: AtomicBool,
}

impl Spans {
    pub(crate) fn new(expiry: Duration) -> Self {
        let length = (expiry / SPANS).clamp(SHORTEST, LONGEST);
        Self {
            length: millis(length),
            ahead: millis(length.max(AHEAD)),
            expiry: millis(expiry),
            until: AtomicI64::new(i64::MIN),
            busy: AtomicBool::new(false),
        }
    }

    /// How long entries are kept at least, in milliseconds.
    pub(crate) fn expiry(&self) -> i64 {
        self.expiry
    }

    /// The age at which an entry is certainly in a table that may be dropped.
    pub(crate) fn longest_life(&self) -> i64 {
        self.expiry + self.ahead
    }

    /// Whether tables are known to be there at all.
    pub(crate) fn are_known(&self) -> bool {
        self.until.load(Ordering::Relaxed) > i64::MIN
    }

    /// Whether at a time there are no longer tables for long enough ahead.
    pub(crate) fn end_soon(&self, time: i64) -> bool {
        time + self.ahead >= self.until.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 8)
}

/// A table of `inbox` or `inbox_records`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// As SQL has it.
    pub(crate) name: String,
    pub(crate) parent: Parent,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// In the order in which tables are dropped: an entry never stands without its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parent {
    Entries,
    Records,
}

impl Parent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Entries => "inbox",
            Self::Records => "inbox_records",
        }
    }
}

/// The server's time, and the tables that are there.
pub(crate) async fn tables(
    inner: &Inner,
    conn: impl PgExecutor<'_>,
    operation: &'static str,
) -> Result<(i64, Vec<Table>)> {
    // One that is dropped just now has no bounds any more: they are looked at once, after the name.
    let sql = concat!(
        "WITH t AS MATERIALIZED (SELECT $1 || '.' || quote_ident(c.relname) AS name, p.relname = 'inbox_records' AS of_records, \
         regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(-?\\d+)''?\\) TO \\(''?(-?\\d+)''?\\)')::bigint[] \
         AS bounds FROM pg_class p JOIN pg_inherits i ON i.inhparent = p.oid JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE p.relnamespace = to_regnamespace($1) AND p.relname IN ('inbox', 'inbox_records') AND p.relkind = 'p') \
         SELECT ",
        now!(),
        ", t.name, t.of_records, t.bounds[1], t.bounds[2] FROM (SELECT) one LEFT JOIN t ON t.bounds IS NOT NULL"
    );
    let rows = sqlx::query(sql).bind(inner.schema()).fetch_all(conn).await.map_err(failed(operation))?;
    let (mut time, mut tables) = (0, Vec::with_capacity(rows.len()));
    for row in &rows {
        let columns = Columns::new(row, 0, operation);
        time = columns.int(0)?;
        let Some(name) = columns.optional_text(1)? else { continue };
        let parent = if columns.get(2)? { Parent::Records } else { Parent::Entries };
        tables.push(Table { name: name.to_owned(), parent, from: columns.int(3)?, to: columns.int(4)? });
    }
    Ok((time, tables))
}

/// Which tables are missing from a time to another, and until when there are tables then. Those that are there may be of another
/// length: the expiry was set to another one since.
fn missing(there: &[(i64, i64)], now: i64, last: i64, length: i64) -> (Vec<(i64, i64)>, i64) {
    let (mut missing, mut at) = (Vec::new(), now);
    while at <= last {
        if let Some((_, to)) = there.iter().find(|(from, to)| (*from..*to).contains(&at)) {
            at = *to;
            continue;
        }
        let span = at - at.rem_euclid(length);
        let all = || there.iter().chain(&missing);
        let from = all().map(|(_, to)| *to).filter(|to| *to <= at).fold(span, i64::max);
        let to = all().map(|(from, _)| *from).filter(|from| *from > at).fold(span + length, i64::min);
        missing.push((from, to));
        at = to;
    }
    (missing, at)
}

/// Makes the tables of now and of what comes next; any number of nodes may at once.
pub(crate) async fn make(inner: &Arc<Inner>, operation: &'static str) -> Result<()> {
    let inner = inner.clone();
    detached(operation, async move {
        let mut transaction = inner.pool.begin().await.map_err(failed(operation))?;
        lock(&inner, &mut transaction).await.map_err(failed(operation))?;
        let (time, tables) = tables(&inner, &mut *transaction, operation).await?;
        let mut until = i64::MAX;
        for parent in [Parent::Entries, Parent::Records] {
            let of_parent = tables.iter().filter(|table| table.parent == parent);
            let there: Vec<_> = of_parent.map(|table| (table.from, table.to)).collect();
            let (missing, end) = missing(&there, time, time + inner.spans.ahead, inner.spans.length);
            until = until.min(end);
            for (from, to) in missing {
                make_one(&inner, &mut transaction, parent, from, to).await.map_err(failed(operation))?;
            }
        }
        transaction.commit().await.map_err(failed(operation))?;
        inner.spans.until.store(until, Ordering::Relaxed);
        Ok(())
    })
    .await
}

/// The same aside, so that no delivery has to wait for it.
pub(crate) fn make_aside(inner: &Arc<Inner>, operation: &'static str) {
    if inner.spans.busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        if let Err(error) = make(&inner, operation).await {
            tracing::warn!(%error, "the inbox has no tables for the time to come yet; the next delivery tries again");
        }
        inner.spans.busy.store(false, Ordering::Release);
    });
}

/// One node at a time makes or drops tables.
pub(crate) async fn lock(inner: &Inner, conn: &mut Conn) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/spans', 0))")
        .bind(inner.schema())
        .execute(conn)
        .await
        .map(drop)
}

async fn make_one(inner: &Inner, conn: &mut Conn, parent: Parent, from: i64, to: i64) -> sqlx::Result<()> {
    let (schema, parent) = (inner.schema(), parent.as_str());
    let name = format!("{schema}.{parent}_{from}");
    // To attach a table stops nobody; to create it as a partition would wait for all who read or write, and they for it. No vacuum: rows
    // are never changed, and the table is dropped before they would have to be frozen.
    let sql = format!(
        "CREATE TABLE {name} (LIKE {schema}.{parent} INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE) \
         WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false); \
         ALTER TABLE {schema}.{parent} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_now_and_of_the_next_span_are_missing_at_first() {
        assert_eq!(missing(&[], 1234, 1334, 100), (vec![(1200, 1300), (1300, 1400)], 1400));
        assert_eq!(missing(&[], 1200, 1300, 100), (vec![(1200, 1300), (1300, 1400)], 1400));
        assert_eq!(missing(&[(1200, 1300)], 1299, 1399, 100), (vec![(1300, 1400)], 1400));
        assert_eq!(missing(&[(1200, 1300), (1300, 1400)], 1299, 1399, 100), (vec![], 1400));
    }

    #[test]
    fn tables_of_another_length_are_no_hindrance() {
        // The expiry was longer.
        assert_eq!(missing(&[(1000, 2000)], 1950, 2050, 100), (vec![(2000, 2100)], 2100));
        assert_eq!(missing(&[(1000, 1250)], 1260, 1360, 100), (vec![(1250, 1300), (1300, 1400)], 1400));
        // It was shorter.
        assert_eq!(
            missing(&[(1500, 1600), (1600, 1700)], 1650, 2650, 1000),
            (vec![(1700, 2000), (2000, 3000)], 3000)
        );
        // A clock was turned back.
        assert_eq!(missing(&[(1250, 1300)], 1220, 1320, 100), (vec![(1200, 1250), (1300, 1400)], 1400));
    }
}
