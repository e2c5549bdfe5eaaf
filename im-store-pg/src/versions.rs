//! Versions of users' own states.

use im_core::{ConversationId, UserId};
use sqlx::PgConnection;

use crate::connect::Inner;

/// Notes within a transaction that a conversation changed in the states of users: sorted, each once.
pub(crate) async fn raise(
    inner: &Inner,
    conn: &mut PgConnection,
    conversation: &ConversationId,
    users: &[UserId],
) -> sqlx::Result<()> {
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    let sql = inner.sql(
        "WITH raised AS (INSERT INTO {im}.user_states AS known (main_user, version) \
         SELECT changed, 1 FROM unnest($2::text[]) changed \
         ON CONFLICT (main_user) DO UPDATE SET version = known.version + 1 RETURNING main_user, version) \
         INSERT INTO {im}.state_changes (main_user, conversation_id, version) SELECT main_user, $1, version FROM raised \
         ON CONFLICT (main_user, conversation_id) DO UPDATE SET version = excluded.version",
    );
    sqlx::query(sql).bind(conversation.as_str()).bind(users).execute(conn).await.map(drop)
}
