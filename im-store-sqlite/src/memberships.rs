//! What users are and have in conversations: rows of `conversation_facts`, `group_members` and the read marks, put together with the
//! newest read marks, which are in memory.

use std::sync::Arc;

use im_core::{
    Conversation, ConversationId, ConversationKind, DeviceId, Interval, Membership, Result, Role, Seq,
    Settings, Timestamp, UserId,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    error::{corrupt, failed},
    fresh::Fresh,
    rows::{Columns, limit},
    timelines::{Reads, Timelines},
    values::{MOST_ROWS, Values},
};

/// The columns of a conversation; from `conversation_facts c`.
macro_rules! conversation_columns {
    () => {
        "c.id, c.type, c.name, c.low_user, c.high_user, c.created_at, c.large_since"
    };
}
pub(crate) use conversation_columns;

/// How many columns those are.
const CONVERSATION_COLUMNS: usize = 7;

/// The conversation in a row of [`conversation_columns`].
pub(crate) fn conversation(columns: Columns<'_>) -> Result<Conversation> {
    let kind = match columns.text(1)? {
        "SINGLE" => ConversationKind::Single,
        "GROUP" => ConversationKind::Group,
        other => return Err(corrupt("conversations", format!("unknown type {other}"))),
    };
    let users = columns.parse_optional(3, UserId::new)?.zip(columns.parse_optional(4, UserId::new)?);
    Ok(Conversation {
        id: columns.parse(0, ConversationId::new)?,
        kind,
        name: columns.optional_text(2)?.map(Arc::from),
        users,
        created_at: Timestamp(columns.int(5)?),
        large_since: columns.optional_int(6)?.map(|seq| Seq(seq.unsigned_abs())),
    })
}

/// Inserts a conversation.
pub(crate) async fn insert_conversation(
    conn: &mut SqliteConnection,
    conversation: &Conversation,
) -> sqlx::Result<()> {
    let kind = match conversation.kind {
        ConversationKind::Single => "SINGLE",
        ConversationKind::Group => "GROUP",
    };
    let (low, high) = conversation.users.clone().unzip();
    sqlx::query(
        "INSERT INTO conversation_facts (id, type, name, low_user, high_user, created_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(conversation.id.as_str())
    .bind(kind)
    .bind(conversation.name.clone())
    .bind(low.map(Arc::<str>::from))
    .bind(high.map(Arc::<str>::from))
    .bind(conversation.created_at.0)
    .execute(conn)
    .await
    .map(drop)
}

/// The role in a column.
pub(crate) fn role(columns: Columns<'_>, column: usize) -> Result<Role> {
    columns.parse(column, |name| Role::from_name(name).ok_or("no such role"))
}

/// The columns of a membership, read by [`add`]: one row for each interval, and that once more for each read mark where a
/// device has none of its own yet. From `v`: conversation (column2), user (column3), device (column4).
macro_rules! membership_columns {
    () => {
        concat!(
            conversation_columns!(),
            ", g.main_user, g.joined, g.joined_ordinal, g.left_after, g.left_ordinal, g.role, g.nickname, \
             g.conversation_show, g.undisturbed, g.cleared, g.cleared_ordinal, r.mark, r.ordinal, \
             (SELECT min(sequence_id) FROM messages WHERE kind = 3 AND conversation_id = v.column2 AND sequence_id > \
             coalesce((SELECT sequence_id FROM applied WHERE conversation_id = v.column2), 0)), \
             v.column4 <> '' AND NOT EXISTS \
             (SELECT 1 FROM devices d WHERE d.main_user = v.column3 AND d.device = v.column4)"
        )
    };
}

/// The tables of [`membership_columns`]. A device that is not known yet has the marks that it would begin with: the highest.
macro_rules! join_membership {
    () => {
        "v CROSS JOIN conversation_facts c ON c.id = v.column2 CROSS JOIN group_members g ON g.conversation_id = v.column2 \
         AND g.main_user = v.column3 LEFT JOIN timelines r ON r.conversation_id = v.column2 \
         AND r.sequence_id = 9223372036854775807 AND r.main_user = v.column3 AND (r.device = v.column4 OR (v.column4 <> '' \
         AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.main_user = v.column3 AND d.device = v.column4)))"
    };
}

/// Adds a row to the membership that it belongs to; `fresh` is what memory has of its read marks.
fn add(membership: &mut Option<Membership>, columns: Columns<'_>, fresh: Reads) -> Result<()> {
    let row = columns.skip(CONVERSATION_COLUMNS);
    let joined = row.mark(1)?;
    let interval = Interval { joined, left: row.optional_mark(3)? };
    let read = row.optional_mark(11)?.unwrap_or_default();
    let Some(membership) = membership else {
        let settings = Settings {
            nickname: row.optional_text(6)?.map(Arc::from),
            hidden: row.int(7)? == 0,
            undisturbed: row.int(8)? != 0,
            cleared: row.mark(9)?,
        };
        let (conversation, role) = (conversation(columns)?, role(row, 5)?);
        let read = read.max(if row.int(14)? != 0 { fresh.highest } else { fresh.own });
        let unapplied = row.optional_int(13)?.map(|seq| Seq(seq.unsigned_abs()));
        let intervals = vec![interval];
        *membership = Some(Membership { conversation, role, intervals, settings, read, unapplied });
        return Ok(());
    };
    membership.read = membership.read.max(read);
    if membership.intervals.last() != Some(&interval) {
        membership.intervals.push(interval);
    }
    Ok(())
}

static GET: Values = Values::new(
    concat!("SELECT v.column1, ", membership_columns!(), " FROM"),
    4,
    concat!(join_membership!(), " ORDER BY v.column1, g.joined"),
);

/// What users are and have in conversations.
pub(crate) async fn get(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    wanted: &[(ConversationId, UserId)],
    device: Option<&DeviceId>,
    operation: &'static str,
) -> Result<Vec<Option<Membership>>> {
    // Before the file: what is moved meanwhile is then seen here or there.
    let fresh: Vec<_> =
        wanted.iter().map(|(conversation, user)| fresh.reads(conversation, user, device)).collect();
    let device: Arc<str> = device.map_or("", DeviceId::as_str).into();
    let mut memberships = vec![None; wanted.len()];
    let results = memberships.chunks_mut(MOST_ROWS).zip(fresh.chunks(MOST_ROWS));
    for (chunk, (memberships, fresh)) in wanted.chunks(MOST_ROWS).zip(results) {
        let mut query = sqlx::query(AssertSqlSafe(GET.sql(chunk.len())));
        for (index, (conversation, user)) in chunk.iter().enumerate() {
            query = query
                .bind(index as i64)
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(Arc::<str>::from(user.clone()))
                .bind(device.clone());
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            let index = columns.int(0)? as usize;
            add(&mut memberships[index], columns.skip(1), fresh[index])?;
        }
    }
    Ok(memberships)
}

/// A user's conversations by ascending id.
pub(crate) async fn list(
    conn: &mut SqliteConnection,
    fresh: &Fresh<Timelines>,
    user: &UserId,
    device: Option<&DeviceId>,
    after: Option<&ConversationId>,
    max: usize,
) -> Result<Vec<Membership>> {
    let operation = "conversations.list";
    let rows = sqlx::query(
        "SELECT DISTINCT conversation_id FROM group_members WHERE main_user = ? AND conversation_id > ? \
         ORDER BY conversation_id LIMIT ?",
    )
    .bind(user.as_str())
    .bind(after.map_or("", ConversationId::as_str))
    .bind(limit(max))
    .fetch_all(&mut *conn)
    .await
    .map_err(failed(operation))?;
    let wanted = |row| Ok((Columns::new(row, 0, operation).parse(0, ConversationId::new)?, user.clone()));
    let wanted = rows.iter().map(wanted).collect::<Result<Vec<_>>>()?;
    let memberships = get(conn, fresh, &wanted, device, operation).await?;
    Ok(memberships.into_iter().flatten().collect())
}
