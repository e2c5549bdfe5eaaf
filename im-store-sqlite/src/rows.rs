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

/// A message as one text: its row as a JSON list, and the content behind it as it is; from `messages m`. sqlx copies each value of a
/// row by itself: a page of history whose rows it took apart was a fifth slower.
macro_rules! message_text {
    () => {
        "json_array(m.id, m.log_epoch, m.log_offset, m.sequence_id, m.ordinal, m.created_at, m.content_hash, \
         m.conversation_id, m.send_from, m.device, m.send_to, m.client_msg_id, m.hole_after, m.kind, m.content_type, \
         octet_length(m.content)) || m.content"
    };
}
pub(crate) use message_text;

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
            position: self.position(epochs, self.int(0)?, epoch, self.optional_int(2)?)?,
            created_at: Timestamp(self.int(5)?),
        };
        Ok(Found { receipt, hash: ContentHash(self.int(6)?.cast_unsigned()) })
    }

    /// The [`message_text`] in a column.
    pub(crate) fn message(&self, column: usize) -> Result<Message<'r>> {
        match Message::first(self.text(column)?) {
            Ok((message, "")) => Ok(message),
            Ok(_) => Err(self.bad("a message that is longer than it says")),
            Err(error) => Err(self.bad(error)),
        }
    }

    /// The record in the [`message_text`] of a column.
    pub(crate) fn record(&self, column: usize) -> Result<Arc<Record>> {
        self.message(column)?.record().map_err(|error| self.bad(error))
    }

    /// The records in a column of such texts, one after the other; none where it is NULL.
    pub(crate) fn records(&self, column: usize) -> Result<Vec<Arc<Record>>> {
        let mut rest = self.optional_text(column)?.unwrap_or_default();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (message, behind) = Message::first(rest).map_err(|error| self.bad(error))?;
            records.push(message.record().map_err(|error| self.bad(error))?);
            rest = behind;
        }
        Ok(records)
    }

    /// The record with its position.
    pub(crate) fn log_record(&self, column: usize, epochs: &Epochs) -> Result<LogRecord> {
        let message = self.message(column)?;
        let MessageRow { id, log_epoch, log_offset, .. } = message.row;
        let position = self.position(epochs, id, log_epoch, log_offset)?;
        Ok(LogRecord { position, record: message.record().map_err(|error| self.bad(error))? })
    }

    /// A message's position: in another log where it has one there, else that of its id in this file's.
    fn position(
        &self,
        epochs: &Epochs,
        id: i64,
        epoch: Option<u32>,
        offset: Option<i64>,
    ) -> Result<Position> {
        match (epoch, offset) {
            (Some(epoch), Some(offset)) => {
                Ok(Position { epoch: Epoch(epoch), offset: offset.unsigned_abs() })
            }
            (None, None) => Ok(epochs.position(id)),
            _ => Err(self.bad("half a position")),
        }
    }
}

/// A message out of its [`message_text`].
#[derive(Debug)]
pub(crate) struct Message<'r> {
    row: MessageRow<'r>,
    content: &'r str,
}

/// A row of `messages` but for the content.
#[derive(Debug, Deserialize)]
struct MessageRow<'r> {
    id: i64,
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
    content_bytes: usize,
}

impl<'r> Message<'r> {
    /// The first of such texts, and what comes behind it.
    fn first(text: &'r str) -> Result<(Self, &'r str), String> {
        let mut rows = serde_json::Deserializer::from_str(text).into_iter::<MessageRow<'r>>();
        let row = rows.next().ok_or("no message")?.map_err(|error| error.to_string())?;
        let text = &text[rows.byte_offset()..];
        let (content, behind) =
            text.split_at_checked(row.content_bytes).ok_or("a message that is cut off")?;
        Ok((Self { row, content }, behind))
    }

    pub(crate) fn id(&self) -> i64 {
        self.row.id
    }

    pub(crate) fn record(&self) -> Result<Arc<Record>, String> {
        fn bad(error: impl Display) -> String {
            error.to_string()
        }
        let row = &self.row;
        Ok(Arc::new(Record {
            conversation: ConversationId::new(&*row.conversation_id).map_err(bad)?,
            seq: Seq(row.sequence_id.unsigned_abs()),
            ordinal: Ordinal(row.ordinal.unsigned_abs()),
            created_at: Timestamp(row.created_at),
            sender: UserId::sender(&*row.send_from).map_err(bad)?,
            device: row.device.as_deref().map(DeviceId::new).transpose().map_err(bad)?,
            send_to: row.send_to.as_deref().map(UserId::new).transpose().map_err(bad)?,
            client_msg_id: ClientMsgId::new(&*row.client_msg_id).map_err(bad)?,
            hole_after: row.hole_after.map(|seq| Seq(seq.unsigned_abs())),
            kind: row.kind,
            content_type: ContentType::from_name(&row.content_type)
                .ok_or_else(|| format!("unknown content type {}", row.content_type))?,
            content: Arc::from(self.content),
            hash: ContentHash(row.content_hash.cast_unsigned()),
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A text of a message whose content is said to have so many bytes.
    fn text(bytes: usize, content: &str) -> String {
        format!(r#"[7,null,null,1,1,0,0,"group:g","a",null,null,"c",null,1,"text",{bytes}]{content}"#)
    }

    #[test]
    fn a_content_is_what_has_its_length_whatever_it_looks_like() {
        let contents = ["", &text(3, "abc"), "[", "你\0"];
        let all: String = contents.iter().map(|content| text(content.len(), content)).collect();
        let mut rest = &*all;
        for content in contents {
            let (message, behind) = Message::first(rest).unwrap();
            assert_eq!(message.content, content);
            rest = behind;
        }
        assert_eq!(rest, "");
    }

    #[test]
    fn a_damaged_text_is_an_error() {
        let bad = [
            text(4, "abc"),
            text(1, "你"),
            "[7]".to_owned(),
            "[7".to_owned(),
            String::new(),
            "abc".to_owned(),
        ];
        for text in bad {
            Message::first(&text).expect_err(&text);
        }
    }
}
