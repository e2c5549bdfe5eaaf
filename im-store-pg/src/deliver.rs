//! A delivery: one statement that raises the recipients' ends, writes records and entries, and moves the checkpoint.

use std::{collections::HashMap, sync::Arc};

use im_core::{Checkpoint, Cursor, Delivered, Delivery, Error, ErrorKind, Outcome, Recipient, Result, codec};
use sqlx::{error::DatabaseError, postgres::PgRow};

use crate::{
    checkpoints::moves,
    connect::{Inner, incarnation, now},
    cursor::{Stand, nonce},
    error::{BACKEND, corrupt, failed, invalid, other_incarnation},
    inbox::MOST_RECIPIENTS,
    rows::{Columns, number},
    spans,
};

const OPERATION: &str = "inbox.deliver";

/// A record's id is its delivery's nonce and its place in the delivery, in so many bits.
const INDEX_BITS: u32 = 16;

/// The most entries of a row. A pull reads whole rows, so there are not many.
const MOST_ENTRIES: usize = 64;

/// How often a delivery is tried for which there is no table.
const TRIES: usize = 3;

/// Delivers, all or nothing.
pub(crate) async fn deliver(inner: &Arc<Inner>, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
    check(delivery)?;
    if !inner.spans.are_known() {
        spans::make(inner, OPERATION).await?;
    }
    for _ in 0..TRIES {
        let fresh = nonce();
        match write(inner, delivery, fresh).await {
            Ok(rows) => return answers(inner, delivery, &rows, fresh).await,
            // Nothing was delivered for so long that nobody has made the table of this span.
            Err(error) if has_no_table(&error) => spans::make(inner, OPERATION).await?,
            Err(error) => return Err(failed(OPERATION)(error)),
        }
    }
    let message = "the tables of the inbox are always of another time than the delivery";
    Err(Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, message).with_outcome(Outcome::NotDone))
}

/// Whether a row fits into none of the tables.
fn has_no_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DatabaseError::is_check_violation)
}

fn check(delivery: &Delivery) -> Result<()> {
    if delivery.recipients.len() > MOST_RECIPIENTS {
        return Err(invalid(OPERATION, format!("more than {MOST_RECIPIENTS} recipients")));
    }
    if delivery.records.len() >= 1 << INDEX_BITS {
        return Err(invalid(OPERATION, "too many records for one delivery"));
    }
    let known = |index: &u32| (*index as usize) < delivery.records.len();
    let is_right = delivery
        .recipients
        .iter()
        .all(|recipient| !recipient.records.is_empty() && recipient.records.iter().all(known));
    if is_right { Ok(()) } else { Err(invalid(OPERATION, "a recipient of a record that is not there")) }
}

/// When it was delivered, and where each recipient stands then; no row, and nothing is written, under another incarnation.
///
/// The time is taken when all ends are locked: so no entry is older than one before it, and none expires before that.
async fn write(inner: &Inner, delivery: &Delivery, fresh: i64) -> sqlx::Result<Vec<PgRow>> {
    let sql = inner.sql(concat!(
        "WITH guard AS MATERIALIZED (SELECT 1 WHERE ",
        incarnation!(),
        " = $1), recipients AS MATERIALIZED (SELECT r.* FROM guard, unnest($2::text[], $3::bigint[], $4::bigint[]) \
         WITH ORDINALITY AS r (user_id, count, nonce, at)), \
         ends AS (INSERT INTO {im}.inbox_ends AS known (user_id, place, nonce, previous) \
         SELECT user_id, count, nonce, $5 FROM recipients ORDER BY user_id COLLATE \"C\" \
         ON CONFLICT (user_id) DO UPDATE SET place = known.place + excluded.place, previous = known.nonce, \
         nonce = excluded.nonce RETURNING user_id, place, previous), \
         locked AS MATERIALIZED (SELECT count(*), ",
        now!(),
        " AS time FROM ends), \
         records AS (INSERT INTO {im}.inbox_records (delivered, id, record) SELECT locked.time, k.id, k.record \
         FROM guard, locked, unnest($6::bigint[], $7::bytea[]) AS k (id, record)), \
         begun AS MATERIALIZED (SELECT r.at, e.user_id, e.place - r.count AS place, e.previous \
         FROM recipients r JOIN ends e ON e.user_id = r.user_id), \
         entries AS (INSERT INTO {im}.inbox (delivered, user_id, place, nonce, previous, record, earlier) \
         SELECT locked.time, b.user_id, b.place + k.number, k.nonce, coalesce(k.previous, b.previous), \
         k.record, CASE WHEN k.first <= k.last THEN ($21::int[])[k.first:k.last] END \
         FROM locked, unnest($8::bigint[], $9::bigint[], $10::bigint[], $19::bigint[], $20::bigint[], $22::int[], $23::int[]) \
         AS k (at, number, record, nonce, previous, first, last) JOIN begun b ON b.at = k.at), \
         checkpoint AS (INSERT INTO {im}.checkpoints AS known \
         (projection, partition, epoch, log_offset, rewind_epoch, rewind_offset, log, store, inbox) \
         SELECT 'inbox', $11, $12, $13, $14, $15, $16, $17, $18 FROM guard WHERE $12 IS NOT NULL ",
        moves!(),
        ") SELECT locked.time, e.user_id, e.place, e.previous FROM guard CROSS JOIN locked LEFT JOIN ends e ON true"
    ));
    let Rows { at, numbers, ids, nonces, previous, earlier, first, last } = rows(delivery, fresh);
    let recipients = &delivery.recipients;
    let (used, records) = records(delivery, fresh);
    let position = delivery.checkpoint.as_ref().map(|checkpoint| checkpoint.position);
    let rewind = delivery.checkpoint.as_ref().map(|checkpoint| checkpoint.rewind);
    let lineage = delivery.checkpoint.as_ref().map(|Checkpoint { lineage, .. }| lineage);
    sqlx::query(sql)
        .bind(delivery.inbox.as_str())
        .bind(recipients.iter().map(|recipient| recipient.user.as_str()).collect::<Vec<_>>())
        .bind(recipients.iter().map(|recipient| recipient.records.len() as i64).collect::<Vec<_>>())
        .bind(recipients.iter().map(|recipient| end_nonce(fresh, recipient)).collect::<Vec<_>>())
        .bind(nonce())
        .bind(used)
        .bind(records)
        .bind(at)
        .bind(numbers)
        .bind(ids)
        .bind(i32::from(delivery.partition.0))
        .bind(position.map(|position| i64::from(position.epoch.0)))
        .bind(position.map(|position| number(position.offset)))
        .bind(rewind.map(|position| i64::from(position.epoch.0)))
        .bind(rewind.map(|position| number(position.offset)))
        .bind(lineage.map(|lineage| lineage.log.as_str()))
        .bind(lineage.map(|lineage| lineage.store.as_str()))
        .bind(lineage.map(|lineage| lineage.inbox.as_str()))
        .bind(nonces)
        .bind(previous)
        .bind(earlier)
        .bind(first)
        .bind(last)
        .fetch_all(&inner.pool)
        .await
}

fn id(fresh: i64, index: u32) -> i64 {
    fresh << INDEX_BITS | i64::from(index)
}

/// The nonce of a record's entries. Each record has another one: so of two users who stand at one place one's cursor is the other's only
/// if both have the same record there.
fn nonce_of(fresh: i64, index: u32) -> i64 {
    fresh ^ i64::from(index)
}

/// The nonce of a recipient's last entry.
fn end_nonce(fresh: i64, recipient: &Recipient) -> i64 {
    recipient.records.last().map_or(fresh, |index| nonce_of(fresh, *index))
}

/// The rows of the inbox, column by column: each holds entries of one recipient, one after the other.
#[derive(Default)]
struct Rows {
    /// The recipient's place in the delivery, from 1.
    at: Vec<i64>,
    /// The newest entry's number among the recipient's, from 1.
    numbers: Vec<i64>,
    /// Its record.
    ids: Vec<i64>,
    nonces: Vec<i64>,
    /// The nonce of the entry before the oldest; none where that is of an earlier delivery.
    previous: Vec<Option<i64>>,
    /// The numbers of the other entries' records, of all rows one after the other; each row's from `first` to `last`, counted from 1.
    earlier: Vec<i32>,
    first: Vec<i32>,
    last: Vec<i32>,
}

fn rows(delivery: &Delivery, fresh: i64) -> Rows {
    let mut rows = Rows::default();
    for (place, recipient) in (1..).zip(&delivery.recipients) {
        let (mut number, mut previous) = (0, None);
        for records in recipient.records.chunks(MOST_ENTRIES) {
            let Some((newest, earlier)) = records.split_last() else { continue };
            number += records.len() as i64;
            let nonce = nonce_of(fresh, *newest);
            rows.at.push(place);
            rows.numbers.push(number);
            rows.ids.push(id(fresh, *newest));
            rows.nonces.push(nonce);
            rows.previous.push(previous.replace(nonce));
            rows.first.push(rows.earlier.len() as i32 + 1);
            rows.earlier.extend(earlier.iter().map(|index| index.cast_signed()));
            rows.last.push(rows.earlier.len() as i32);
        }
    }
    rows
}

/// The records that somebody gets.
fn records(delivery: &Delivery, fresh: i64) -> (Vec<i64>, Vec<Vec<u8>>) {
    let mut wanted = vec![false; delivery.records.len()];
    for index in delivery.recipients.iter().flat_map(|recipient| recipient.records.iter()) {
        wanted[*index as usize] = true;
    }
    let records = (0_u32..).zip(&delivery.records).zip(wanted).filter(|(_, wanted)| *wanted);
    records.map(|((index, record), _)| (id(fresh, index), codec::encode(&record.record).to_vec())).unzip()
}

async fn answers(
    inner: &Arc<Inner>,
    delivery: &Delivery,
    rows: &[PgRow],
    fresh: i64,
) -> Result<Vec<Result<Delivered>>> {
    let Some(first) = rows.first() else {
        let present = inner.incarnation(OPERATION).await?;
        return Err(other_incarnation(OPERATION, &delivery.inbox, present.as_str()));
    };
    if inner.spans.end_soon(Columns::new(first, 0, OPERATION).int(0)?) {
        spans::make_aside(inner, OPERATION);
    }
    let ends = ends(rows)?;
    let mut answers = Vec::with_capacity(delivery.recipients.len());
    // Recipients in a row may have the same records at the same places: they share one list.
    let (mut same, mut list): ((i64, &[u32]), Arc<[Cursor]>) = Default::default();
    for Recipient { user, records } in &delivery.recipients {
        let Some((place, previous)) = ends.get(user.as_str()) else {
            return Err(corrupt(OPERATION, "a recipient without an end"));
        };
        let before = place - records.len() as i64;
        if same != (*place, &**records) {
            (same, list) = ((*place, &**records), cursors(before, records, fresh));
        }
        let previous = Some(Stand { place: before, nonce: *previous }.cursor());
        answers.push(Ok(Delivered { previous, cursors: list.clone() }));
    }
    Ok(answers)
}

/// The cursors of a recipient's entries, which begin behind a place.
fn cursors(before: i64, records: &[u32], fresh: i64) -> Arc<[Cursor]> {
    let stands =
        (before + 1..).zip(records).map(|(place, index)| Stand { place, nonce: nonce_of(fresh, *index) });
    stands.map(Stand::cursor).collect()
}

/// Each user's place after the delivery, and the nonce before it.
fn ends(rows: &[PgRow]) -> Result<HashMap<&str, (i64, i64)>> {
    let mut ends = HashMap::with_capacity(rows.len());
    for row in rows {
        let columns = Columns::new(row, 0, OPERATION);
        if let Some(user) = columns.optional_text(1)? {
            ends.insert(user, (columns.int(2)?, columns.int(3)?));
        }
    }
    Ok(ends)
}
