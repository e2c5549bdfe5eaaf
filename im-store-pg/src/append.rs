//! The append: number and insert under the lock of the partition, which is held until the commit.

use std::{collections::HashMap, sync::Arc};

use im_core::{
    Append, AppendOutcome, ConversationId, Epoch, Error, ErrorKind, Found, Mark, Ordinal, Partition,
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
    // Almost all keys are new, and the insert looks each of them up anyway: only when it finds one we ask which.
    let tried = Attempt { inner: &inner, partition, given, batch: &batch, keys: &keys };
    let outcomes = match tried.run(false).await? {
        Some(outcomes) => outcomes,
        None => tried.run(true).await?.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, "a key was taken while it was looked up")
        })?,
    };
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

struct Attempt<'a> {
    inner: &'a Inner,
    partition: Partition,
    given: Epoch,
    batch: &'a [Append],
    keys: &'a [SendKey],
}

impl Attempt<'_> {
    /// One transaction; none, and nothing is done, where a key is taken that was not looked up.
    async fn run(&self, look_up: bool) -> Result<Option<Vec<AppendOutcome>>> {
        let mut transaction = self.inner.pool.begin().await.map_err(failed(OPERATION))?;
        let standing = self.lock(&mut transaction).await?;
        let heads = self.heads(&mut transaction, standing.epoch).await?;
        let known = match look_up {
            true => messages::find(self.inner, &mut transaction, self.keys, OPERATION).await?,
            false => vec![None; self.keys.len()],
        };
        let (outcomes, rows) = self.number(&standing, heads, known);
        if let Some(last) = rows.last() {
            let inserted = messages::insert(self.inner, &mut transaction, &rows).await;
            if inserted.as_ref().is_err_and(is_taken) {
                // At once, so that the second look need not wait for it.
                transaction.rollback().await.map_err(failed(OPERATION))?;
                return Ok(None);
            }
            inserted.map_err(failed(OPERATION))?;
            self.end(&mut transaction, last.position).await?;
        }
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(Some(outcomes))
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

    /// Where the conversations of the batch end. Not before the lock: in a statement of its own, which sees what is committed now.
    async fn heads(&self, conn: &mut Conn, open: Epoch) -> Result<HashMap<ConversationId, Head>> {
        let mut ids: Vec<&str> = self.batch.iter().map(|append| append.conversation.as_str()).collect();
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

    fn number(
        &self,
        standing: &Standing,
        heads: HashMap<ConversationId, Head>,
        known: Vec<Option<Found>>,
    ) -> (Vec<AppendOutcome>, Vec<NewRow>) {
        let mut numbering = Numbering::new(standing.epoch, standing.is_first, standing.now, heads);
        let (mut outcomes, mut rows) = (Vec::with_capacity(self.batch.len()), Vec::new());
        let mut next = Position { epoch: standing.epoch, offset: standing.end.offset + 1 };
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
