//! Rows of `messages`, and what they become.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use im_core::{
    ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Epoch, Error, Found, LogRecord, Mark,
    Ordinal, Position, Receipt, Record, RecordKind, Result, Seq, Timestamp, UserId,
};
use serde::Deserialize;
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

/// A [`MessageRow`] as one JSON text; from `messages m`. sqlx copies each value of a row by itself: to take sixteen apart
/// costs a page of history a third of its time.
macro_rules! message_row {
    () => {
        "json_array(m.id, m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash, \
         m.conversation_id, m.send_from, m.device, m.send_to, m.client_msg_id, m.hole_after, m.kind, m.content_type, \
         m.content)"
    };
}
pub(crate) use message_row;

/// The columns of a receipt, in the order in which [`Columns::found`] reads them; from `messages m`.
macro_rules! receipt_columns {
    () => {
        "m.id, m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash"
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

    /// What became of a send; the [`receipt_columns`].
    pub(crate) fn found(&self, epochs: &Epochs) -> Result<Found> {
        let epoch = self.optional_int(1)?.map(u32::try_from).transpose().map_err(|error| self.bad(error))?;
        let receipt = Receipt {
            mark: self.mark(3)?,
            position: position(epochs, self.int(0)?, epoch, self.optional_int(2)?),
            created_at: Timestamp(self.int(5)?),
        };
        Ok(Found { receipt, hash: ContentHash(self.int(6)?.cast_unsigned()) })
    }

    /// The [`message_row`] in a column.
    pub(crate) fn message(&self, column: usize) -> Result<MessageRow<'r>> {
        serde_json::from_str(self.text(column)?).map_err(|error| self.bad(error))
    }

    /// The record in the [`message_row`] of a column.
    pub(crate) fn record(&self, column: usize) -> Result<Arc<Record>> {
        self.message(column)?.record(self.operation)
    }

    /// The records in a JSON list of such rows; none where it is NULL.
    pub(crate) fn records(&self, column: usize) -> Result<Vec<Arc<Record>>> {
        let Some(list) = self.optional_text(column)? else { return Ok(Vec::new()) };
        let rows: Vec<MessageRow<'_>> = serde_json::from_str(list).map_err(|error| self.bad(error))?;
        rows.iter().map(|row| row.record(self.operation)).collect()
    }

    /// The record with its position.
    pub(crate) fn log_record(&self, column: usize, epochs: &Epochs) -> Result<LogRecord> {
        let message = self.message(column)?;
        Ok(LogRecord { position: message.position(epochs), record: message.record(self.operation)? })
    }
}

/// A row of `messages`.
#[derive(Debug, Deserialize)]
pub(crate) struct MessageRow<'r> {
    pub(crate) id: i64,
    log_epoch: Option<u32>,
    log_offset: Option<i64>,
    sequence_id: i64,
    ordinal: i64,
    created_at: i64,
    content_hash: i64,
    #[serde(borrow)]
    conversation_id: Cow<'r, str>,
    #[serde(borrow)]
    send_from: Cow<'r, str>,
    device: Option<String>,
    send_to: Option<String>,
    #[serde(borrow)]
    client_msg_id: Cow<'r, str>,
    hole_after: Option<i64>,
    kind: RecordKind,
    #[serde(borrow)]
    content_type: Cow<'r, str>,
    #[serde(borrow)]
    content: Cow<'r, str>,
}

impl MessageRow<'_> {
    pub(crate) fn position(&self, epochs: &Epochs) -> Position {
        position(epochs, self.id, self.log_epoch, self.log_offset)
    }

    pub(crate) fn record(&self, operation: &'static str) -> Result<Arc<Record>> {
        self.parse().map(Arc::new).map_err(|error| corrupt(operation, error))
    }

    fn parse(&self) -> Result<Record, String> {
        fn bad(error: impl Display) -> String {
            error.to_string()
        }
        Ok(Record {
            conversation: ConversationId::new(&*self.conversation_id).map_err(bad)?,
            seq: Seq(self.sequence_id.unsigned_abs()),
            ordinal: Ordinal(self.ordinal.unsigned_abs()),
            created_at: Timestamp(self.created_at),
            sender: UserId::sender(&*self.send_from).map_err(bad)?,
            device: self.device.as_deref().map(DeviceId::new).transpose().map_err(bad)?,
            send_to: self.send_to.as_deref().map(UserId::new).transpose().map_err(bad)?,
            client_msg_id: ClientMsgId::new(&*self.client_msg_id).map_err(bad)?,
            hole_after: self.hole_after.map(|seq| Seq(seq.unsigned_abs())),
            kind: self.kind,
            content_type: ContentType::from_name(&self.content_type)
                .ok_or_else(|| format!("unknown content type {}", self.content_type))?,
            content: Arc::from(&*self.content),
            hash: ContentHash(self.content_hash.cast_unsigned()),
        })
    }
}

/// A message's position: its own where another log has it, else its id in this file's.
fn position(epochs: &Epochs, id: i64, epoch: Option<u32>, offset: Option<i64>) -> Position {
    match epoch.zip(offset) {
        Some((epoch, offset)) => Position { epoch: Epoch(epoch), offset: offset.unsigned_abs() },
        None => epochs.position(id),
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
