//! The log: the table `messages` in the order of its ids.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Append, AppendOutcome, Epoch, Error, ErrorKind, Found, Incarnation, LogInfo, LogPart, LogRead, LogRecord,
    MessageLog, Partition, Position, Result, SendKey, Timestamp,
};

use crate::{
    append,
    connect::Inner,
    epochs::LogEpoch,
    error::{BACKEND, failed, invalid, other_incarnation},
    messages,
    rows::{Columns, limit, message_text},
    tail,
};

/// The most records of one read.
const MOST_RECORDS: usize = 10_000;

/// The log part: [`MessageLog`] and [`Leases`](im_core::Leases).
#[derive(Debug, Clone)]
pub struct SqliteLog(pub(crate) Arc<Inner>);

impl From<SqliteLog> for LogPart {
    fn from(log: SqliteLog) -> Self {
        let log = Arc::new(log);
        Self { log: log.clone(), leases: log }
    }
}

impl SqliteLog {
    async fn records(&self, after: i64, max: usize) -> Result<Vec<LogRecord>> {
        let operation = "log.read";
        let max = max.clamp(1, MOST_RECORDS);
        if let Some(records) = tail::lock(&self.0.tail).after(after, max) {
            return Ok(records);
        }
        // Not beyond it: the timelines do not have yet what was committed just now.
        let end = *self.0.end.borrow();
        let query = sqlx::query(concat!(
            "SELECT ",
            message_text!(),
            " FROM messages m WHERE m.id > ? AND m.id <= ? AND m.log_partition IS NULL ORDER BY m.id LIMIT ?"
        ))
        .bind(after)
        .bind(end)
        .bind(limit(max));
        let rows = self.0.readers.all(query, operation).await?;
        // Not before: a record of an epoch that was opened meanwhile would be taken for one of the epoch before.
        let epochs = self.0.epochs();
        rows.iter().map(|row| Columns::new(row, 0, operation).log_record(0, &epochs)).collect()
    }
}

fn check_partition(partition: Partition, operation: &'static str) -> Result<()> {
    if partition == Partition(0) {
        Ok(())
    } else {
        Err(invalid(operation, format!("no partition {}", partition.0)))
    }
}

async fn open_epoch(inner: Arc<Inner>, epoch: Epoch, incarnation: Incarnation) -> Result<()> {
    let operation = "log.open_epoch";
    if incarnation != inner.incarnation {
        return Err(other_incarnation(operation, &incarnation, &inner.incarnation));
    }
    // Under the writer's lock: no append may be between its check of the epoch and its commit.
    let mut writer = inner.writer(operation).await?;
    let mut epochs = (*inner.epochs()).clone();
    match epochs.open() {
        Some(open) if open.epoch == epoch && open.incarnation == incarnation => return Ok(()),
        Some(open) if open.epoch >= epoch => {
            let message = format!("epoch {} given, {} is open", epoch.0, open.epoch.0);
            return Err(Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message));
        }
        _ => {}
    }
    let (first_id, began) = (writer.next_id(), inner.clock.now());
    writer.begin(operation, inner.acked).await?;
    let inserted =
        sqlx::query("INSERT INTO log_epochs (epoch, incarnation, first_offset, began) VALUES (?, ?, ?, ?)")
            .bind(epoch.0)
            .bind(incarnation.as_str())
            .bind(first_id)
            .bind(began.0)
            .execute(writer.conn())
            .await
            .map_err(failed(operation));
    writer.end(operation, inserted).await?;
    epochs.push(LogEpoch { epoch, incarnation, first_id, began });
    inner.set_epochs(epochs);
    Ok(())
}

#[async_trait]
impl MessageLog for SqliteLog {
    async fn info(&self) -> Result<LogInfo> {
        let epochs = self.0.epochs();
        let open = epochs.open();
        Ok(LogInfo {
            backend: BACKEND,
            durability: self.0.durability,
            incarnation: self.0.incarnation.clone(),
            loss_window: Duration::ZERO,
            partitions: 1,
            epoch: open.map(|open| (open.epoch, open.incarnation.clone())),
            epoch_began: open.map_or(Timestamp::default(), |open| open.began),
            dedupe_window: None,
        })
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        let end = *self.0.end.borrow();
        Ok(vec![if end == 0 { Position::START } else { self.0.epochs().position(end) }])
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.0.thread.run("log.open_epoch", open_epoch(self.0.clone(), epoch, incarnation.clone())).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        check_partition(partition, "log.append")?;
        self.0.thread.run("log.append", append::append(self.0.clone(), epoch, batch.to_vec())).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let operation = "log.find";
        let mut conn = self.0.readers.lend(operation).await?;
        let found = messages::find(&mut conn, keys, &self.0.epochs(), operation).await;
        conn.back(found)
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        check_partition(partition, "log.read")?;
        let after = self.0.epochs().id_at(after);
        let mut end = self.0.end.subscribe();
        // The wait ends early when a record comes; a sender that is gone cannot be, since we hold it.
        let _ = tokio::time::timeout(wait, end.wait_for(|end| *end > after)).await;
        Ok(LogRead::Records(self.records(after, max).await?))
    }

    async fn hold(&self, _: &str, positions: &[(Partition, Position)]) -> Result<()> {
        // Everything is kept for ever: the log is also the store.
        positions.iter().try_for_each(|(partition, _)| check_partition(*partition, "log.hold"))
    }

    async fn trim(&self) -> Result<()> {
        Ok(())
    }
}
