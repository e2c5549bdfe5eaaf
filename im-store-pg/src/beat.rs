//! The lives of nodes, and what of their sessions is left.
//!
//! Each statement stands alone: none holds a lock while another is waited for.

use std::time::Duration;

use im_core::{Error, Gone, NodeId, Outcome, Result, SessionId, UserId};

use crate::{
    connect::{Inner, now},
    error::failed,
    presence::join_living,
    rows::Columns,
};

const OPERATION: &str = "presence.beat";

/// How many sessions of dead nodes one beat removes.
const BURIED: i64 = 1000;

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// Says that a node lives, and which life it is in. One that was said so no longer than `recently` ago is left alone: its row would be
/// written for each of its sessions.
pub(crate) async fn live(inner: &Inner, node: &NodeId, recently: Duration) -> sqlx::Result<i64> {
    let sql = inner.sql(concat!(
        "WITH known AS (SELECT life FROM {im}.nodes WHERE node = $1 AND until > ",
        now!(),
        " + $3), renewed AS (INSERT INTO {im}.nodes AS n (node, until, life) SELECT $1, ",
        now!(),
        " + $2, ",
        now!(),
        " WHERE NOT EXISTS (SELECT 1 FROM known) ON CONFLICT (node) DO UPDATE SET until = excluded.until, \
         life = CASE WHEN n.until > ",
        now!(),
        " THEN n.life ELSE excluded.life END RETURNING life) SELECT life FROM renewed UNION ALL SELECT life FROM known"
    ));
    let ttl = inner.presence_ttl;
    sqlx::query_scalar(sql)
        .bind(node.as_str())
        .bind(millis(ttl))
        .bind(millis(ttl.saturating_sub(recently)))
        .fetch_one(&inner.pool)
        .await
}

pub(crate) async fn beat(
    inner: &Inner,
    node: &NodeId,
    held: &[(UserId, SessionId)],
) -> Result<Vec<(SessionId, Gone)>> {
    let life = live(inner, node, Duration::ZERO).await.map_err(failed(OPERATION))?;
    let held = Held {
        inner,
        node,
        life,
        users: held.iter().map(|(user, _)| user.as_str()).collect(),
        sessions: held.iter().map(|(_, session)| session.as_str()).collect(),
    };
    let held = async {
        held.remove_others().await.map_err(failed(OPERATION))?;
        let gone = held.gone().await?;
        bury(inner).await.map_err(failed(OPERATION))?;
        Ok(gone)
    };
    // The node has said that it lives.
    held.await.map_err(|error: Error| error.with_outcome(Outcome::Unknown))
}

/// What a node says that it holds.
struct Held<'a> {
    inner: &'a Inner,
    node: &'a NodeId,
    life: i64,
    users: Vec<&'a str>,
    sessions: Vec<&'a str>,
}

impl Held<'_> {
    /// Removes what the node does not hold, or held in another life. A displaced session is kept until the node no longer holds it:
    /// the answer to a beat may be lost. What a connect is at work on is left for the next beat.
    async fn remove_others(&self) -> sqlx::Result<()> {
        let sql = self.inner.sql(
            "DELETE FROM {im}.sessions WHERE ctid = ANY (ARRAY (SELECT s.ctid FROM {im}.sessions s \
             LEFT JOIN unnest($3::text[], $4::text[]) AS k (user_id, session) ON k.user_id = s.user_id AND k.session = s.session \
             WHERE s.node = $1 AND (k.session IS NULL OR (s.life <> $2 AND NOT s.displaced)) FOR UPDATE OF s SKIP LOCKED))",
        );
        sqlx::query(sql)
            .bind(self.node.as_str())
            .bind(self.life)
            .bind(&self.users)
            .bind(&self.sessions)
            .execute(&self.inner.pool)
            .await
            .map(drop)
    }

    /// What the node holds and is not its own any more.
    async fn gone(&self) -> Result<Vec<(SessionId, Gone)>> {
        let sql = self.inner.sql(concat!(
            "SELECT k.session, coalesce(s.displaced, false) AND EXISTS (SELECT 1 FROM {im}.sessions r",
            join_living!("r"),
            " WHERE r.user_id = s.user_id AND r.slot = s.slot AND NOT r.displaced) \
             FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS k (user_id, session, at) LEFT JOIN {im}.sessions s \
             ON s.user_id = k.user_id AND s.session = k.session AND s.node = $1 \
             WHERE s.session IS NULL OR s.displaced OR s.life <> $2 ORDER BY k.at"
        ));
        let rows = sqlx::query(sql)
            .bind(self.node.as_str())
            .bind(self.life)
            .bind(&self.users)
            .bind(&self.sessions)
            .fetch_all(&self.inner.pool)
            .await
            .map_err(failed(OPERATION))?;
        let gone = |columns: Columns<'_>| {
            let why = if columns.get(1)? { Gone::Displaced } else { Gone::Forgotten };
            Ok((columns.parse(0, SessionId::new)?, why))
        };
        rows.iter().map(|row| gone(Columns::new(row, 0, OPERATION))).collect()
    }
}

/// Removes sessions of nodes that are dead, and later the nodes: when every connect that has seen one alive is over.
async fn bury(inner: &Inner) -> sqlx::Result<()> {
    // A later life's session may have taken a row in the meantime. The order makes the index the way to the rows: where most nodes
    // have many sessions and the dead ones have none left, all would be read to find none.
    let sql = inner.sql(concat!(
        "DELETE FROM {im}.sessions WHERE ctid = ANY (ARRAY (SELECT s.ctid FROM {im}.nodes n CROSS JOIN LATERAL \
         (SELECT s.ctid FROM {im}.sessions s WHERE s.node = n.node AND s.life <= n.life ORDER BY s.life LIMIT $1 \
         FOR UPDATE SKIP LOCKED) s WHERE n.until <= ",
        now!(),
        " LIMIT $1))"
    ));
    sqlx::query(sql).bind(BURIED).execute(&inner.pool).await?;
    let sql = inner.sql(concat!(
        "DELETE FROM {im}.nodes n WHERE n.until <= ",
        now!(),
        " - $1 AND (SELECT s.life FROM {im}.sessions s WHERE s.node = n.node ORDER BY s.life LIMIT 1) IS NULL"
    ));
    sqlx::query(sql).bind(millis(inner.presence_ttl * 10)).execute(&inner.pool).await.map(drop)
}
