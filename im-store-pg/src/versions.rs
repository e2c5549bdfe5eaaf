//! State versions: each user's number counts the changes of the user's own state.

use im_core::{ConversationId, Incarnation, Result, StateVersion, UserId};

use crate::pool::Conn;
use crate::{connect::Inner, error::failed, messages::index, rows::Columns};

/// The version with a number.
pub(crate) fn version(incarnation: &Incarnation, number: i64) -> StateVersion {
    StateVersion::new(format!("{}-{number}", incarnation.as_str()))
}

/// The number of a version, if it is of this incarnation.
pub(crate) fn number_of(incarnation: &Incarnation, version: &StateVersion) -> Option<i64> {
    let number = version.as_str().strip_prefix(incarnation.as_str())?.strip_prefix('-')?;
    number.parse().ok().filter(|number| *number >= 0)
}

/// The present number of each user.
pub(crate) async fn numbers(
    inner: &Inner,
    conn: &mut Conn,
    users: &[UserId],
    operation: &'static str,
) -> Result<Vec<i64>> {
    let sql = inner.sql(
        "SELECT s.version, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (main_user, at) \
         JOIN {im}.user_states s ON s.main_user = k.main_user",
    );
    let rows = sqlx::query(sql)
        .bind(users.iter().map(UserId::as_str).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(failed(operation))?;
    let mut numbers = vec![0; users.len()];
    for row in &rows {
        let columns = Columns::new(row, 0, operation);
        numbers[index(columns, 1)?] = columns.int(0)?;
    }
    Ok(numbers)
}

/// Raises the versions of users because of conversations, within a transaction: pairs, each once. Last in it, and once: locks are
/// taken in the order of users, here and by everybody. All changes of one user have one version.
pub(crate) async fn raise(
    inner: &Inner,
    conn: &mut Conn,
    changed: &[(ConversationId, UserId)],
) -> sqlx::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let sql = inner.sql(
        "WITH changed AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[]) AS changed (conversation_id, main_user)), \
         raised AS (INSERT INTO {im}.user_states AS known (main_user, version) \
         SELECT main_user, 1 FROM changed GROUP BY main_user ORDER BY main_user COLLATE \"C\" \
         ON CONFLICT (main_user) DO UPDATE SET version = known.version + 1 RETURNING main_user, version) \
         INSERT INTO {im}.state_changes (main_user, conversation_id, version) \
         SELECT raised.main_user, changed.conversation_id, raised.version FROM raised JOIN changed USING (main_user) \
         ON CONFLICT (main_user, conversation_id) DO UPDATE SET version = excluded.version",
    );
    sqlx::query(sql)
        .bind(changed.iter().map(|(conversation, _)| conversation.as_str()).collect::<Vec<_>>())
        .bind(changed.iter().map(|(_, user)| user.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

/// Takes the users' versions until the commit, in the order given, and says where they stand; of a user without one a row is made.
pub(crate) async fn lock(inner: &Inner, conn: &mut Conn, users: &[&str]) -> sqlx::Result<Vec<(String, i64)>> {
    let sql = inner.sql(
        "INSERT INTO {im}.user_states AS known (main_user, version) SELECT main_user, 0 FROM unnest($1::text[]) \
         AS k (main_user) ON CONFLICT (main_user) DO UPDATE SET version = known.version RETURNING main_user, version",
    );
    sqlx::query_as(sql).bind(users).fetch_all(conn).await
}

/// Notes versions that the caller has counted under the lock.
pub(crate) async fn set(
    inner: &Inner,
    conn: &mut Conn,
    changes: &[(UserId, ConversationId, i64)],
) -> sqlx::Result<()> {
    let sql = inner.sql(
        "WITH new AS (SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS new (main_user, conversation_id, version)), \
         raised AS (UPDATE {im}.user_states s SET version = n.version FROM (SELECT main_user, max(version) AS version FROM new \
         GROUP BY main_user) n WHERE s.main_user = n.main_user AND s.version < n.version) \
         INSERT INTO {im}.state_changes (main_user, conversation_id, version) SELECT * FROM new \
         ON CONFLICT (main_user, conversation_id) DO UPDATE SET version = excluded.version",
    );
    sqlx::query(sql)
        .bind(changes.iter().map(|(user, ..)| user.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|(.., version)| *version).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}
