//! Reading: history, members, conversations. Every right is checked against the store.

use std::sync::Arc;

use im_core::{
    ConversationId, DeviceId, Direction, History, HistoryQuery, Interval, Mark, Member, Membership,
    Partition, Record, Seq, UserId,
};

use crate::{Refusal, engine::Inner, error::ChatResult};

/// A page of a conversation to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// The lowest sequence id wanted.
    pub from: Seq,
    /// The highest wanted; none: up to the head.
    pub to: Option<Seq>,
    /// Which end the page is taken from.
    pub direction: Direction,
    /// How many records at most; at most a page.
    pub max: usize,
}

/// A page of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The records, in ascending order.
    pub records: Vec<Arc<Record>>,
    /// Whether the range holds more beyond the page's far end.
    pub more: bool,
}

/// A conversation as one user has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationView {
    /// What the user is and has there.
    pub membership: Membership,
    /// The last record that the user has a right to.
    pub last: Option<Arc<Record>>,
    /// The conversation's head as far as the user has a right to it.
    pub head: Mark,
    /// How many records count as unread.
    pub unread: u64,
}

impl Inner {
    /// How long a page may be.
    pub(crate) fn page(&self, max: usize) -> usize {
        max.clamp(1, self.config.page)
    }

    pub(crate) async fn history(
        &self,
        user: &UserId,
        id: &ConversationId,
        range: HistoryRange,
    ) -> ChatResult<HistoryPage> {
        let membership = self.membership(id, user).await?;
        if let Some(unapplied) = membership.unapplied
            && range.to.is_some_and(|to| to > unapplied)
        {
            // The rest follows within moments; a page that ends here would look like all there is.
            return Err(Refusal::Behind { head: Mark { seq: unapplied, ..Mark::default() } }.into());
        }
        let mut spans = readable(&membership, range.from, range.to);
        if range.direction == Direction::Backward {
            spans.reverse();
        }
        let max = self.page(range.max);
        let mut page = HistoryPage::default();
        for (from, to) in spans {
            if page.records.len() == max {
                page.more = true;
                break;
            }
            let query = HistoryQuery {
                conversation: id.clone(),
                from,
                to,
                direction: range.direction,
                max: max - page.records.len(),
            };
            page.extend(self.span(query).await?, range.direction)?;
        }
        Ok(page)
    }

    /// A part of a timeline. Where the store has all that the log has, what lies above its head was lost with the log's tail:
    /// nobody will ever bring it, and a reader who waited for it would wait for ever.
    async fn span(&self, mut query: HistoryQuery) -> ChatResult<History> {
        let messages = &self.parts.store.messages;
        match messages.history(&query).await? {
            History::Behind { .. } => {}
            page => return Ok(page),
        }
        let partition = Partition::of(&query.conversation, self.partitions);
        let end = self.parts.log.log.ends().await?.get(usize::from(partition.0)).copied();
        let stored = messages.checkpoint(partition).await?.map(|checkpoint| checkpoint.position);
        match messages.history(&query).await? {
            History::Behind { head } if self.log_is_store || stored >= end => {
                query.to = Some(head.seq);
                if head.seq < query.from {
                    return Ok(History::Page { records: Vec::new(), more: false });
                }
                Ok(messages.history(&query).await?)
            }
            history => Ok(history),
        }
    }

    pub(crate) async fn members(
        &self,
        user: &UserId,
        id: &ConversationId,
        after: Option<UserId>,
        max: usize,
    ) -> ChatResult<Vec<Member>> {
        self.current_membership(id, user).await?;
        // Above every sequence id: the members now.
        let now = Seq(u64::MAX >> 1);
        Ok(self.parts.store.conversations.members(id, now, &after, self.page(max)).await?)
    }

    /// A page of a user's conversations, by id; and whether there are more.
    pub(crate) async fn conversations(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        after: Option<ConversationId>,
        max: usize,
    ) -> ChatResult<(Vec<ConversationView>, bool)> {
        let max = self.page(max);
        let device = self.mark_device(device);
        let list = self.parts.store.conversations.list(user, &device, &after, max).await?;
        let more = list.len() == max;
        Ok((self.views(list).await?, more))
    }

    /// The user's view of one conversation.
    pub(crate) async fn conversation(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        id: &ConversationId,
    ) -> ChatResult<ConversationView> {
        let wanted = [(id.clone(), user.clone())];
        let device = self.mark_device(device);
        let found = self.parts.store.conversations.memberships(&wanted, &device).await?;
        let membership = found.into_iter().flatten().collect();
        self.views(membership).await?.pop().ok_or_else(|| Refusal::NotMember.into())
    }

    /// Adds heads and last records to memberships.
    pub(crate) async fn views(&self, list: Vec<Membership>) -> ChatResult<Vec<ConversationView>> {
        let ids: Vec<_> = list.iter().map(|membership| membership.conversation.id.clone()).collect();
        let heads = self.parts.store.messages.last(&ids).await?;
        let mut views = Vec::with_capacity(list.len());
        for (membership, newest) in list.into_iter().zip(heads) {
            let last = match top(&membership) {
                None => newest,
                Some((id, top)) => self.last_up_to(id, top).await?,
            };
            let head = last.as_ref().map(|record| record.mark()).unwrap_or_default();
            views.push(ConversationView { unread: membership.unread(head), head, last, membership });
        }
        Ok(views)
    }

    /// The last record up to a place that a change of members has told of; waits a little for the store to come so far.
    async fn last_up_to(&self, id: ConversationId, top: Seq) -> ChatResult<Option<Arc<Record>>> {
        let query = HistoryQuery {
            conversation: id,
            from: Seq(1),
            to: Some(top),
            direction: Direction::Backward,
            max: 1,
        };
        let there = async {
            loop {
                let moved = self.progress.turn();
                match self.span(query.clone()).await? {
                    History::Page { mut records, .. } => return Ok(records.pop()),
                    History::Behind { .. } => moved.await,
                }
            }
        };
        tokio::time::timeout(self.config.bootstrap_wait, there)
            .await
            .unwrap_or_else(|_| Err(Refusal::Behind { head: Mark::default() }.into()))
    }
}

/// The record that ends what the user may see, where that is not the newest: the one that it left with, or a change of members
/// that is not applied yet.
fn top(membership: &Membership) -> Option<(ConversationId, Seq)> {
    let left = membership.intervals.last()?.left.map(|left| left.seq);
    let seq = left.into_iter().chain(membership.unapplied).min()?;
    Some((membership.conversation.id.clone(), seq))
}

/// The parts of a range that a user has a right to, in ascending order, without what it cleared away and without what lies
/// above a change of members that is not applied yet. The last part of a present member is open upwards, so that a range above
/// the head is told to be behind.
fn readable(membership: &Membership, from: Seq, to: Option<Seq>) -> Vec<(Seq, Option<Seq>)> {
    let from = from.max(Seq(membership.settings.cleared.seq.0 + 1));
    let part = |interval: &Interval| {
        let low = from.max(interval.joined.seq);
        let ends = [interval.left.map(|left| left.seq), to, membership.unapplied];
        let high = ends.into_iter().flatten().min();
        high.is_none_or(|high| low <= high).then_some((low, high))
    };
    membership.intervals.iter().filter_map(part).collect()
}

impl HistoryPage {
    fn extend(&mut self, history: History, direction: Direction) -> ChatResult<()> {
        match history {
            History::Behind { head } => return Err(Refusal::Behind { head }.into()),
            History::Page { records, more } => {
                self.more |= more;
                match direction {
                    Direction::Forward => self.records.extend(records),
                    Direction::Backward => drop(self.records.splice(0..0, records)),
                }
            }
        }
        Ok(())
    }
}
