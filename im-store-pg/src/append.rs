//! The append: number and insert under the lock of the partition, which is held until the commit.

use std::{collections::HashMap, sync::Arc};

use im_core::{
    Append, AppendOutcome, ConversationId, Epoch, Error, ErrorKind, Found, Mark, Ordinal, Outcome, Partition,
    Position, Result, SendKey, Seq, Timestamp,
    numbering::{Head, Numbering},
};
use sqlx::error::DatabaseError;

use crate::{
    connect::{Inner, incarnation, now},
    error::{BACKEND, failed, invalid, other_incarnation},
    log::{epoch, stale},
    messages::{self, NewRow},
    pool::Conn,
    rows::Columns,
    tail::Tail,
};

pub(crate) const OPERATION: &str = "log.append";

/// Refuses a batch that has a conversation of another partition.
pub(crate) fn check(inner: &Inner, partition: Partition, batch: &[Append]) -> Result<()> {
    let stray = batch.iter().find(|append| inner.part(&append.conversation) != partition.0.cast_signed());
    match stray {
        None => Ok(()),
        Some(stray) => {
            let message = format!("{} does not belong to partition {}", stray.conversation, partition.0);
            Err(invalid(OPERATION, message))
        }
    }
}

/// Appends a batch to the open epoch.
pub(crate) async fn append(
    inner: Arc<Inner>,
    partition: Partition,
    given: Epoch,
    batch: Vec<Append>,
) -> Result<Vec<AppendOutcome>> {
    let keys: Vec<SendKey> = batch.iter().map(Append::key).collect();
    let attempt = Attempt { inner: &inner, partition, given, batch: &batch, keys: &keys };
    let mut tail = inner.tails.take(partition);
    let outcomes = attempt.run(&mut tail).await?;
    if let Some(tail) = tail {
        inner.tails.keep(partition, tail);
    }
    inner.wake.moved(&inner, partition);
    Ok(outcomes)
}

/// Where a partition stands, under its lock.
struct Standing {
    end: Position,
    epoch: Epoch,
    is_first: bool,
    now: Timestamp,
}

/// What became of an attempt; nothing is done unless all is.
enum Tried {
    Done(Vec<AppendOutcome>),
    /// A key is taken that was not looked up.
    Taken,
    /// The partition does not end where it did.
    Moved,
}

struct Attempt<'a> {
    inner: &'a Inner,
    partition: Partition,
    given: Epoch,
    batch: &'a [Append],
    keys: &'a [SendKey],
}

impl Attempt<'_> {
    /// At once where the tail is known, else step by step. Almost all keys are new, and the insert looks each of them up anyway: only
    /// when it finds one we ask which.
    async fn run(&self, tail: &mut Option<Tail>) -> Result<Vec<AppendOutcome>> {
        let mut look_up = false;
        if let Some(tail) = tail.as_mut().filter(|tail| tail.is_alone && tail.epoch == self.given) {
            match self.at_once(tail).await? {
                Tried::Done(outcomes) => return Ok(outcomes),
                Tried::Taken => look_up = true,
                Tried::Moved => {}
            }
        }
        for look_up in [look_up, true] {
            if let Tried::Done(outcomes) = self.by_steps(tail, look_up).await? {
                return Ok(outcomes);
            }
        }
        let message = "a key was taken while it was looked up";
        Err(Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, message).with_outcome(Outcome::NotDone))
    }

    /// One statement, which writes only if the partition still ends at the tail, in the same epoch and the same data: then the tail
    /// says where the conversations end too.
    async fn at_once(&self, tail: &mut Tail) -> Result<Tried> {
        let mut conn = self.inner.pool.acquire().await.map_err(failed(OPERATION))?;
        let heads = self.heads_at(&mut conn, tail).await?;
        // The statement raises the times to that of the lock.
        let numbering = Numbering::new(tail.epoch, tail.is_first, Timestamp::default(), heads);
        let (mut outcomes, rows) = self.number(numbering, tail.epoch, tail.end, vec![None; self.keys.len()]);
        // Nothing to write: only the lock says whether that is right.
        let Some(last) = rows.last() else { return Ok(Tried::Moved) };
        let sql = self.inner.sql(concat!(
            "WITH locked AS (UPDATE {im}.log_partitions SET epoch = $23, last_offset = $24 \
             WHERE partition = $19 AND (epoch, last_offset) = ($20, $21) AND open_epoch = $22 AND open_incarnation = ",
            incarnation!(),
            " RETURNING ",
            now!(),
            " AS time), new AS MATERIALIZED (SELECT new.part, new.conversation_id, new.sequence_id, new.ordinal, \
             greatest(new.created_at, locked.time) AS created_at, new.send_from, new.device, new.send_to, new.client_msg_id, \
             new.hole_after, new.kind, new.content_type, new.content, new.content_hash, new.own, new.log_partition, \
             new.log_epoch, new.log_offset FROM locked, ",
            messages::new_rows!(),
            "), ",
            messages::inserts!(),
            " SELECT time FROM locked"
        ));
        let answer = messages::bind(self.inner, sqlx::query(sql), &rows)
            .bind(self.partition.0.cast_signed())
            .bind(i64::from(tail.end.epoch.0))
            .bind(tail.end.offset.cast_signed())
            .bind(i64::from(tail.epoch.0))
            .bind(i64::from(last.position.epoch.0))
            .bind(last.position.offset.cast_signed())
            .fetch_optional(&mut conn)
            .await;
        if answer.as_ref().is_err_and(is_taken) {
            return Ok(Tried::Taken);
        }
        let Some(row) = answer.map_err(failed(OPERATION))? else { return Ok(Tried::Moved) };
        let now = Timestamp(Columns::new(&row, 0, OPERATION).int(0)?);
        for outcome in &mut outcomes {
            // A duplicate is one of this batch.
            if let AppendOutcome::Appended(receipt) | AppendOutcome::Duplicate(receipt) = outcome {
                receipt.created_at = receipt.created_at.max(now);
            }
        }
        tail.advance(&rows, now);
        Ok(Tried::Done(outcomes))
    }

    /// Where the conversations of the batch end at the tail. Those that it does not know are read without the lock: if nobody has
    /// appended until the statement has it, nobody had when they were read.
    async fn heads_at(&self, conn: &mut Conn, tail: &Tail) -> Result<HashMap<ConversationId, Head>> {
        let mut heads = HashMap::new();
        let mut unknown = Vec::new();
        for Append { conversation, .. } in self.batch {
            match tail.heads.get(conversation) {
                Some(head) => drop(heads.insert(conversation.clone(), *head)),
                None => unknown.push(conversation.as_str()),
            }
        }
        if !unknown.is_empty() {
            heads.extend(self.heads(conn, unknown, tail.epoch).await?);
        }
        Ok(heads)
    }

    /// One transaction, whatever was known of the tail; it is known then.
    async fn by_steps(&self, tail: &mut Option<Tail>, look_up: bool) -> Result<Tried> {
        let mut transaction = self.inner.pool.begin().await.map_err(failed(OPERATION))?;
        let standing = self.lock(&mut transaction).await?;
        let ids = self.batch.iter().map(|append| append.conversation.as_str()).collect();
        let heads = self.heads(&mut transaction, ids, standing.epoch).await?;
        let known = match look_up {
            true => messages::find(self.inner, &mut transaction, self.keys, OPERATION).await?,
            false => vec![None; self.keys.len()],
        };
        let numbering = Numbering::new(standing.epoch, standing.is_first, standing.now, heads);
        let (outcomes, rows) = self.number(numbering, standing.epoch, standing.end, known);
        if let Some(last) = rows.last() {
            let inserted = messages::insert(self.inner, &mut transaction, &rows).await;
            if inserted.as_ref().is_err_and(is_taken) {
                // At once, so that the second look need not wait for it.
                transaction.rollback().await.map_err(failed(OPERATION))?;
                return Ok(Tried::Taken);
            }
            inserted.map_err(failed(OPERATION))?;
            self.end(&mut transaction, last.position).await?;
        }
        transaction.commit().await.map_err(failed(OPERATION))?;
        let Standing { end, epoch, is_first, now } = standing;
        let is_alone = tail.as_ref().is_none_or(|tail| tail.end == end);
        let mut now_known = Tail { end, epoch, is_first, is_alone, heads: HashMap::new() };
        now_known.advance(&rows, now);
        *tail = Some(now_known);
        Ok(Tried::Done(outcomes))
    }

    async fn lock(&self, conn: &mut Conn) -> Result<Standing> {
        let sql = self.inner.sql(concat!(
            "SELECT epoch, last_offset, open_epoch, open_incarnation, first_epoch, ",
            now!(),
            ", ",
            incarnation!(),
            " FROM {im}.log_partitions WHERE partition = $1 FOR UPDATE"
        ));
        let row = sqlx::query(sql)
            .bind(self.partition.0.cast_signed())
            .fetch_one(conn)
            .await
            .map_err(failed(OPERATION))?;
        let columns = Columns::new(&row, 0, OPERATION);
        let open = epoch(columns.int(2)?, OPERATION)?;
        if open == Epoch(0) {
            return Err(Error::new(ErrorKind::OtherIncarnation, BACKEND, OPERATION, "no epoch is open"));
        }
        if open != self.given {
            return Err(stale(OPERATION, self.given, open));
        }
        let (owner, present) = (columns.text(3)?, columns.text(6)?);
        if owner != present {
            return Err(other_incarnation(OPERATION, &im_core::Incarnation::new(owner), present));
        }
        Ok(Standing {
            end: columns.position()?,
            epoch: open,
            is_first: columns.int(4)? == columns.int(2)?,
            now: Timestamp(columns.int(5)?),
        })
    }

    /// Where conversations end. Under the lock: in a statement of its own, which sees what is committed then.
    async fn heads(
        &self,
        conn: &mut Conn,
        mut ids: Vec<&str>,
        open: Epoch,
    ) -> Result<HashMap<ConversationId, Head>> {
        ids.sort_unstable();
        ids.dedup();
        let sql = self.inner.sql(
            "SELECT id, last_message_id, last_ordinal, updated_at, last_epoch FROM {im}.conversations \
             WHERE id = ANY($1) AND last_message_id > 0",
        );
        let rows = sqlx::query(sql).bind(ids).fetch_all(conn).await.map_err(failed(OPERATION))?;
        let head = |columns: Columns<'_>| {
            let mark = Mark {
                seq: Seq(columns.int(1)?.unsigned_abs()),
                ordinal: Ordinal(columns.int(2)?.unsigned_abs()),
            };
            let is_of_epoch = columns.int(4)? == i64::from(open.0);
            let head = Head { mark, created_at: Timestamp(columns.int(3)?), is_of_epoch };
            Ok((columns.parse(0, ConversationId::new)?, head))
        };
        rows.iter().map(|row| head(Columns::new(row, 0, OPERATION))).collect()
    }

    fn number<'k>(
        &'k self,
        mut numbering: Numbering<'k>,
        epoch: Epoch,
        end: Position,
        known: Vec<Option<Found>>,
    ) -> (Vec<AppendOutcome>, Vec<NewRow>) {
        let (mut outcomes, mut rows) = (Vec::with_capacity(self.batch.len()), Vec::new());
        let mut next = Position { epoch, offset: end.offset + 1 };
        for ((append, key), known) in self.batch.iter().zip(self.keys).zip(known) {
            if append.content.contains('\0') {
                let why = "Postgres cannot keep the character NUL in a text";
                outcomes.push(AppendOutcome::Failed(invalid(OPERATION, why)));
                continue;
            }
            let (outcome, record) = numbering.take(append, key, known, next);
            outcomes.push(outcome);
            if let Some(record) = record {
                rows.push(NewRow { record, position: next, partition: self.partition.0, own: true });
                next.offset += 1;
            }
        }
        (outcomes, rows)
    }

    async fn end(&self, conn: &mut Conn, end: Position) -> Result<()> {
        let sql = self
            .inner
            .sql("UPDATE {im}.log_partitions SET epoch = $2, last_offset = $3 WHERE partition = $1");
        sqlx::query(sql)
            .bind(self.partition.0.cast_signed())
            .bind(i64::from(end.epoch.0))
            .bind(end.offset.cast_signed())
            .execute(conn)
            .await
            .map(drop)
            .map_err(failed(OPERATION))
    }
}

/// Whether a statement met a key that is there already.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DatabaseError::is_unique_violation)
}
