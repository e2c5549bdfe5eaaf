//! Presence: which sessions are alive, by the servers' clocks.
//!
//! A node that falls silent for the TTL is dead, and what it does later is another life of it: a session is of a life, and a life that
//! ended never comes back. So what was read of dead lives stays true, and a script on one user's key can be told of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use fred::types::{Value, scripts::Script};
use futures::future::try_join_all;
use im_core::{Connect, Connected, Gone, NodeId, Presence, Result, SessionId, SessionRef, UserId, WhenFull};

use crate::{
    answer::list,
    beat,
    connect::Inner,
    error::corrupt,
    packed::{Kept, Malformed, member},
};

static NODE_LIVE: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/node_live.lua")));
static NODES: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/nodes.lua")));
static SESSIONS: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/sessions.lua")));
static CONNECT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/connect.lua")));
static DISCONNECT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/disconnect.lua")));
static NODE_ENTER: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/node_enter.lua")));
static NODE_LEAVE: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/node_leave.lua")));

/// How many scripts are under way at once for one call.
pub(crate) const AT_ONCE: usize = 500;

/// The presence part.
#[derive(Debug, Clone)]
pub struct RedisPresence(pub(crate) Arc<Inner>);

/// The living nodes, with their lives.
pub(crate) type Living = HashMap<NodeId, u64>;

impl Inner {
    pub(crate) fn presence_ttl_ms(&self) -> i64 {
        i64::try_from(self.presence_ttl.as_millis()).unwrap_or(i64::MAX)
    }

    /// How long the keys of presence are kept that nobody renews, in ms: what dead nodes leave goes by itself.
    pub(crate) fn presence_kept_ms(&self) -> i64 {
        self.presence_ttl_ms().saturating_mul(10).max(3_600_000)
    }

    /// Says that a node lives. Its life, and the living nodes.
    pub(crate) async fn live(&self, operation: &'static str, node: &NodeId) -> Result<(u64, Living)> {
        let args = vec![node.as_str().into(), self.presence_ttl_ms().into()];
        let living = living(self.run(operation, &NODE_LIVE, self.keys.nodes(), args).await?, operation)?;
        let life = living.get(node).copied();
        Ok((life.ok_or_else(|| corrupt(operation, "a node that lives is not among the living"))?, living))
    }

    pub(crate) async fn living(&self, operation: &'static str) -> Result<Living> {
        living(self.run(operation, &NODES, self.keys.nodes(), Vec::new()).await?, operation)
    }

    /// All sessions of some users, those of the dead and the displaced ones too.
    async fn kept(&self, operation: &'static str, users: &[UserId]) -> Result<Vec<Vec<Kept>>> {
        let keys: Vec<_> = users.iter().map(|user| self.keys.sessions(user)).collect();
        let answer = list(operation, self.run(operation, &SESSIONS, keys, Vec::new()).await?)?;
        if answer.len() != users.len() {
            return Err(corrupt(operation, "an answer of another length"));
        }
        answer.into_iter().map(|sessions| kept(&list(operation, sessions)?, operation)).collect()
    }

    /// Notes that sessions are of a node.
    pub(crate) async fn enter(
        &self,
        operation: &'static str,
        node: &NodeId,
        members: impl IntoIterator<Item = Vec<u8>> + Send,
    ) -> Result<()> {
        let mut args = vec![self.presence_kept_ms().into()];
        args.extend(members.into_iter().map(bytes));
        self.run(operation, &NODE_ENTER, self.keys.node_sessions(node), args).await.map(drop)
    }

    /// Sessions are not of a node any more; each with the text of when it was noted, or with none: whenever.
    pub(crate) async fn leave(
        &self,
        operation: &'static str,
        node: &NodeId,
        members: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)> + Send,
    ) -> Result<()> {
        let args = members.into_iter().flat_map(|(member, noted)| [bytes(member), bytes(noted)]).collect();
        self.run(operation, &NODE_LEAVE, self.keys.node_sessions(node), args).await.map(drop)
    }

    /// Removes a session of a user: of the node, whatever it is; without a node unless it was displaced. The node that it was of.
    pub(crate) async fn remove(
        &self,
        operation: &'static str,
        user: &UserId,
        session: &SessionId,
        node: Option<&NodeId>,
    ) -> Result<Option<NodeId>> {
        let displaced = if node.is_some() { "1" } else { "0" };
        let node = node.map(NodeId::as_str).unwrap_or_default();
        let args = vec![session.as_str().into(), node.into(), displaced.into()];
        let was_of = self.run(operation, &DISCONNECT, self.keys.sessions(user), args).await?;
        was_of.as_bytes().map(|node| id(node, operation)).transpose()
    }
}

/// An argument that need not be text.
fn bytes(bytes: Vec<u8>) -> Value {
    Value::Bytes(bytes.into())
}

pub(crate) fn id(text: &[u8], operation: &'static str) -> Result<NodeId> {
    let text = std::str::from_utf8(text).map_err(|_| corrupt(operation, "a node's id is no text"))?;
    NodeId::new(text).map_err(|_| corrupt(operation, "a node's id is none"))
}

fn living(answer: Value, operation: &'static str) -> Result<Living> {
    let node = |pair: &[Value]| {
        let node = id(pair[0].as_bytes().unwrap_or_default(), operation)?;
        let life = pair[1].as_u64().ok_or_else(|| corrupt(operation, "a life is no number"))?;
        Ok((node, life))
    };
    list(operation, answer)?.as_chunks::<2>().0.iter().map(|pair| node(pair)).collect()
}

fn kept(values: &[Value], operation: &'static str) -> Result<Vec<Kept>> {
    let one = |pair: &[Value; 2]| {
        let [id, packed] = pair.each_ref().map(|value| value.as_bytes().unwrap_or_default());
        Kept::parse(id, packed)
    };
    values.as_chunks::<2>().0.iter().map(one).collect::<Result<_, _>>().map_err(Malformed::of(operation))
}

#[async_trait]
impl Presence for RedisPresence {
    fn ttl(&self) -> Duration {
        self.0.presence_ttl
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        let (operation, session) = ("presence.connect", &request.session);
        let inner = &*self.0;
        let member = member(&request.user, &session.id);
        // Noted first: else nobody would remove a session whose connect was given up half-way.
        let noted = inner.enter(operation, &session.node, [member.clone()]);
        let kept = inner.kept(operation, std::slice::from_ref(&request.user));
        let ((), kept) = futures::try_join!(noted, kept)?;
        // After what is kept was read: a node connects when it lives already, so one that is not alive now is dead.
        let (life, living) = inner.live(operation, &session.node).await?;
        let dead: HashSet<_> = kept
            .iter()
            .flatten()
            .filter(|kept| living.get(&kept.session.node) != Some(&kept.life))
            .map(|kept| [&kept.life.to_be_bytes(), kept.session.node.as_str().as_bytes()].concat())
            .collect();
        let call: [u8; 16] = rand::random();
        let mut args = vec![
            session.id.as_str().into(),
            bytes(call.to_vec()),
            session.node.as_str().into(),
            Value::Integer(life as i64),
            session.device.as_str().into(),
            session.platform.as_str().into(),
            request.slot.as_str().into(),
            Value::Integer(i64::try_from(request.max.max(1)).unwrap_or(i64::MAX)),
            if request.when_full == WhenFull::RejectNew { "1" } else { "0" }.into(),
            inner.presence_kept_ms().into(),
        ];
        args.extend(dead.into_iter().map(bytes));
        let answer = inner.run(operation, &CONNECT, inner.keys.sessions(&request.user), args).await?;
        let answer = list(operation, answer)?;
        match answer.first().and_then(Value::as_i64) {
            Some(1) => {
                let displaced = self::kept(&answer[1..], operation)?;
                Ok(Connected::Accepted(displaced.into_iter().map(|kept| kept.session).collect()))
            }
            Some(0) => {
                // If it stays, a beat removes it.
                let _ = inner.leave(operation, &session.node, [(member, Vec::new())]).await;
                Ok(Connected::Refused)
            }
            Some(2) => Ok(Connected::Refused),
            _ => Err(corrupt(operation, "no answer to a connect")),
        }
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        let operation = "presence.disconnect";
        for some in sessions.chunks(AT_ONCE) {
            // A displaced one stays until a beat does not name it: else a beat that is under way would call it forgotten.
            let removed = some.iter().map(async |(user, session)| {
                let was_of = self.0.remove(operation, user, session, None).await?;
                Ok(was_of.map(|node| (node, (member(user, session), Vec::new()))))
            });
            let mut by_node = HashMap::<NodeId, Vec<_>>::new();
            for (node, member) in try_join_all(removed).await?.into_iter().flatten() {
                by_node.entry(node).or_default().push(member);
            }
            let left = by_node
                .into_iter()
                .map(async |(node, members)| self.0.leave(operation, &node, members).await);
            try_join_all(left).await?;
        }
        Ok(())
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        beat::beat(&self.0, node, held).await
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        let operation = "presence.sessions";
        let mut all = Vec::with_capacity(users.len());
        for some in users.chunks(AT_ONCE) {
            let scripts = some.chunks(self.0.together()).map(|users| self.0.kept(operation, users));
            all.extend(try_join_all(scripts).await?.into_iter().flatten());
        }
        if all.iter().all(Vec::is_empty) {
            return Ok(vec![Vec::new(); users.len()]);
        }
        // After the sessions were read: a node that connects one lives already.
        let living = self.0.living(operation).await?;
        let of_user = |mut kept: Vec<Kept>| {
            kept.retain(|kept| !kept.is_displaced && living.get(&kept.session.node) == Some(&kept.life));
            kept.sort_unstable_by_key(|kept| kept.number);
            kept.into_iter().map(|kept| kept.session).collect()
        };
        Ok(all.into_iter().map(of_user).collect())
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        Ok(self.0.living("presence.nodes").await?.into_keys().collect())
    }
}
