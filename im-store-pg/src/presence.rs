//! Presence: which sessions are alive, by the server's clock.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Connect, Connected, DeviceId, Gone, NodeId, Platform, Presence, Result, SessionId, SessionRef, UserId,
    WhenFull,
};

use crate::{
    beat,
    connect::{Inner, detached, now},
    error::failed,
    messages::index,
    pool::Conn,
    rows::Columns,
};

const CONNECT: &str = "presence.connect";

/// How seldom connects say that their node lives, at least; a tenth of the TTL where that is less.
const RECENTLY: Duration = Duration::from_secs(1);

/// The presence part.
#[derive(Debug, Clone)]
pub struct PgPresence(pub(crate) Arc<Inner>);

/// The node of a session, if it lives.
macro_rules! join_living {
    ($session:literal) => {
        concat!(
            " JOIN {im}.nodes n ON n.node = ",
            $session,
            ".node AND n.life = ",
            $session,
            ".life AND n.until > ",
            crate::connect::now!()
        )
    };
}
pub(crate) use join_living;

macro_rules! session_columns {
    () => {
        "s.session, s.node, s.device, s.platform, s.number"
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

async fn connect(inner: Arc<Inner>, request: Connect) -> Result<Connected> {
    let recently = RECENTLY.min(inner.presence_ttl / 10);
    // Before the transaction: all connects of a node would wait for each other's ends at its row.
    let life = beat::live(&inner, &request.session.node, recently).await.map_err(failed(CONNECT))?;
    let mut transaction = inner.pool.begin().await.map_err(failed(CONNECT))?;
    lock(&inner, &mut transaction, &request).await.map_err(failed(CONNECT))?;
    let rivals = rivals(&inner, &mut transaction, &request).await?;
    let over = (rivals.len() + 1).saturating_sub(request.max.max(1));
    if over > 0 && request.when_full == WhenFull::RejectNew {
        return transaction.rollback().await.map(|()| Connected::Refused).map_err(failed(CONNECT));
    }
    let displaced: Vec<_> = rivals.into_iter().take(over).collect();
    enter(&inner, &mut transaction, &request, life, &displaced).await.map_err(failed(CONNECT))?;
    transaction.commit().await.map_err(failed(CONNECT))?;
    Ok(Connected::Accepted(displaced))
}

/// One connect of a slot at a time, until the commit.
async fn lock(inner: &Inner, conn: &mut Conn, request: &Connect) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/slot/' || $2 || '/' || $3, 0))")
        .bind(&inner.name)
        .bind(request.user.as_str())
        .bind(&request.slot)
        .execute(conn)
        .await
        .map(drop)
}

/// The other living sessions of the slot, oldest first. Their rows are taken in the order of the key, as by all who take several.
async fn rivals(inner: &Inner, conn: &mut Conn, request: &Connect) -> Result<Vec<SessionRef>> {
    let sql = inner.sql(concat!(
        "SELECT ",
        session_columns!(),
        " FROM {im}.sessions s",
        join_living!("s"),
        " WHERE s.user_id = $1 AND s.slot = $2 AND s.session <> $3 AND NOT s.displaced ORDER BY s.session FOR UPDATE OF s"
    ));
    let rows = sqlx::query(sql)
        .bind(request.user.as_str())
        .bind(&request.slot)
        .bind(request.session.id.as_str())
        .fetch_all(conn)
        .await
        .map_err(failed(CONNECT))?;
    let numbered = |columns: Columns<'_>| Ok((columns.int(4)?, session(columns)?));
    let mut rivals =
        rows.iter().map(|row| numbered(Columns::new(row, 0, CONNECT))).collect::<Result<Vec<_>>>()?;
    rivals.sort_unstable_by_key(|(number, _)| *number);
    Ok(rivals.into_iter().map(|(_, session)| session).collect())
}

async fn enter(
    inner: &Inner,
    conn: &mut Conn,
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

#[async_trait]
impl Presence for PgPresence {
    fn ttl(&self) -> Duration {
        self.0.presence_ttl
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        detached(CONNECT, connect(self.0.clone(), request.clone())).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        // A displaced one stays until a beat does not name it: else a beat that is under way would call it forgotten.
        let sql = self.0.sql(
            "DELETE FROM {im}.sessions WHERE ctid = ANY (ARRAY (SELECT s.ctid FROM unnest($1::text[], $2::text[]) \
             AS k (user_id, session) JOIN {im}.sessions s ON s.user_id = k.user_id AND s.session = k.session AND NOT s.displaced \
             ORDER BY s.user_id, s.session FOR UPDATE OF s))",
        );
        sqlx::query(sql)
            .bind(sessions.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>())
            .bind(sessions.iter().map(|(_, session)| session.as_str()).collect::<Vec<_>>())
            .execute(&self.0.pool)
            .await
            .map(drop)
            .map_err(failed("presence.disconnect"))
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        beat::beat(&self.0, node, held).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        let operation = "presence.sessions";
        // OFFSET 0: each user is looked up by the index, whatever the planner thinks of the table.
        let sql = self.0.sql(concat!(
            "SELECT s.*, k.at FROM unnest($1::text[]) WITH ORDINALITY AS k (user_id, at) CROSS JOIN LATERAL (SELECT ",
            session_columns!(),
            " FROM {im}.sessions s",
            join_living!("s"),
            " WHERE s.user_id = k.user_id AND NOT s.displaced OFFSET 0) s ORDER BY s.number"
        ));
        let query = sqlx::query(sql).bind(users.iter().map(UserId::as_str).collect::<Vec<_>>());
        let rows = self.0.pool.read(query).await.map_err(failed(operation))?;
        let mut sessions = vec![Vec::new(); users.len()];
        for row in &rows {
            let columns = Columns::new(row, 0, operation);
            sessions[index(columns, 5)?].push(session(columns)?);
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
