//! What a node does by the clock: notices, who reads which large groups, presence beats, acks overdue, expiry, trimming.

use std::{sync::Arc, time::Duration};

use im_core::{Connect, Connected, ConversationId, Gone, Mark, Membership, Notice, Noticed, Result, UserId};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    cell::{Cell, CloseReason},
    engine::Inner,
};

/// How often overdue acks and silent sessions are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How many notices are taken at once.
const NOTICES: usize = 64;
/// How often expired entries and trimmed records are given back.
const SWEEP: Duration = Duration::from_secs(60);
/// How many expired entries are given back at once.
const EXPIRE: usize = 10_000;
/// The pause after a lost subscription.
const RESUBSCRIBE: Duration = Duration::from_millis(500);
/// How many users are asked about at once.
const USERS: usize = 500;
/// How many users' large groups are looked up at once.
const LOOK_UPS: usize = 8;

/// A node's notices, or why there are none.
pub(crate) type Subscribed = Result<mpsc::Receiver<Noticed>>;

impl Inner {
    /// `notices` were subscribed to before anybody could connect: a kick that nobody hears is not told again.
    pub(crate) fn keep_house(self: &Arc<Self>, notices: Subscribed) {
        self.spawn_until_stop(self.clone().listen(notices));
        self.spawn_until_stop(self.clone().look_up_large_groups());
        self.every(TICK, |this| async move { this.tick() });
        self.every(self.parts.presence.ttl() / 3, |this| async move { this.beat().await });
        self.every(SWEEP, |this| async move { this.sweep().await });
    }

    /// Runs something now and then until the node stops. A failure is logged; the next turn tries again.
    fn every<F>(self: &Arc<Self>, period: Duration, turn: impl Fn(Arc<Self>) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send,
    {
        let this = self.clone();
        self.spawn_until_stop(async move {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                if let Err(error) = turn(this.clone()).await {
                    tracing::warn!(%error, "housekeeping failed; again in {period:?}");
                }
            }
        });
    }

    /// Receives this node's notices. After a gap everybody is told where their inbox ends.
    async fn listen(self: Arc<Self>, mut subscribed: Subscribed) {
        loop {
            match subscribed {
                Ok(mut notices) => {
                    self.after_a_gap().await;
                    let mut waiting = Vec::new();
                    while notices.recv_many(&mut waiting, NOTICES).await > 0 {
                        self.pass_on(waiting.drain(..)).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "no notices; again in {RESUBSCRIBE:?}"),
            }
            tokio::time::sleep(RESUBSCRIBE).await;
            subscribed = self.parts.notifier.subscribe(&self.node).await;
        }
    }

    /// Passes notices on in their order; signals in a row at once.
    async fn pass_on(&self, waiting: impl Iterator<Item = Noticed> + Send) {
        let mut burst = Vec::new();
        for noticed in waiting {
            let other = match noticed {
                Noticed::Notice(Notice::Signals(signals)) => {
                    burst.push(signals);
                    continue;
                }
                other => other,
            };
            self.hub.signals(&std::mem::take(&mut burst), &self.config);
            match other {
                Noticed::Notice(notice) => self.hub.notice(notice, &self.config),
                Noticed::Lagged => self.after_a_gap().await,
            }
        }
        self.hub.signals(&burst, &self.config);
    }

    /// Looks up the large groups of those whose own state has changed, beside the notices and never in their way.
    async fn look_up_large_groups(self: Arc<Self>) {
        loop {
            let users = self.hub.outdated(LOOK_UPS).await;
            futures::future::join_all(users.iter().map(|user| self.look_up_large_groups_of(user))).await;
        }
    }

    async fn look_up_large_groups_of(&self, user: &UserId) {
        if let Err(error) = self.refresh_large_groups(user).await {
            tracing::warn!(%error, "large groups were not looked up; the next heartbeat will");
        }
    }

    /// Whatever took the notices away may have taken the presence, too: who is not there is not signalled.
    async fn after_a_gap(&self) {
        if let Err(error) = self.beat().await {
            tracing::warn!(%error, "the presence was not told of a gap; the next beat will");
        }
        for users in self.hub.users().chunks(USERS) {
            if let Err(error) = self.tell_where_everything_ends(users).await {
                tracing::warn!(%error, "sessions were not told of a gap; their heartbeats will tell");
            }
        }
    }

    async fn tell_where_everything_ends(&self, users: &[UserId]) -> Result<()> {
        let (ends, versions) =
            futures::try_join!(self.parts.inbox.ends(users), self.parts.store.states.versions(users))?;
        for ((user, end), version) in users.iter().zip(ends).zip(versions) {
            if let Some(end) = end {
                self.hub.end(user, &end, &self.config);
            }
            self.hub.notice(Notice::State(user.clone(), version), &self.config);
        }
        Ok(())
    }

    fn tick(&self) -> Result<()> {
        for cell in self.hub.cells() {
            cell.tick(&self.config);
        }
        Ok(())
    }

    /// Says that this node lives. A session that the presence forgot enters again, if its slot is free.
    ///
    /// All are named, so that the presence keeps one that is just entering; but what it does not know of such a one is no loss:
    /// who entered it again here would compete with the session that it is to follow.
    async fn beat(&self) -> Result<()> {
        let entered: Vec<_> = self.hub.cells().into_iter().filter(|cell| cell.has_entered()).collect();
        let gone = self.parts.presence.beat(&self.node, &self.hub.held()).await?;
        for cell in entered {
            match gone.iter().find(|(id, _)| *id == cell.session.id) {
                None => {}
                Some((_, Gone::Displaced)) => cell.close(CloseReason::Kicked),
                Some((_, Gone::Forgotten)) => self.enter_again(&cell).await?,
            }
        }
        Ok(())
    }

    async fn enter_again(&self, cell: &Cell) -> Result<()> {
        let request = Connect {
            user: cell.user.clone(),
            session: cell.session.clone(),
            slot: self.slot(&cell.session),
            max: self.config.session_max,
            when_full: im_core::WhenFull::RejectNew,
        };
        if self.parts.presence.connect(&request).await? == Connected::Refused {
            cell.close(CloseReason::Kicked);
        }
        Ok(())
    }

    /// The large groups that a user reads, from the store.
    pub(crate) async fn refresh_large_groups(&self, user: &UserId) -> Result<()> {
        let Some(since) = self.hub.generation(user) else { return Ok(()) };
        let mut groups = Vec::new();
        let mut after = None;
        loop {
            let page = self.parts.store.conversations.large_groups(user, &after, self.config.page).await?;
            let full = page.len() == self.config.page;
            after = page.last().cloned();
            groups.extend(self.heads(user, page).await?);
            if !full {
                break;
            }
        }
        self.hub.reads(user, &groups, since);
        Ok(())
    }

    /// The heads of large groups as far as a user has a right to them. The memberships are read last: a head that was there
    /// before is not above a leaving that they do not show.
    async fn heads(&self, user: &UserId, ids: Vec<ConversationId>) -> Result<Vec<(ConversationId, Mark)>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let last = self.parts.store.messages.last(&ids).await?;
        let wanted: Vec<_> = ids.iter().map(|id| (id.clone(), user.clone())).collect();
        let memberships = self.parts.store.conversations.memberships(&wanted, &None).await?;
        let mut heads = Vec::with_capacity(ids.len());
        for ((id, last), membership) in ids.into_iter().zip(last).zip(memberships) {
            let (Some(last), Some(membership)) = (last, membership) else { continue };
            if let Some(head) = self.head_for(&membership, last.mark()).await? {
                heads.push((id, head));
            }
        }
        Ok(heads)
    }

    /// Whose right ends at a change of members that is not applied is not known yet: its head ends there too.
    async fn head_for(&self, membership: &Membership, head: Mark) -> Result<Option<Mark>> {
        match membership.unapplied {
            _ if !membership.is_current() => Ok(None),
            Some(unapplied) if unapplied < head.seq => {
                let place = [(membership.conversation.id.clone(), unapplied)];
                let record = self.parts.store.messages.get(&place).await?.pop().flatten();
                Ok(record.map(|record| record.mark()))
            }
            _ => Ok(Some(head)),
        }
    }

    async fn sweep(&self) -> Result<()> {
        while self.parts.inbox.expire(EXPIRE).await? {}
        self.parts.log.log.trim().await?;
        let before = self.clock.now().minus(self.config.device_expiry);
        self.parts.store.states.forget_devices(before).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use im_core::{Cursor, DeviceId, Platform, Signal, Signals, SyncInbox, memory::Memory};

    use super::*;
    use crate::{
        Engine, Event, Hello, Identity,
        cell::tests::{cursors, record},
    };

    fn signals(user: &UserId, previous: &str, end: &str) -> Noticed {
        let users = vec![(user.clone(), Some(Cursor::new(previous)))];
        let signal = Signal { users, records: [0].into(), cursors: [Cursor::new(end)].into() };
        Noticed::Notice(Notice::Signals(Signals { records: [record(1)].into(), signals: vec![signal] }))
    }

    #[tokio::test]
    async fn signals_in_a_row_are_told_at_once_and_nothing_overtakes_anything() {
        let backend = Memory::new();
        let user = UserId::new("u").unwrap();
        let end = backend.inbox().anchor(&user).await.unwrap();
        let chat = Engine::builder(backend).start().await.unwrap();
        let identity = Identity {
            user: user.clone(),
            device: DeviceId::new("d").unwrap(),
            platform: Platform::new("p").unwrap(),
        };
        let (session, _) = chat.connect(identity, Hello::default()).await.unwrap();
        session.cell.stands_on(&Cursor::new("x"));
        // A gap is told by the inbox's end: before what it stands for, or after what follows it, it would end the entries.
        let gap = || Noticed::Lagged;
        let waiting = [
            signals(&user, "x", "y"),
            signals(&user, "y", end.as_str()),
            gap(),
            signals(&user, end.as_str(), "z"),
        ];
        session.inner.pass_on(waiting.into_iter()).await;
        let events = std::iter::from_fn(|| session.try_event()).take(9);
        let told = events.filter_map(|event| match event {
            Event::Entries(entries) => Some(cursors(&entries)),
            Event::End(end) => panic!("an end: {end:?}"),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(told, [vec![one("y"), one(end.as_str())], vec![one("z")]]);
    }
}
