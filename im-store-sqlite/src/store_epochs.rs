//! The epochs that the store gives to the incarnations of its log.

use std::sync::Arc;

use im_core::{Epoch, Error, ErrorKind, Incarnation, Result, Timestamp};
use sqlx::SqliteConnection;

use crate::{
    connect::Inner,
    error::{BACKEND, failed, other_incarnation},
};

/// 2026-01-01T00:00:00Z, from which epochs are counted in minutes.
const EPOCHS_BEGIN: Timestamp = Timestamp(1_767_225_600_000);

/// The first epoch ever given.
pub(crate) async fn first(conn: &mut SqliteConnection) -> Result<Option<Epoch>> {
    let first: Option<u32> = sqlx::query_scalar("SELECT min(epoch) FROM store_epochs")
        .fetch_one(conn)
        .await
        .map_err(failed("store.info"))?;
    Ok(first.map(Epoch))
}

/// The epoch of a log incarnation, a new one if it has none yet.
pub(crate) async fn open(inner: Arc<Inner>, log: Incarnation) -> Result<Epoch> {
    let operation = "store.open_epoch";
    let mut writer = inner.writer(operation).await?;
    let newest = newest(writer.conn()).await.map_err(failed(operation))?;
    if let Some((epoch, newest)) = &newest {
        if *newest == log {
            return Ok(*epoch);
        }
        let is_old = sqlx::query("SELECT 1 FROM store_epochs WHERE incarnation = ?")
            .bind(log.as_str())
            .fetch_optional(writer.conn())
            .await
            .map_err(failed(operation))?
            .is_some();
        if is_old {
            let message = format!("log incarnation {log:?} was followed by {newest:?}");
            return Err(Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message));
        }
    }
    let minutes = inner.clock.now().since(EPOCHS_BEGIN).as_secs() / 60;
    let minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
    let epoch = Epoch(minutes.max(newest.map_or(1, |(last, _)| last.0 + 1)));
    writer.begin(operation, inner.acked).await?;
    let inserted = sqlx::query("INSERT INTO store_epochs (epoch, incarnation) VALUES (?, ?)")
        .bind(epoch.0)
        .bind(log.as_str())
        .execute(writer.conn())
        .await
        .map_err(failed(operation));
    writer.end(operation, inserted).await?;
    Ok(epoch)
}

/// Refuses work that was done under a log incarnation other than that of the newest epoch.
pub(crate) async fn fence(
    conn: &mut SqliteConnection,
    log: &Incarnation,
    operation: &'static str,
) -> Result<()> {
    match newest(conn).await.map_err(failed(operation))? {
        Some((_, newest)) if newest == *log => Ok(()),
        Some((_, newest)) => Err(other_incarnation(operation, log, &newest)),
        None => Err(Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, "no epoch is open")),
    }
}

async fn newest(conn: &mut SqliteConnection) -> sqlx::Result<Option<(Epoch, Incarnation)>> {
    let row: Option<(u32, String)> =
        sqlx::query_as("SELECT epoch, incarnation FROM store_epochs ORDER BY epoch DESC LIMIT 1")
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(epoch, incarnation)| (Epoch(epoch), Incarnation::new(incarnation))))
}
