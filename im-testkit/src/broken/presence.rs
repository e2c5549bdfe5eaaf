//! Presences that count wrong and remember the dead.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Connect, Connected, Gone, NodeId, Parts, Presence, Result, SessionId, SessionRef, UserId, WhenFull,
};

use super::{Broken, Shared, interleave};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("presence::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "atomic_connect" RacyConnect "look who is there, then connect: not in one step"
    "atomic_connect" OneMore "a slot holds one more than it may"
    "kick_or_reject" AlwaysKicks "a full slot never refuses"
    "dead_nodes_vanish" KeepsTheDead "sessions stay until they disconnect"
    "told_at_next_beat" TellsNothing "a beat is answered with nothing"
    "told_at_next_beat" AllForgotten "a displaced session is told of as forgotten"
    "live_nodes" KeepsNodes "a node that was ever there is listed"
    "own_disconnect_only" AllOfTheUser "a disconnect takes all sessions of the user"
    "hostile_ids" FoldsCase "users that differ in case only are one"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let wrap = |right| -> Arc<dyn Presence> { Arc::new(Wrapped { right, defect, shared: shared.clone() }) };
    Parts { presence: parts.presence.map(wrap), ..parts }
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn Presence>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    fn fold(&self, user: &UserId) -> UserId {
        let folded = UserId::new(user.as_str().to_lowercase());
        folded.ok().filter(|_| self.defect == Defect::FoldsCase).unwrap_or_else(|| user.clone())
    }

    async fn look_then_connect(&self, request: &Connect) -> Result<Connected> {
        let slot = (request.user.clone(), request.slot.clone());
        let mut there = self.shared.notes().slots.get(&slot).cloned().unwrap_or_default();
        interleave().await;
        if there.len() >= request.max && request.when_full == WhenFull::RejectNew {
            return Ok(Connected::Refused);
        }
        there.push(request.session.clone());
        let over = there.len().saturating_sub(request.max);
        let displaced: Vec<_> = there.drain(..over).collect();
        self.shared.notes().slots.insert(slot, there);
        let gone: Vec<_> = displaced.iter().map(|gone| (request.user.clone(), gone.id.clone())).collect();
        self.right.disconnect(&gone).await?;
        self.right.connect(&Connect { max: usize::MAX >> 1, ..request.clone() }).await?;
        Ok(Connected::Accepted(displaced))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Presence for Wrapped {
    fn ttl(&self) -> Duration {
        self.right.ttl()
    }

    async fn connect(&self, request: &Connect) -> Result<Connected> {
        let mut request = Connect { user: self.fold(&request.user), ..request.clone() };
        {
            let mut notes = self.shared.notes();
            notes.nodes.insert(request.session.node.clone());
            notes.sessions.entry(request.user.clone()).or_default().push(request.session.clone());
        }
        match self.defect {
            Defect::RacyConnect => return self.look_then_connect(&request).await,
            Defect::OneMore => request.max += 1,
            Defect::AlwaysKicks => request.when_full = WhenFull::KickOld,
            _ => {}
        }
        self.right.connect(&request).await
    }

    async fn disconnect(&self, sessions: &[(UserId, SessionId)]) -> Result<()> {
        let mut sessions: Vec<_> = sessions.iter().map(|(user, id)| (self.fold(user), id.clone())).collect();
        if self.defect == Defect::AllOfTheUser {
            let users: Vec<_> = sessions.iter().map(|(user, _)| user.clone()).collect();
            for (user, live) in users.iter().zip(self.right.sessions(&users).await?) {
                sessions.extend(live.into_iter().map(|live| (user.clone(), live.id)));
            }
        }
        self.right.disconnect(&sessions).await
    }

    async fn beat(&self, node: &NodeId, held: &[(UserId, SessionId)]) -> Result<Vec<(SessionId, Gone)>> {
        self.shared.notes().nodes.insert(node.clone());
        let held: Vec<_> = held.iter().map(|(user, id)| (self.fold(user), id.clone())).collect();
        let gone = self.right.beat(node, &held).await?;
        Ok(match self.defect {
            Defect::TellsNothing => Vec::new(),
            Defect::AllForgotten => gone.into_iter().map(|(id, _)| (id, Gone::Forgotten)).collect(),
            _ => gone,
        })
    }

    async fn sessions(&self, users: &[UserId]) -> Result<Vec<Vec<SessionRef>>> {
        let users: Vec<_> = users.iter().map(|user| self.fold(user)).collect();
        if self.defect == Defect::KeepsTheDead {
            let notes = self.shared.notes();
            return Ok(users
                .iter()
                .map(|user| notes.sessions.get(user).cloned().unwrap_or_default())
                .collect());
        }
        self.right.sessions(&users).await
    }

    async fn nodes(&self) -> Result<Vec<NodeId>> {
        if self.defect == Defect::KeepsNodes {
            return Ok(self.shared.notes().nodes.iter().cloned().collect());
        }
        self.right.nodes().await
    }
}
