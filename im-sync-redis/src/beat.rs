//! The beats of nodes, and what of their sessions is left.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
    time::Duration,
};

use fred::types::{Value, scripts::Script};
use futures::future::try_join_all;
use im_core::{Error, Gone, NodeId, Outcome, Result, SessionId, UserId};

use crate::{
    answer::list,
    connect::Inner,
    error::corrupt,
    packed::{Malformed, member, of_member},
    presence::{AT_ONCE, id},
};

static BEAT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/beat.lua")));
static NODE_SESSIONS: LazyLock<Script> =
    LazyLock::new(|| Script::from_lua(include_str!("lua/node_sessions.lua")));

const OPERATION: &str = "presence.beat";
/// How long a session may be noted for its node without being there: a connect is under way. Longer than a command may take.
const UNDER_WAY: Duration = Duration::from_secs(600);

/// The sessions of one user that a node holds, by their places in the call.
type OfUser<'a> = (&'a UserId, Vec<usize>);

pub(crate) async fn beat(
    inner: &Inner,
    node: &NodeId,
    held: &[(UserId, SessionId)],
) -> Result<Vec<(SessionId, Gone)>> {
    let ((life, _), begun) = futures::try_join!(inner.live(OPERATION, node), noted(inner, node, None))?;
    let beat = Beat { inner, node, life, begun: begun.now, held };
    // The node has said that it lives.
    beat.run().await.map_err(|error: Error| error.with_outcome(Outcome::Unknown))
}

/// The sessions that are noted for a node.
struct Noted {
    /// The time at the server that keeps them, in µs.
    now: u64,
    /// Each, followed by when it was noted; none where they are as many as they should be.
    others: Option<Vec<Value>>,
}

/// Reads what is noted for a node, unless it is as much as it should be; without a number only the time.
async fn noted(inner: &Inner, node: &NodeId, due: Option<usize>) -> Result<Noted> {
    let due = due.map(|due| due.to_string()).unwrap_or_default();
    let args = vec![inner.presence_kept_ms().into(), due.into()];
    let mut answer =
        list(OPERATION, inner.run(OPERATION, &NODE_SESSIONS, inner.keys.node_sessions(node), args).await?)?;
    let rest = (answer.len() >= 2).then(|| answer.split_off(2));
    let (Some([now, differs]), Some(rest)) = (answer.first_chunk(), rest) else {
        return Err(corrupt(OPERATION, "a node's sessions cannot be read"));
    };
    let now = now.as_u64().ok_or_else(|| corrupt(OPERATION, "the server's time is no number"))?;
    Ok(Noted { now, others: (differs.as_u64() != Some(0)).then_some(rest) })
}

struct Beat<'a> {
    inner: &'a Inner,
    node: &'a NodeId,
    life: u64,
    /// When this beat began, in µs, by the server that notes the node's sessions.
    begun: u64,
    held: &'a [(UserId, SessionId)],
}

/// Why a session is not the node's own.
enum Why {
    Unknown,
    /// By whom, perhaps: the nodes of the sessions in its slot, with their lives.
    Displaced(Vec<(NodeId, u64)>),
}

impl Beat<'_> {
    async fn run(self) -> Result<Vec<(SessionId, Gone)>> {
        let gone = self.gone().await?;
        self.remove_others(&gone).await?;
        // Read after the rivals: a node that connects one lives already.
        let is_displaced = gone.values().any(|why| matches!(why, Why::Displaced(_)));
        let living = if is_displaced { self.inner.living(OPERATION).await? } else { HashMap::new() };
        let why = |at: usize| {
            let gone = match gone.get(&at)? {
                Why::Displaced(by) if by.iter().any(|(node, life)| living.get(node) == Some(life)) => {
                    Gone::Displaced
                }
                _ => Gone::Forgotten,
            };
            Some((self.held[at].1.clone(), gone))
        };
        Ok((0..self.held.len()).filter_map(why).collect())
    }

    fn member(&self, at: usize) -> Vec<u8> {
        member(&self.held[at].0, &self.held[at].1)
    }

    /// What the node holds and is not its own any more, by its place.
    async fn gone(&self) -> Result<HashMap<usize, Why>> {
        let mut by_user = HashMap::<_, Vec<_>>::new();
        for (at, (user, _)) in self.held.iter().enumerate() {
            by_user.entry(user).or_default().push(at);
        }
        let users: Vec<OfUser<'_>> = by_user.into_iter().collect();
        let mut gone = HashMap::new();
        for some in users.chunks(AT_ONCE) {
            let answers = try_join_all(some.iter().map(|of_user| self.gone_of(of_user))).await?;
            gone.extend(answers.into_iter().flatten());
        }
        Ok(gone)
    }

    async fn gone_of(&self, (user, places): &OfUser<'_>) -> Result<Vec<(usize, Why)>> {
        let mut args = vec![
            self.node.as_str().into(),
            Value::Integer(self.life as i64),
            self.inner.presence_kept_ms().into(),
        ];
        args.extend(places.iter().map(|at| Value::from(self.held[*at].1.as_str())));
        let answer = self.inner.run(OPERATION, &BEAT, self.inner.keys.sessions(user), args).await?;
        let malformed = || corrupt(OPERATION, "the answer to a beat cannot be read");
        let mut values = list(OPERATION, answer)?.into_iter();
        let mut gone = Vec::new();
        while let Some(place) = values.next() {
            let mut number = || values.next().as_ref().and_then(Value::as_u64).ok_or_else(malformed);
            let (is_displaced, rivals) = (number()? == 1, number()?);
            let at = place.as_u64().and_then(|place| places.get(place as usize)).ok_or_else(malformed)?;
            let mut by = Vec::new();
            for _ in 0..rivals {
                let (node, life) = values.next().zip(values.next()).ok_or_else(malformed)?;
                let life = life.as_u64().ok_or_else(malformed)?;
                by.push((id(node.as_bytes().unwrap_or_default(), OPERATION)?, life));
            }
            gone.push((*at, if is_displaced { Why::Displaced(by) } else { Why::Unknown }));
        }
        Ok(gone)
    }

    /// Removes what the node does not hold, of what is noted for it. What a connect is at work on is left for the next beat: it is noted
    /// and not there yet, or was noted after this beat began, whose node could not know it.
    async fn remove_others(&self, gone: &HashMap<usize, Why>) -> Result<()> {
        let unknown = gone.values().filter(|why| matches!(why, Why::Unknown)).count();
        let due = self.held.len() - unknown;
        let Noted { now, others: Some(noted) } = noted(self.inner, self.node, Some(due)).await? else {
            return Ok(());
        };
        let is_known = |at: &usize| !matches!(gone.get(at), Some(Why::Unknown));
        let mut known: HashSet<_> = (0..self.held.len()).filter(is_known).map(|at| self.member(at)).collect();
        let held: HashSet<_> = (0..self.held.len()).map(|at| self.member(at)).collect();
        let mut left = Vec::new();
        let mut others = Vec::new();
        for [member, when] in noted.as_chunks().0 {
            let (member, when) = (member.as_bytes().unwrap_or_default(), when.as_bytes().unwrap_or_default());
            if known.remove(member) {
                continue;
            }
            let at = std::str::from_utf8(when).ok().and_then(|when| when.parse::<f64>().ok()).unwrap_or(0.0);
            let is_old = now as f64 - at > UNDER_WAY.as_micros() as f64;
            if held.contains(member) {
                left.extend(is_old.then(|| (member.to_vec(), when.to_vec())));
            } else if at <= self.begun as f64 {
                others.push((member, when, is_old));
            }
        }
        for some in others.chunks(AT_ONCE) {
            let removed = some.iter().map(async |&(member, when, is_old)| {
                let (user, session) = of_member(member).map_err(Malformed::of(OPERATION))?;
                let was_of = self.inner.remove(OPERATION, &user, &session, Some(self.node)).await?;
                Ok((was_of.is_some() || is_old).then(|| (member.to_vec(), when.to_vec())))
            });
            left.extend(try_join_all(removed).await?.into_iter().flatten());
        }
        for some in left.chunks(AT_ONCE) {
            self.inner.leave(OPERATION, self.node, some.to_vec()).await?;
        }
        self.note_again(known).await
    }

    /// Notes sessions that are there and are not noted: the set was lost.
    async fn note_again(&self, members: HashSet<Vec<u8>>) -> Result<()> {
        let members: Vec<_> = members.into_iter().collect();
        for some in members.chunks(AT_ONCE) {
            self.inner.enter(OPERATION, self.node, some.to_vec()).await?;
        }
        Ok(())
    }
}
