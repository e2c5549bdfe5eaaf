//! Checkpoints of the persist and fan-out projections.

use im_core::{Checkpoint, Epoch, Incarnation, Lineage, Partition, Position, Result};

use crate::{
    connect::Inner,
    error::{corrupt, failed},
    pool::Conn,
    rows::{Columns, number},
};

/// Whose checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Store,
    Inbox,
}

impl Of {
    fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Inbox => "inbox",
        }
    }
}

/// How a checkpoint moves, after `INSERT INTO {im}.checkpoints AS known`: within a lineage only forward.
macro_rules! moves {
    () => {
        "ON CONFLICT (projection, partition) DO UPDATE SET epoch = excluded.epoch, log_offset = excluded.log_offset, \
         rewind_epoch = excluded.rewind_epoch, rewind_offset = excluded.rewind_offset, log = excluded.log, \
         store = excluded.store, inbox = excluded.inbox \
         WHERE (excluded.log, excluded.store, excluded.inbox) <> (known.log, known.store, known.inbox) \
         OR (excluded.epoch, excluded.log_offset) >= (known.epoch, known.log_offset)"
    };
}
pub(crate) use moves;

/// Moves a checkpoint within a transaction.
pub(crate) async fn store(
    inner: &Inner,
    conn: &mut Conn,
    of: Of,
    partition: Partition,
    checkpoint: &Checkpoint,
) -> sqlx::Result<()> {
    let Checkpoint { position, rewind, lineage } = checkpoint;
    let sql = inner.sql(concat!(
        "INSERT INTO {im}.checkpoints AS known \
         (projection, partition, epoch, log_offset, rewind_epoch, rewind_offset, log, store, inbox) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ",
        moves!()
    ));
    sqlx::query(sql)
        .bind(of.as_str())
        .bind(i32::from(partition.0))
        .bind(i64::from(position.epoch.0))
        .bind(number(position.offset))
        .bind(i64::from(rewind.epoch.0))
        .bind(number(rewind.offset))
        .bind(lineage.log.as_str())
        .bind(lineage.store.as_str())
        .bind(lineage.inbox.as_str())
        .execute(conn)
        .await
        .map(drop)
}

/// Reads a checkpoint.
pub(crate) async fn load(
    inner: &Inner,
    of: Of,
    partition: Partition,
    operation: &'static str,
) -> Result<Option<Checkpoint>> {
    let sql = inner.sql(
        "SELECT epoch, log_offset, rewind_epoch, rewind_offset, log, store, inbox FROM {im}.checkpoints \
         WHERE projection = $1 AND partition = $2",
    );
    let row = sqlx::query(sql)
        .bind(of.as_str())
        .bind(i32::from(partition.0))
        .fetch_optional(&inner.pool)
        .await
        .map_err(failed(operation))?;
    let Some(row) = row else { return Ok(None) };
    let columns = Columns::new(&row, 0, operation);
    let position = |column| -> Result<Position> {
        let epoch =
            u32::try_from(columns.int(column)?).map_err(|error| corrupt(operation, error.to_string()))?;
        Ok(Position { epoch: Epoch(epoch), offset: columns.int(column + 1)?.unsigned_abs() })
    };
    let incarnation = |column| columns.text(column).map(Incarnation::new);
    let lineage = Lineage { log: incarnation(4)?, store: incarnation(5)?, inbox: incarnation(6)? };
    Ok(Some(Checkpoint { position: position(0)?, rewind: position(2)?, lineage }))
}
