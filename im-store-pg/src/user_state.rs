//! Read marks and settings.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use im_core::{
    ConversationId, DeviceId, Error, ErrorKind, Incarnation, Mark, Marked, Membership, Ordinal, ReadMark,
    Result, Seq, Settings, SettingsChange, State, StateChanges, StateVersion, Timestamp, UserId, UserState,
};

use crate::{
    PgStore,
    connect::{Inner, detached, incarnation},
    devices,
    error::{BACKEND, failed},
    memberships,
    messages::index,
    pool::Conn,
    rows::{Columns, limit, number},
    versions::{self, number_of, version},
};

const MARK_READ: &str = "states.mark_read";
const SET: &str = "states.set";
const STATE: &str = "states.state";

/// The most conversations in a list of changes.
const MOST_CHANGES: usize = 10_000;

/// What is known about a wanted mark.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    is_member: bool,
    head: Mark,
    /// The mark as it would be.
    wanted: Mark,
    /// The mark as it is.
    held: Mark,
}

async fn facts(inner: &Inner, conn: &mut Conn, marks: &[ReadMark]) -> Result<Vec<Facts>> {
    let sql = inner.sql(
        "SELECT EXISTS (SELECT 1 FROM {im}.group_members g WHERE g.conversation_id = k.conversation_id \
         AND g.main_user = k.main_user), c.last_message_id, c.last_ordinal, \
         (SELECT m.ordinal FROM {im}.messages m WHERE m.part = k.part AND m.conversation_id = k.conversation_id \
         AND m.sequence_id <= k.sequence_id ORDER BY m.sequence_id DESC LIMIT 1), r.sequence_id, r.ordinal, k.at \
         FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY \
         AS k (part, conversation_id, main_user, device, sequence_id, at) \
         LEFT JOIN {im}.conversations c ON c.id = k.conversation_id \
         LEFT JOIN {im}.read_marks r ON r.conversation_id = k.conversation_id AND r.main_user = k.main_user \
         AND r.device = k.device",
    );
    let rows = sqlx::query(sql)
        .bind(marks.iter().map(|mark| inner.part(&mark.conversation)).collect::<Vec<_>>())
        .bind(marks.iter().map(|mark| mark.conversation.as_str()).collect::<Vec<_>>())
        .bind(marks.iter().map(|mark| mark.user.as_str()).collect::<Vec<_>>())
        .bind(marks.iter().map(|mark| device_text(mark.device.as_ref())).collect::<Vec<_>>())
        .bind(marks.iter().map(|mark| number(mark.seq.0)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(MARK_READ))?;
    let mut facts = vec![Facts::default(); marks.len()];
    for row in &rows {
        let columns = Columns::new(row, 0, MARK_READ);
        let at = index(columns, 6)?;
        let ordinal = Ordinal(columns.optional_int(3)?.unwrap_or(0).unsigned_abs());
        facts[at] = Facts {
            is_member: columns.get(0)?,
            head: columns.optional_mark(1)?.unwrap_or_default(),
            wanted: Mark { seq: marks[at].seq, ordinal },
            held: columns.optional_mark(4)?.unwrap_or_default(),
        };
    }
    Ok(facts)
}

fn device_text(device: Option<&DeviceId>) -> &str {
    device.map_or("", DeviceId::as_str)
}

/// Whose mark, on which device, where.
type Slot = (ConversationId, UserId, Option<DeviceId>);

/// What a batch of marks comes to.
struct Moves<'a> {
    incarnation: &'a Incarnation,
    versions: HashMap<String, i64>,
    marks: BTreeMap<Slot, Mark>,
    changes: BTreeMap<(UserId, ConversationId), i64>,
}

impl Moves<'_> {
    /// One mark after the other: a batch may name a slot twice.
    fn take(&mut self, mark: &ReadMark, facts: Facts) -> Marked {
        let Facts { is_member, head, wanted, held } = facts;
        if !is_member {
            return Marked::NoMember;
        }
        if wanted.seq > head.seq {
            return Marked::Behind(head);
        }
        let ReadMark { user, device, conversation, .. } = mark.clone();
        let known = self.marks.get(&(conversation.clone(), user.clone(), device.clone())).copied();
        let held = known.unwrap_or(held);
        if wanted.seq <= held.seq {
            return Marked::Unmoved(held);
        }
        self.marks.insert((conversation.clone(), user.clone(), device), wanted);
        let present = self.versions.entry(user.as_str().to_owned()).or_insert(0);
        *present += 1;
        let present = *present;
        self.changes.insert((user, conversation), present);
        Marked::Moved(wanted, version(self.incarnation, present))
    }

    fn take_all(&mut self, marks: &[ReadMark], facts: Vec<Facts>) -> Vec<Marked> {
        marks.iter().zip(facts).map(|(mark, facts)| self.take(mark, facts)).collect()
    }
}

async fn mark_read(inner: Arc<Inner>, marks: Vec<ReadMark>) -> Result<Vec<Marked>> {
    let mut conn = inner.pool.acquire().await.map_err(failed(MARK_READ))?;
    let incarnation = present(&inner, &mut conn, MARK_READ).await?;
    let moves = |versions| Moves {
        incarnation: &incarnation,
        versions,
        marks: BTreeMap::new(),
        changes: BTreeMap::new(),
    };
    // Most marks do not move: those need no lock.
    let mut guess = moves(HashMap::new());
    let marked = guess.take_all(&marks, facts(&inner, &mut conn, &marks).await?);
    if guess.changes.is_empty() {
        return Ok(marked);
    }
    let mut transaction = conn.begin().await.map_err(failed(MARK_READ))?;
    let mut users: Vec<&str> = guess.changes.keys().map(|(user, _)| user.as_str()).collect();
    users.dedup();
    let locked = versions::lock(&inner, &mut transaction, &users).await.map_err(failed(MARK_READ))?;
    // Whose marks moved before the lock are looked at again. The others keep their answer, even if theirs could move now: their
    // versions are not locked, and not known.
    let locked: HashMap<_, _> = locked.into_iter().collect();
    let mut moved = moves(locked.clone());
    let again = facts(&inner, &mut transaction, &marks).await?;
    let take = |((mark, facts), guess): ((&ReadMark, Facts), Marked)| {
        if locked.contains_key(mark.user.as_str()) { moved.take(mark, facts) } else { guess }
    };
    let marked = marks.iter().zip(again).zip(marked).map(take).collect();
    write(&inner, &mut transaction, &moved).await.map_err(failed(MARK_READ))?;
    transaction.commit().await.map_err(failed(MARK_READ))?;
    Ok(marked)
}

async fn present(inner: &Inner, conn: &mut Conn, operation: &'static str) -> Result<Incarnation> {
    let text: String = sqlx::query_scalar(inner.sql(concat!("SELECT ", incarnation!())))
        .fetch_one(conn)
        .await
        .map_err(failed(operation))?;
    Ok(Incarnation::new(text))
}

async fn write(inner: &Inner, conn: &mut Conn, moves: &Moves<'_>) -> sqlx::Result<()> {
    let sql = inner.sql(
        "INSERT INTO {im}.read_marks AS known (conversation_id, main_user, device, sequence_id, ordinal) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) \
         ON CONFLICT (conversation_id, main_user, device) DO UPDATE SET sequence_id = excluded.sequence_id, \
         ordinal = excluded.ordinal WHERE excluded.sequence_id > known.sequence_id",
    );
    // In the order of the table's key, as all who write here.
    sqlx::query(sql)
        .bind(moves.marks.keys().map(|(id, ..)| id.as_str()).collect::<Vec<_>>())
        .bind(moves.marks.keys().map(|(_, user, _)| user.as_str()).collect::<Vec<_>>())
        .bind(moves.marks.keys().map(|(.., device)| device_text(device.as_ref())).collect::<Vec<_>>())
        .bind(moves.marks.values().map(|mark| number(mark.seq.0)).collect::<Vec<_>>())
        .bind(moves.marks.values().map(|mark| number(mark.ordinal.0)).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    let changes = moves.changes.iter();
    let changes: Vec<_> = changes.map(|((user, id), version)| (user.clone(), id.clone(), *version)).collect();
    versions::set(inner, conn, &changes).await
}

async fn set(
    inner: Arc<Inner>,
    user: UserId,
    conversation: ConversationId,
    change: SettingsChange,
) -> Result<Option<StateVersion>> {
    let mut transaction = inner.pool.begin().await.map_err(failed(SET))?;
    let incarnation = present(&inner, &mut transaction, SET).await?;
    // Members before versions, as who applies changes of members takes them; and then with a fresh snapshot, which has a row that
    // was joined with meanwhile.
    lock_rows(&inner, &mut transaction, &user, &conversation).await.map_err(failed(SET))?;
    let wanted = [(conversation.clone(), user.clone())];
    let there = memberships::get(&inner, &mut transaction, &wanted, None, SET).await?.pop().flatten();
    let Some(Membership { settings: before, .. }) = there else {
        return transaction.rollback().await.map(|()| None).map_err(failed(SET));
    };
    let after = changed(&inner, &mut transaction, &conversation, &before, &change).await?;
    if after != before {
        write_settings(&inner, &mut transaction, &user, &conversation, &after).await.map_err(failed(SET))?;
    }
    let number = versions::numbers(&inner, &mut transaction, &[user], SET).await?.pop().unwrap_or(0);
    transaction.commit().await.map_err(failed(SET))?;
    Ok(Some(version(&incarnation, number)))
}

/// Takes a user's rows of a conversation until the commit, the first one first: who joins again waits for that, and finds the settings
/// as they are then.
async fn lock_rows(
    inner: &Inner,
    conn: &mut Conn,
    user: &UserId,
    conversation: &ConversationId,
) -> sqlx::Result<()> {
    let sql = inner.sql(
        "SELECT joined FROM {im}.group_members WHERE conversation_id = $1 AND main_user = $2 ORDER BY joined FOR UPDATE",
    );
    sqlx::query(sql).bind(conversation.as_str()).bind(user.as_str()).execute(conn).await.map(drop)
}

/// The settings after a change.
async fn changed(
    inner: &Inner,
    conn: &mut Conn,
    conversation: &ConversationId,
    before: &Settings,
    change: &SettingsChange,
) -> Result<Settings> {
    let mut after = before.clone();
    if let Some(nickname) = &change.nickname {
        if nickname.contains('\0') {
            return Err(crate::error::invalid(SET, "Postgres cannot keep the character NUL in a text"));
        }
        after.nickname = Some(nickname.clone()).filter(|name| !name.is_empty());
    }
    after.hidden = change.hidden.unwrap_or(before.hidden);
    after.undisturbed = change.undisturbed.unwrap_or(before.undisturbed);
    if let Some(seq) = change.cleared {
        let (head, ordinal) = around(inner, conn, conversation, seq).await?;
        if seq > head {
            let message = format!("cannot clear above the head {}", head.0);
            return Err(Error::new(ErrorKind::Behind, BACKEND, SET, message));
        }
        after.cleared = before.cleared.max(Mark { seq, ordinal });
    }
    Ok(after)
}

/// A conversation's head, and the ordinal of the last record at or below a place.
async fn around(
    inner: &Inner,
    conn: &mut Conn,
    conversation: &ConversationId,
    seq: Seq,
) -> Result<(Seq, Ordinal)> {
    let sql = inner.sql(
        "SELECT coalesce((SELECT last_message_id FROM {im}.conversations WHERE id = $2), 0), \
         coalesce((SELECT ordinal FROM {im}.messages WHERE part = $1 AND conversation_id = $2 AND sequence_id <= $3 \
         ORDER BY sequence_id DESC LIMIT 1), 0)",
    );
    let (head, ordinal): (i64, i64) = sqlx::query_as(sql)
        .bind(inner.part(conversation))
        .bind(conversation.as_str())
        .bind(number(seq.0))
        .fetch_one(conn)
        .await
        .map_err(failed(SET))?;
    Ok((Seq(head.unsigned_abs()), Ordinal(ordinal.unsigned_abs())))
}

async fn write_settings(
    inner: &Inner,
    conn: &mut Conn,
    user: &UserId,
    conversation: &ConversationId,
    settings: &Settings,
) -> sqlx::Result<()> {
    let sql = inner.sql(
        "UPDATE {im}.group_members SET nickname = $3, conversation_show = $4, undisturbed = $5, cleared = $6, \
         cleared_ordinal = $7 WHERE conversation_id = $1 AND main_user = $2",
    );
    sqlx::query(sql)
        .bind(conversation.as_str())
        .bind(user.as_str())
        .bind(settings.nickname.as_deref())
        .bind(!settings.hidden)
        .bind(settings.undisturbed)
        .bind(number(settings.cleared.seq.0))
        .bind(number(settings.cleared.ordinal.0))
        .execute(&mut *conn)
        .await?;
    versions::raise(inner, conn, &[(conversation.clone(), user.clone())]).await
}

#[async_trait]
impl UserState for PgStore {
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>> {
        detached(MARK_READ, mark_read(self.0.clone(), marks.to_vec())).await
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        detached(SET, set(self.0.clone(), user.clone(), conversation.clone(), change.clone())).await
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        let mut conn = self.0.pool.acquire().await.map_err(failed(STATE))?;
        let incarnation = present(&self.0, &mut conn, STATE).await?;
        let mut since = since.as_ref().and_then(|since| number_of(&incarnation, since));
        if let Some(device) = device {
            drop(conn);
            let is_new = detached(STATE, devices::see(self.0.clone(), user.clone(), device.clone())).await?;
            conn = self.0.pool.acquire().await.map_err(failed(STATE))?;
            // A device that was forgotten gets other marks than it had, which no version tells.
            since = since.filter(|_| !is_new);
        }
        let (number, changed) = changes(&self.0, &mut conn, user, since, max.min(MOST_CHANGES)).await?;
        let changes = match changed {
            Some(conversations) => {
                let wanted: Vec<_> = conversations.into_iter().map(|id| (id, user.clone())).collect();
                let there = memberships::get(&self.0, &mut conn, &wanted, device.as_ref(), STATE).await?;
                StateChanges::Since(there.into_iter().flatten().collect())
            }
            None => StateChanges::All,
        };
        Ok(State { version: version(&incarnation, number), changes })
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        let operation = "states.versions";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        let incarnation = present(&self.0, &mut conn, operation).await?;
        let numbers = versions::numbers(&self.0, &mut conn, users, operation).await?;
        Ok(numbers.into_iter().map(|number| version(&incarnation, number)).collect())
    }

    async fn forget_devices(&self, before: Timestamp) -> Result<usize> {
        detached("states.forget_devices", devices::forget(self.0.clone(), before)).await
    }
}

/// A user's present number, and the conversations that changed since another; none where anything may have. One statement,
/// so that nothing changes between the two.
async fn changes(
    inner: &Inner,
    conn: &mut Conn,
    user: &UserId,
    since: Option<i64>,
    max: usize,
) -> Result<(i64, Option<Vec<ConversationId>>)> {
    let sql = inner.sql(
        "SELECT coalesce(p.version, 0), s.conversation_id FROM (SELECT 1) one \
         LEFT JOIN {im}.user_states p ON p.main_user = $1 \
         LEFT JOIN {im}.state_changes s ON s.main_user = $1 AND s.version > $2 ORDER BY s.version LIMIT $3",
    );
    let rows = sqlx::query(sql)
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
