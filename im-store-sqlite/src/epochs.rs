//! The epochs of the file's own log, and which offsets belong to which.

use im_core::{Epoch, Incarnation, Position, Result, Timestamp};
use sqlx::SqliteConnection;

use crate::error::failed;

/// One epoch of the own log.
#[derive(Debug, Clone)]
pub(crate) struct LogEpoch {
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    /// Its records have this id and higher ones, up to the next epoch's first.
    pub(crate) first_id: i64,
    pub(crate) began: Timestamp,
}

/// All epochs of the own log, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Epochs(Vec<LogEpoch>);

impl Epochs {
    pub(crate) async fn load(conn: &mut SqliteConnection) -> Result<Self> {
        let rows: Vec<(u32, String, i64, i64)> =
            sqlx::query_as("SELECT epoch, incarnation, first_offset, began FROM log_epochs ORDER BY epoch")
                .fetch_all(conn)
                .await
                .map_err(failed("open"))?;
        let epoch = |(epoch, incarnation, first_id, began)| LogEpoch {
            epoch: Epoch(epoch),
            incarnation: Incarnation::new(incarnation),
            first_id,
            began: Timestamp(began),
        };
        Ok(Self(rows.into_iter().map(epoch).collect()))
    }

    /// The id of the own log's last record; 0 where there is none.
    pub(crate) async fn end(&self, conn: &mut SqliteConnection) -> Result<i64> {
        if self.0.is_empty() {
            // The log was never used. To look for its records would be to read all those of another log.
            return Ok(0);
        }
        let sql = "SELECT id FROM messages WHERE log_partition IS NULL ORDER BY id DESC LIMIT 1";
        let end = sqlx::query_scalar(sql).fetch_optional(conn).await.map_err(failed("open"))?;
        Ok(end.unwrap_or(0))
    }

    /// Whether the own log was ever used.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn open(&self) -> Option<&LogEpoch> {
        self.0.last()
    }

    pub(crate) fn is_first(&self, epoch: Epoch) -> bool {
        self.0.first().is_some_and(|first| first.epoch == epoch)
    }

    pub(crate) fn push(&mut self, epoch: LogEpoch) {
        self.0.push(epoch);
    }

    /// The position of an id; ids from before the first epoch do not exist.
    pub(crate) fn position(&self, id: i64) -> Position {
        let later = self.0.partition_point(|epoch| epoch.first_id <= id);
        let epoch = later.checked_sub(1).map_or(Epoch(0), |at| self.0[at].epoch);
        Position { epoch, offset: id.unsigned_abs() }
    }

    /// The highest id at or below a position.
    pub(crate) fn id_at(&self, position: Position) -> i64 {
        let later = self.0.partition_point(|epoch| epoch.epoch <= position.epoch);
        // Below the first of its epoch lie only those of epochs before.
        let least = later.checked_sub(1).map_or(0, |at| self.0[at].first_id - 1);
        let offset = i64::try_from(position.offset).unwrap_or(i64::MAX).max(least);
        // A position of an epoch that ended earlier: what lay above its end is lost, and the next epoch took the offsets.
        self.0.get(later).map_or(offset, |next| offset.min(next.first_id - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> Epochs {
        let epoch = |epoch, first_id| LogEpoch {
            epoch: Epoch(epoch),
            incarnation: Incarnation::new("x"),
            first_id,
            began: Timestamp(0),
        };
        Epochs(vec![epoch(5, 1), epoch(9, 801)])
    }

    #[test]
    fn an_offset_belongs_to_the_epoch_it_was_given_in() {
        assert_eq!(epochs().position(800), Position { epoch: Epoch(5), offset: 800 });
        assert_eq!(epochs().position(801), Position { epoch: Epoch(9), offset: 801 });
    }

    #[test]
    fn a_position_beyond_a_lost_tail_is_before_the_next_epoch() {
        assert_eq!(epochs().id_at(Position { epoch: Epoch(5), offset: 1000 }), 800);
        assert_eq!(epochs().id_at(Position { epoch: Epoch(5), offset: 10 }), 10);
        assert_eq!(epochs().id_at(Position { epoch: Epoch(9), offset: 1000 }), 1000);
        assert_eq!(epochs().id_at(Position::START), 0);
    }

    #[test]
    fn the_beginning_of_an_epoch_is_behind_all_records_of_the_epochs_before() {
        assert_eq!(epochs().id_at(Position { epoch: Epoch(9), offset: 0 }), 800);
        assert_eq!(epochs().id_at(Position { epoch: Epoch(12), offset: 0 }), 800);
        assert_eq!(epochs().id_at(Position { epoch: Epoch(7), offset: 0 }), 0);
    }
}
