//! A delivery: one statement that raises the recipients' ends, writes records and entries, and moves the checkpoint.

use std::{collections::HashMap, sync::Arc};

use im_core::{Checkpoint, Cursor, Delivered, Delivery, Error, ErrorKind, Outcome, Result, codec};
use sqlx::postgres::PgRow;

use crate::{
    connect::{Inner, incarnation, now},
    cursor::{Stand, nonce},
    error::{BACKEND, failed, invalid, other_incarnation},
    inbox::MOST_RECIPIENTS,
    rows::{Columns, number},
};

const OPERATION: &str = "inbox.deliver";

/// A record's id is its delivery's nonce and its place in the delivery, in so many bits.
const INDEX_BITS: u32 = 16;

/// How often a delivery is tried when its span of time is over before it has begun.
const TRIES: usize = 3;

/// Delivers, all or nothing.
pub(crate) async fn deliver(inner: Arc<Inner>, delivery: Delivery) -> Result<Vec<Result<Delivered>>> {
    check(&delivery)?;
    for _ in 0..TRIES {
        let span = inner.spans.current(&inner, OPERATION).await?;
        let fresh = nonce();
        let rows = write(&inner, &delivery, span, fresh).await?;
        if let Some(rows) = rows {
            return answers(&delivery, &rows, fresh);
        }
        let present = inner.incarnation(OPERATION).await?;
        if delivery.inbox != present {
            return Err(other_incarnation(OPERATION, &delivery.inbox, present.as_str()));
        }
        inner.spans.forget();
    }
    let message = "the server's clock runs faster than deliveries are done";
    Err(Error::new(ErrorKind::Timeout, BACKEND, OPERATION, message).with_outcome(Outcome::NotDone))
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

/// What has become of the recipients; none, and nothing is written, where the incarnation is another one or the span is over.
async fn write(inner: &Inner, delivery: &Delivery, span: i64, fresh: i64) -> Result<Option<Vec<PgRow>>> {
    let sql = inner.sql(concat!(
        "WITH guard AS MATERIALIZED (SELECT 1 WHERE ",
        incarnation!(),
        " = $1 AND ",
        now!(),
        " < $2), recipients AS MATERIALIZED (SELECT r.* FROM guard, unnest($3::text[], $4::bigint[]) WITH ORDINALITY \
         AS r (user_id, count, at)), \
         ends AS (INSERT INTO {im}.inbox_ends AS known (user_id, place, nonce, previous, anchor) \
         SELECT user_id, count, $5, $6, $6 FROM recipients ORDER BY user_id COLLATE \"C\" \
         ON CONFLICT (user_id) DO UPDATE SET place = known.place + excluded.place, previous = known.nonce, \
         nonce = excluded.nonce RETURNING user_id, place, previous), \
         records AS (INSERT INTO {im}.inbox_records (delivered, id, record) SELECT $7, k.id, k.record \
         FROM guard, unnest($8::bigint[], $9::bytea[]) AS k (id, record)), \
         entries AS (INSERT INTO {im}.inbox (delivered, user_id, place, nonce, record) \
         SELECT $7, e.user_id, e.place - r.count + k.number, $5, k.record \
         FROM unnest($10::bigint[], $11::bigint[], $12::bigint[]) AS k (at, number, record) \
         JOIN recipients r ON r.at = k.at JOIN ends e ON e.user_id = r.user_id), \
         checkpoint AS (INSERT INTO {im}.checkpoints AS known \
         (projection, partition, epoch, log_offset, rewind_epoch, rewind_offset, log, store, inbox) \
         SELECT 'inbox', $13, $14, $15, $16, $17, $18, $19, $20 FROM guard WHERE $14 IS NOT NULL \
         ON CONFLICT (projection, partition) DO UPDATE SET epoch = excluded.epoch, log_offset = excluded.log_offset, \
         rewind_epoch = excluded.rewind_epoch, rewind_offset = excluded.rewind_offset, log = excluded.log, \
         store = excluded.store, inbox = excluded.inbox \
         WHERE (excluded.log, excluded.store, excluded.inbox) <> (known.log, known.store, known.inbox) \
         OR (excluded.epoch, excluded.log_offset) >= (known.epoch, known.log_offset)) \
         SELECT e.user_id, e.place, e.previous FROM guard LEFT JOIN ends e ON true"
    ));
    let (at, numbers, ids) = entries(delivery, fresh);
    let recipients = &delivery.recipients;
    let (used, records) = records(delivery, fresh);
    let position = delivery.checkpoint.as_ref().map(|checkpoint| checkpoint.position);
    let rewind = delivery.checkpoint.as_ref().map(|checkpoint| checkpoint.rewind);
    let lineage = delivery.checkpoint.as_ref().map(|Checkpoint { lineage, .. }| lineage);
    let rows = sqlx::query(sql)
        .bind(delivery.inbox.as_str())
        .bind(inner.spans.until(span))
        .bind(recipients.iter().map(|recipient| recipient.user.as_str()).collect::<Vec<_>>())
        .bind(recipients.iter().map(|recipient| recipient.records.len() as i64).collect::<Vec<_>>())
        .bind(fresh)
        .bind(nonce())
        .bind(span)
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
        .fetch_all(&inner.pool)
        .await
        .map_err(failed(OPERATION))?;
    Ok((!rows.is_empty()).then_some(rows))
}

fn id(fresh: i64, index: u32) -> i64 {
    fresh << INDEX_BITS | i64::from(index)
}

/// The entries: the recipient's place in the delivery, from 1; the entry's number among the recipient's, from 1; its record.
fn entries(delivery: &Delivery, fresh: i64) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let (mut at, mut numbers, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (place, recipient) in (1..).zip(&delivery.recipients) {
        for (number, index) in (1..).zip(&*recipient.records) {
            at.push(place);
            numbers.push(number);
            ids.push(id(fresh, *index));
        }
    }
    (at, numbers, ids)
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

fn answers(delivery: &Delivery, rows: &[PgRow], fresh: i64) -> Result<Vec<Result<Delivered>>> {
    let mut ends = HashMap::with_capacity(rows.len());
    for row in rows {
        let columns = Columns::new(row, 0, OPERATION);
        if let Some(user) = columns.optional_text(0)? {
            ends.insert(user, (columns.int(1)?, columns.int(2)?));
        }
    }
    let answer = |recipient: &im_core::Recipient| {
        let count = recipient.records.len() as i64;
        let Some((place, previous)) = ends.get(recipient.user.as_str()) else {
            return Err(invalid(OPERATION, "a recipient that is named twice"));
        };
        let before = place - count;
        let cursors: Arc<[Cursor]> =
            (before + 1..=*place).map(|place| Stand { place, nonce: fresh }.cursor()).collect();
        Ok(Delivered { previous: Some(Stand { place: before, nonce: *previous }.cursor()), cursors })
    };
    Ok(delivery.recipients.iter().map(answer).collect())
}
