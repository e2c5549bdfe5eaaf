//! Conversations and their members.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationKind, ConversationStore, DeviceId,
    GroupInfo, Incarnation, Mark, Member, Membership, NewConversation, Ordinal, Result, Seq, Timestamp,
    UserId,
};
use sqlx::PgConnection;

use crate::{
    PgStore,
    connect::{Inner, detached, now},
    error::{failed, invalid},
    members,
    memberships::{self, conversation_columns},
    messages::index,
    rows::{Columns, limit, number},
    versions,
};

/// The most rows of one page.
const MOST_MEMBERS: usize = 10_000;
/// How many columns a conversation has.
const CONVERSATION: usize = 7;
const CREATE: &str = "conversations.create";

/// Conversations by id.
async fn get(
    inner: &Inner,
    conn: &mut PgConnection,
    ids: &[ConversationId],
    operation: &'static str,
) -> Result<Vec<Option<Conversation>>> {
    let sql = inner.sql(concat!(
        "SELECT ",
        conversation_columns!(),
        ", k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (id, at) \
         JOIN {im}.conversations c ON c.id = k.id AND c.type IS NOT NULL"
    ));
    let rows = sqlx::query(sql)
        .bind(ids.iter().map(ConversationId::as_str).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(operation))?;
    let mut conversations = vec![None; ids.len()];
    for row in &rows {
        let columns = Columns::new(row, 0, operation);
        conversations[index(columns, CONVERSATION)?] = Some(memberships::conversation(columns)?);
    }
    Ok(conversations)
}

/// What a conversation would be if it were created; the time is not known yet.
fn wanted(new: &NewConversation) -> Result<Conversation> {
    match new {
        NewConversation::Single(a, b) => Ok(Conversation {
            id: ConversationId::single(a, b).map_err(|why| invalid(CREATE, why.to_string()))?,
            kind: ConversationKind::Single,
            name: None,
            users: Some(if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }),
            created_at: Timestamp::default(),
            large_since: None,
        }),
        NewConversation::Group { id, .. } if id.is_single() => {
            Err(invalid(CREATE, format!("{id} cannot be a group")))
        }
        NewConversation::Group { id, name } => {
            Ok(group(id, &GroupInfo { name: name.clone() }, Timestamp::default()))
        }
    }
}

/// A group as it begins.
pub(crate) fn group(id: &ConversationId, info: &GroupInfo, created_at: Timestamp) -> Conversation {
    Conversation {
        id: id.clone(),
        kind: ConversationKind::Group,
        name: info.name.clone(),
        users: None,
        created_at,
        large_since: None,
    }
}

/// The one that is there, where it is what was wanted.
fn same(there: Conversation, wanted: &Conversation) -> Option<Conversation> {
    (there.kind == wanted.kind && there.name == wanted.name).then_some(there)
}

/// Creates what is missing, in the order of ids: two that create the same do not wait for each other in a circle.
async fn create(inner: Arc<Inner>, wanted: Vec<Conversation>) -> Result<Vec<Option<Conversation>>> {
    let mut transaction = inner.pool.begin().await.map_err(failed(CREATE))?;
    let time: i64 = sqlx::query_scalar(concat!("SELECT ", now!()))
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed(CREATE))?;
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].id.cmp(&wanted[*b].id));
    let mut created = vec![None; wanted.len()];
    for at in order {
        let conversation = Conversation { created_at: Timestamp(time), ..wanted[at].clone() };
        created[at] = create_one(&inner, &mut transaction, conversation, CREATE).await?;
    }
    transaction.commit().await.map_err(failed(CREATE))?;
    Ok(created)
}

/// Creates a conversation within a transaction; the first one, if it is there already and the same.
pub(crate) async fn create_one(
    inner: &Inner,
    conn: &mut PgConnection,
    wanted: Conversation,
    operation: &'static str,
) -> Result<Option<Conversation>> {
    let (kind, users) = match &wanted.users {
        Some((low, high)) => ("SINGLE", Some(vec![low.as_str(), high.as_str()])),
        None => ("GROUP", None),
    };
    // Waits for another transaction that is creating it.
    let sql = inner.sql(
        "INSERT INTO {im}.conversations AS known (id, name, type, users, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (id) DO UPDATE SET name = excluded.name, type = excluded.type, \
         users = excluded.users, created_at = excluded.created_at WHERE known.type IS NULL",
    );
    let inserted = sqlx::query(sql)
        .bind(wanted.id.as_str())
        .bind(wanted.name.as_deref())
        .bind(kind)
        .bind(users)
        .bind(wanted.created_at.0)
        .execute(&mut *conn)
        .await
        .map_err(failed(operation))?;
    if inserted.rows_affected() == 0 {
        let there = get(inner, conn, std::slice::from_ref(&wanted.id), operation).await?.pop().flatten();
        return Ok(there.and_then(|there| same(there, &wanted)));
    }
    if let Some((low, high)) = &wanted.users {
        let users = [low.clone(), high.clone()];
        let joined = Mark { seq: Seq(1), ..Mark::default() };
        members::insert(inner, conn, &wanted.id, &users, joined, wanted.created_at)
            .await
            .map_err(failed(operation))?;
        versions::raise(inner, conn, &wanted.id, &users).await.map_err(failed(operation))?;
    }
    Ok(Some(wanted))
}

#[async_trait]
impl ConversationStore for PgStore {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        let wanted = conversations.iter().map(wanted).collect::<Result<Vec<_>>>()?;
        // What is there needs no transaction.
        let ids: Vec<_> = wanted.iter().map(|conversation| conversation.id.clone()).collect();
        let there = ConversationStore::get(self, &ids).await?;
        if there.iter().all(Option::is_some) {
            let pairs = there.into_iter().flatten().zip(&wanted);
            return Ok(pairs.map(|(there, wanted)| same(there, wanted)).collect());
        }
        detached(CREATE, create(self.0.clone(), wanted)).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        let operation = "conversations.get";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        get(&self.0, &mut conn, ids, operation).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        let mut conn = self.0.pool.acquire().await.map_err(failed("conversations.list"))?;
        memberships::list(&self.0, &mut conn, user, device.as_ref(), after.as_ref(), max.min(MOST_MEMBERS))
            .await
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        let operation = "conversations.large_groups";
        let sql = self.0.sql(
            "SELECT g.conversation_id FROM {im}.group_members g JOIN {im}.conversations c ON c.id = g.conversation_id \
             WHERE g.main_user = $1 AND g.conversation_id > $2 AND g.left_after IS NULL AND c.large_since IS NOT NULL \
             ORDER BY g.conversation_id LIMIT $3",
        );
        let rows = sqlx::query(sql)
            .bind(user.as_str())
            .bind(after.as_ref().map_or("", ConversationId::as_str))
            .bind(limit(max.min(MOST_MEMBERS)))
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        rows.iter().map(|row| Columns::new(row, 0, operation).parse(0, ConversationId::new)).collect()
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        let operation = "conversations.memberships";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        memberships::get(&self.0, &mut conn, wanted, device.as_ref(), operation).await
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        let operation = "conversations.members";
        let sql = self.0.sql(
            "SELECT main_user, role, nickname FROM {im}.group_members WHERE conversation_id = $1 AND main_user > $2 \
             AND joined <= $3 AND (left_after IS NULL OR left_after >= $3) ORDER BY main_user LIMIT $4",
        );
        let rows = sqlx::query(sql)
            .bind(conversation.as_str())
            .bind(after.as_ref().map_or("", UserId::as_str))
            .bind(number(at.0))
            .bind(limit(max.min(MOST_MEMBERS)))
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let member = |columns: Columns<'_>| {
            Ok(Member {
                user: columns.parse(0, UserId::new)?,
                role: memberships::role(columns, 1)?,
                nickname: columns.optional_text(2)?.map(Arc::from),
            })
        };
        rows.iter().map(|row| member(Columns::new(row, 0, operation))).collect()
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        let sql = self
            .0
            .sql("SELECT count(*) FROM {im}.group_members WHERE conversation_id = $1 AND left_after IS NULL");
        let count: i64 = sqlx::query_scalar(sql)
            .bind(conversation.as_str())
            .fetch_one(&self.0.pool)
            .await
            .map_err(failed("conversations.count_members"))?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        let work = members::apply(self.0.clone(), store.clone(), changes.to_vec());
        detached("conversations.apply_members", work).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        let operation = "conversations.applied";
        let sql = self.0.sql(
            "SELECT c.applied, c.applied_ordinal, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (id, at) \
             JOIN {im}.conversations c ON c.id = k.id",
        );
        let rows = sqlx::query(sql)
            .bind(ids.iter().map(ConversationId::as_str).collect::<Vec<_>>())
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let mut marks = vec![Mark::default(); ids.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            marks[index(columns, 2)?] = Mark {
                seq: Seq(columns.int(0)?.unsigned_abs()),
                ordinal: Ordinal(columns.int(1)?.unsigned_abs()),
            };
        }
        Ok(marks)
    }
}
