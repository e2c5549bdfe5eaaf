//! Presence: which sessions are alive, by the server's clock.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use im_core::{
    Connect, Connected, DeviceId, Gone, NodeId, Platform, Presence, Result, SessionId, SessionRef, UserId,
    WhenFull,
};
use sqlx::PgConnection;

use crate::{
    connect::{Inner, detached, now},
    error::failed,
    messages::index,
    rows::{Columns, limit},
};

const CONNECT: &str = "presence.connect";
const BEAT: &str = "presence.beat";

/// How many sessions of dead nodes one beat removes.
const BURIED: i64 = 1000;

/// The presence part.
#[derive(Debug, Clone)]
pub struct PgPresence(pub(crate) Arc<Inner>);

/// The node of a session `s`, if it lives.
macro_rules! join_living {
    () => {
        concat!(" JOIN {im}.nodes n ON n.node = s.node AND n.life = s.life AND n.until > ", now!())
    };
}

macro_rules! session_columns {
    () => {
        "s.session, s.node, s.device, s.platform"
    };
}

fn session(columns: Columns<'_>) -> Result<SessionRef> {
    Ok(SessionRef {
        id: columns.parse(0, SessionId::new)?,
        node: columns.parse(1, NodeId::new)?,
        device: columns.parse(2, DeviceId::new)?,
        platform: columns.parse(3, Platform::new)?,
    })
}

/// Says that a node lives, and which life it is in. Where it is known to live for long enough the row is left alone: all connects of
/// a node would wait for each other at it.
async fn live(
    inner: &Inner,
    conn: &mut PgConnection,
    node: &NodeId,
    renew_below: Duration,
) -> sqlx::Result<i64> {
    let sql = inner.sql(concat!(
        "INSERT INTO {im}.nodes AS known (node, until, life) VALUES ($1, ",
        now!(),
        " + $2, ",
        now!(),
        ") ON CONFLICT (node) DO UPDATE SET until = excluded.until, \
         life = CASE WHEN known.until > ",
        now!(),
        " THEN known.life ELSE excluded.life END WHERE known.until < ",
        now!(),
        " + $3"
    ));
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
    sqlx::query(sql)
        .bind(node.as_str())
        .bind(millis(inner.presence_ttl))
        .bind(millis(renew_below))
        .execute(&mut *conn)
        .await?;
    let sql = inner.sql("SELECT life FROM {im}.nodes WHERE node = $1");
    sqlx::query_scalar(sql).bind(node.as_str()).fetch_one(conn).await
}

async fn connect(inner: Arc<Inner>, request: Connect) -> Result<Connected> {
    let mut transaction = inner.pool.begin().await.map_err(failed(CONNECT))?;
    // One connect of a slot at a time.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/slot/' || $2 || '/' || $3, 0))")
        .bind(&inner.name)
        .bind(request.user.as_str())
        .bind(&request.slot)
        .execute(&mut *transaction)
        .await
        .map_err(failed(CONNECT))?;
    let life = live(&inner, &mut transaction, &request.session.node, inner.presence_ttl / 2)
        .await
        .map_err(failed(CONNECT))?;
    let rivals = rivals(&inner, &mut transaction, &request).await?;
    let over = (rivals.len() + 1).saturating_sub(request.max.max(1));
    if over > 0 && request.when_full == WhenFull::RejectNew {
        return Ok(Connected::Refused);
    }
    let displaced: Vec<_> = rivals.into_iter().take(over).collect();
    enter(&inner, &mut transaction, &request, life, &displaced).await.map_err(failed(CONNECT))?;
    transaction.commit().await.map_err(failed(CONNECT))?;
    Ok(Connected::Accepted(displaced))
}

/// The other living sessions of the slot, oldest first.
async fn rivals(inner: &Inner, conn: &mut PgConnection, request: &Connect) -> Result<Vec<SessionRef>> {
    let sql = inner.sql(concat!(
        "SELECT ",
        session_columns!(),
        " FROM {im}.sessions s",
        join_living!(),
        " WHERE s.user_id = $1 AND s.slot = $2 AND s.session <> $3 AND NOT s.displaced ORDER BY s.number"
    ));
    let rows = sqlx::query(sql)
        .bind(request.user.as_str())
        .bind(&request.slot)
        .bind(request.session.id.as_str())
        .fetch_all(conn)
        .await
        .map_err(failed(CONNECT))?;
    rows.iter().map(|row| session(Columns::new(row, 0, CONNECT))).collect()
}

async fn enter(
    inner: &Inner,
    conn: &mut PgConnection,
    request: &Connect,
    life: i64,
    displaced: &[SessionRef],
) -> sqlx::Result<()> {
    // A row that is there is that of a connect whose outcome was not known.
    let sql = inner.sql(
        "WITH displaced AS (UPDATE {im}.sessions SET displaced = true WHERE user_id = $1 AND session = ANY($8)) \
         INSERT INTO {im}.sessions (user_id, session, slot, node, life, device, platform, displaced) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, false) ON CONFLICT (user_id, session) DO UPDATE SET slot = excluded.slot, \
         node = excluded.node, life = excluded.life, device = excluded.device, platform = excluded.platform, displaced = false, \
         number = DEFAULT",
    );
    let session = &request.session;
    sqlx::query(sql)
        .bind(request.user.as_str())
        .bind(session.id.as_str())
        .bind(&request.slot)
        .bind(session.node.as_str())
        .bind(life)
        .bind(session.device.as_str())
        .bind(session.platform.as_str())
        .bind(displaced.iter().map(|gone| gone.id.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

/// A session that the table has for a node.
struct Row {
    slot: String,
    is_own: bool,
    displaced: bool,
}

type Key = (UserId, SessionId);

async fn beat(inner: Arc<Inner>, node: NodeId, held: Vec<Key>) -> Result<Vec<(SessionId, Gone)>> {
    let mut transaction = inner.pool.begin().await.map_err(failed(BEAT))?;
    let ttl = inner.presence_ttl;
    let life = live(&inner, &mut transaction, &node, ttl * 2).await.map_err(failed(BEAT))?;
    let rows = rows(&inner, &mut transaction, &node, life).await?;
    let holds: HashSet<&Key> = held.iter().collect();
    // Displaced ones are kept until the node no longer holds them: the answer to this beat may be lost.
    let left: Vec<&Key> = rows
        .iter()
        .filter(|(key, row)| !holds.contains(key) || !(row.is_own || row.displaced))
        .map(|(key, _)| key)
        .collect();
    remove(&inner, &mut transaction, &left).await.map_err(failed(BEAT))?;
    let mut gone = Vec::new();
    for key in &held {
        match rows.get(key) {
            Some(row) if row.is_own && !row.displaced => {}
            Some(row) if row.displaced => {
                let has_rival = has_rival(&inner, &mut transaction, &key.0, &row.slot).await;
                let has_rival = has_rival.map_err(failed(BEAT))?;
                gone.push((key.1.clone(), if has_rival { Gone::Displaced } else { Gone::Forgotten }));
            }
            _ => gone.push((key.1.clone(), Gone::Forgotten)),
        }
    }
    bury(&inner, &mut transaction).await.map_err(failed(BEAT))?;
    transaction.commit().await.map_err(failed(BEAT))?;
    Ok(gone)
}

async fn rows(inner: &Inner, conn: &mut PgConnection, node: &NodeId, life: i64) -> Result<HashMap<Key, Row>> {
    let sql =
        inner.sql("SELECT user_id, session, slot, life = $2, displaced FROM {im}.sessions WHERE node = $1");
    let rows = sqlx::query(sql).bind(node.as_str()).bind(life).fetch_all(conn).await.map_err(failed(BEAT))?;
    let read = |columns: Columns<'_>| {
        let key = (columns.parse(0, UserId::new)?, columns.parse(1, SessionId::new)?);
        let (slot, is_own, displaced) = (columns.get(2)?, columns.get(3)?, columns.get(4)?);
        Ok((key, Row { slot, is_own, displaced }))
    };
    rows.iter().map(|row| read(Columns::new(row, 0, BEAT))).collect()
}

async fn remove(inner: &Inner, conn: &mut PgConnection, keys: &[&Key]) -> sqlx::Result<()> {
    let sql = inner.sql(
        "DELETE FROM {im}.sessions s USING unnest($1::text[], $2::text[]) AS k (user_id, session) \
         WHERE s.user_id = k.user_id AND s.session = k.session",
    );
    sqlx::query(sql)
        .bind(keys.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, session)| session.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

async fn has_rival(inner: &Inner, conn: &mut PgConnection, user: &UserId, slot: &str) -> sqlx::Result<bool> {
    let sql = inner.sql(concat!(
        "SELECT EXISTS (SELECT 1 FROM {im}.sessions s",
        join_living!(),
        " WHERE s.user_id = $1 AND s.slot = $2 AND NOT s.displaced)"
    ));
    sqlx::query_scalar(sql).bind(user.as_str()).bind(slot).fetch_one(conn).await
}

/// Removes sessions of nodes that are dead, and then the nodes.
async fn bury(inner: &Inner, conn: &mut PgConnection) -> sqlx::Result<()> {
    let sql = inner.sql(concat!(
        "DELETE FROM {im}.sessions WHERE (user_id, session) IN (SELECT s.user_id, s.session FROM {im}.sessions s \
         LEFT JOIN {im}.nodes n ON n.node = s.node WHERE n.node IS NULL OR n.until < ",
        now!(),
        " LIMIT $1 FOR UPDATE OF s SKIP LOCKED)"
    ));
    sqlx::query(sql).bind(limit(BURIED as usize)).execute(&mut *conn).await?;
    let sql = inner.sql(concat!(
        "DELETE FROM {im}.nodes WHERE node IN (SELECT n.node FROM {im}.nodes n WHERE n.until < ",
        now!(),
        " AND NOT EXISTS (SELECT 1 FROM {im}.sessions s WHERE s.node = n.node) FOR UPDATE SKIP LOCKED)"
    ));
    sqlx::query(sql).execute(conn).await.map(drop)
}

#[async_trait]
impl Presence for PgPresence {
    fn ttl(&self) -> Duration {
        self.0.presence_ttl
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        detached(CONNECT, connect(self.0.clone(), request.clone())).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        let operation = "presence.disconnect";
        let mut conn = self.0.pool.acquire().await.map_err(failed(operation))?;
        let keys: Vec<&Key> = sessions.iter().collect();
        remove(&self.0, &mut conn, &keys).await.map_err(failed(operation))
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        detached(BEAT, beat(self.0.clone(), node.clone(), held.to_vec())).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        let operation = "presence.sessions";
        let sql = self.0.sql(concat!(
            "SELECT ",
            session_columns!(),
            ", k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (user_id, at) \
             JOIN {im}.sessions s ON s.user_id = k.user_id AND NOT s.displaced",
            join_living!(),
            " ORDER BY s.number"
        ));
        let rows = sqlx::query(sql)
            .bind(users.iter().map(UserId::as_str).collect::<Vec<_>>())
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(operation))?;
        let mut sessions = vec![Vec::new(); users.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            sessions[index(columns, 4)?].push(session(columns)?);
        }
        Ok(sessions)
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        let operation = "presence.nodes";
        let sql = self.0.sql(concat!("SELECT node FROM {im}.nodes WHERE until > ", now!(), " ORDER BY node"));
        let rows = sqlx::query(sql).fetch_all(&self.0.pool).await.map_err(failed(operation))?;
        rows.iter().map(|row| Columns::new(row, 0, operation).parse(0, NodeId::new)).collect()
    }
}
