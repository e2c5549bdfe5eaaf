//! The spans of time by which the inbox lies in tables: made ahead, dropped as a whole.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use im_core::Result;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::Instant;

use crate::{
    connect::{Inner, now},
    error::failed,
};

/// How many spans an entry lives through.
const SPANS: u32 = 8;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long an expiry waits for the lock that a drop needs: everybody who comes after it waits behind it.
const DROP_WAIT: &str = "100ms";

/// What this node knows of the spans.
#[derive(Debug)]
pub(crate) struct Spans {
    length: i64,
    expiry: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the server was asked for its time, and what it said.
    time: Option<(Instant, i64)>,
    /// The spans whose tables are there.
    there: BTreeSet<i64>,
}

impl Spans {
    pub(crate) fn new(expiry: Duration) -> Self {
        let length = (expiry / SPANS).clamp(SHORTEST, LONGEST);
        Self { length: millis(length), expiry: millis(expiry), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By when at the latest a delivery into a span must be done, by the server's clock: an entry's life begins with its span.
    pub(crate) fn until(&self, span: i64) -> i64 {
        span + 2 * self.length
    }

    /// The span of now, with its table.
    pub(crate) async fn current(&self, inner: &Inner, operation: &'static str) -> Result<i64> {
        if let Some(span) = self.known() {
            return Ok(span);
        }
        let time: i64 = sqlx::query_scalar(concat!("SELECT ", now!()))
            .fetch_one(&inner.pool)
            .await
            .map_err(failed(operation))?;
        let span = time - time.rem_euclid(self.length);
        // The next one too, so that its first delivery does not wait.
        make(inner, [span, span + self.length], self.length).await.map_err(failed(operation))?;
        let mut state = self.state();
        state.time = Some((Instant::now(), time));
        state.there.retain(|there| *there >= span);
        state.there.extend([span, span + self.length]);
        Ok(span)
    }

    fn known(&self) -> Option<i64> {
        let state = self.state();
        let (asked, time) = state.time?;
        let now = time + millis(asked.elapsed());
        let span = now - now.rem_euclid(self.length);
        // The server is asked again in each span.
        (state.there.contains(&span) && now - time < self.length).then_some(span)
    }

    /// What is known of the time is wrong.
    pub(crate) fn forget(&self) {
        self.state().time = None;
    }

    /// Drops the tables of the oldest span that has expired; whether there are more.
    pub(crate) async fn expire(&self, inner: &Inner, operation: &'static str) -> Result<bool> {
        let sql = inner.sql(concat!(
            "SELECT c.relname, ",
            now!(),
            " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '{im}.inbox'::regclass"
        ));
        let tables: Vec<(String, i64)> =
            sqlx::query_as(sql).fetch_all(&inner.pool).await.map_err(failed(operation))?;
        let expired = |(name, now): &(String, i64)| {
            let span: i64 = name.strip_prefix("inbox_")?.parse().ok()?;
            (span + self.length * 2 + self.expiry <= *now).then_some(span)
        };
        let mut expired: Vec<_> = tables.iter().filter_map(expired).collect();
        expired.sort_unstable();
        let Some(oldest) = expired.first() else { return Ok(false) };
        drop_tables(inner, *oldest).await.map_err(failed(operation))?;
        Ok(expired.len() > 1)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 8)
}

/// Makes the tables of spans; any number of nodes may.
async fn make(inner: &Inner, spans: [i64; 2], length: i64) -> sqlx::Result<()> {
    let mut transaction = inner.pool.begin().await?;
    lock(inner, &mut transaction).await?;
    for span in spans {
        for parent in ["inbox", "inbox_records"] {
            make_one(inner, &mut transaction, parent, span, span + length).await?;
        }
    }
    transaction.commit().await
}

/// One node at a time makes or drops tables.
async fn lock(inner: &Inner, conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/spans', 0))")
        .bind(&inner.name)
        .execute(conn)
        .await
        .map(drop)
}

async fn make_one(
    inner: &Inner,
    conn: &mut PgConnection,
    parent: &str,
    from: i64,
    to: i64,
) -> sqlx::Result<()> {
    let schema = inner.schema();
    let name = format!("{schema}.{parent}_{from}");
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&name).fetch_one(&mut *conn).await?;
    if is_there {
        return Ok(());
    }
    // To attach a table stops nobody; to create it as a partition would wait for all who read or write, and they for it.
    let sql = format!(
        "CREATE TABLE {name} (LIKE {schema}.{parent} INCLUDING ALL); \
         ALTER TABLE {schema}.{parent} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

async fn drop_tables(inner: &Inner, span: i64) -> sqlx::Result<()> {
    let schema = inner.schema();
    let mut transaction = inner.pool.begin().await?;
    lock(inner, &mut transaction).await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(DROP_WAIT)
        .execute(&mut *transaction)
        .await?;
    let sql = format!("DROP TABLE IF EXISTS {schema}.inbox_{span}, {schema}.inbox_records_{span}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
    transaction.commit().await
}
