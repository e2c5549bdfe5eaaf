//! Checkpoints of the persist and fan-out projections.

use im_core::{Checkpoint, Epoch, Incarnation, Lineage, Partition, Position, Result};
use sqlx::SqliteConnection;

use crate::{
    error::{corrupt, failed},
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

/// Moves a checkpoint; within a lineage only forward.
const MOVE: &str = "INSERT INTO checkpoints \
     (projection, partition, epoch, offset, rewind_epoch, rewind_offset, log, store, inbox) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT DO UPDATE SET epoch = excluded.epoch, offset = excluded.offset, rewind_epoch = excluded.rewind_epoch, \
     rewind_offset = excluded.rewind_offset, log = excluded.log, store = excluded.store, inbox = excluded.inbox \
     WHERE (excluded.log, excluded.store, excluded.inbox) <> (log, store, inbox) \
     OR (excluded.epoch, excluded.offset) >= (epoch, offset)";

/// Whether a checkpoint takes the place of a known one: the rule of [`MOVE`].
pub(crate) fn moves(known: &Checkpoint, new: &Checkpoint) -> bool {
    new.lineage != known.lineage || new.position >= known.position
}

/// Moves a checkpoint within a transaction.
pub(crate) async fn store(
    conn: &mut SqliteConnection,
    of: Of,
    partition: Partition,
    checkpoint: &Checkpoint,
) -> sqlx::Result<()> {
    let Checkpoint { position, rewind, lineage } = checkpoint;
    sqlx::query(MOVE)
        .bind(of.as_str())
        .bind(partition.0)
        .bind(position.epoch.0)
        .bind(number(position.offset))
        .bind(rewind.epoch.0)
        .bind(number(rewind.offset))
        .bind(lineage.log.as_str().to_owned())
        .bind(lineage.store.as_str().to_owned())
        .bind(lineage.inbox.as_str().to_owned())
        .execute(conn)
        .await
        .map(drop)
}

/// Reads a checkpoint.
pub(crate) async fn load(
    conn: &mut SqliteConnection,
    of: Of,
    partition: Partition,
    operation: &'static str,
) -> Result<Option<Checkpoint>> {
    let row = sqlx::query(
        "SELECT epoch, offset, rewind_epoch, rewind_offset, log, store, inbox FROM checkpoints \
         WHERE projection = ? AND partition = ?",
    )
    .bind(of.as_str())
    .bind(partition.0)
    .fetch_optional(conn)
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
