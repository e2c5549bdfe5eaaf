//! Conversations and their members.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationKind, ConversationStore, DeviceId,
    GroupInfo, Incarnation, Mark, Member, Membership, NewConversation, Result, Role, Seq, Timestamp, UserId,
};

use crate::{
    PgStore,
    connect::{Inner, detached, now},
    error::{failed, invalid},
    members,
    memberships::{self, conversation_columns, kind_name},
    messages::index,
    pool::Conn,
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
    conn: &mut Conn,
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

/// Creates what is missing.
async fn create(inner: Arc<Inner>, mut wanted: Vec<Conversation>) -> Result<Vec<Option<Conversation>>> {
    let operation = CREATE;
    let mut transaction = inner.pool.begin().await.map_err(failed(operation))?;
    let conn = &mut *transaction;
    let now = sqlx::query_scalar(inner.sql(concat!("SELECT ", now!())))
        .fetch_one(&mut *conn)
        .await
        .map_err(failed(operation))?;
    for conversation in &mut wanted {
        conversation.created_at = Timestamp(now);
    }
    insert(&inner, conn, &wanted, operation).await?;
    let ids: Vec<_> = wanted.iter().map(|conversation| conversation.id.clone()).collect();
    // With a fresh snapshot: also what somebody else has created meanwhile.
    let there = get(&inner, conn, &ids, operation).await?;
    transaction.commit().await.map_err(failed(operation))?;
    Ok(there.into_iter().zip(&wanted).map(|(there, wanted)| same(there?, wanted)).collect())
}

/// Inserts those that are not there, within a transaction; of two with one id the first. Those with records only are filled in.
pub(crate) async fn insert(
    inner: &Inner,
    conn: &mut Conn,
    wanted: &[Conversation],
    operation: &'static str,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut firsts = BTreeMap::new();
    for conversation in wanted {
        firsts.entry(conversation.id.as_str()).or_insert(conversation);
    }
    let created = insert_rows(inner, conn, firsts.values().copied()).await.map_err(failed(operation))?;
    let joined = Mark { seq: Seq(1), ..Mark::default() };
    let mut joining = Vec::new();
    for conversation in created.iter().filter_map(|id| firsts.get(id.as_str())) {
        if let Some((a, b)) = conversation.users.clone() {
            let of = |user| members::Joining {
                conversation: conversation.id.clone(),
                user,
                role: Role::Member,
                joined,
                created_at: conversation.created_at,
            };
            joining.extend([of(a), of(b)]);
        }
    }
    let joined = members::join(inner, conn, &joining, operation).await?;
    versions::raise(inner, conn, &joined).await.map_err(failed(operation))
}

/// Inserts rows in the order of their ids; the ids of those that were not there.
async fn insert_rows<'c>(
    inner: &Inner,
    conn: &mut Conn,
    conversations: impl Iterator<Item = &'c Conversation> + Clone,
) -> sqlx::Result<Vec<String>> {
    let sql = inner.sql(
        "INSERT INTO {im}.conversations AS known (id, type, name, users, created_at, updated_at) \
         SELECT id, type, name, CASE WHEN low IS NOT NULL THEN ARRAY[low, high] END, created_at, created_at \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[]) \
         AS v (id, type, name, low, high, created_at) ORDER BY id COLLATE \"C\" \
         ON CONFLICT (id) DO UPDATE SET type = excluded.type, name = excluded.name, users = excluded.users, \
         created_at = excluded.created_at WHERE known.type IS NULL RETURNING id",
    );
    let users = || conversations.clone().map(|conversation| conversation.users.as_ref());
    sqlx::query_scalar(sql)
        .bind(conversations.clone().map(|conversation| conversation.id.as_str()).collect::<Vec<_>>())
        .bind(conversations.clone().map(|conversation| kind_name(conversation.kind)).collect::<Vec<_>>())
        .bind(conversations.clone().map(|conversation| conversation.name.as_deref()).collect::<Vec<_>>())
        .bind(users().map(|users| users.map(|(low, _)| low.as_str())).collect::<Vec<_>>())
        .bind(users().map(|users| users.map(|(_, high)| high.as_str())).collect::<Vec<_>>())
        .bind(conversations.clone().map(|conversation| conversation.created_at.0).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
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
        memberships::read(&self.0, wanted, device.as_ref(), operation).await
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
        let query = sqlx::query(sql)
            .bind(conversation.as_str())
            .bind(after.as_ref().map_or("", UserId::as_str))
            .bind(number(at.0))
            .bind(limit(max.min(MOST_MEMBERS)));
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
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
            "SELECT a.sequence_id, a.ordinal, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (id, at) \
             JOIN {im}.applied a ON a.conversation_id = k.id",
        );
        let rows = sqlx::query(sql)
            .bind(ids.iter().map(ConversationId::as_str).collect::<Vec<_>>())
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let mut marks = vec![Mark::default(); ids.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            marks[index(columns, 2)?] = columns.mark(0)?;
        }
        Ok(marks)
    }
}
