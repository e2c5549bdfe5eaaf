//! Conversations and members in the memory store.

use std::ops::Bound;

use async_trait::async_trait;

use super::{
    invalid,
    store::MemoryStore,
    tables::{MemberRow, Tables},
};
use crate::{
    Conversation, ConversationChange, ConversationId, ConversationKind, ConversationStore, DeviceId, Effect,
    GroupInfo, Incarnation, Interval, Mark, Member, MembersChange, Membership, NewConversation, Result, Role,
    Seq, Timestamp, UserId,
};

impl Tables {
    fn create(&mut self, wanted: Conversation) -> Option<Conversation> {
        if let Some(there) = self.conversations.get(&wanted.id) {
            return (there.kind == wanted.kind && there.name == wanted.name).then(|| there.clone());
        }
        self.conversations.insert(wanted.id.clone(), wanted.clone());
        if let Some((a, b)) = &wanted.users {
            let first = Mark { seq: Seq(1), ..Mark::default() };
            self.join(&wanted.id, a, Role::Member, first);
            self.join(&wanted.id, b, Role::Member, first);
        }
        Some(wanted)
    }

    fn join(&mut self, conversation: &ConversationId, user: &UserId, role: Role, joined: Mark) {
        let members = self.members.entry(conversation.clone()).or_default();
        let member = members.entry(user.clone()).or_insert(MemberRow { role, intervals: Vec::new() });
        if member.is_current() {
            return;
        }
        member.role = role;
        member.intervals.push(Interval { joined, left: None });
        self.member_of.entry(user.clone()).or_default().insert(conversation.clone());
        self.user(user).raise(conversation);
    }

    fn leave(&mut self, conversation: &ConversationId, user: &UserId, left: Mark) {
        let Some(member) = self.current(conversation, user) else { return };
        if let Some(interval) = member.intervals.last_mut() {
            interval.left = Some(left);
        }
        self.user(user).raise(conversation);
    }

    fn change_role(&mut self, conversation: &ConversationId, user: &UserId, role: Role) {
        let Some(member) = self.current(conversation, user).filter(|member| member.role != role) else {
            return;
        };
        member.role = role;
        self.user(user).raise(conversation);
    }

    fn current(&mut self, conversation: &ConversationId, user: &UserId) -> Option<&mut MemberRow> {
        self.members.get_mut(conversation)?.get_mut(user).filter(|member| member.is_current())
    }

    fn apply_change(&mut self, change: &ConversationChange) {
        let applied = self.applied.get(&change.conversation).copied().unwrap_or_default();
        if change.at.seq <= applied.seq {
            return;
        }
        self.applied.insert(change.conversation.clone(), change.at);
        match &change.effect {
            Effect::Members(members) => self.apply_members(change, members, applied == Mark::default()),
            Effect::Large => {
                if let Some(conversation) = self.group(&change.conversation) {
                    conversation.large_since.get_or_insert(change.at.seq);
                }
            }
        }
    }

    fn apply_members(&mut self, change: &ConversationChange, members: &MembersChange, is_first: bool) {
        let id = &change.conversation;
        match &members.create {
            Some(_) if !is_first || id.is_single() => return,
            Some(info) => drop(self.create(group(id, info, change.created_at))),
            None => {}
        }
        if self.group(id).is_none() {
            return;
        }
        let joined = Mark { seq: change.at.seq, ordinal: change.ordinal_before };
        for (user, role) in &members.join {
            self.join(id, user, *role, joined);
        }
        for user in &members.leave {
            self.leave(id, user, change.at);
        }
        for (user, role) in &members.role {
            self.change_role(id, user, *role);
        }
    }

    fn group(&mut self, id: &ConversationId) -> Option<&mut Conversation> {
        self.conversations.get_mut(id).filter(|conversation| conversation.kind == ConversationKind::Group)
    }
}

fn group(id: &ConversationId, info: &GroupInfo, created_at: Timestamp) -> Conversation {
    Conversation {
        id: id.clone(),
        kind: ConversationKind::Group,
        name: info.name.clone(),
        users: None,
        created_at,
        large_since: None,
    }
}

fn conversation(new: &NewConversation, created_at: Timestamp) -> Result<Conversation> {
    let operation = "conversations.create";
    match new {
        NewConversation::Single(a, b) => Ok(Conversation {
            id: ConversationId::single(a, b).map_err(|why| invalid(operation, why.to_string()))?,
            kind: ConversationKind::Single,
            name: None,
            users: Some(if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }),
            created_at,
            large_since: None,
        }),
        NewConversation::Group { id, .. } if id.is_single() => {
            Err(invalid(operation, format!("{id} cannot be a group")))
        }
        NewConversation::Group { id, name } => Ok(group(id, &GroupInfo { name: name.clone() }, created_at)),
    }
}

#[async_trait]
impl ConversationStore for MemoryStore {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        let now = self.clock.now();
        let wanted = conversations.iter().map(|new| conversation(new, now)).collect::<Result<Vec<_>>>()?;
        Ok(self
            .state()
            .data
            .write(move |tables| wanted.iter().map(|new| tables.create(new.clone())).collect()))
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.tables().conversations.get(id).cloned()).collect())
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        let state = self.state();
        let Some(ids) = state.tables().member_of.get(user) else { return Ok(Vec::new()) };
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = ids.range::<ConversationId, _>((after, Bound::Unbounded)).take(max);
        Ok(page.filter_map(|id| state.tables().membership(id, user, device.as_ref())).collect())
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        let state = self.state();
        let tables = state.tables();
        let Some(ids) = tables.member_of.get(user) else { return Ok(Vec::new()) };
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let is_large = |id: &ConversationId| {
            tables.conversations.get(id).is_some_and(|conversation| conversation.large_since.is_some())
                && tables.member(id, user).is_some_and(MemberRow::is_current)
        };
        let groups = ids.range::<ConversationId, _>((after, Bound::Unbounded)).filter(|id| is_large(id));
        Ok(groups.take(max).cloned().collect())
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        let state = self.state();
        Ok(wanted.iter().map(|(id, user)| state.tables().membership(id, user, device.as_ref())).collect())
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        let state = self.state();
        let Some(members) = state.tables().members.get(conversation) else { return Ok(Vec::new()) };
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let nickname =
            |user: &UserId| state.tables().users.get(user)?.settings.get(conversation)?.nickname.clone();
        let there = members
            .range::<UserId, _>((after, Bound::Unbounded))
            .filter(|(_, member)| member.intervals.iter().any(|interval| interval.contains(at)))
            .map(|(user, member)| Member { user: user.clone(), role: member.role, nickname: nickname(user) });
        Ok(there.take(max).collect())
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        let state = self.state();
        let members = state.tables().members.get(conversation);
        Ok(members.map_or(0, |members| members.values().filter(|member| member.is_current()).count()))
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        let mut state = self.state();
        state.fence("conversations.apply_members", store)?;
        let changes = changes.to_vec();
        state.data.write(move |tables| changes.iter().for_each(|change| tables.apply_change(change)));
        Ok(())
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.tables().applied.get(id).copied().unwrap_or_default()).collect())
    }
}
