//! The outbox: what hosts sent inside their own transactions, and what of it was refused.

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use im_core::{
    ClientMsgId, ContentType, ConversationId, Outbox, Outgoing, Place, Refusal, Result, Timestamp, UserId,
    Waiting,
};

use crate::{
    connect::{Inner, incarnation, now},
    error::failed,
    rows::{Columns, limit, number},
};

/// The most messages of one page.
const MOST_MESSAGES: usize = 10_000;

/// How many messages are looked at in one statement where some cannot be read, and how many of those are kept in mind.
const MANY: usize = 1000;

/// How long a message that cannot be read waits at least for a node of a newer version, in milliseconds: an hour.
const UNREADABLE: i64 = 3_600_000;

/// No message of the outbox is, or will ever be, of a transaction below this one: in this incarnation, for after a failover
/// transactions are counted on from an earlier number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Floor {
    incarnation: String,
    transaction: i64,
}

/// Messages of hosts' transactions that have committed: [`Outbox`], and what became of those that were refused.
#[derive(Debug, Clone)]
pub struct PgOutbox(pub(crate) Arc<Inner>);

/// A message that was sent by [`PgBackend::send_in`](crate::PgBackend::send_in) and that the engine refused: its sender had left by
/// then, or the host's policy denied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSend {
    /// Names it in the outbox.
    pub number: u64,
    /// When it was sent, within its transaction.
    pub put_at: Timestamp,
    /// When it was refused.
    pub refused_at: Timestamp,
    /// Why: the [code](Refusal::code) of a [`Refusal`], or `unreadable`.
    pub code: String,
    /// The same for people.
    pub reason: String,
    /// The message; none where this version cannot read it.
    pub message: Option<Outgoing>,
}

fn message(columns: Columns<'_>) -> Result<Outgoing> {
    let content_type = |name: &str| ContentType::from_name(name).ok_or("no such content type");
    Ok(Outgoing {
        conversation: columns.parse(0, ConversationId::new)?,
        sender: columns.parse(1, UserId::new)?,
        client_msg_id: columns.parse(2, ClientMsgId::new)?,
        content_type: columns.parse(3, content_type)?,
        content: columns.text(4)?.into(),
    })
}

/// What one look finds.
#[derive(Default)]
struct Look {
    incarnation: String,
    /// The transactions below this one are over, whatever becomes visible later.
    over: i64,
    /// The first of what is there, readable or not.
    first: Option<Place>,
    waiting: Vec<Waiting>,
    /// Where the next look begins; none where nothing is left.
    rest: Option<Place>,
    unreadable: Vec<Unreadable>,
}

/// What this version cannot read.
#[derive(Debug)]
struct Unreadable {
    place: Place,
    /// It has waited for long enough.
    is_old: bool,
    why: String,
}

/// What was passed over because this version cannot read it; of too many the first.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    /// Since the last look from the beginning.
    now: BTreeSet<Place>,
    /// Before others were last let look.
    before: BTreeSet<Place>,
}

impl PgOutbox {
    /// A page, however much before and in it cannot be read.
    async fn page(&self, transaction: i64, after: i64, max: usize) -> Result<Look> {
        let mut page = self.look(transaction, after, max).await?;
        self.pass_over(&mut page.unreadable);
        while let (Some(rest), true) = (page.rest, page.waiting.len() < max) {
            let (transaction, after) = (number(rest.transaction), number(rest.number));
            // Many at once, or else there could be a statement for each that cannot be read.
            let mut next = self.look(transaction, after, MANY).await?;
            self.pass_over(&mut next.unreadable);
            page.waiting.extend(next.waiting);
            page.unreadable.extend(next.unreadable);
            page.rest = next.rest;
        }
        page.waiting.truncate(max);
        if !page.unreadable.is_empty() {
            tracing::warn!(first = ?page.unreadable.first(), "messages of the outbox that no node can read are refused");
            let refused = page.unreadable.iter();
            self.put_aside(refused.map(|one| (one.place, "unreadable", one.why.clone()))).await?;
        }
        Ok(page)
    }

    /// Notes what cannot be read, and leaves what is to be put aside.
    fn pass_over(&self, unreadable: &mut Vec<Unreadable>) {
        let mut passed = self.passed_over();
        for one in &*unreadable {
            if passed.now.len() < MANY {
                passed.now.insert(one.place);
            }
        }
        unreadable.retain(|one| one.is_old && passed.before.contains(&one.place));
        for one in &*unreadable {
            passed.now.remove(&one.place);
        }
    }

    fn passed_over(&self) -> MutexGuard<'_, PassedOver> {
        self.0.outbox_passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, transaction: i64, after: i64, max: usize) -> Result<Look> {
        let operation = "outbox.waiting";
        let sql = self.0.sql(concat!(
            "SELECT s.incarnation, s.over, o.* FROM (SELECT ",
            incarnation!(),
            " AS incarnation, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS over) s LEFT JOIN \
             (SELECT transaction, number, put_at < ",
            now!(),
            " - $4 AS is_old, conversation_id, send_from, client_msg_id, content_type, content FROM {im}.outbox \
             WHERE (transaction, number) > ($1, $2) ORDER BY transaction, number LIMIT $3) o ON true \
             ORDER BY o.transaction, o.number"
        ));
        let rows = sqlx::query(sql)
            .bind(transaction)
            .bind(after)
            .bind(limit(max))
            .bind(UNREADABLE)
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let mut look = Look::default();
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            look.incarnation = columns.text(0)?.to_owned();
            look.over = columns.int(1)?;
            let Some(transaction) = columns.optional_int(2)? else { continue };
            let place =
                Place { transaction: transaction.unsigned_abs(), number: columns.int(3)?.unsigned_abs() };
            look.first.get_or_insert(place);
            look.rest = Some(place).filter(|_| rows.len() >= max);
            match message(columns.skip(5)) {
                Ok(message) => look.waiting.push(Waiting { place, message }),
                Err(why) => {
                    let is_old = columns.get(4)?;
                    look.unreadable.push(Unreadable { place, is_old, why: why.to_string() });
                }
            }
        }
        Ok(look)
    }

    /// Moves messages to the refused ones: each with its code and the reason.
    async fn put_aside(&self, refused: impl Iterator<Item = (Place, &'static str, String)>) -> Result<()> {
        let sql = self.0.sql(concat!(
            "WITH gone AS (DELETE FROM {im}.outbox o USING \
             unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS k (transaction, number, code, reason) \
             WHERE o.transaction = k.transaction AND o.number = k.number RETURNING o.*, k.code, k.reason) \
             INSERT INTO {im}.outbox_refused (number, put_at, refused_at, code, reason, conversation_id, send_from, \
             client_msg_id, content_type, content) SELECT number, put_at, ",
            now!(),
            ", code, reason, conversation_id, send_from, client_msg_id, content_type, content FROM gone"
        ));
        let (mut transactions, mut numbers, mut codes, mut reasons) = (vec![], vec![], vec![], vec![]);
        for (place, code, reason) in refused {
            transactions.push(number(place.transaction));
            numbers.push(number(place.number));
            codes.push(code);
            // A policy's reason may be any text.
            reasons.push(reason.replace('\0', ""));
        }
        sqlx::query(sql)
            .bind(transactions)
            .bind(numbers)
            .bind(codes)
            .bind(reasons)
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("outbox.refuse"))
    }

    /// The first `max` refused messages after a number; 0 for the first of all. They stay until the host
    /// [forgets](Self::forget_refused) them, however many they become: [`PgReport`](crate::PgReport) counts them. Who sends one again, by whatever way, sends the same message.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refused(&self, after: u64, max: usize) -> Result<Vec<RefusedSend>> {
        let operation = "outbox.refused";
        let sql = self.0.sql(
            "SELECT number, put_at, refused_at, code, reason, conversation_id, send_from, client_msg_id, content_type, content \
             FROM {im}.outbox_refused WHERE number > $1 ORDER BY number LIMIT $2",
        );
        let rows = sqlx::query(sql)
            .bind(number(after))
            .bind(limit(max.min(MOST_MESSAGES)))
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let refused = |columns: Columns<'_>| {
            Ok(RefusedSend {
                number: columns.int(0)?.unsigned_abs(),
                put_at: Timestamp(columns.int(1)?),
                refused_at: Timestamp(columns.int(2)?),
                code: columns.text(3)?.to_owned(),
                reason: columns.text(4)?.to_owned(),
                message: message(columns.skip(5)).ok(),
            })
        };
        rows.iter().map(|row| refused(Columns::new(row, 0, operation))).collect()
    }

    /// Removes refused messages, by their numbers.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_refused(&self, numbers: &[u64]) -> Result<()> {
        sqlx::query(self.0.sql("DELETE FROM {im}.outbox_refused WHERE number = ANY($1)"))
            .bind(numbers.iter().map(|given| number(*given)).collect::<Vec<_>>())
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("outbox.forget_refused"))
    }
}

#[async_trait]
impl Outbox for PgOutbox {
    async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>> {
        let max = max.clamp(1, MOST_MESSAGES);
        if let Some(after) = after {
            return Ok(self.page(number(after.transaction), number(after.number), max).await?.waiting);
        }
        let floor = || self.0.outbox_floor.lock().unwrap_or_else(PoisonError::into_inner);
        let known = floor().clone();
        self.passed_over().now.clear();
        let mut look = self.page(known.transaction, 0, max).await?;
        if look.incarnation != known.incarnation {
            look = self.page(0, 0, max).await?;
        }
        let first = look.first.map_or(i64::MAX, |first| number(first.transaction));
        *floor() = Floor { incarnation: look.incarnation, transaction: look.over.min(first) };
        Ok(look.waiting)
    }

    async fn done(&self, places: &[Place]) -> Result<()> {
        let sql = self.0.sql(
            "DELETE FROM {im}.outbox o USING unnest($1::bigint[], $2::bigint[]) AS k (transaction, number) \
             WHERE o.transaction = k.transaction AND o.number = k.number",
        );
        sqlx::query(sql)
            .bind(places.iter().map(|place| number(place.transaction)).collect::<Vec<_>>())
            .bind(places.iter().map(|place| number(place.number)).collect::<Vec<_>>())
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("outbox.done"))
    }

    async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()> {
        self.put_aside(refused.iter().map(|(place, refusal)| (*place, refusal.code(), refusal.to_string())))
            .await
    }

    async fn pass_on(&self) -> Result<bool> {
        let mut passed = self.passed_over();
        passed.before = passed.now.clone();
        Ok(!passed.now.is_empty())
    }
}
