//! A delivery: who gets which records, in one transaction with the checkpoint.

use std::sync::Arc;

use im_core::{Delivered, Delivery, LogRecord, Recipient, Result, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    checkpoints::{self, Of, move_checkpoint},
    connect::Inner,
    cursor,
    error::{failed, invalid, other_incarnation},
    expire::{Note, note_delivery},
    inbox::{self, MOST_RECIPIENTS},
    rows::{Statement, number},
    tail,
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
    write(&mut writer, &inner, &delivery).await?;
    for (recipient, before) in delivery.recipients.iter().zip(&before) {
        let end = messages(&delivery, recipient).fold(*before, i64::max);
        writer.ends.insert(recipient.user.clone(), end);
    }
    // The cursors are written when the next one may write already.
    drop(writer);
    let cursors: Vec<_> =
        delivery.records.iter().map(|record| cursor::of(&inner.incarnation, id(record))).collect();
    let answer = |(recipient, before): (&Recipient, i64)| {
        // Of a repeat nobody knows what the client stands on.
        let is_new = messages(&delivery, recipient).all(|message| before < message);
        Ok(Delivered {
            previous: is_new.then(|| cursor::of(&inner.incarnation, before)),
            cursors: recipient.records.iter().map(|index| cursors[*index as usize].clone()).collect(),
        })
    };
    Ok(delivery.recipients.iter().zip(before).map(answer).collect())
}

/// The ids of a recipient's records.
fn messages(delivery: &Delivery, recipient: &Recipient) -> impl Iterator<Item = i64> {
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
async fn check_is_ours(writer: &mut Writer, inner: &Inner, records: &[LogRecord]) -> Result<()> {
    let epochs = inner.epochs();
    let is_placed = |record: &LogRecord| epochs.position(id(record)) == record.position;
    let mut is_ours = records.iter().all(is_placed);
    for record in records.first().into_iter().chain(records.last()) {
        is_ours = is_ours && (is_in_tail(inner, record) || is_in_file(writer, record).await?);
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

async fn is_in_file(writer: &mut Writer, record: &LogRecord) -> Result<bool> {
    let found = sqlx::query(
        "SELECT 1 FROM messages WHERE id = ? AND conversation_id = ? AND sequence_id = ? AND log_partition IS NULL",
    )
    .bind(id(record))
    .bind(Arc::<str>::from(record.record.conversation.clone()))
    .bind(number(record.record.seq.0))
    .fetch_optional(writer.conn())
    .await
    .map_err(failed(OPERATION))?;
    Ok(found.is_some())
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
    let mut ends: Vec<_> = recipients.iter().map(|recipient| writer.ends.get(&recipient.user)).collect();
    let is_missing =
        |(recipient, end): (&Recipient, &Option<i64>)| end.is_none().then(|| recipient.user.clone());
    let missing: Vec<_> = recipients.iter().zip(&ends).filter_map(is_missing).collect();
    let found = inbox::ends(writer.conn(), &missing, OPERATION).await?;
    for (end, found) in ends.iter_mut().filter(|end| end.is_none()).zip(found) {
        *end = Some(found.unwrap_or(0));
    }
    Ok(ends.into_iter().flatten().collect())
}

/// All entries, in the order of the table: neighbours go to one page.
fn entries(delivery: &Delivery) -> Vec<(&UserId, i64)> {
    let mut recipients: Vec<_> = delivery.recipients.iter().collect();
    recipients.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    let of = |recipient: &'_ Recipient| messages(delivery, recipient).collect::<Vec<_>>();
    recipients.into_iter().flat_map(|r| of(r).into_iter().map(|message| (&r.user, message))).collect()
}

macro_rules! insert_entries {
    () => {
        "INSERT OR IGNORE INTO inbox (user_id, message) SELECT * FROM"
    };
}

static INSERT: Values = Values::new(insert_entries!(), 2, "WHERE column1 IS NOT NULL");

/// A whole delivery as one text. What it notes comes first, since the places of the entries' arguments may be left empty.
static DELIVER: Values = Values::new(
    concat!("BEGIN IMMEDIATE; ", note_delivery!(), "; ", insert_entries!()),
    2,
    "WHERE column1 IS NOT NULL; COMMIT",
);

static DELIVER_WITH_CHECKPOINT: Values = Values::new(
    concat!("BEGIN IMMEDIATE; ", note_delivery!(), "; ", move_checkpoint!(), "; ", insert_entries!()),
    2,
    "WHERE column1 IS NOT NULL; COMMIT",
);

async fn write(writer: &mut Writer, inner: &Inner, delivery: &Delivery) -> Result<()> {
    let entries = entries(delivery);
    let messages = entries.iter().map(|(_, message)| *message);
    let Some((lowest, highest)) = messages.clone().min().zip(messages.max()) else {
        return write_checkpoint(writer, delivery).await;
    };
    let note = Note::now(inner, lowest, highest);
    if entries.len() > MOST_ROWS {
        writer.begin(OPERATION, Sync::Normal).await?;
        let written = write_many(writer.conn(), delivery, &entries, note).await.map_err(failed(OPERATION));
        return writer.end(OPERATION, written).await;
    }
    let text = if delivery.checkpoint.is_some() { &DELIVER_WITH_CHECKPOINT } else { &DELIVER };
    let mut query = note.bind(sqlx::query(AssertSqlSafe(text.sql(entries.len()))));
    if let Some(checkpoint) = &delivery.checkpoint {
        query = checkpoints::bind(query, Of::Inbox, delivery.partition, checkpoint);
    }
    // Nothing here can meet a taken key.
    writer.run(OPERATION, Sync::Normal, bind(query, &entries)).await.map(drop)
}

fn bind<'q>(query: Statement<'q>, entries: &[(&UserId, i64)]) -> Statement<'q> {
    entries.iter().fold(query, |query, (user, message)| {
        query.bind(Arc::<str>::from(UserId::clone(user))).bind(*message)
    })
}

async fn write_many(
    conn: &mut SqliteConnection,
    delivery: &Delivery,
    entries: &[(&UserId, i64)],
    note: Note,
) -> sqlx::Result<()> {
    for chunk in entries.chunks(MOST_ROWS) {
        bind(sqlx::query(AssertSqlSafe(INSERT.sql(chunk.len()))), chunk).execute(&mut *conn).await?;
    }
    note.bind(sqlx::query(note_delivery!())).execute(&mut *conn).await?;
    match &delivery.checkpoint {
        Some(checkpoint) => checkpoints::store(conn, Of::Inbox, delivery.partition, checkpoint).await,
        None => Ok(()),
    }
}

/// A delivery to nobody.
async fn write_checkpoint(writer: &mut Writer, delivery: &Delivery) -> Result<()> {
    let Some(checkpoint) = &delivery.checkpoint else { return Ok(()) };
    writer.begin(OPERATION, Sync::Normal).await?;
    let written = checkpoints::store(writer.conn(), Of::Inbox, delivery.partition, checkpoint).await;
    writer.end(OPERATION, written.map_err(failed(OPERATION))).await
}
