//! Rows of `messages`, and what they become.

use std::sync::Arc;

use im_core::{
    ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Epoch, Error, Found, LogRecord, Mark,
    Ordinal, Position, Receipt, Record, RecordKind, Result, Seq, Timestamp, UserId,
};
use sqlx::{Row, postgres::PgRow};

use crate::error::{corrupt, failed};

/// The columns of a record and its position, in the order in which [`Columns`] reads them; from `messages m`.
macro_rules! record_columns {
    () => {
        "m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash, m.conversation_id, m.send_from, \
         m.device, m.send_to, m.client_msg_id, m.hole_after, m.kind, m.content_type, m.content"
    };
}
pub(crate) use record_columns;

/// The columns of a receipt: the first of [`record_columns`].
macro_rules! receipt_columns {
    () => {
        "m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash"
    };
}
pub(crate) use receipt_columns;

/// Reads a row from its column `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r> {
    row: &'r PgRow,
    first: usize,
    operation: &'static str,
}

impl<'r> Columns<'r> {
    pub(crate) fn new(row: &'r PgRow, first: usize, operation: &'static str) -> Self {
        Self { row, first, operation }
    }

    /// The same row from a later column on.
    pub(crate) fn skip(self, columns: usize) -> Self {
        Self { first: self.first + columns, ..self }
    }

    /// Any column.
    pub(crate) fn get<T>(&self, column: usize) -> Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.row.try_get(self.first + column).map_err(failed(self.operation))
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64> {
        self.get(column)
    }

    pub(crate) fn optional_int(&self, column: usize) -> Result<Option<i64>> {
        self.get(column)
    }

    pub(crate) fn text(&self, column: usize) -> Result<&'r str> {
        self.get(column)
    }

    pub(crate) fn optional_text(&self, column: usize) -> Result<Option<&'r str>> {
        self.get(column)
    }

    /// An id or another value that the database holds as text.
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

    /// The position; columns 0 and 1 of a record.
    pub(crate) fn position(&self) -> Result<Position> {
        let epoch = u32::try_from(self.int(0)?).map_err(|error| self.bad(error))?;
        Ok(Position { epoch: Epoch(epoch), offset: self.int(1)?.unsigned_abs() })
    }

    /// What became of a send; columns 0 to 5 of a record.
    pub(crate) fn found(&self) -> Result<Found> {
        let receipt =
            Receipt { mark: self.mark(2)?, position: self.position()?, created_at: Timestamp(self.int(4)?) };
        Ok(Found { receipt, hash: ContentHash(self.int(5)?.cast_unsigned()) })
    }

    /// The record; all columns.
    pub(crate) fn record(&self) -> Result<Record> {
        let mark = self.mark(2)?;
        let kind: i32 = self.get(12)?;
        let kind = u16::try_from(kind).map_err(|error| self.bad(error))?;
        let content_type = self.text(13)?;
        Ok(Record {
            conversation: self.parse(6, ConversationId::new)?,
            seq: mark.seq,
            ordinal: mark.ordinal,
            created_at: Timestamp(self.int(4)?),
            sender: self.parse(7, UserId::sender)?,
            device: self.parse_optional(8, DeviceId::new)?,
            send_to: self.parse_optional(9, UserId::new)?,
            client_msg_id: self.parse(10, ClientMsgId::new)?,
            hole_after: self.optional_int(11)?.map(|seq| Seq(seq.unsigned_abs())),
            kind: RecordKind::from(kind),
            content_type: ContentType::from_name(content_type)
                .ok_or_else(|| self.bad(format!("unknown content type {content_type}")))?,
            content: Arc::from(self.text(14)?),
            hash: ContentHash(self.int(5)?.cast_unsigned()),
        })
    }

    /// The record with its position; all columns.
    pub(crate) fn log_record(&self) -> Result<LogRecord> {
        Ok(LogRecord { position: self.position()?, record: Arc::new(self.record()?) })
    }
}

/// A number as Postgres keeps it. Nothing reaches the limit, except what a caller asks for.
pub(crate) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count of rows for a LIMIT.
pub(crate) fn limit(rows: usize) -> i64 {
    number(rows as u64)
}
