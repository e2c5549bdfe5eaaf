//! Reading: history, members, conversations. Every right is checked against the store.

use std::sync::Arc;

use im_core::{
    ConversationId, DeviceId, Direction, History, HistoryQuery, Mark, Member, Membership, Ordinal, Partition,
    Record, Seq, UserId,
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
        let max = self.page(range.max);
        let query = HistoryQuery {
            conversation: id.clone(),
            from: range.from,
            to: range.to,
            direction: range.direction,
            max,
        };
        // The end before the membership: whatever comes in between lies above it, and the right to that is not known. The page
        // comes with it, as if all of it were to be shown.
        let (end, guess) = self.end_with_page(query).await?;
        let membership = self.membership(id, user).await?;
        let mut spans = end.spans(&membership, range)?;
        if let (Some(guess), [span]) = (guess, &*spans)
            && let Some(page) = guess.within(*span)
        {
            return Ok(page);
        }
        if range.direction == Direction::Backward {
            spans.reverse();
        }
        let mut page = HistoryPage::default();
        for (from, to) in spans {
            if page.records.len() == max {
                page.more = true;
                break;
            }
            let query = HistoryQuery {
                conversation: id.clone(),
                from,
                to: Some(to),
                direction: range.direction,
                max: max - page.records.len(),
            };
            page.extend(self.span(query).await?, range.direction)?;
        }
        Ok(page)
    }

    /// Where a timeline ends for who wants this range of it; with the page, unless the range ends above.
    async fn end_with_page(&self, query: HistoryQuery) -> ChatResult<(End, Option<Guess>)> {
        match self.parts.store.messages.history(&query).await {
            Ok(History::Page { records, more, head }) => {
                Ok((End { head, is_all: false }, Some(Guess { query, records, more, head })))
            }
            Ok(History::Behind { .. }) => Ok((self.end_above(&query.conversation).await?, None)),
            Err(error) if error.is_transient() => Err(error.into()),
            // Perhaps only of what is not to be shown.
            Err(_) => Ok((End { head: self.stored_head(&query.conversation).await?, is_all: false }, None)),
        }
    }

    /// Where a timeline ends for who wants it up to above its head.
    async fn end_above(&self, id: &ConversationId) -> ChatResult<End> {
        let data = self.parts.store.messages.info().await?.incarnation;
        let stored_all = self.stored_all(id).await?;
        // After that, because the store may have come on while the log was asked.
        let head = self.stored_head(id).await?;
        // Or it has lost its tail meanwhile: then the head is not the one that goes with its checkpoint.
        let is_all = stored_all && self.parts.store.messages.info().await?.incarnation == data;
        Ok(End { head, is_all })
    }

    async fn stored_head(&self, id: &ConversationId) -> ChatResult<Mark> {
        let last = self.parts.store.messages.last(std::slice::from_ref(id)).await?.pop().flatten();
        Ok(last.map(|record| record.mark()).unwrap_or_default())
    }

    /// Whether the store has all that the log has of a conversation's partition.
    async fn stored_all(&self, id: &ConversationId) -> ChatResult<bool> {
        if self.log_is_store {
            return Ok(true);
        }
        let partition = Partition::of(id, self.partitions);
        let end = self.parts.log.log.ends().await?.get(usize::from(partition.0)).copied();
        let stored = self.parts.store.messages.checkpoint(partition).await?;
        Ok(stored.map(|checkpoint| checkpoint.position) >= end)
    }

    /// A part of a timeline that the user has a right to, as far as there is one.
    async fn span(&self, mut query: HistoryQuery) -> ChatResult<History> {
        let messages = &self.parts.store.messages;
        match messages.history(&query).await? {
            History::Behind { .. } => {}
            page => return Ok(page),
        }
        let end = self.end_above(&query.conversation).await?;
        if !end.is_all {
            return Ok(messages.history(&query).await?);
        }
        if end.head.seq < query.from {
            return Ok(History::Page { records: Vec::new(), more: false, head: end.head });
        }
        query.to = query.to.map(|to| to.min(end.head.seq));
        Ok(messages.history(&query).await?)
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
        Ok((self.views(user, &device, ids_of(list)).await?, more))
    }

    /// The user's view of one conversation.
    pub(crate) async fn conversation(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        id: &ConversationId,
    ) -> ChatResult<ConversationView> {
        let device = self.mark_device(device);
        let mut views = self.views(user, &device, vec![id.clone()]).await?;
        views.pop().ok_or_else(|| Refusal::NotMember.into())
    }

    /// A user's views of conversations, without those that it never was in.
    ///
    /// The last records are read before the memberships: else a record that comes in between could be above a leaving, or
    /// above the mark of the user's own send, which would then count as unread for good.
    pub(crate) async fn views(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        ids: Vec<ConversationId>,
    ) -> ChatResult<Vec<ConversationView>> {
        let newest = self.parts.store.messages.last(&ids).await?;
        let wanted: Vec<_> = ids.into_iter().map(|id| (id, user.clone())).collect();
        let memberships = self.parts.store.conversations.memberships(&wanted, device).await?;
        let mut views = Vec::with_capacity(wanted.len());
        for (membership, newest) in memberships.into_iter().zip(newest) {
            let Some(membership) = membership else { continue };
            views.push(self.view(membership, newest).await?);
        }
        Ok(views)
    }

    async fn view(
        &self,
        membership: Membership,
        newest: Option<Arc<Record>>,
    ) -> ChatResult<ConversationView> {
        let last = match top(&membership) {
            Some(top) if newest.as_ref().is_none_or(|newest| newest.seq != top) => {
                self.last_up_to(membership.conversation.id.clone(), top).await?
            }
            _ => newest,
        };
        // Who has just joined may have joined above it.
        let last = last.filter(|last| membership.may_read(last.seq));
        let head = last.as_ref().map_or_else(|| before_joining(&membership), |record| record.mark());
        Ok(ConversationView { unread: membership.unread(head), head, last, membership })
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

pub(crate) fn ids_of(list: Vec<Membership>) -> Vec<ConversationId> {
    list.into_iter().map(|membership| membership.conversation.id).collect()
}

/// The place before the user's first record in its last interval.
fn before_joining(membership: &Membership) -> Mark {
    let joined = membership.intervals.last().map(|interval| interval.joined).unwrap_or_default();
    Mark { seq: Seq(joined.seq.0.saturating_sub(1)), ..joined }
}

/// Where the user's right ends, if that is known to be before the newest record: the record that it left with, or a change of
/// members that is not applied yet.
fn top(membership: &Membership) -> Option<Seq> {
    let left = membership.intervals.last()?.left.map(|left| left.seq);
    left.into_iter().chain(membership.unapplied).min()
}

/// Where a timeline ended before the membership was read.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The last record in the store.
    head: Mark,
    /// Nothing above it is to come: it is all that there is, or what was above it was lost with the log's tail. A reader who
    /// waited for that would wait for ever.
    is_all: bool,
}

impl End {
    /// The parts of a range that a user has a right to, in ascending order, without what it cleared away and without what lies
    /// above a change of members that is not applied yet. Behind, if more of the range may follow within moments: a page that
    /// ended here would look like all there is.
    fn spans(self, membership: &Membership, range: HistoryRange) -> ChatResult<Vec<(Seq, Seq)>> {
        let known = self.known(membership);
        if range.to.is_some_and(|to| to > known.seq) {
            // Who has left is not told how far the others are.
            let left = membership.intervals.last().and_then(|last| last.left);
            let head = left.map_or(known, |left| left.min(known));
            return Err(Refusal::Behind { head }.into());
        }
        let mut spans = Vec::new();
        let from = range.from.max(Seq(membership.settings.cleared.seq.0 + 1));
        for interval in &membership.intervals {
            let low = from.max(interval.joined.seq);
            let right = interval.left.map(|left| left.seq).into_iter().chain(membership.unapplied).min();
            let high = match right {
                Some(right) => range.to.map_or(right, |to| to.min(right)),
                None => range.to.map_or(self.head.seq, |to| to.min(self.head.seq)),
            };
            if low <= high {
                spans.push((low, high));
            }
        }
        Ok(spans)
    }

    /// Up to where it is known what the user may read. A store that is behind may not even know of a joining yet.
    fn known(self, membership: &Membership) -> Mark {
        const NO_END: Mark = Mark { seq: Seq(u64::MAX), ordinal: Ordinal(0) };
        let stored = if self.is_all { NO_END } else { self.head };
        let applied = membership.unapplied.map_or(NO_END, |seq| Mark { seq, ..Mark::default() });
        stored.min(applied)
    }
}

/// A page that was read before it was known what of it the user may read.
#[derive(Debug)]
struct Guess {
    query: HistoryQuery,
    records: Vec<Arc<Record>>,
    more: bool,
    head: Mark,
}

impl Guess {
    /// The same page of a part of the range, where this one tells it.
    fn within(self, (low, high): (Seq, Seq)) -> Option<HistoryPage> {
        let Self { query, mut records, more, head } = self;
        let to = query.to.unwrap_or(head.seq);
        let (first, last) = (records.first().map(|first| first.seq), records.last().map(|last| last.seq));
        let begins = match query.direction {
            Direction::Forward => first.is_none_or(|first| first >= low),
            Direction::Backward => last.is_none_or(|last| last <= high),
        };
        // Who has left meanwhile may read the leaving record, above the head.
        if !begins || high > to {
            return None;
        }
        let read = records.len();
        records.retain(|record| (low..=high).contains(&record.seq));
        let is_whole = records.len() < read || !more;
        let more = !is_whole
            && match query.direction {
                Direction::Forward if high == to => true,
                Direction::Forward if last.is_some_and(|last| last < high) => return None,
                Direction::Backward if low == query.from => true,
                Direction::Backward => match records.first()? {
                    first if first.seq <= low => false,
                    // Sequence ids are dense: the one below is there.
                    first if first.hole_after.is_none() => true,
                    _ => return None,
                },
                Direction::Forward => false,
            };
        Some(HistoryPage { records, more })
    }
}

impl HistoryPage {
    fn extend(&mut self, history: History, direction: Direction) -> ChatResult<()> {
        match history {
            History::Behind { head } => return Err(Refusal::Behind { head }.into()),
            History::Page { records, more, .. } => {
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

#[cfg(test)]
mod tests {
    use im_core::Timestamp;

    use super::*;
    use crate::commit::tests::append;

    /// With a hole between 5 and 9, and another one before a first record that was lost.
    fn timeline() -> Vec<Arc<Record>> {
        let place = |seq| Mark { seq: Seq(seq), ordinal: Ordinal(seq) };
        let record = |(seq, hole)| append("m").at(place(seq), Timestamp(0), hole);
        let all =
            [(2, Some(Seq(1))), (3, None), (4, None), (5, None), (9, Some(Seq(6))), (10, None), (11, None)];
        all.into_iter().map(|one| Arc::new(record(one))).collect()
    }

    fn page(timeline: &[Arc<Record>], query: &HistoryQuery) -> (Vec<Arc<Record>>, bool) {
        let to = query.to.unwrap_or(Seq(11));
        let range = timeline.iter().filter(|record| (query.from..=to).contains(&record.seq));
        let all: Vec<_> = range.cloned().collect();
        let cut = query.max.min(all.len());
        let page = match query.direction {
            Direction::Forward => &all[..cut],
            Direction::Backward => &all[all.len() - cut..],
        };
        (page.to_vec(), all.len() > cut)
    }

    #[test]
    fn a_page_of_a_part_is_what_the_store_would_have_answered() {
        let (timeline, mut told) = (timeline(), 0);
        let head = Mark { seq: Seq(11), ordinal: Ordinal(11) };
        let ends = (0..=11).flat_map(|from| (from..=11).map(move |to| (Seq(from), Seq(to))));
        for (from, to) in ends.clone() {
            for (low, high) in ends.clone().filter(|(low, high)| from <= *low && *high <= to) {
                for (max, direction) in
                    (1..=8).flat_map(|max| [(max, Direction::Forward), (max, Direction::Backward)])
                {
                    let to = (to != Seq(11)).then_some(to);
                    let query =
                        HistoryQuery { conversation: append("m").conversation, from, to, direction, max };
                    let (records, more) = page(&timeline, &query);
                    let guess = Guess { query: query.clone(), records, more, head };
                    let Some(found) = guess.within((low, high)) else { continue };
                    let part = HistoryQuery { from: low, to: Some(high), ..query.clone() };
                    let due = page(&timeline, &part);
                    assert_eq!((found.records, found.more), due, "{query:?} within {low:?} to {high:?}");
                    told += usize::from(from < low || query.to.is_some_and(|to| high < to));
                }
            }
        }
        assert!(told > 1000, "{told}");
    }
}
