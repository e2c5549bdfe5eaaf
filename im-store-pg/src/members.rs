//! What records do to the members of their conversations.
//!
//! Changes of one conversation take effect one after the other; those of several go in step, in the same statements.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use im_core::{
    ConversationChange, ConversationId, Effect, Incarnation, Mark, MembersChange, Result, Role, Timestamp,
    UserId,
};
use sqlx::postgres::PgRow;

use crate::{
    connect::{Inner, incarnation},
    conversations::{self, group},
    error::{failed, invalid, other_incarnation},
    pool::Conn,
    rows::{Columns, number},
    versions,
};

const OPERATION: &str = "conversations.apply_members";

/// A user in a conversation.
type Pair = (ConversationId, UserId);

/// Applies changes, all or nothing.
pub(crate) async fn apply(
    inner: Arc<Inner>,
    store: Incarnation,
    changes: Vec<ConversationChange>,
) -> Result<()> {
    let mut transaction = inner.pool.begin().await.map_err(failed(OPERATION))?;
    let conn = &mut *transaction;
    fence(&inner, conn, &store).await?;
    let mut marks = lock(&inner, conn, &changes).await?;
    let rounds = rounds(&changes, &mut marks);
    if rounds.is_empty() {
        return transaction.rollback().await.map_err(failed(OPERATION));
    }
    let mut changed = BTreeSet::new();
    for round in rounds {
        changed.extend(apply_round(&inner, conn, &round).await?);
    }
    let changed: Vec<_> = changed.into_iter().collect();
    versions::raise(&inner, conn, &changed).await.map_err(failed(OPERATION))?;
    set_applied(&inner, conn, &marks).await?;
    transaction.commit().await.map_err(failed(OPERATION))
}

async fn fence(inner: &Inner, conn: &mut Conn, store: &Incarnation) -> Result<()> {
    let sql = inner.sql(concat!("SELECT ", incarnation!()));
    let present: String = sqlx::query_scalar(sql).fetch_one(conn).await.map_err(failed(OPERATION))?;
    if present == store.as_str() { Ok(()) } else { Err(other_incarnation(OPERATION, store, &present)) }
}

/// Keeps out, until the transaction ends, whoever applies changes of the same conversations: where each of them stands.
async fn lock(
    inner: &Inner,
    conn: &mut Conn,
    changes: &[ConversationChange],
) -> Result<BTreeMap<ConversationId, Mark>> {
    let mut ids: Vec<_> = changes.iter().map(|change| change.conversation.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let sql = inner.sql(
        "INSERT INTO {im}.applied AS known (conversation_id, sequence_id, ordinal) \
         SELECT id, 0, 0 FROM unnest($1::text[]) AS v (id) ORDER BY id COLLATE \"C\" \
         ON CONFLICT (conversation_id) DO UPDATE SET sequence_id = known.sequence_id \
         RETURNING conversation_id, sequence_id, ordinal",
    );
    let rows = sqlx::query(sql).bind(ids).fetch_all(conn).await.map_err(failed(OPERATION))?;
    let known = |row| {
        let columns = Columns::new(row, 0, OPERATION);
        Ok((columns.parse(0, ConversationId::new)?, columns.mark(1)?))
    };
    rows.iter().map(known).collect()
}

/// A change to apply, and whether none was applied to its conversation before.
struct Step<'c> {
    change: &'c ConversationChange,
    is_first: bool,
}

/// The changes that are not applied yet: first the first of each conversation, then the second of each, and so on. `marks` moves
/// up to the last of each.
fn rounds<'c>(
    changes: &'c [ConversationChange],
    marks: &mut BTreeMap<ConversationId, Mark>,
) -> Vec<Vec<Step<'c>>> {
    let mut rounds: Vec<Vec<Step<'c>>> = Vec::new();
    let mut counts: HashMap<&ConversationId, usize> = HashMap::new();
    for change in changes {
        let mark = marks.entry(change.conversation.clone()).or_default();
        if change.at.seq <= mark.seq {
            continue;
        }
        let round = counts.entry(&change.conversation).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(Step { change, is_first: *mark == Mark::default() });
        (*mark, *round) = (change.at, *round + 1);
    }
    rounds
}

/// Notes the last change of each conversation.
async fn set_applied(inner: &Inner, conn: &mut Conn, marks: &BTreeMap<ConversationId, Mark>) -> Result<()> {
    let sql = inner.sql(
        "UPDATE {im}.applied SET sequence_id = v.sequence_id, ordinal = v.ordinal \
         FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS v (id, sequence_id, ordinal) WHERE conversation_id = v.id",
    );
    sqlx::query(sql)
        .bind(marks.keys().map(ConversationId::as_str).collect::<Vec<_>>())
        .bind(marks.values().map(|mark| number(mark.seq.0)).collect::<Vec<_>>())
        .bind(marks.values().map(|mark| number(mark.ordinal.0)).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed(OPERATION))
}

/// One change of each of some conversations. Whom it concerns.
async fn apply_round(inner: &Inner, conn: &mut Conn, round: &[Step<'_>]) -> Result<Vec<Pair>> {
    let (mut members, mut large) = (Vec::new(), Vec::new());
    for Step { change, is_first } in round {
        match &change.effect {
            // A creation that is not the first record has no effect.
            Effect::Members(MembersChange { create: Some(_), .. })
                if !is_first || change.conversation.is_single() => {}
            Effect::Members(effect) => members.push((*change, effect)),
            Effect::Large => large.push(*change),
            other => return Err(invalid(OPERATION, format!("an effect of a newer version: {other:?}"))),
        }
    }
    set_large(inner, conn, &large).await?;
    apply_members(inner, conn, members).await
}

async fn set_large(inner: &Inner, conn: &mut Conn, changes: &[&ConversationChange]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let sql = inner.sql(
        "UPDATE {im}.conversations c SET large_since = v.sequence_id FROM unnest($1::text[], $2::bigint[]) AS v (id, sequence_id) \
         WHERE c.id = v.id AND c.type = 'GROUP' AND c.large_since IS NULL",
    );
    sqlx::query(sql)
        .bind(changes.iter().map(|change| change.conversation.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| number(change.at.seq.0)).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed(OPERATION))
}

/// What happens to the members of a conversation.
type Change<'c> = (&'c ConversationChange, &'c MembersChange);

async fn apply_members(inner: &Inner, conn: &mut Conn, mut changes: Vec<Change<'_>>) -> Result<Vec<Pair>> {
    let create = |(change, effect): &Change<'_>| {
        let info = effect.create.as_ref()?;
        Some(group(&change.conversation, info, change.created_at))
    };
    let created: Vec<_> = changes.iter().filter_map(create).collect();
    conversations::insert(inner, conn, &created, OPERATION).await?;
    let groups = groups(inner, conn, &changes).await?;
    changes.retain(|(change, _)| groups.contains(&change.conversation));

    let mut changed = join_all(inner, conn, &changes).await?;
    changed.extend(leave(inner, conn, &changes).await?);
    // The last of two that name one user counts.
    let role = |(change, effect): &Change<'_>| {
        let id = change.conversation.clone();
        effect.role.clone().into_iter().map(move |(user, role)| ((id.clone(), user), role))
    };
    let roles: HashMap<_, _> = changes.iter().flat_map(role).collect();
    changed.extend(set_roles(inner, conn, &roles.into_iter().collect::<Vec<_>>()).await?);
    Ok(changed)
}

/// Which of the conversations are groups.
async fn groups(inner: &Inner, conn: &mut Conn, changes: &[Change<'_>]) -> Result<HashSet<ConversationId>> {
    if changes.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = inner.sql("SELECT id FROM {im}.conversations WHERE id = ANY ($1) AND type = 'GROUP'");
    let rows = sqlx::query(sql)
        .bind(changes.iter().map(|(change, _)| change.conversation.as_str()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    rows.iter().map(|row| Columns::new(row, 0, OPERATION).parse(0, ConversationId::new)).collect()
}

/// A user who becomes a member.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) conversation: ConversationId,
    pub(crate) user: UserId,
    pub(crate) role: Role,
    /// The joining record, with the ordinal before it.
    pub(crate) joined: Mark,
    pub(crate) created_at: Timestamp,
}

async fn join_all(inner: &Inner, conn: &mut Conn, changes: &[Change<'_>]) -> Result<Vec<Pair>> {
    let (mut joining, mut roles) = (Vec::new(), HashMap::new());
    for (change, effect) in changes {
        let joined = Mark { seq: change.at.seq, ordinal: change.ordinal_before };
        for (user, role) in &effect.join {
            let pair = (change.conversation.clone(), user.clone());
            // The first of two that name one user counts, as the second finds a member.
            if let Entry::Vacant(entry) = roles.entry(pair) {
                let (conversation, user) = entry.key().clone();
                let created_at = change.created_at;
                joining.push(Joining { conversation, user, role: *role, joined, created_at });
                entry.insert(*role);
            }
        }
    }
    let joined = join(inner, conn, &joining, OPERATION).await?;
    // Who was a member before has older rows, too.
    let again: Vec<_> = joined.iter().filter_map(|pair| Some((pair.clone(), *roles.get(pair)?))).collect();
    set_roles(inner, conn, &again).await?;
    Ok(joined)
}

/// Takes the first rows of users who were members before until the commit, as who changes their settings does: the newest row will not
/// do, because a lock that is waited for is one on the row that was the newest when the waiting began.
async fn lock_first_rows(inner: &Inner, conn: &mut Conn, joining: &[Joining]) -> sqlx::Result<()> {
    let sql = inner.sql(
        "SELECT 1 FROM (SELECT * FROM unnest($1::text[], $2::text[]) AS v (id, main_user) \
         ORDER BY id COLLATE \"C\", main_user COLLATE \"C\") v CROSS JOIN LATERAL (SELECT 1 FROM {im}.group_members g \
         WHERE g.conversation_id = v.id AND g.main_user = v.main_user ORDER BY g.joined LIMIT 1 FOR UPDATE) o",
    );
    sqlx::query(sql)
        .bind(joining.iter().map(|one| one.conversation.as_str()).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| one.user.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

/// Makes users members, each once. Who is a member keeps interval and role; who was one finds the settings again, also those
/// that are being changed now: that is waited for. Whom it made a member.
pub(crate) async fn join(
    inner: &Inner,
    conn: &mut Conn,
    joining: &[Joining],
    operation: &'static str,
) -> Result<Vec<Pair>> {
    if joining.is_empty() {
        return Ok(Vec::new());
    }
    lock_first_rows(inner, conn, joining).await.map_err(failed(operation))?;
    let sql = inner.sql(
        "INSERT INTO {im}.group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at, nickname, \
         conversation_show, undisturbed, cleared, cleared_ordinal) \
         SELECT v.id, v.main_user, v.joined, v.joined_ordinal, v.role, v.created_at, o.nickname, \
         coalesce(o.conversation_show, true), coalesce(o.undisturbed, false), coalesce(o.cleared, 0), \
         coalesce(o.cleared_ordinal, 0) \
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[]) \
         AS v (id, main_user, joined, joined_ordinal, role, created_at) LEFT JOIN LATERAL \
         (SELECT * FROM {im}.group_members g WHERE g.conversation_id = v.id AND g.main_user = v.main_user \
         ORDER BY g.joined DESC LIMIT 1) o ON true WHERE o.joined IS NULL OR o.left_after IS NOT NULL \
         RETURNING conversation_id, main_user",
    );
    let rows = sqlx::query(sql)
        .bind(joining.iter().map(|one| one.conversation.as_str()).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| one.user.as_str()).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| number(one.joined.seq.0)).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| number(one.joined.ordinal.0)).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| one.role.as_str()).collect::<Vec<_>>())
        .bind(joining.iter().map(|one| one.created_at.0).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(operation))?;
    pairs(&rows, operation)
}

async fn leave(inner: &Inner, conn: &mut Conn, changes: &[Change<'_>]) -> Result<Vec<Pair>> {
    let mut leaving: Vec<(&ConversationChange, &UserId)> = Vec::new();
    for (change, effect) in changes {
        leaving.extend(effect.leave.iter().map(|user| (*change, user)));
    }
    if leaving.is_empty() {
        return Ok(Vec::new());
    }
    let sql = inner.sql(
        "UPDATE {im}.group_members g SET left_after = v.sequence_id, left_ordinal = v.ordinal \
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v (id, main_user, sequence_id, ordinal) \
         WHERE g.conversation_id = v.id AND g.main_user = v.main_user AND g.left_after IS NULL \
         RETURNING g.conversation_id, g.main_user",
    );
    let rows = sqlx::query(sql)
        .bind(leaving.iter().map(|(change, _)| change.conversation.as_str()).collect::<Vec<_>>())
        .bind(leaving.iter().map(|(_, user)| user.as_str()).collect::<Vec<_>>())
        .bind(leaving.iter().map(|(change, _)| number(change.at.seq.0)).collect::<Vec<_>>())
        .bind(leaving.iter().map(|(change, _)| number(change.at.ordinal.0)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    pairs(&rows, OPERATION)
}

/// Sets the roles of present members, in all their rows; each user once. Whose role changed.
async fn set_roles(inner: &Inner, conn: &mut Conn, roles: &[(Pair, Role)]) -> Result<Vec<Pair>> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let sql = inner.sql(
        "UPDATE {im}.group_members g SET role = v.role FROM unnest($1::text[], $2::text[], $3::text[]) AS v (id, main_user, role) \
         WHERE g.conversation_id = v.id AND g.main_user = v.main_user AND g.role <> v.role AND EXISTS \
         (SELECT FROM {im}.group_members c WHERE c.conversation_id = v.id AND c.main_user = v.main_user \
         AND c.left_after IS NULL) RETURNING g.conversation_id, g.main_user",
    );
    let rows = sqlx::query(sql)
        .bind(roles.iter().map(|((id, _), _)| id.as_str()).collect::<Vec<_>>())
        .bind(roles.iter().map(|((_, user), _)| user.as_str()).collect::<Vec<_>>())
        .bind(roles.iter().map(|(_, role)| role.as_str()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(OPERATION))?;
    pairs(&rows, OPERATION)
}

fn pairs(rows: &[PgRow], operation: &'static str) -> Result<Vec<Pair>> {
    let pair =
        |columns: Columns<'_>| Ok((columns.parse(0, ConversationId::new)?, columns.parse(1, UserId::new)?));
    rows.iter().map(|row| pair(Columns::new(row, 0, operation))).collect()
}
