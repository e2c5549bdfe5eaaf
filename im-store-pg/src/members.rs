//! What records do to the members of their conversations.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use im_core::{
    ConversationChange, ConversationId, Effect, Incarnation, Mark, MembersChange, Result, Role, Timestamp,
    UserId,
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    connect::{Inner, incarnation},
    conversations::{create_one, group},
    error::{failed, invalid, other_incarnation},
    memberships::role_name,
    rows::{Columns, number},
    versions,
};

const OPERATION: &str = "conversations.apply_members";

/// Applies changes, all or nothing.
pub(crate) async fn apply(
    inner: Arc<Inner>,
    store: Incarnation,
    changes: Vec<ConversationChange>,
) -> Result<()> {
    let mut transaction = inner.pool.begin().await.map_err(failed(OPERATION))?;
    let present: String = sqlx::query_scalar(inner.sql(concat!("SELECT ", incarnation!())))
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed(OPERATION))?;
    if store.as_str() != present {
        return Err(other_incarnation(OPERATION, &store, &present));
    }
    lock(&inner, &mut transaction, &changes).await?;
    for change in &changes {
        apply_one(&inner, &mut transaction, change).await?;
    }
    transaction.commit().await.map_err(failed(OPERATION))
}

/// Takes the conversations' rows until the commit, in the order of their ids, so that two workers do not apply one change twice.
async fn lock(inner: &Inner, conn: &mut PgConnection, changes: &[ConversationChange]) -> Result<()> {
    let mut ids: Vec<&str> = changes.iter().map(|change| change.conversation.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    // A row that is not there yet is made, without a type: it then has changes applied, and nothing else.
    let sql = inner.sql(
        "INSERT INTO {im}.conversations AS known (id, updated_at) SELECT id, 0 FROM unnest($1::text[]) AS k (id) \
         ORDER BY id COLLATE \"C\" ON CONFLICT (id) DO UPDATE SET id = known.id",
    );
    sqlx::query(sql).bind(ids).execute(conn).await.map(drop).map_err(failed(OPERATION))
}

async fn apply_one(inner: &Inner, conn: &mut PgConnection, change: &ConversationChange) -> Result<()> {
    let id = &change.conversation;
    let sql = inner.sql(
        "UPDATE {im}.conversations c SET applied = $2, applied_ordinal = $3 FROM {im}.conversations before \
         WHERE c.id = $1 AND before.id = c.id AND c.applied < $2 RETURNING before.applied",
    );
    let before: Option<i64> = sqlx::query_scalar(sql)
        .bind(id.as_str())
        .bind(number(change.at.seq.0))
        .bind(number(change.at.ordinal.0))
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed(OPERATION))?;
    let Some(before) = before else { return Ok(()) };
    match &change.effect {
        Effect::Members(members) => apply_members(inner, conn, change, members, before == 0).await,
        Effect::Large => {
            let sql = inner.sql(
                "UPDATE {im}.conversations SET large_since = coalesce(large_since, $2) WHERE id = $1 AND type = 'GROUP'",
            );
            let large = sqlx::query(sql).bind(id.as_str()).bind(number(change.at.seq.0));
            large.execute(conn).await.map(drop).map_err(failed(OPERATION))
        }
        other => Err(invalid(OPERATION, format!("an effect of a newer version: {other:?}"))),
    }
}

async fn apply_members(
    inner: &Inner,
    conn: &mut PgConnection,
    change: &ConversationChange,
    members: &MembersChange,
    is_first: bool,
) -> Result<()> {
    let id = &change.conversation;
    if let Some(info) = &members.create {
        if !is_first || id.is_single() {
            return Ok(());
        }
        create_one(inner, conn, group(id, info, change.created_at), OPERATION).await?;
    }
    let sql = inner.sql("SELECT EXISTS (SELECT 1 FROM {im}.conversations WHERE id = $1 AND type = 'GROUP')");
    let is_group: bool =
        sqlx::query_scalar(sql).bind(id.as_str()).fetch_one(&mut *conn).await.map_err(failed(OPERATION))?;
    if !is_group {
        return Ok(());
    }
    let joined = Mark { seq: change.at.seq, ordinal: change.ordinal_before };
    // The first of two that name one user counts, as the second finds a member; of roles the last one.
    let mut joining = BTreeMap::new();
    for (user, role) in &members.join {
        joining.entry(user.clone()).or_insert(*role);
    }
    let roles: BTreeMap<UserId, Role> = members.role.iter().cloned().collect();
    let mut changed = join(inner, conn, id, &joining, joined, change.created_at).await?;
    changed.extend(leave(inner, conn, id, &members.leave, change.at).await?);
    changed.extend(set_roles(inner, conn, id, &roles).await?);
    changed.sort_unstable();
    changed.dedup();
    versions::raise(inner, conn, id, &changed).await.map_err(failed(OPERATION))
}

/// Users who are new to the conversation.
pub(crate) async fn insert(
    inner: &Inner,
    conn: &mut PgConnection,
    conversation: &ConversationId,
    users: &[UserId],
    joined: Mark,
    created_at: Timestamp,
) -> sqlx::Result<()> {
    let sql = inner.sql(
        "INSERT INTO {im}.group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at) \
         SELECT $1, main_user, $3, $4, 'member', $5 FROM unnest($2::text[]) AS k (main_user)",
    );
    sqlx::query(sql)
        .bind(conversation.as_str())
        .bind(users.iter().map(UserId::as_str).collect::<Vec<_>>())
        .bind(number(joined.seq.0))
        .bind(number(joined.ordinal.0))
        .bind(created_at.0)
        .execute(conn)
        .await
        .map(drop)
}

/// Who is a member keeps interval and role; who was one finds the settings again.
async fn join(
    inner: &Inner,
    conn: &mut PgConnection,
    conversation: &ConversationId,
    joining: &BTreeMap<UserId, Role>,
    joined: Mark,
    created_at: Timestamp,
) -> Result<Vec<UserId>> {
    let sql = inner.sql(
        "INSERT INTO {im}.group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at, nickname, \
         conversation_show, undisturbed, cleared, cleared_ordinal) \
         SELECT $1, k.main_user, $4, $5, k.role, $6, o.nickname, coalesce(o.conversation_show, true), \
         coalesce(o.undisturbed, false), coalesce(o.cleared, 0), coalesce(o.cleared_ordinal, 0) \
         FROM unnest($2::text[], $3::text[]) AS k (main_user, role) LEFT JOIN LATERAL (SELECT * FROM {im}.group_members o \
         WHERE o.conversation_id = $1 AND o.main_user = k.main_user ORDER BY o.joined DESC LIMIT 1) o ON true \
         WHERE o.joined IS NULL OR o.left_after IS NOT NULL RETURNING main_user",
    );
    let rows = sqlx::query(sql)
        .bind(conversation.as_str())
        .bind(joining.keys().map(UserId::as_str).collect::<Vec<_>>())
        .bind(joining.values().map(|role| role_name(*role)).collect::<Vec<_>>())
        .bind(number(joined.seq.0))
        .bind(number(joined.ordinal.0))
        .bind(created_at.0)
        .fetch_all(&mut *conn)
        .await
        .map_err(failed(OPERATION))?;
    let changed = users(&rows)?;
    // Who was a member before has older rows, too.
    let new: HashSet<_> = changed.iter().collect();
    let again = joining.iter().filter(|(user, _)| new.contains(user));
    let again = again.map(|(user, role)| (user.clone(), *role)).collect();
    set_roles(inner, conn, conversation, &again).await?;
    Ok(changed)
}

async fn leave(
    inner: &Inner,
    conn: &mut PgConnection,
    conversation: &ConversationId,
    leaving: &[UserId],
    left: Mark,
) -> Result<Vec<UserId>> {
    let sql = inner.sql(
        "UPDATE {im}.group_members SET left_after = $3, left_ordinal = $4 \
         WHERE conversation_id = $1 AND main_user = ANY($2) AND left_after IS NULL RETURNING main_user",
    );
    let rows = sqlx::query(sql)
        .bind(conversation.as_str())
        .bind(leaving.iter().map(UserId::as_str).collect::<Vec<_>>())
        .bind(number(left.seq.0))
        .bind(number(left.ordinal.0))
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    users(&rows)
}

/// Sets the roles of present members, in all their rows. Whose role changed.
async fn set_roles(
    inner: &Inner,
    conn: &mut PgConnection,
    conversation: &ConversationId,
    roles: &BTreeMap<UserId, Role>,
) -> Result<Vec<UserId>> {
    let sql = inner.sql(
        "UPDATE {im}.group_members g SET role = k.role FROM unnest($2::text[], $3::text[]) AS k (main_user, role) \
         WHERE g.conversation_id = $1 AND g.main_user = k.main_user AND g.role <> k.role AND EXISTS \
         (SELECT 1 FROM {im}.group_members c WHERE c.conversation_id = $1 AND c.main_user = k.main_user \
         AND c.left_after IS NULL) RETURNING g.main_user",
    );
    let rows = sqlx::query(sql)
        .bind(conversation.as_str())
        .bind(roles.keys().map(UserId::as_str).collect::<Vec<_>>())
        .bind(roles.values().map(|role| role_name(*role)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    users(&rows)
}

fn users(rows: &[PgRow]) -> Result<Vec<UserId>> {
    rows.iter().map(|row| Columns::new(row, 0, OPERATION).parse(0, UserId::new)).collect()
}
