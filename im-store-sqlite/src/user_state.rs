//! Read marks and settings.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use im_core::{
    ConversationId, DeviceId, Error, ErrorKind, Mark, Marked, Membership, Ordinal, ReadMark, Result, Seq,
    Settings, SettingsChange, State, StateChanges, StateVersion, Timestamp, UserId, UserState,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    SqliteStore,
    connect::Inner,
    devices,
    error::{BACKEND, failed},
    fresh::Fresh,
    memberships,
    rows::{Columns, limit, number},
    timelines::Timelines,
    values::{MOST_ROWS, Values},
    versions::{self, number_of, version},
    writer::Writer,
};

const MARK_READ: &str = "states.mark_read";
const SET: &str = "states.set";
const STATE: &str = "states.state";

/// The most conversations in a list of changes.
const MOST_CHANGES: usize = 10_000;

/// For each wanted mark: whether the user ever was a member, the head, the ordinal at the mark, the mark that holds, the
/// user's version; as far as the file knows.
static FACTS: Values = Values::new(
    "SELECT v.column1, \
     EXISTS (SELECT 1 FROM group_members WHERE conversation_id = v.column2 AND main_user = v.column3), \
     h.sequence_id, h.ordinal, \
     (SELECT ordinal FROM timelines WHERE conversation_id = v.column2 AND sequence_id <= v.column5 \
      AND sequence_id < 9223372036854775807 ORDER BY sequence_id DESC LIMIT 1), \
     r.mark, r.ordinal, (SELECT max(version) FROM state_changes WHERE main_user = v.column3) FROM",
    5,
    "v LEFT JOIN timelines h ON h.conversation_id = v.column2 AND h.main_user = '' AND h.device = '' AND h.sequence_id = \
     (SELECT max(sequence_id) FROM timelines WHERE conversation_id = v.column2 AND sequence_id < 9223372036854775807) \
     LEFT JOIN timelines r ON r.conversation_id = v.column2 AND r.sequence_id = 9223372036854775807 \
     AND r.main_user = v.column3 AND r.device = v.column4 WHERE v.column1 IS NOT NULL",
);

/// What is known about a wanted mark.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    is_member: bool,
    head: Mark,
    /// The mark as it would be.
    wanted: Mark,
    /// The mark as it is.
    held: Mark,
    version: i64,
}

async fn facts(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    marks: &[ReadMark],
) -> Result<Vec<Facts>> {
    // Before the file: what is moved meanwhile is then seen here or there.
    let known = |mark: &ReadMark| Facts {
        head: fresh.head(&mark.conversation).map_or(Mark::default(), |place| place.mark),
        wanted: Mark {
            seq: mark.seq,
            ordinal: fresh.below(&mark.conversation, mark.seq).map_or(Ordinal(0), |place| place.mark.ordinal),
        },
        held: fresh.reads(&mark.conversation, &mark.user, mark.device.as_ref()).own,
        ..Facts::default()
    };
    let mut facts: Vec<_> = marks.iter().map(known).collect();
    for (chunk, facts) in marks.chunks(MOST_ROWS).zip(facts.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(FACTS.sql(chunk.len())));
        for (index, mark) in chunk.iter().enumerate() {
            query = query
                .bind(index as i64)
                .bind(Arc::<str>::from(mark.conversation.clone()))
                .bind(Arc::<str>::from(mark.user.clone()))
                .bind(device_text(mark.device.as_ref()))
                .bind(number(mark.seq.0));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(MARK_READ))? {
            let columns = Columns::new(&row, 0, MARK_READ);
            let index = columns.int(0)? as usize;
            read_facts(columns, &mut facts[index])?;
        }
    }
    Ok(facts)
}

fn read_facts(columns: Columns<'_>, facts: &mut Facts) -> Result<()> {
    let ordinal = Ordinal(columns.optional_int(4)?.unwrap_or(0).unsigned_abs());
    facts.is_member = columns.int(1)? != 0;
    facts.head = facts.head.max(columns.optional_mark(2)?.unwrap_or_default());
    facts.wanted.ordinal = facts.wanted.ordinal.max(ordinal);
    facts.held = facts.held.max(columns.optional_mark(5)?.unwrap_or_default());
    facts.version = columns.optional_int(7)?.unwrap_or(0);
    Ok(())
}

fn device_text(device: Option<&DeviceId>) -> Arc<str> {
    device.map_or("", DeviceId::as_str).into()
}

/// Whose mark, on which device, where.
pub(crate) type Slot = (UserId, Option<DeviceId>, ConversationId);

/// What a batch of marks comes to.
#[derive(Default)]
struct Moves {
    marks: HashMap<Slot, Mark>,
    versions: HashMap<UserId, i64>,
    changes: HashMap<(UserId, ConversationId), i64>,
}

impl Moves {
    /// One mark after the other: a batch may name a slot twice.
    fn take(&mut self, mark: &ReadMark, facts: Facts, inner: &Inner) -> Marked {
        let Facts { is_member, head, wanted, held, version: number } = facts;
        if !is_member {
            return Marked::NoMember;
        }
        if wanted.seq > head.seq {
            return Marked::Behind(head);
        }
        let ReadMark { user, device, conversation, .. } = mark.clone();
        let held = self.marks.entry((user.clone(), device, conversation.clone())).or_insert(held);
        if wanted.seq <= held.seq {
            return Marked::Unmoved(*held);
        }
        *held = wanted;
        let present = self.versions.entry(user.clone()).or_insert(number);
        *present += 1;
        self.changes.insert((user, conversation), *present);
        Marked::Moved(wanted, version(&inner.incarnation, *present))
    }
}

async fn mark_read(inner: Arc<Inner>, marks: Vec<ReadMark>) -> Result<Vec<Marked>> {
    let mut writer = inner.writer(MARK_READ).await?;
    let facts = facts(writer.conn(), &inner.timelines, &marks).await?;
    let mut moves = Moves::default();
    let marked: Vec<_> =
        marks.iter().zip(facts).map(|(mark, facts)| moves.take(mark, facts, &inner)).collect();
    if moves.changes.is_empty() {
        return Ok(marked);
    }
    writer.begin(MARK_READ, inner.acked).await?;
    let written = write_moves(&mut writer, moves).await.map_err(failed(MARK_READ));
    writer.end(MARK_READ, written).await?;
    Ok(marked)
}

static MOVE: Values = Values::new(
    "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, mark) \
     SELECT column1, 9223372036854775807, column2, column3, column4, column5 FROM",
    5,
    "WHERE column1 IS NOT NULL ON CONFLICT DO UPDATE SET mark = excluded.mark, ordinal = excluded.ordinal \
     WHERE excluded.mark > mark",
);

async fn write_moves(writer: &mut Writer, moves: Moves) -> sqlx::Result<()> {
    let marks: Vec<_> = moves.marks.into_iter().filter(|(_, mark)| *mark > Mark::default()).collect();
    write_marks(writer.conn(), &marks).await?;
    let changes: Vec<_> = moves
        .changes
        .into_iter()
        .map(|((user, conversation), version)| (user, conversation, version))
        .collect();
    versions::set(writer.conn(), &changes).await
}

/// Raises marks within a transaction.
pub(crate) async fn write_marks(conn: &mut SqliteConnection, marks: &[(Slot, Mark)]) -> sqlx::Result<()> {
    for chunk in marks.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(MOVE.sql(chunk.len())));
        for ((user, device, conversation), mark) in chunk {
            query = query
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(Arc::<str>::from(user.clone()))
                .bind(device_text(device.as_ref()))
                .bind(number(mark.ordinal.0))
                .bind(number(mark.seq.0));
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

async fn set(
    inner: Arc<Inner>,
    user: UserId,
    conversation: ConversationId,
    change: SettingsChange,
) -> Result<Option<StateVersion>> {
    let mut writer = inner.writer(SET).await?;
    let wanted = [(conversation.clone(), user.clone())];
    let there = memberships::get(writer.conn(), &inner.timelines, &wanted, None, SET).await?.pop().flatten();
    let Some(Membership { settings: before, .. }) = there else { return Ok(None) };
    let after = changed(writer.conn(), &inner.timelines, &conversation, &before, &change).await?;
    if after != before {
        writer.begin(SET, inner.acked).await?;
        let written = write_settings(writer.conn(), &user, &conversation, &after).await.map_err(failed(SET));
        writer.end(SET, written).await?;
    }
    let number = versions::numbers(writer.conn(), &[user], SET).await?.pop().unwrap_or(0);
    Ok(Some(version(&inner.incarnation, number)))
}

/// The settings after a change.
async fn changed(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    conversation: &ConversationId,
    before: &Settings,
    change: &SettingsChange,
) -> Result<Settings> {
    let mut after = before.clone();
    if let Some(nickname) = &change.nickname {
        after.nickname = Some(nickname.clone()).filter(|name| !name.is_empty());
    }
    after.hidden = change.hidden.unwrap_or(before.hidden);
    after.undisturbed = change.undisturbed.unwrap_or(before.undisturbed);
    if let Some(seq) = change.cleared {
        let (head, below) = around(conn, fresh, conversation, seq).await?;
        if seq > head.seq {
            let message = format!("cannot clear above the head {}", head.seq.0);
            return Err(Error::new(ErrorKind::Behind, BACKEND, SET, message));
        }
        after.cleared = before.cleared.max(Mark { seq, ordinal: below.ordinal });
    }
    Ok(after)
}

/// A conversation's head, and the last record at or below a place.
async fn around(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    conversation: &ConversationId,
    seq: Seq,
) -> Result<(Mark, Mark)> {
    let mut marks = [Mark::default(); 2];
    for (mark, limit) in marks.iter_mut().zip([u64::MAX, seq.0]) {
        if let Some(place) = fresh.below(conversation, Seq(limit)) {
            *mark = place.mark;
            continue;
        }
        let row = sqlx::query(
            "SELECT sequence_id, ordinal FROM timelines WHERE conversation_id = ? AND sequence_id <= ? \
             ORDER BY sequence_id DESC LIMIT 1",
        )
        .bind(conversation.as_str())
        .bind(number(limit))
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed(SET))?;
        if let Some(row) = row {
            *mark = Columns::new(&row, 0, SET).mark(0)?;
        }
    }
    Ok((marks[0], marks[1]))
}

async fn write_settings(
    conn: &mut SqliteConnection,
    user: &UserId,
    conversation: &ConversationId,
    settings: &Settings,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE group_members SET nickname = ?, conversation_show = ?, undisturbed = ?, cleared = ?, cleared_ordinal = ? \
         WHERE conversation_id = ? AND main_user = ?",
    )
    .bind(settings.nickname.clone())
    .bind(!settings.hidden)
    .bind(settings.undisturbed)
    .bind(number(settings.cleared.seq.0))
    .bind(number(settings.cleared.ordinal.0))
    .bind(conversation.as_str())
    .bind(user.as_str())
    .execute(&mut *conn)
    .await?;
    versions::raise(conn, conversation, std::slice::from_ref(user)).await
}

#[async_trait]
impl UserState for SqliteStore {
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>> {
        self.0.thread.run(MARK_READ, mark_read(self.0.clone(), marks.to_vec())).await
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        self.0.thread.run(SET, set(self.0.clone(), user.clone(), conversation.clone(), change.clone())).await
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        let mut since = since.as_ref().and_then(|since| number_of(&self.0.incarnation, since));
        if let Some(device) = device {
            let is_new =
                self.0.thread.run(STATE, devices::see(self.0.clone(), user.clone(), device.clone())).await?;
            // A device that was forgotten gets other marks than it had, which no version tells.
            since = since.filter(|_| !is_new);
        }
        let mut conn = self.0.readers.lend(STATE).await?;
        let read = async {
            let (present, changed) = changes(&mut conn, user, since, max.min(MOST_CHANGES)).await?;
            let Some(changed) = changed else { return Ok((present, StateChanges::All)) };
            let wanted: Vec<_> = changed.into_iter().map(|id| (id, user.clone())).collect();
            let there =
                memberships::get(&mut conn, &self.0.timelines, &wanted, device.as_ref(), STATE).await?;
            Ok((present, StateChanges::Since(there.into_iter().flatten().collect())))
        };
        let read = read.await;
        let (present, changes) = conn.back(read)?;
        Ok(State { version: version(&self.0.incarnation, present), changes })
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        let operation = "states.versions";
        let mut conn = self.0.readers.lend(operation).await?;
        let numbers = versions::numbers(&mut conn, users, operation).await;
        let numbers = conn.back(numbers)?;
        Ok(numbers.into_iter().map(|number| version(&self.0.incarnation, number)).collect())
    }

    async fn forget_devices(&self, before: Timestamp) -> Result<usize> {
        self.0.thread.run("states.forget_devices", devices::forget(self.0.clone(), before)).await
    }
}

/// A user's present number, and the conversations that changed since another; none where anything may have. One statement,
/// so that nothing changes between the two.
async fn changes(
    conn: &mut SqliteConnection,
    user: &UserId,
    since: Option<i64>,
    max: usize,
) -> Result<(i64, Option<Vec<ConversationId>>)> {
    let rows = sqlx::query(
        "SELECT x.present, s.conversation_id FROM (SELECT coalesce((SELECT max(version) FROM state_changes \
         WHERE main_user = ?1), 0) AS present) x LEFT JOIN state_changes s ON s.main_user = ?1 AND s.version > ?2 \
         ORDER BY s.version LIMIT ?3",
    )
    .bind(user.as_str())
    .bind(since.unwrap_or(i64::MAX))
    .bind(limit(max + 1))
    .fetch_all(conn)
    .await
    .map_err(failed(STATE))?;
    let mut present = 0;
    let mut changed = Vec::new();
    for row in &rows {
        let columns = Columns::new(row, 0, STATE);
        present = columns.int(0)?;
        changed.extend(columns.parse_optional(1, ConversationId::new)?);
    }
    let is_known = since.is_some_and(|since| since <= present) && changed.len() <= max;
    Ok((present, is_known.then_some(changed)))
}
