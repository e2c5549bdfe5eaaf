//! What records do to the members of their conversations.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use im_core::{
    ConversationChange, ConversationId, Effect, Incarnation, Mark, MembersChange, Result, Role, Timestamp,
    UserId,
};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use crate::{
    connect::Inner,
    conversations::{create_one, group},
    error::{failed, other_incarnation},
    rows::{Columns, number},
    values::{MOST_ROWS, Values},
    versions,
};

const OPERATION: &str = "conversations.apply_members";

/// Applies changes, all or nothing.
pub(crate) async fn apply(
    inner: Arc<Inner>,
    store: Incarnation,
    changes: Vec<ConversationChange>,
) -> Result<()> {
    if store != inner.incarnation {
        return Err(other_incarnation(OPERATION, &store, &inner.incarnation));
    }
    let mut writer = inner.writer(OPERATION).await?;
    writer.begin(OPERATION, inner.acked).await?;
    let applied = apply_all(writer.conn(), &changes).await;
    writer.end(OPERATION, applied).await
}

async fn apply_all(conn: &mut SqliteConnection, changes: &[ConversationChange]) -> Result<()> {
    for change in changes {
        apply_one(conn, change).await?;
    }
    Ok(())
}

async fn apply_one(conn: &mut SqliteConnection, change: &ConversationChange) -> Result<()> {
    let id = &change.conversation;
    let before = applied(conn, std::slice::from_ref(id), OPERATION).await?.pop().unwrap_or_default();
    if change.at.seq <= before.seq {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO applied (conversation_id, sequence_id, ordinal) VALUES (?, ?, ?) \
         ON CONFLICT DO UPDATE SET sequence_id = excluded.sequence_id, ordinal = excluded.ordinal",
    )
    .bind(id.as_str())
    .bind(number(change.at.seq.0))
    .bind(number(change.at.ordinal.0))
    .execute(&mut *conn)
    .await
    .map_err(failed(OPERATION))?;
    match &change.effect {
        Effect::Members(members) => apply_members(conn, change, members, before == Mark::default()).await,
        Effect::Large => sqlx::query(
            "UPDATE conversation_facts SET large_since = coalesce(large_since, ?) WHERE id = ? AND type = 'GROUP'",
        )
        .bind(number(change.at.seq.0))
        .bind(id.as_str())
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed(OPERATION)),
        other => Err(crate::error::invalid(OPERATION, format!("an effect of a newer version: {other:?}"))),
    }
}

async fn apply_members(
    conn: &mut SqliteConnection,
    change: &ConversationChange,
    members: &MembersChange,
    is_first: bool,
) -> Result<()> {
    let id = &change.conversation;
    if let Some(info) = &members.create {
        if !is_first || id.is_single() {
            return Ok(());
        }
        create_one(conn, group(id, info, change.created_at), OPERATION).await?;
    }
    let is_group = sqlx::query("SELECT 1 FROM conversation_facts WHERE id = ? AND type = 'GROUP'")
        .bind(id.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed(OPERATION))?;
    if is_group.is_none() {
        return Ok(());
    }
    let joined = Mark { seq: change.at.seq, ordinal: change.ordinal_before };
    // The first of two that name one user counts, as the second finds a member.
    let mut joining: Vec<(UserId, Role)> = Vec::new();
    let mut roles = HashMap::new();
    for (user, role) in &members.join {
        if roles.insert(user, *role).is_none() {
            joining.push((user.clone(), *role));
        }
    }
    let mut changed = join(conn, id, &joining, joined, change.created_at).await?;
    changed.extend(leave(conn, id, &members.leave, change.at).await?);
    // The last of two that name one user counts.
    let roles: HashMap<_, _> = members.role.iter().cloned().collect();
    changed.extend(set_roles(conn, id, &roles.into_iter().collect::<Vec<_>>()).await?);
    changed.sort_unstable();
    changed.dedup();
    versions::raise(conn, id, &changed).await.map_err(failed(OPERATION))
}

/// A user who is new to the conversation.
pub(crate) async fn insert(
    conn: &mut SqliteConnection,
    conversation: &ConversationId,
    user: &UserId,
    joined: Mark,
    created_at: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at) \
         VALUES (?, ?, ?, ?, 'member', ?)",
    )
    .bind(conversation.as_str())
    .bind(user.as_str())
    .bind(number(joined.seq.0))
    .bind(number(joined.ordinal.0))
    .bind(created_at.0)
    .execute(conn)
    .await
    .map(drop)
}

/// Who is a member keeps interval and role; who was one finds the settings again.
static JOIN: Values = Values::new(
    "INSERT INTO group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at, nickname, \
     conversation_show, undisturbed, cleared, cleared_ordinal) \
     SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, o.nickname, coalesce(o.conversation_show, 1), \
     coalesce(o.undisturbed, 0), coalesce(o.cleared, 0), coalesce(o.cleared_ordinal, 0) FROM",
    6,
    "v LEFT JOIN group_members o ON o.conversation_id = v.column1 AND o.main_user = v.column2 AND o.joined = \
     (SELECT max(joined) FROM group_members WHERE conversation_id = v.column1 AND main_user = v.column2) \
     WHERE v.column1 IS NOT NULL AND (o.joined IS NULL OR o.left_after IS NOT NULL) RETURNING main_user",
);

async fn join(
    conn: &mut SqliteConnection,
    conversation: &ConversationId,
    joining: &[(UserId, Role)],
    joined: Mark,
    created_at: Timestamp,
) -> Result<Vec<UserId>> {
    let mut changed = Vec::new();
    for chunk in joining.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(JOIN.sql(chunk.len())));
        for (user, role) in chunk {
            query = query
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(Arc::<str>::from(user.clone()))
                .bind(number(joined.seq.0))
                .bind(number(joined.ordinal.0))
                .bind(role.as_str())
                .bind(created_at.0);
        }
        changed.extend(users(&query.fetch_all(&mut *conn).await.map_err(failed(OPERATION))?)?);
    }
    // Who was a member before has older rows, too.
    let new: HashSet<_> = changed.iter().collect();
    let again: Vec<_> = joining.iter().filter(|(user, _)| new.contains(user)).cloned().collect();
    set_roles(conn, conversation, &again).await?;
    Ok(changed)
}

static LEAVE: Values = Values::new(
    "UPDATE group_members SET left_after = v.column3, left_ordinal = v.column4 FROM",
    4,
    "v WHERE conversation_id = v.column1 AND main_user = v.column2 AND left_after IS NULL RETURNING main_user",
);

async fn leave(
    conn: &mut SqliteConnection,
    conversation: &ConversationId,
    leaving: &[UserId],
    left: Mark,
) -> Result<Vec<UserId>> {
    let mut changed = Vec::new();
    for chunk in leaving.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(LEAVE.sql(chunk.len())));
        for user in chunk {
            query = query
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(Arc::<str>::from(user.clone()))
                .bind(number(left.seq.0))
                .bind(number(left.ordinal.0));
        }
        changed.extend(users(&query.fetch_all(&mut *conn).await.map_err(failed(OPERATION))?)?);
    }
    Ok(changed)
}

static SET_ROLE: Values = Values::new(
    "UPDATE group_members SET role = v.column3 FROM",
    3,
    "v WHERE conversation_id = v.column1 AND main_user = v.column2 AND role <> v.column3 AND EXISTS \
     (SELECT 1 FROM group_members c WHERE c.conversation_id = v.column1 AND c.main_user = v.column2 \
     AND c.left_after IS NULL) RETURNING main_user",
);

/// Sets the roles of present members, in all their rows; each user once. Whose role changed.
async fn set_roles(
    conn: &mut SqliteConnection,
    conversation: &ConversationId,
    roles: &[(UserId, Role)],
) -> Result<Vec<UserId>> {
    let mut changed = Vec::new();
    for chunk in roles.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(SET_ROLE.sql(chunk.len())));
        for (user, role) in chunk {
            query = query
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(Arc::<str>::from(user.clone()))
                .bind(role.as_str());
        }
        changed.extend(users(&query.fetch_all(&mut *conn).await.map_err(failed(OPERATION))?)?);
    }
    Ok(changed)
}

fn users(rows: &[SqliteRow]) -> Result<Vec<UserId>> {
    rows.iter().map(|row| Columns::new(row, 0, OPERATION).parse(0, UserId::new)).collect()
}

static APPLIED: Values = Values::new(
    "SELECT v.column1, a.sequence_id, a.ordinal FROM",
    2,
    "v CROSS JOIN applied a ON a.conversation_id = v.column2",
);

/// The place of the last change applied to each conversation.
pub(crate) async fn applied(
    conn: &mut SqliteConnection,
    ids: &[ConversationId],
    operation: &'static str,
) -> Result<Vec<Mark>> {
    let mut marks = vec![Mark::default(); ids.len()];
    for (chunk, marks) in ids.chunks(MOST_ROWS).zip(marks.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(APPLIED.sql(chunk.len())));
        for (index, id) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(id.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            marks[columns.int(0)? as usize] = columns.mark(1)?;
        }
    }
    Ok(marks)
}
