//! The epochs that the store gives to the incarnations of its log.

use std::sync::Arc;

use im_core::{Epoch, Error, ErrorKind, Incarnation, Result};

use crate::{
    connect::{Inner, now},
    error::{BACKEND, failed, other_incarnation},
    log::epoch,
    pool::Conn,
};

/// 2026-01-01T00:00:00Z in milliseconds, from which epochs are counted in minutes.
const EPOCHS_BEGIN: i64 = 1_767_225_600_000;

/// The epoch of a log incarnation, a new one if it has none yet.
pub(crate) async fn open(inner: Arc<Inner>, log: Incarnation) -> Result<Epoch> {
    let operation = "store.open_epoch";
    let mut transaction = inner.pool.begin().await.map_err(failed(operation))?;
    sqlx::query(inner.sql("LOCK TABLE {im}.store_epochs IN EXCLUSIVE MODE"))
        .execute(&mut *transaction)
        .await
        .map_err(failed(operation))?;
    let newest = newest(&inner, &mut transaction, operation).await?;
    if let Some((epoch, newest)) = &newest {
        if *newest == log {
            return transaction.rollback().await.map(|()| *epoch).map_err(failed(operation));
        }
        if is_known(&inner, &mut transaction, &log).await.map_err(failed(operation))? {
            let message = format!("log incarnation {log:?} was followed by {newest:?}");
            return Err(Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message));
        }
    }
    let sql = inner.sql(concat!(
        "INSERT INTO {im}.store_epochs (epoch, incarnation) VALUES (greatest($1, (",
        now!(),
        " - $2) / 60000), $3) RETURNING epoch"
    ));
    let given: i64 = sqlx::query_scalar(sql)
        .bind(newest.map_or(1, |(last, _)| i64::from(last.0) + 1))
        .bind(EPOCHS_BEGIN)
        .bind(log.as_str())
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed(operation))?;
    transaction.commit().await.map_err(failed(operation))?;
    epoch(given, operation)
}

async fn is_known(inner: &Inner, conn: &mut Conn, log: &Incarnation) -> sqlx::Result<bool> {
    let sql = inner.sql("SELECT EXISTS (SELECT 1 FROM {im}.store_epochs WHERE incarnation = $1)");
    sqlx::query_scalar(sql).bind(log.as_str()).fetch_one(conn).await
}

/// Refuses work that was done under a log incarnation other than that of the newest epoch; until the commit none is opened.
pub(crate) async fn fence(
    inner: &Inner,
    conn: &mut Conn,
    log: &Incarnation,
    operation: &'static str,
) -> Result<()> {
    sqlx::query(inner.sql("LOCK TABLE {im}.store_epochs IN ROW EXCLUSIVE MODE"))
        .execute(&mut *conn)
        .await
        .map_err(failed(operation))?;
    match newest(inner, conn, operation).await? {
        Some((_, newest)) if newest == *log => Ok(()),
        Some((_, newest)) => Err(other_incarnation(operation, log, newest.as_str())),
        None => Err(Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, "no epoch is open")),
    }
}

async fn newest(
    inner: &Inner,
    conn: &mut Conn,
    operation: &'static str,
) -> Result<Option<(Epoch, Incarnation)>> {
    let sql = inner.sql("SELECT epoch, incarnation FROM {im}.store_epochs ORDER BY epoch DESC LIMIT 1");
    let row: Option<(i64, String)> =
        sqlx::query_as(sql).fetch_optional(conn).await.map_err(failed(operation))?;
    row.map(|(number, incarnation)| Ok((epoch(number, operation)?, Incarnation::new(incarnation))))
        .transpose()
}
