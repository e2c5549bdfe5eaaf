//! The log: the table `messages` in the order of its offsets.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Append, AppendOutcome, Epoch, Error, ErrorKind, Found, Incarnation, LogInfo, LogRead, LogRecord,
    MessageLog, Partition, Position, Result, SendKey, Timestamp,
};

use crate::{
    append,
    connect::{Inner, detached, incarnation, now},
    error::{BACKEND, corrupt, failed, invalid, other_incarnation},
    messages,
    rows::{Columns, limit, number, record_columns},
};

/// The most records of one read.
const MOST_RECORDS: usize = 10_000;

/// The log part: [`MessageLog`] and [`Leases`](im_core::Leases).
#[derive(Debug, Clone)]
pub struct PgLog(pub(crate) Arc<Inner>);

/// How much acked data may be missing after a failover: what an asynchronous replica may lag behind, and be promoted all the same.
pub(crate) fn loss_window(incarnation: &Incarnation) -> Duration {
    if incarnation.as_str().ends_with("-00000001") { Duration::ZERO } else { Duration::from_secs(60) }
}

pub(crate) fn stale(operation: &'static str, given: Epoch, open: Epoch) -> Error {
    let message = format!("epoch {} given, {} is open", given.0, open.0);
    Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message)
}

pub(crate) fn epoch(number: i64, operation: &'static str) -> Result<Epoch> {
    u32::try_from(number).map(Epoch).map_err(|error| corrupt(operation, error.to_string()))
}

impl PgLog {
    fn check(&self, partition: Partition, operation: &'static str) -> Result<()> {
        if partition.0 < self.0.partitions {
            return Ok(());
        }
        Err(invalid(operation, format!("no partition {}", partition.0)))
    }

    async fn records(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        let operation = "log.read";
        let sql = self.0.sql(concat!(
            "SELECT ",
            record_columns!(),
            " FROM {im}.messages m WHERE m.part = $1 AND m.own AND (m.log_epoch, m.log_offset) > ($2, $3) \
             ORDER BY m.log_epoch, m.log_offset LIMIT $4"
        ));
        let query = sqlx::query(sql)
            .bind(partition.0.cast_signed())
            .bind(i64::from(after.epoch.0))
            .bind(number(after.offset))
            .bind(limit(max.clamp(1, MOST_RECORDS)));
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
        rows.iter().map(|row| Columns::new(row, 0, operation).log_record()).collect()
    }
}

async fn open_epoch(inner: Arc<Inner>, new: Epoch, incarnation: Incarnation) -> Result<()> {
    let operation = "log.open_epoch";
    let mut transaction = inner.pool.begin().await.map_err(failed(operation))?;
    // All partitions' locks: no append may be between its check of the epoch and its commit.
    let sql = inner.sql(concat!(
        "SELECT open_epoch, open_incarnation, ",
        incarnation!(),
        " FROM {im}.log_partitions ORDER BY partition FOR UPDATE"
    ));
    let rows = sqlx::query(sql).fetch_all(&mut *transaction).await.map_err(failed(operation))?;
    let Some(row) = rows.first() else { return Err(corrupt(operation, "the log has no partitions")) };
    let columns = Columns::new(row, 0, operation);
    let present = columns.text(2)?;
    if present != incarnation.as_str() {
        return Err(other_incarnation(operation, &incarnation, present));
    }
    let open = epoch(columns.int(0)?, operation)?;
    if open == new && columns.text(1)? == incarnation.as_str() {
        return transaction.rollback().await.map_err(failed(operation));
    }
    if open >= new && open != Epoch(0) {
        return Err(stale(operation, new, open));
    }
    let sql = inner.sql(concat!(
        "WITH opened AS (INSERT INTO {im}.log_epochs (epoch, incarnation, began) VALUES ($1, $2, ",
        now!(),
        ")) UPDATE {im}.log_partitions SET open_epoch = $1, open_incarnation = $2, \
         first_epoch = CASE first_epoch WHEN 0 THEN $1 ELSE first_epoch END"
    ));
    sqlx::query(sql)
        .bind(i64::from(new.0))
        .bind(incarnation.as_str())
        .execute(&mut *transaction)
        .await
        .map_err(failed(operation))?;
    transaction.commit().await.map_err(failed(operation))
}

#[async_trait]
impl MessageLog for PgLog {
    async fn info(&self) -> Result<LogInfo> {
        let operation = "log.info";
        let sql = self.0.sql(concat!(
            "SELECT ",
            incarnation!(),
            ", e.epoch, e.incarnation, e.began FROM (SELECT 1) one LEFT JOIN {im}.log_epochs e \
             ON e.epoch = (SELECT max(epoch) FROM {im}.log_epochs)"
        ));
        let row = sqlx::query(sql).fetch_one(&self.0.pool).await.map_err(failed(operation))?;
        let columns = Columns::new(&row, 0, operation);
        let incarnation = Incarnation::new(columns.text(0)?);
        let open = match columns.optional_int(1)? {
            Some(number) => Some((epoch(number, operation)?, Incarnation::new(columns.text(2)?))),
            None => None,
        };
        Ok(LogInfo {
            backend: BACKEND,
            durability: self.0.durability,
            loss_window: loss_window(&incarnation),
            incarnation,
            partitions: self.0.partitions,
            epoch: open,
            epoch_began: columns.optional_int(3)?.map_or(Timestamp::default(), Timestamp),
            dedupe_window: None,
        })
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        let operation = "log.ends";
        let sql = self.0.sql("SELECT epoch, last_offset FROM {im}.log_partitions ORDER BY partition");
        let rows = sqlx::query(sql).fetch_all(&self.0.pool).await.map_err(failed(operation))?;
        rows.iter().map(|row| Columns::new(row, 0, operation).position()).collect()
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        detached("log.open_epoch", open_epoch(self.0.clone(), epoch, incarnation.clone())).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        self.check(partition, append::OPERATION)?;
        append::check(&self.0, partition, batch)?;
        let work = append::append(self.0.clone(), partition, epoch, batch.to_vec());
        detached(append::OPERATION, work).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let operation = "log.find";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        messages::find(&self.0, &mut conn, keys, operation).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        self.check(partition, "log.read")?;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let mut moved = self.0.wake.subscribe(partition);
            let records = self.records(partition, after, max).await?;
            if !records.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(LogRead::Records(records));
            }
            // Whether it moved or the time is over, the log itself says what is there.
            let _ = tokio::time::timeout_at(deadline, moved.changed()).await;
        }
    }

    async fn hold(&self, _: &str, positions: &[(Partition, Position)]) -> Result<()> {
        // Everything is kept for ever: the log is also the store.
        positions.iter().try_for_each(|(partition, _)| self.check(*partition, "log.hold"))
    }

    async fn trim(&self) -> Result<()> {
        Ok(())
    }
}
