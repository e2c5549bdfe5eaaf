//! Expiry: what was delivered in a span of time is dropped as a whole, when all of it is old enough.

use std::{sync::Arc, time::Duration};

use im_core::{Error, ErrorKind, Result};
use sqlx::AssertSqlSafe;

use crate::{
    connect::{Inner, detached},
    error::failed,
    spans::{self, Table},
};

const OPERATION: &str = "inbox.expire";

/// How long a drop waits for its lock: everybody who reads or delivers meanwhile waits behind it.
const WAIT: &str = "100ms";
/// How often it is tried, and the pause in which the others get on.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// Drops the oldest table that has expired; whether there are more.
pub(crate) async fn expire(inner: &Arc<Inner>) -> Result<bool> {
    let (time, tables) = spans::tables(inner, &inner.pool, OPERATION).await?;
    // Where nothing is delivered for a while, nobody else makes any.
    if inner.spans.end_soon(time) {
        spans::make(inner, OPERATION).await?;
    }
    let mut expired: Vec<Table> =
        tables.into_iter().filter(|table| table.to + inner.spans.expiry() <= time).collect();
    expired.sort_unstable_by_key(|table| (table.to, table.parent));
    let more = expired.len() > 1;
    if let Some(oldest) = expired.into_iter().next() {
        remove(inner, &oldest).await?;
    }
    Ok(more)
}

async fn remove(inner: &Arc<Inner>, table: &Table) -> Result<()> {
    for _ in 1..TRIES {
        match detached(OPERATION, drop_table(inner.clone(), table.name.clone())).await {
            Err(error) if error.kind() == ErrorKind::Timeout => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    detached(OPERATION, drop_table(inner.clone(), table.name.clone())).await
}

/// One table in a transaction: so it holds the lock of one parent only, and cannot wait in a circle with who reads both.
async fn drop_table(inner: Arc<Inner>, name: String) -> Result<()> {
    let fail = |error| -> Error { failed(OPERATION)(error) };
    let mut transaction = inner.pool.begin().await.map_err(fail)?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(WAIT)
        .execute(&mut *transaction)
        .await
        .map_err(fail)?;
    spans::lock(&inner, &mut transaction).await.map_err(fail)?;
    // Another node may have dropped it: then nothing is to do.
    let sql = AssertSqlSafe(format!("DROP TABLE IF EXISTS {name}"));
    sqlx::raw_sql(sql).execute(&mut *transaction).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}
