//! Conversations and their members.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationKind, ConversationStore, DeviceId,
    GroupInfo, Incarnation, Mark, Member, Membership, NewConversation, Result, Seq, Timestamp, UserId,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    SqliteStore,
    connect::Inner,
    error::{failed, invalid},
    members,
    memberships::{self, conversation_columns},
    rows::{Columns, limit, number},
    values::{MOST_ROWS, Values},
    versions,
};

/// The most rows of one page.
const MOST_MEMBERS: usize = 10_000;

static GET: Values = Values::new(
    concat!("SELECT v.column1, ", conversation_columns!(), " FROM"),
    2,
    "v CROSS JOIN conversation_facts c ON c.id = v.column2",
);

/// Conversations by id.
async fn get(
    conn: &mut SqliteConnection,
    ids: &[ConversationId],
    operation: &'static str,
) -> Result<Vec<Option<Conversation>>> {
    let mut conversations = vec![None; ids.len()];
    for (chunk, conversations) in ids.chunks(MOST_ROWS).zip(conversations.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(GET.sql(chunk.len())));
        for (index, id) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(id.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let index = Columns::new(&row, 0, operation).int(0)?;
            conversations[index as usize] =
                Some(memberships::conversation(Columns::new(&row, 1, operation))?);
        }
    }
    Ok(conversations)
}

/// What a conversation would be if it were created now.
fn wanted(new: &NewConversation, created_at: Timestamp) -> Result<Conversation> {
    let operation = "conversations.create";
    match new {
        NewConversation::Single(a, b) => Ok(Conversation {
            id: ConversationId::single(a, b).map_err(|why| invalid(operation, why.to_string()))?,
            kind: ConversationKind::Single,
            name: None,
            users: Some(if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }),
            created_at,
            large_since: None,
        }),
        NewConversation::Group { id, .. } if id.is_single() => {
            Err(invalid(operation, format!("{id} cannot be a group")))
        }
        NewConversation::Group { id, name } => Ok(group(id, &GroupInfo { name: name.clone() }, created_at)),
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
async fn create(inner: Arc<Inner>, wanted: Vec<Conversation>) -> Result<Vec<Option<Conversation>>> {
    let operation = "conversations.create";
    let mut writer = inner.writer(operation).await?;
    writer.begin(operation, inner.acked).await?;
    let created = async {
        let mut created = Vec::with_capacity(wanted.len());
        for conversation in wanted {
            created.push(create_one(writer.conn(), conversation, operation).await?);
        }
        Ok(created)
    };
    let created = created.await;
    writer.end(operation, created).await
}

/// Creates a conversation within a transaction; the first one, if it is there already and the same.
pub(crate) async fn create_one(
    conn: &mut SqliteConnection,
    wanted: Conversation,
    operation: &'static str,
) -> Result<Option<Conversation>> {
    let there = get(conn, std::slice::from_ref(&wanted.id), operation).await?.pop().flatten();
    if let Some(there) = there {
        return Ok(same(there, &wanted));
    }
    memberships::insert_conversation(conn, &wanted).await.map_err(failed(operation))?;
    if let Some((a, b)) = &wanted.users {
        let users = [a.clone(), b.clone()];
        let joined = Mark { seq: Seq(1), ..Mark::default() };
        for user in &users {
            members::insert(conn, &wanted.id, user, joined, wanted.created_at)
                .await
                .map_err(failed(operation))?;
        }
        versions::raise(conn, &wanted.id, &users).await.map_err(failed(operation))?;
    }
    Ok(Some(wanted))
}

#[async_trait]
impl ConversationStore for SqliteStore {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        let now = self.0.clock.now();
        let wanted = conversations.iter().map(|new| wanted(new, now)).collect::<Result<Vec<_>>>()?;
        // What is there needs no writer and no sync.
        let ids: Vec<_> = wanted.iter().map(|conversation| conversation.id.clone()).collect();
        let there = ConversationStore::get(self, &ids).await?;
        if there.iter().all(Option::is_some) {
            return Ok(there
                .into_iter()
                .flatten()
                .zip(&wanted)
                .map(|(there, wanted)| same(there, wanted))
                .collect());
        }
        self.0.thread.run("conversations.create", create(self.0.clone(), wanted)).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        let operation = "conversations.get";
        let mut conn = self.0.readers.lend(operation).await?;
        let there = get(&mut conn, ids, operation).await;
        conn.back(there)
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        let mut conn = self.0.readers.lend("conversations.list").await?;
        let (device, after) = (device.as_ref(), after.as_ref());
        let max = max.min(MOST_MEMBERS);
        let listed = memberships::list(&mut conn, &self.0.timelines, user, device, after, max).await;
        conn.back(listed)
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        let operation = "conversations.large_groups";
        let query = sqlx::query(
            "SELECT g.conversation_id FROM group_members g CROSS JOIN conversation_facts c ON c.id = g.conversation_id \
             WHERE g.main_user = ? AND g.conversation_id > ? AND g.left_after IS NULL AND c.large_since IS NOT NULL \
             ORDER BY g.conversation_id LIMIT ?",
        )
        .bind(user.as_str())
        .bind(after.as_ref().map_or("", ConversationId::as_str))
        .bind(limit(max.min(MOST_MEMBERS)));
        let rows = self.0.readers.all(query, operation).await?;
        rows.iter().map(|row| Columns::new(row, 0, operation).parse(0, ConversationId::new)).collect()
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        let operation = "conversations.memberships";
        let mut conn = self.0.readers.lend(operation).await?;
        let there = memberships::get(&mut conn, &self.0.timelines, wanted, device.as_ref(), operation).await;
        conn.back(there)
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        let operation = "conversations.members";
        let query = sqlx::query(
            "SELECT main_user, role, nickname FROM group_members WHERE conversation_id = ?1 AND main_user > ?2 \
             AND joined <= ?3 AND (left_after IS NULL OR left_after >= ?3) ORDER BY main_user LIMIT ?4",
        )
        .bind(conversation.as_str())
        .bind(after.as_ref().map_or("", UserId::as_str))
        .bind(number(at.0))
        .bind(limit(max.min(MOST_MEMBERS)));
        let rows = self.0.readers.all(query, operation).await?;
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
        let operation = "conversations.count_members";
        let query = sqlx::query(
            "SELECT count(*) FROM group_members WHERE conversation_id = ? AND left_after IS NULL",
        )
        .bind(conversation.as_str());
        let row = self.0.readers.one(query, operation).await?;
        Ok(usize::try_from(Columns::new(&row, 0, operation).int(0)?).unwrap_or_default())
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        let work = members::apply(self.0.clone(), store.clone(), changes.to_vec());
        self.0.thread.run("conversations.apply_members", work).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        let operation = "conversations.applied";
        let mut conn = self.0.readers.lend(operation).await?;
        let applied = members::applied(&mut conn, ids, operation).await;
        conn.back(applied)
    }
}
