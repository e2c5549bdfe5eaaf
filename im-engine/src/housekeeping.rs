//! What a node does by the clock: notices, presence beats, acks overdue, heads of large groups, expiry, trimming.

use std::{sync::Arc, time::Duration};

use im_core::{Connect, Connected, ConversationId, Gone, Mark, Membership, Notice, Noticed, Result, UserId};
use tokio::time::MissedTickBehavior;

use crate::{cell::CloseReason, engine::Inner};

/// How often overdue acks and silent sessions are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often expired entries and trimmed records are given back.
const SWEEP: Duration = Duration::from_secs(60);
/// How many expired entries are given back at once.
const EXPIRE: usize = 10_000;
/// The pause after a lost subscription.
const RESUBSCRIBE: Duration = Duration::from_millis(500);
/// How many users are asked about at once.
const USERS: usize = 500;

impl Inner {
    pub(crate) fn keep_house(self: &Arc<Self>) {
        self.spawn_until_stop(self.clone().listen());
        self.spawn_until_stop(self.clone().look_up());
        self.every(TICK, |this| async move { this.tick() });
        self.every(self.parts.presence.ttl() / 3, |this| async move { this.beat().await });
        self.every(self.config.heartbeat, |this| async move { this.refresh_heads().await });
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
    async fn listen(self: Arc<Self>) {
        loop {
            match self.parts.notifier.subscribe(&self.node).await {
                Ok(mut notices) => {
                    self.after_a_gap().await;
                    while let Some(noticed) = notices.recv().await {
                        match noticed {
                            Noticed::Notice(notice) => self.hub.notice(notice, &self.config),
                            Noticed::Lagged => self.after_a_gap().await,
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "no notices; again in {RESUBSCRIBE:?}"),
            }
            tokio::time::sleep(RESUBSCRIBE).await;
        }
    }

    /// Asks for the large groups of users whose state has changed: beside the notices, which would wait for the store.
    async fn look_up(self: Arc<Self>) {
        loop {
            let user = self.hub.to_look_up().await;
            if let Err(error) = self.refresh_large_groups(&user).await {
                tracing::warn!(%error, "large groups were not looked up; the next heartbeat will");
            }
        }
    }

    async fn after_a_gap(&self) {
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
    async fn beat(&self) -> Result<()> {
        let gone = self.parts.presence.beat(&self.node, &self.hub.held()).await?;
        if gone.is_empty() {
            return Ok(());
        }
        // One that is about to enter is not there yet; that it is unknown means nothing.
        for cell in self.hub.cells().into_iter().filter(|cell| cell.has_entered()) {
            match gone.iter().find(|(id, _)| *id == cell.session.id) {
                None => continue,
                Some((_, Gone::Displaced)) => {
                    cell.close(CloseReason::Kicked);
                    continue;
                }
                Some((_, Gone::Forgotten)) => {}
            }
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
        }
        Ok(())
    }

    /// The large groups that a user reads, from the store.
    pub(crate) async fn refresh_large_groups(&self, user: &UserId) -> Result<()> {
        let turn = self.hub.turn(user);
        let mut groups = Vec::new();
        let mut after = None;
        loop {
            let page = self.parts.store.conversations.large_groups(user, &after, self.config.page).await?;
            let full = page.len() == self.config.page;
            after = page.last().cloned();
            groups.extend(self.heads(page.into_iter().map(|id| (id, user.clone())).collect()).await?);
            if !full {
                break;
            }
        }
        self.hub.reads(user, &groups, turn);
        Ok(())
    }

    /// The heads of large groups of which each user is a member still, as far as it may be told of them: not above a change of
    /// members that is not applied yet.
    async fn heads(
        &self,
        groups: Vec<(ConversationId, UserId)>,
    ) -> Result<Vec<(ConversationId, Option<Mark>)>> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = groups.iter().map(|(id, _)| id.clone()).collect();
        // The heads before the rights, as in every read.
        let last = self.parts.store.messages.last(&ids).await?;
        let memberships = self.parts.store.conversations.memberships(&groups, &None).await?;
        let mut heads = Vec::with_capacity(ids.len());
        for ((id, last), membership) in ids.into_iter().zip(last).zip(memberships) {
            let Some(membership) = membership.filter(Membership::is_current) else { continue };
            let head = last.map(|last| last.mark());
            let is_applied = |head: &Mark| membership.unapplied.is_none_or(|unapplied| head.seq < unapplied);
            heads.push((id, head.filter(is_applied)));
        }
        Ok(heads)
    }

    /// The heads of the large groups read on this node, whose notices may have been lost.
    async fn refresh_heads(&self) -> Result<()> {
        for groups in self.hub.large_groups().chunks(USERS) {
            for (id, head) in self.heads(groups.to_vec()).await? {
                if let Some(head) = head {
                    self.hub.notice(Notice::Head(id, head), &self.config);
                }
            }
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<()> {
        while self.parts.inbox.expire(EXPIRE).await? {}
        self.parts.log.log.trim().await?;
        let before = self.clock.now().minus(self.config.device_expiry);
        self.parts.store.states.forget_devices(before).await?;
        Ok(())
    }
}
