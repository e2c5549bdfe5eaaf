//! State versions: each user's number counts the changes of the user's own state.

use im_core::{ConversationId, Incarnation, Result, StateVersion, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};
use std::sync::Arc;

use crate::{
    error::failed,
    rows::Columns,
    values::{MOST_ROWS, Values},
};

/// The version with a number.
pub(crate) fn version(incarnation: &Incarnation, number: i64) -> StateVersion {
    StateVersion::new(format!("{}-{number}", incarnation.as_str()))
}

/// The number of a version, if it is of this incarnation.
pub(crate) fn number_of(incarnation: &Incarnation, version: &StateVersion) -> Option<i64> {
    let number = version.as_str().strip_prefix(incarnation.as_str())?.strip_prefix('-')?;
    number.parse().ok().filter(|number| *number >= 0)
}

static NUMBERS: Values = Values::new(
    "SELECT v.column1, (SELECT max(version) FROM state_changes WHERE main_user = v.column2) FROM",
    2,
    "v WHERE v.column1 IS NOT NULL",
);

/// The present number of each user.
pub(crate) async fn numbers(
    conn: &mut SqliteConnection,
    users: &[UserId],
    operation: &'static str,
) -> Result<Vec<i64>> {
    let mut numbers = vec![0; users.len()];
    for (chunk, numbers) in users.chunks(MOST_ROWS).zip(numbers.chunks_mut(MOST_ROWS)) {
        let mut query = sqlx::query(AssertSqlSafe(NUMBERS.sql(chunk.len())));
        for (index, user) in chunk.iter().enumerate() {
            query = query.bind(index as i64).bind(Arc::<str>::from(user.clone()));
        }
        for row in query.fetch_all(&mut *conn).await.map_err(failed(operation))? {
            let columns = Columns::new(&row, 0, operation);
            numbers[columns.int(0)? as usize] = columns.optional_int(1)?.unwrap_or(0);
        }
    }
    Ok(numbers)
}

static RAISE: Values = Values::new(
    "INSERT INTO state_changes (main_user, conversation_id, version) SELECT column1, column2, 1 + \
     coalesce((SELECT max(version) FROM state_changes WHERE main_user = column1), 0) FROM",
    2,
    "WHERE column1 IS NOT NULL ON CONFLICT DO UPDATE SET version = excluded.version",
);

/// Raises the version of users because of a conversation, within a transaction; each user once.
pub(crate) async fn raise(
    conn: &mut SqliteConnection,
    conversation: &ConversationId,
    users: &[UserId],
) -> sqlx::Result<()> {
    for chunk in users.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(RAISE.sql(chunk.len())));
        for user in chunk {
            query = query.bind(Arc::<str>::from(user.clone())).bind(Arc::<str>::from(conversation.clone()));
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

static SET: Values = Values::new(
    "INSERT INTO state_changes (main_user, conversation_id, version) SELECT * FROM",
    3,
    "WHERE column1 IS NOT NULL ON CONFLICT DO UPDATE SET version = excluded.version",
);

/// Notes versions that the caller has counted, within a transaction.
pub(crate) async fn set(
    conn: &mut SqliteConnection,
    changes: &[(UserId, ConversationId, i64)],
) -> sqlx::Result<()> {
    for chunk in changes.chunks(MOST_ROWS) {
        let mut query = sqlx::query(AssertSqlSafe(SET.sql(chunk.len())));
        for (user, conversation, version) in chunk {
            query = query
                .bind(Arc::<str>::from(user.clone()))
                .bind(Arc::<str>::from(conversation.clone()))
                .bind(*version);
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}
