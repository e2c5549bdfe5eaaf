//! A delivery: who gets which records, in one transaction with the checkpoint.

use std::{collections::HashMap, sync::Arc};

use im_core::{Delivered, Delivery, LogRecord, Recipient, Result, UserId};
use sqlx::AssertSqlSafe;

use crate::{
    checkpoints::{self, Of},
    connect::Inner,
    cursor,
    error::{failed, invalid, other_incarnation},
    expire,
    inbox::{self, MOST_RECIPIENTS},
    rows::number,
    values::{MOST_ROWS, Values},
    writer::{Sync, Writer},
};

const OPERATION: &str = "inbox.deliver";

/// Delivers, all or nothing.
pub(crate) async fn deliver(inner: Arc<Inner>, delivery: Delivery) -> Result<Vec<Result<Delivered>>> {
    check(&inner, &delivery)?;
    let mut writer = inner.writer(OPERATION).await?;
    check_is_ours(&mut writer, &inner, &delivery.records).await?;
    let before = ends(&mut writer, &delivery.recipients).await?;
    let entries = entries(&delivery);
    writer.begin(OPERATION, Sync::Normal).await?;
    let written = write(&mut writer, &inner, &delivery, &entries).await.map_err(failed(OPERATION));
    writer.end(OPERATION, written).await?;
    let delivered = delivery.recipients.iter().zip(before).map(|(recipient, before)| {
        let messages = messages(&delivery, recipient);
        let (first, last) = (messages[0], messages[messages.len() - 1]);
        writer.ends.insert(recipient.user.clone(), before.max(last));
        Ok(Delivered {
            // Of a repeat nobody knows what the client stands on.
            previous: (before < first).then(|| cursor::of(&inner.incarnation, before)),
            cursors: messages.into_iter().map(|message| cursor::of(&inner.incarnation, message)).collect(),
        })
    });
    Ok(delivered.collect())
}

/// The ids of a recipient's records.
fn messages(delivery: &Delivery, recipient: &Recipient) -> Vec<i64> {
    let message = |index: &u32| number(delivery.records[*index as usize].position.offset);
    recipient.records.iter().map(message).collect()
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
async fn check_is_ours(writer: &mut Writer, inner: &Inner, records: &[LogRecord]) -> Result<()> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
    let epochs = inner.epochs();
    let is_placed = |record: &LogRecord| epochs.position(number(record.position.offset)) == record.position;
    let mut is_ours = records.iter().all(is_placed);
    if is_ours {
        let found: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM messages WHERE log_partition IS NULL AND \
             ((id = ? AND conversation_id = ? AND sequence_id = ?) OR (id = ? AND conversation_id = ? AND sequence_id = ?))",
        )
        .bind(number(first.position.offset))
        .bind(Arc::<str>::from(first.record.conversation.clone()))
        .bind(number(first.record.seq.0))
        .bind(number(last.position.offset))
        .bind(Arc::<str>::from(last.record.conversation.clone()))
        .bind(number(last.record.seq.0))
        .fetch_one(writer.conn())
        .await
        .map_err(failed(OPERATION))?;
        is_ours = found == if records.len() == 1 { 1 } else { 2 };
    }
    if is_ours {
        Ok(())
    } else {
        Err(invalid(
            OPERATION,
            "the records are not of this file's log, and an inbox on SQLite serves no other",
        ))
    }
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

/// The newest place of each recipient before the delivery.
async fn ends(writer: &mut Writer, recipients: &[Recipient]) -> Result<Vec<i64>> {
    let mut ends = HashMap::with_capacity(recipients.len());
    let mut missing = Vec::new();
    for Recipient { user, .. } in recipients {
        match writer.ends.get(user) {
            Some(end) => drop(ends.insert(user.clone(), end)),
            None => missing.push(user.clone()),
        }
    }
    let found = inbox::ends(writer.conn(), &missing, OPERATION).await?;
    ends.extend(missing.into_iter().zip(found).map(|(user, end)| (user, end.unwrap_or(0))));
    Ok(recipients.iter().map(|recipient| ends.get(&recipient.user).copied().unwrap_or(0)).collect())
}

/// All entries, in the order of the table: neighbours go to one page.
fn entries(delivery: &Delivery) -> Vec<(UserId, i64)> {
    let mut recipients: Vec<_> = delivery.recipients.iter().collect();
    recipients.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    let of = |recipient: &Recipient| {
        let user = recipient.user.clone();
        messages(delivery, recipient).into_iter().map(move |message| (user.clone(), message))
    };
    recipients.into_iter().flat_map(of).collect()
}

static INSERT: Values = Values::new(
    "INSERT OR IGNORE INTO inbox (user_id, message) SELECT * FROM",
    2,
    "WHERE column1 IS NOT NULL",
);

async fn write(
    writer: &mut Writer,
    inner: &Inner,
    delivery: &Delivery,
    entries: &[(UserId, i64)],
) -> sqlx::Result<()> {
    for chunk in entries.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(INSERT.sql(chunk.len())));
        for (user, message) in chunk {
            query = query.bind(Arc::<str>::from(user.clone())).bind(*message);
        }
        query.execute(writer.conn()).await?;
    }
    let ids = entries.iter().map(|(_, message)| *message);
    if let (Some(lowest), Some(highest)) = (ids.clone().min(), ids.max()) {
        expire::note(writer.conn(), inner, lowest, highest).await?;
    }
    match &delivery.checkpoint {
        Some(checkpoint) => {
            checkpoints::store(writer.conn(), Of::Inbox, delivery.partition, checkpoint).await
        }
        None => Ok(()),
    }
}
