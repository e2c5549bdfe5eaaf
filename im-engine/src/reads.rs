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
        // The head before the rights: who is removed after that is shown nothing that came after that.
        let head = self.head(id, range.to.unwrap_or(range.from)).await?;
        let membership = self.membership(id, user).await?;
        let to = reach(&membership, range, head)?;
        let mut spans = readable(&membership, range.from, to);
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
            page.extend(self.parts.store.messages.history(&query).await?, range.direction)?;
        }
        Ok(page)
    }

    /// How far the store has a conversation, if somebody wants to see up to a place.
    ///
    /// Where the store has all that the log has, what lies above its head was lost with the log's tail: nobody will ever bring
    /// it, and a reader who waited for it would wait for ever.
    async fn head(&self, id: &ConversationId, wanted: Seq) -> ChatResult<Head> {
        let mark = self.last_mark(id).await?;
        if wanted <= mark.seq || self.log_is_store {
            return Ok(Head { mark, is_all: true });
        }
        let partition = Partition::of(id, self.partitions);
        let end = self.parts.log.log.ends().await?.get(usize::from(partition.0)).copied();
        let stored =
            self.parts.store.messages.checkpoint(partition).await?.map(|checkpoint| checkpoint.position);
        Ok(Head { mark: self.last_mark(id).await?, is_all: stored >= end })
    }

    async fn last_mark(&self, id: &ConversationId) -> ChatResult<Mark> {
        let last = self.parts.store.messages.last(std::slice::from_ref(id)).await?;
        Ok(last.into_iter().flatten().next().map(|record| record.mark()).unwrap_or_default())
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
        let list = self.parts.store.conversations.list(user, &self.mark_device(device), &after, max).await?;
        let more = list.len() == max;
        Ok((self.views(user, device, ids_of(&list)).await?, more))
    }

    /// The user's view of one conversation.
    pub(crate) async fn conversation(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        id: &ConversationId,
    ) -> ChatResult<ConversationView> {
        let views = self.views(user, device, vec![id.clone()]).await?.pop();
        views.ok_or_else(|| Refusal::NotMember.into())
    }

    /// The user's views of conversations; those that are not the user's are left out.
    ///
    /// The heads before the memberships: a read mark that is newer than the head only means that nothing is unread, but one
    /// that is older would show a message of the user's own as unread, and nothing would ever correct that.
    pub(crate) async fn views(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        ids: Vec<ConversationId>,
    ) -> ChatResult<Vec<ConversationView>> {
        let heads = self.parts.store.messages.last(&ids).await?;
        let wanted: Vec<_> = ids.into_iter().map(|id| (id, user.clone())).collect();
        let list = self.parts.store.conversations.memberships(&wanted, &self.mark_device(device)).await?;
        let mut views = Vec::with_capacity(list.len());
        for (membership, newest) in list.into_iter().zip(heads) {
            let Some(membership) = membership else { continue };
            let last = match top(&membership, newest.as_deref()) {
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
                let head = self.head(&query.conversation, top).await?;
                if !head.is_all && head.mark.seq < top {
                    moved.await;
                    continue;
                }
                let query = HistoryQuery { to: Some(top.min(head.mark.seq)), ..query.clone() };
                return match self.parts.store.messages.history(&query).await? {
                    History::Page { mut records, .. } => Ok(records.pop()),
                    History::Behind { head } => Err(Refusal::Behind { head }.into()),
                };
            }
        };
        tokio::time::timeout(self.config.bootstrap_wait, there)
            .await
            .unwrap_or_else(|_| Err(Refusal::Behind { head: Mark::default() }.into()))
    }
}

/// How far the store has a conversation.
#[derive(Debug, Clone, Copy)]
struct Head {
    mark: Mark,
    /// Whether that is all there was when it was asked.
    is_all: bool,
}

pub(crate) fn ids_of(list: &[Membership]) -> Vec<ConversationId> {
    list.iter().map(|membership| membership.conversation.id.clone()).collect()
}

/// Where the user's right ends, for the time being: the record that it left with, or a change of members that is not applied
/// yet.
fn limit(membership: &Membership) -> Option<Seq> {
    let left = membership.intervals.last()?.left.map(|left| left.seq);
    left.into_iter().chain(membership.unapplied).min()
}

/// The record that ends what the user may see, where that is not the newest known: also one that it joined with just now.
fn top(membership: &Membership, newest: Option<&Record>) -> Option<(ConversationId, Seq)> {
    let is_newer = |joined: &Seq| newest.is_some_and(|newest| newest.seq < *joined);
    let joined = membership.intervals.last().map(|last| last.joined.seq).filter(is_newer);
    let seq = limit(membership).into_iter().chain(joined).min()?;
    Some((membership.conversation.id.clone(), seq))
}

/// How far a page may reach; an error where it would end before what was asked for although there is more.
fn reach(membership: &Membership, range: HistoryRange, head: Head) -> ChatResult<Seq> {
    if let Some(unapplied) = membership.unapplied
        && range.to.is_some_and(|to| to > unapplied)
    {
        // The rest follows within moments; a page that ends here would look like all there is.
        return Err(Refusal::Behind { head: Mark { seq: unapplied, ..Mark::default() } }.into());
    }
    let wanted = range.to.unwrap_or(range.from);
    let wanted = limit(membership).map_or(wanted, |limit| limit.min(wanted));
    if wanted > head.mark.seq && !head.is_all {
        return Err(Refusal::Behind { head: head.mark }.into());
    }
    Ok(range.to.map_or(head.mark.seq, |to| to.min(head.mark.seq)))
}

/// The parts of a range that a user has a right to, in ascending order, without what it cleared away and without what lies
/// above a change of members that is not applied yet.
fn readable(membership: &Membership, from: Seq, to: Seq) -> Vec<(Seq, Option<Seq>)> {
    let from = from.max(Seq(membership.settings.cleared.seq.0 + 1));
    let part = |interval: &Interval| {
        let low = from.max(interval.joined.seq);
        let ends = [interval.left.map(|left| left.seq), membership.unapplied];
        let high = ends.into_iter().flatten().fold(to, Seq::min);
        (low <= high).then_some((low, Some(high)))
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
