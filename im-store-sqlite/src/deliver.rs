//! A delivery: who gets which records. It goes to the [newest part](crate::entries) of the inbox.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use im_core::{Checkpoint, Cursor, Delivered, Delivery, LogRecord, Partition, Recipient, Result, UserId};

use crate::{
    cache::Cache,
    checkpoints::{self, Of},
    connect::Inner,
    cursor,
    error::{failed, invalid, other_incarnation},
    expire::{Note, Span},
    inbox::{self, MOST_RECIPIENTS},
    rows::number,
    tail,
    writer::Sync,
};

const OPERATION: &str = "inbox.deliver";

/// How many users' inbox ends are kept in memory.
const ENDS: usize = 100_000;

/// Where everything stands with the deliveries so far, in the file or not.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The newest entry of each user's inbox, or the newest expired one; 0 where there is none.
    ends: Cache<UserId, i64>,
    /// The fan-out's checkpoints.
    checkpoints: HashMap<Partition, Option<Checkpoint>>,
}

impl Standing {
    pub(crate) fn new() -> Self {
        Self { ends: Cache::new(ENDS), checkpoints: HashMap::new() }
    }

    /// Where the fan-out stands.
    pub(crate) async fn checkpoint(
        &mut self,
        inner: &Inner,
        partition: Partition,
        operation: &'static str,
    ) -> Result<&mut Option<Checkpoint>> {
        Ok(match self.checkpoints.entry(partition) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let mut conn = inner.readers.lend(operation).await?;
                let checkpoint = checkpoints::load(&mut conn, Of::Inbox, partition, operation).await;
                unknown.insert(conn.back(checkpoint)?)
            }
        })
    }

    /// The newest place of each recipient.
    async fn ends(&mut self, inner: &Inner, recipients: &[Recipient]) -> Result<Vec<i64>> {
        let mut ends: Vec<_> = recipients.iter().map(|recipient| self.ends.get(&recipient.user)).collect();
        let is_missing =
            |(recipient, end): (&Recipient, &Option<i64>)| end.is_none().then(|| recipient.user.clone());
        let missing: Vec<_> = recipients.iter().zip(&ends).filter_map(is_missing).collect();
        let found = inbox::ends(inner, &missing, OPERATION).await?;
        for (end, found) in ends.iter_mut().filter(|end| end.is_none()).zip(found) {
            *end = Some(found.unwrap_or(0));
        }
        Ok(ends.into_iter().flatten().collect())
    }
}

/// Delivers, all or nothing.
pub(crate) async fn deliver(inner: &Inner, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
    check(inner, delivery)?;
    check_is_ours(inner, &delivery.records).await?;
    inner.entries.room(OPERATION).await?;
    // One delivery at a time: it begins where the one before has ended.
    let mut standing = inner.standing.lock().await;
    let before = standing.ends(inner, &delivery.recipients).await?;
    let moved = match &delivery.checkpoint {
        Some(checkpoint) => {
            let known = standing.checkpoint(inner, delivery.partition, OPERATION).await?;
            known.as_ref().is_none_or(|known| checkpoints::moves(known, checkpoint)).then_some(checkpoint)
        }
        None => None,
    };
    let all = delivery.recipients.iter().flat_map(|recipient| messages(delivery, recipient));
    let note = Note::of(all).map(|note| (Span::now(inner), note));
    // From here on nothing can fail half-way.
    inner.entries.add(OPERATION, |entries| entries.take(delivery, &before, note, moved.cloned()))?;
    for (recipient, before) in delivery.recipients.iter().zip(&before) {
        let end = messages(delivery, recipient).fold(*before, i64::max);
        standing.ends.insert(recipient.user.clone(), end);
    }
    if let Some(moved) = moved {
        standing.checkpoints.insert(delivery.partition, Some(moved.clone()));
    }
    drop(standing);
    Ok(answers(inner, delivery, &before))
}

/// What each recipient is answered, by its newest place before the delivery.
fn answers(inner: &Inner, delivery: &Delivery, before: &[i64]) -> Vec<Result<Delivered>> {
    let cursors: Vec<_> =
        delivery.records.iter().map(|record| cursor::of(&inner.incarnation, id(record))).collect();
    let mut answers = Vec::with_capacity(before.len());
    // Recipients in a row mostly have the same records: they share one list.
    let (mut records, mut list): (&[u32], Arc<[Cursor]>) = Default::default();
    for (recipient, before) in delivery.recipients.iter().zip(before) {
        if *records != *recipient.records {
            records = &recipient.records;
            list = records.iter().map(|index| cursors[*index as usize].clone()).collect();
        }
        // Of a repeat nobody knows what the client stands on.
        let is_new = messages(delivery, recipient).all(|message| *before < message);
        let previous = is_new.then(|| cursor::of(&inner.incarnation, *before));
        answers.push(Ok(Delivered { previous, cursors: list.clone() }));
    }
    answers
}

/// The ids of a recipient's records.
pub(crate) fn messages(delivery: &Delivery, recipient: &Recipient) -> impl Iterator<Item = i64> {
    recipient.records.iter().map(|index| id(&delivery.records[*index as usize]))
}

fn check(inner: &Inner, delivery: &Delivery) -> Result<()> {
    if delivery.inbox != inner.incarnation {
        return Err(other_incarnation(OPERATION, &delivery.inbox, &inner.incarnation));
    }
    if delivery.recipients.len() > MOST_RECIPIENTS {
        return Err(invalid(OPERATION, format!("more than {MOST_RECIPIENTS} recipients")));
    }
    let known = |recipient: &Recipient| {
        !recipient.records.is_empty()
            && recipient.records.iter().all(|index| (*index as usize) < delivery.records.len())
    };
    if delivery.recipients.iter().all(known) {
        Ok(())
    } else {
        Err(invalid(OPERATION, "a recipient of a record that is not there"))
    }
}

/// An entry names its record by the place in this file's own log. Records of another log have none, and their places could
/// fall on our records: so the first and the last must be found where they say they are.
async fn check_is_ours(inner: &Inner, records: &[LogRecord]) -> Result<()> {
    let epochs = inner.epochs();
    let is_placed = |record: &LogRecord| epochs.position(id(record)) == record.position;
    let mut is_ours = records.iter().all(is_placed);
    for record in records.first().into_iter().chain(records.last()) {
        is_ours = is_ours && (is_in_tail(inner, record) || is_in_file(inner, record).await?);
    }
    if is_ours {
        return Ok(());
    }
    Err(invalid(OPERATION, "the records are not of this file's log, and an inbox on SQLite serves no other"))
}

fn id(record: &LogRecord) -> i64 {
    number(record.position.offset)
}

fn is_in_tail(inner: &Inner, record: &LogRecord) -> bool {
    tail::lock(&inner.tail).get(id(record)) == Some(record)
}

async fn is_in_file(inner: &Inner, record: &LogRecord) -> Result<bool> {
    let query = sqlx::query(
        "SELECT 1 FROM messages WHERE id = ? AND conversation_id = ? AND sequence_id = ? AND log_partition IS NULL",
    )
    .bind(id(record))
    .bind(Arc::<str>::from(record.record.conversation.clone()))
    .bind(number(record.record.seq.0));
    Ok(!inner.readers.all(query, OPERATION).await?.is_empty())
}

/// Notes that an inbox is there before anything came: it then has an end.
pub(crate) async fn anchor(inner: Arc<Inner>, user: UserId) -> Result<()> {
    let operation = "inbox.anchor";
    let mut writer = inner.writer(operation).await?;
    writer.begin(operation, Sync::Normal).await?;
    let noted = sqlx::query("INSERT OR IGNORE INTO inbox_starts (user_id, message) VALUES (?, 0)")
        .bind(user.as_str())
        .execute(writer.conn())
        .await
        .map_err(failed(operation));
    writer.end(operation, noted).await.map(drop)
}
