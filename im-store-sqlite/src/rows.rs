//! Rows of `messages`, and what they become.

use std::sync::Arc;

use im_core::{
    ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Epoch, Error, Found, LogRecord, Mark,
    Ordinal, Position, Receipt, Record, RecordKind, Result, Seq, Timestamp, UserId,
};
use sqlx::{
    Row, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{
    epochs::Epochs,
    error::{corrupt, failed},
};

/// The sequence id of read marks in `timelines`: above every record.
pub(crate) const MARKS: i64 = i64::MAX;

/// The columns of a record and its position, in the order in which [`Columns`] reads them; from `messages m`.
macro_rules! record_columns {
    () => {
        "m.id, m.log_partition, m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash, \
         m.conversation_id, m.send_from, m.device, m.send_to, m.client_msg_id, m.hole_after, m.kind, m.content_type, \
         m.content"
    };
}
pub(crate) use record_columns;

/// The columns of a receipt: the first of [`record_columns`].
macro_rules! receipt_columns {
    () => {
        "m.id, m.log_partition, m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash"
    };
}
pub(crate) use receipt_columns;

/// Reads a row from its column `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r> {
    row: &'r SqliteRow,
    first: usize,
    operation: &'static str,
}

impl<'r> Columns<'r> {
    pub(crate) fn new(row: &'r SqliteRow, first: usize, operation: &'static str) -> Self {
        Self { row, first, operation }
    }

    /// The same row from a later column on.
    pub(crate) fn skip(self, columns: usize) -> Self {
        Self { first: self.first + columns, ..self }
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64> {
        self.row.try_get(self.first + column).map_err(failed(self.operation))
    }

    pub(crate) fn optional_int(&self, column: usize) -> Result<Option<i64>> {
        self.row.try_get(self.first + column).map_err(failed(self.operation))
    }

    pub(crate) fn text(&self, column: usize) -> Result<&'r str> {
        self.row.try_get(self.first + column).map_err(failed(self.operation))
    }

    pub(crate) fn optional_text(&self, column: usize) -> Result<Option<&'r str>> {
        self.row.try_get(self.first + column).map_err(failed(self.operation))
    }

    /// An id or another value that the file holds as text.
    pub(crate) fn parse<T, E: std::fmt::Display>(
        &self,
        column: usize,
        parse: impl Fn(&'r str) -> Result<T, E>,
    ) -> Result<T> {
        parse(self.text(column)?).map_err(|error| self.bad(error))
    }

    pub(crate) fn parse_optional<T, E: std::fmt::Display>(
        &self,
        column: usize,
        parse: impl Fn(&'r str) -> Result<T, E>,
    ) -> Result<Option<T>> {
        self.optional_text(column)?.map(parse).transpose().map_err(|error| self.bad(error))
    }

    /// A sequence id and its ordinal, in two columns that follow each other.
    pub(crate) fn mark(&self, column: usize) -> Result<Mark> {
        Ok(Mark {
            seq: Seq(self.int(column)?.unsigned_abs()),
            ordinal: Ordinal(self.int(column + 1)?.unsigned_abs()),
        })
    }

    /// The same where the first may be NULL.
    pub(crate) fn optional_mark(&self, column: usize) -> Result<Option<Mark>> {
        Ok(if self.optional_int(column)?.is_some() { Some(self.mark(column)?) } else { None })
    }

    fn bad(&self, error: impl std::fmt::Display) -> Error {
        corrupt(self.operation, error.to_string())
    }

    /// The position; columns 0 to 3 of a record.
    pub(crate) fn position(&self, epochs: &Epochs) -> Result<Position> {
        if self.optional_int(1)?.is_none() {
            return Ok(epochs.position(self.int(0)?));
        }
        let epoch = u32::try_from(self.int(2)?).map_err(|error| self.bad(error))?;
        Ok(Position { epoch: Epoch(epoch), offset: self.int(3)?.unsigned_abs() })
    }

    /// What became of a send; columns 0 to 7 of a record.
    pub(crate) fn found(&self, epochs: &Epochs) -> Result<Found> {
        let receipt = Receipt {
            mark: self.mark(4)?,
            position: self.position(epochs)?,
            created_at: Timestamp(self.int(6)?),
        };
        Ok(Found { receipt, hash: ContentHash(self.int(7)?.cast_unsigned()) })
    }

    /// The record; all columns.
    pub(crate) fn record(&self) -> Result<Record> {
        let mark = self.mark(4)?;
        let kind = u16::try_from(self.int(14)?).map_err(|error| self.bad(error))?;
        let content_type = self.text(15)?;
        Ok(Record {
            conversation: self.parse(8, ConversationId::new)?,
            seq: mark.seq,
            ordinal: mark.ordinal,
            created_at: Timestamp(self.int(6)?),
            sender: self.parse(9, UserId::sender)?,
            device: self.parse_optional(10, DeviceId::new)?,
            send_to: self.parse_optional(11, UserId::new)?,
            client_msg_id: self.parse(12, ClientMsgId::new)?,
            hole_after: self.optional_int(13)?.map(|seq| Seq(seq.unsigned_abs())),
            kind: RecordKind::from(kind),
            content_type: ContentType::from_name(content_type)
                .ok_or_else(|| self.bad(format!("unknown content type {content_type}")))?,
            content: Arc::from(self.text(16)?),
            hash: ContentHash(self.int(7)?.cast_unsigned()),
        })
    }

    /// The record with its position; all columns.
    pub(crate) fn log_record(&self, epochs: &Epochs) -> Result<LogRecord> {
        Ok(LogRecord { position: self.position(epochs)?, record: Arc::new(self.record()?) })
    }
}

/// A statement with its arguments.
pub(crate) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A number as SQLite keeps it. Nothing reaches the limit, except what a caller asks for.
pub(crate) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(MARKS - 1).min(MARKS - 1)
}

/// A count of rows for a LIMIT.
pub(crate) fn limit(rows: usize) -> i64 {
    number(rows as u64)
}
