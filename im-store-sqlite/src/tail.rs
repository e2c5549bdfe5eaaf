//! The newest records of the log, in memory: whoever follows the log closely reads them from here.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use im_core::LogRecord;

/// At most so many records …
const MOST_RECORDS: usize = 8192;
/// … with so many bytes of content.
const MOST_BYTES: usize = 8 << 20;

/// The records from some id on, without a gap, up to the log's end.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    records: VecDeque<(i64, LogRecord)>,
    bytes: usize,
}

impl Tail {
    /// Adds a record; its id is above all others.
    pub(crate) fn push(&mut self, id: i64, record: LogRecord) {
        self.bytes += record.record.content.len();
        self.records.push_back((id, record));
        while self.records.len() > MOST_RECORDS || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.records.pop_front() else { break };
            self.bytes -= oldest.record.content.len();
        }
    }

    /// The records after an id; none where the first of them may be missing here.
    pub(crate) fn after(&self, id: i64, max: usize) -> Option<Vec<LogRecord>> {
        // Only behind a record that is here it is certain that none is missing: ids may have holes.
        let place = self.records.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.records.range(place + 1..).take(max).map(|(_, record)| record.clone()).collect())
    }

    /// Forgets everything: there may be records that it does not have.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The record with an id.
    pub(crate) fn get(&self, id: i64) -> Option<&LogRecord> {
        let place = self.records.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.records[place].1)
    }
}

/// Locks it. A panic elsewhere leaves nothing half done in it.
pub(crate) fn lock(tail: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use im_core::{
        ClientMsgId, ContentHash, ContentType, ConversationId, Epoch, Ordinal, Position, Record, RecordKind,
        Seq, Timestamp, UserId,
    };

    use super::*;

    fn record(offset: u64, bytes: usize) -> LogRecord {
        let record = Record {
            conversation: ConversationId::group("g").unwrap(),
            seq: Seq(offset),
            ordinal: Ordinal(offset),
            created_at: Timestamp(0),
            sender: UserId::system(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::fresh(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: "x".repeat(bytes).into(),
            hash: ContentHash(0),
        };
        LogRecord { position: Position { epoch: Epoch(1), offset }, record: Arc::new(record) }
    }

    fn offsets(records: Option<Vec<LogRecord>>) -> Option<Vec<u64>> {
        Some(records?.iter().map(|record| record.position.offset).collect())
    }

    #[test]
    fn it_answers_only_what_it_has_in_full() {
        let mut tail = Tail::default();
        assert_eq!(offsets(tail.after(0, 10)), None);
        for id in [5, 6, 9] {
            tail.push(id, record(id.unsigned_abs(), 1));
        }
        assert_eq!(offsets(tail.after(4, 10)), None);
        assert_eq!(offsets(tail.after(5, 10)), Some(vec![6, 9]));
        assert_eq!(offsets(tail.after(5, 1)), Some(vec![6]));
        assert_eq!(offsets(tail.after(9, 10)), Some(vec![]));
        assert_eq!(offsets(tail.after(8, 10)), None);
        assert_eq!(tail.get(6).map(|record| record.position.offset), Some(6));
        assert!(tail.get(7).is_none());
    }

    #[test]
    fn it_is_bounded() {
        let mut tail = Tail::default();
        for id in 1..=300 {
            tail.push(id, record(id.unsigned_abs(), 64 << 10));
        }
        assert_eq!(tail.records.len(), MOST_BYTES / (64 << 10));
        for id in 301..=20_000 {
            tail.push(id, record(id.unsigned_abs(), 1));
        }
        assert_eq!(tail.records.len(), MOST_RECORDS);
        assert_eq!(tail.bytes, MOST_RECORDS);
    }
}
