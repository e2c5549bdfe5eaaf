//! What users are and have in conversations: rows of `conversations`, `group_members` and `read_marks`, put together.

use std::sync::Arc;

use im_core::{
    Conversation, ConversationId, ConversationKind, DeviceId, Interval, Membership, Result, Role, Seq,
    Settings, Timestamp, UserId,
};
use sqlx::{
    Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    connect::Inner,
    error::{corrupt, failed},
    messages::index,
    pool::Conn,
    rows::{Columns, limit},
};

/// The columns of a conversation; from `conversations c`.
macro_rules! conversation_columns {
    () => {
        "c.id, c.type, c.name, c.users[1], c.users[2], c.created_at, c.large_since"
    };
}
pub(crate) use conversation_columns;

/// How many columns those are.
const CONVERSATION: usize = 7;
/// How many columns a membership has.
const MEMBERSHIP: usize = CONVERSATION + 14;

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

/// The name of a kind in the database.
pub(crate) fn kind_name(kind: ConversationKind) -> &'static str {
    match kind {
        ConversationKind::Single => "SINGLE",
        ConversationKind::Group => "GROUP",
    }
}

/// The role in a column.
pub(crate) fn role(columns: Columns<'_>, column: usize) -> Result<Role> {
    columns.parse(column, |name| Role::from_name(name).ok_or("no such role"))
}

/// A membership, one row for each interval, read by [`add`]. From `k`: part, conversation_id, main_user; `$1` is the device or ''.
/// A device that is not known yet has the marks that it would begin with: the highest of the user's.
macro_rules! membership {
    () => {
        concat!(
            conversation_columns!(),
            ", g.main_user, g.joined, g.joined_ordinal, g.left_after, g.left_ordinal, g.role, g.nickname, \
             g.conversation_show, g.undisturbed, g.cleared, g.cleared_ordinal, r.sequence_id, r.ordinal, \
             (SELECT min(m.sequence_id) FROM {im}.messages m WHERE m.part = k.part AND m.conversation_id = k.conversation_id \
             AND m.kind = 3 AND m.sequence_id > \
             coalesce((SELECT a.sequence_id FROM {im}.applied a WHERE a.conversation_id = k.conversation_id), 0))"
        )
    };
}

macro_rules! join_membership {
    () => {
        " JOIN {im}.conversations c ON c.id = k.conversation_id AND c.type IS NOT NULL \
         JOIN {im}.group_members g ON g.conversation_id = k.conversation_id AND g.main_user = k.main_user \
         LEFT JOIN LATERAL (SELECT r.sequence_id, r.ordinal FROM {im}.read_marks r WHERE r.conversation_id = k.conversation_id \
         AND r.main_user = k.main_user AND (r.device = $1 OR ($1 <> '' AND NOT EXISTS (SELECT 1 FROM {im}.devices d \
         WHERE d.main_user = k.main_user AND d.device = $1))) ORDER BY r.sequence_id DESC LIMIT 1) r ON true "
    };
}

/// Adds a row to the membership that it belongs to.
fn add(membership: &mut Option<Membership>, columns: Columns<'_>) -> Result<()> {
    let row = columns.skip(CONVERSATION);
    let interval = Interval { joined: row.mark(1)?, left: row.optional_mark(3)? };
    if let Some(membership) = membership {
        membership.intervals.push(interval);
        return Ok(());
    }
    let settings = Settings {
        nickname: row.optional_text(6)?.map(Arc::from),
        hidden: !row.get::<bool>(7)?,
        undisturbed: row.get(8)?,
        cleared: row.mark(9)?,
    };
    *membership = Some(Membership {
        conversation: conversation(columns)?,
        role: role(row, 5)?,
        intervals: vec![interval],
        settings,
        read: row.optional_mark(11)?.unwrap_or_default(),
        unapplied: row.optional_int(13)?.map(|seq| Seq(seq.unsigned_abs())),
    });
    Ok(())
}

/// What users are and have in conversations.
pub(crate) async fn get(
    inner: &Inner,
    conn: &mut Conn,
    wanted: &[(ConversationId, UserId)],
    device: Option<&DeviceId>,
    operation: &'static str,
) -> Result<Vec<Option<Membership>>> {
    let rows = query(inner, wanted, device).fetch_all(conn).await.map_err(failed(operation))?;
    put_together(&rows, wanted.len(), operation)
}

/// The same by whatever connection.
pub(crate) async fn read(
    inner: &Inner,
    wanted: &[(ConversationId, UserId)],
    device: Option<&DeviceId>,
    operation: &'static str,
) -> Result<Vec<Option<Membership>>> {
    let rows = inner.pool.read(query(inner, wanted, device)).await.map_err(failed(operation))?;
    put_together(&rows, wanted.len(), operation)
}

fn query(
    inner: &Inner,
    wanted: &[(ConversationId, UserId)],
    device: Option<&DeviceId>,
) -> Query<'static, Postgres, PgArguments> {
    let sql = inner.sql(concat!(
        "SELECT ",
        membership!(),
        ", k.at FROM unnest($2::smallint[], $3::text[], $4::text[]) WITH ORDINALITY \
         AS k (part, conversation_id, main_user, at)",
        join_membership!(),
        "ORDER BY k.at, g.joined"
    ));
    sqlx::query(sql)
        .bind(device.map_or("", DeviceId::as_str))
        .bind(wanted.iter().map(|(id, _)| inner.part(id)).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, user)| user.as_str()).collect::<Vec<_>>())
}

/// The memberships of rows, each before its index, in their places.
fn put_together(rows: &[PgRow], count: usize, operation: &'static str) -> Result<Vec<Option<Membership>>> {
    let mut memberships = vec![None; count];
    for row in rows {
        let columns = Columns::new(row, 0, operation);
        add(&mut memberships[index(columns, MEMBERSHIP)?], columns)?;
    }
    Ok(memberships)
}

/// A user's conversations by ascending id: first which, then what the user is and has there.
pub(crate) async fn list(
    inner: &Inner,
    conn: &mut Conn,
    user: &UserId,
    device: Option<&DeviceId>,
    after: Option<&ConversationId>,
    max: usize,
) -> Result<Vec<Membership>> {
    let operation = "conversations.list";
    let sql = inner.sql(
        "SELECT DISTINCT conversation_id FROM {im}.group_members WHERE main_user = $1 AND conversation_id > $2 \
         ORDER BY conversation_id LIMIT $3",
    );
    let rows = sqlx::query(sql)
        .bind(user.as_str())
        .bind(after.map_or("", ConversationId::as_str))
        .bind(limit(max))
        .fetch_all(&mut *conn)
        .await
        .map_err(failed(operation))?;
    let which = |row| Ok((Columns::new(row, 0, operation).parse(0, ConversationId::new)?, user.clone()));
    let wanted = rows.iter().map(which).collect::<Result<Vec<_>>>()?;
    Ok(get(inner, conn, &wanted, device, operation).await?.into_iter().flatten().collect())
}
