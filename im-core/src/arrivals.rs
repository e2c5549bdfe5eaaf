//! Which records of an apply are new, for stores that look up at once what a batch may meet.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
};

use crate::{ContentHash, ConversationId, Error, ErrorKind, LogRecord, Record, Result, SendKey, Seq};

/// The records that are not there yet, by what stands at the places of all of them and by where their keys stand. A batch may repeat or
/// contradict itself, too.
///
/// # Errors
/// [`Diverged`](ErrorKind::Diverged), where a place or a key belongs to another record.
pub fn new_records<S: BuildHasher>(
    backend: &'static str,
    records: &[LogRecord],
    mut places: HashMap<(ConversationId, Seq), (SendKey, ContentHash), S>,
    mut keys: HashMap<SendKey, Seq, S>,
) -> Result<Vec<LogRecord>> {
    let mut new = Vec::new();
    for candidate in records {
        let record = &candidate.record;
        let identity = (record.key(), record.hash);
        match places.entry((record.conversation.clone(), record.seq)) {
            Entry::Occupied(there) if *there.get() == identity => continue,
            Entry::Occupied(_) => return Err(diverged(backend, record, record.seq)),
            Entry::Vacant(free) => free.insert(identity),
        };
        if let Some(there) = keys.insert(record.key(), record.seq) {
            return Err(diverged(backend, record, there));
        }
        new.push(candidate.clone());
    }
    Ok(new)
}

fn diverged(backend: &'static str, record: &Record, there: Seq) -> Error {
    let message =
        format!("{:?} came for {}, but stands otherwise at {}", record.key(), record.seq.0, there.0);
    Error::new(ErrorKind::Diverged, backend, "store.apply", message)
}
