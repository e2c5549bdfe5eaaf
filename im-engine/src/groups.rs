//! Conversations that begin, members that come and go: records, applied by the fan-out worker in log order.

use std::sync::Arc;

use im_core::{
    Append, ClientMsgId, ContentHash, ContentType, Conversation, ConversationId, GroupInfo, MembersChange,
    NewConversation, Outcome, PolicyRequest, Receipt, RecordKind, Role, SendKey, UserId,
};

use crate::{
    Ack, AckLevel, ChatError, Refusal,
    commit::Committed,
    engine::Inner,
    error::{ChatResult, unknown},
    send::Admitted,
};

/// The longest name of a group, in bytes.
const NAME_BYTES: usize = 256;
/// How many users one record may add or remove, so that it stays within the longest content.
const USERS_PER_RECORD: usize = 400;

/// A group to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its id; may not begin with `s_`.
    pub id: ConversationId,
    /// Its name, at most 256 bytes.
    pub name: Option<Arc<str>>,
    /// Who is in it beside the creator, with the creator at most 400: so many one record can name. More join afterwards, up to
    /// [`Config::group_members`](crate::Config::group_members).
    pub members: Vec<UserId>,
    /// Names the creation; a retry carries the same.
    pub client_msg_id: ClientMsgId,
}

/// Who comes or goes, or is given a role.
///
/// Whoever knows a group's id may join it, unless the host's [`Policy`](crate::Policy) says otherwise. An owner who leaves is not
/// replaced: name another one before, or keep a user of the host's own as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// These join; oneself, or others if one is a member. At least one.
    Join(Vec<UserId>),
    /// These leave; oneself, or others if one's role is higher than theirs. At least one.
    Leave(Vec<UserId>),
    /// A member gets a role; only an owner may.
    Role(UserId, Role),
}

impl Inner {
    /// The SINGLE conversation of two users, made if it is not there.
    pub(crate) async fn open_single(&self, user: &UserId, other: &UserId) -> ChatResult<Conversation> {
        let id = ConversationId::single(user, other)?;
        let conversations = &self.parts.store.conversations;
        if let Some(there) = conversations.get(std::slice::from_ref(&id)).await?.pop().flatten() {
            return Ok(there);
        }
        let request = PolicyRequest::OpenSingle { user: user.clone(), other: other.clone() };
        self.allowed(&request).await?;
        let single = [NewConversation::Single(user.clone(), other.clone())];
        let made = conversations.create(&single).await?.pop().flatten().ok_or(Refusal::Conflict)?;
        self.signaller.states(vec![user.clone(), other.clone()]).await;
        Ok(made)
    }

    /// Creates a group by its first record and waits until its members are in.
    pub(crate) async fn create_group(&self, creator: &UserId, group: NewGroup) -> ChatResult<Ack> {
        if group.id.is_single() {
            return Err(Refusal::Invalid("a group id may not begin with \"s_\"".into()).into());
        }
        if group.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES) {
            return Err(Refusal::TooLarge { what: "name bytes", limit: NAME_BYTES }.into());
        }
        let request = PolicyRequest::CreateGroup { user: creator.clone(), members: group.members.len() + 1 };
        let others = distinct(group.members).into_iter().filter(|user| user != creator);
        let mut join = vec![(creator.clone(), Role::Owner)];
        join.extend(others.map(|user| (user, Role::Member)));
        within_a_record(join.len())?;
        let allowed = self.may_create(&group.id, &request).await;
        self.or_retry(allowed, creator, &group.id, &group.client_msg_id).await?;
        let create = Some(GroupInfo { name: group.name });
        let change = MembersChange { create, join, ..MembersChange::default() };
        let ack = self.append_change(creator, &group.id, group.client_msg_id, &change).await?;
        // Of two creators the first record wins; the other one's has no effect.
        if self.is_creation(creator, &ack).await? { Ok(ack) } else { Err(Refusal::Conflict.into()) }
    }

    /// Nothing is appended to a group that is there: its timeline is its members'.
    async fn may_create(&self, id: &ConversationId, request: &PolicyRequest) -> ChatResult<()> {
        self.allowed(request).await?;
        match self.there(id).await {
            Ok(()) => Err(Refusal::Conflict.into()),
            Err(ChatError::Refused(Refusal::UnknownConversation)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a record is the one that made its conversation: the creator's first interval begins with it.
    async fn is_creation(&self, creator: &UserId, ack: &Ack) -> ChatResult<bool> {
        match self.membership(&ack.conversation, creator).await {
            Ok(membership) => {
                Ok(membership.intervals.first().is_some_and(|first| first.joined.seq == ack.seq))
            }
            Err(ChatError::Refused(Refusal::UnknownConversation | Refusal::NotMember)) => Ok(false),
            // The record is there.
            Err(ChatError::Refused(refusal)) => Err(unknown("log.append", &refusal.to_string()).into()),
            Err(ChatError::Failed(error)) => Err(error.with_outcome(Outcome::Unknown).into()),
        }
    }

    /// A refusal is looked up first: a retry is answered also after its first try, or another, took away the right to it.
    async fn or_retry(
        &self,
        allowed: ChatResult<()>,
        user: &UserId,
        id: &ConversationId,
        client_msg_id: &ClientMsgId,
    ) -> ChatResult<()> {
        let refusal = match allowed {
            Err(ChatError::Refused(refusal)) if !matches!(refusal, Refusal::Overloaded(_)) => refusal,
            other => return other,
        };
        let key =
            SendKey { conversation: id.clone(), sender: user.clone(), client_msg_id: client_msg_id.clone() };
        if self.find(&key).await?.is_some() { Ok(()) } else { Err(refusal.into()) }
    }

    /// Changes members by a record and waits until it is applied.
    pub(crate) async fn change_members(
        &self,
        user: &UserId,
        id: &ConversationId,
        client_msg_id: ClientMsgId,
        change: MemberChange,
    ) -> ChatResult<Ack> {
        if id.is_single() {
            return Err(Refusal::Invalid("a single conversation keeps its two users".into()).into());
        }
        let record = record_of(&change)?;
        let allowed = self.may_change(user, id, &change).await;
        self.or_retry(allowed, user, id, &client_msg_id).await?;
        self.append_change(user, id, client_msg_id, &record).await
    }

    async fn may_change(&self, user: &UserId, id: &ConversationId, change: &MemberChange) -> ChatResult<()> {
        match change {
            MemberChange::Join(joining) => {
                self.there(id).await?;
                if joining.iter().any(|joining| joining != user) {
                    self.current_membership(id, user).await?;
                }
                self.has_room(id, joining.len()).await?;
                let (user, conversation, joining) = (user.clone(), id.clone(), joining.clone());
                self.allowed(&PolicyRequest::Join { user, conversation, joining }).await
            }
            MemberChange::Leave(leaving) => {
                let own = self.current_membership(id, user).await?.role;
                let others = leaving.iter().filter(|leaving| *leaving != user);
                let wanted: Vec<_> = others.map(|other| (id.clone(), other.clone())).collect();
                let found = self.parts.store.conversations.memberships(&wanted, &None).await?;
                let outranks = found.iter().flatten().all(|other| own > other.role);
                if outranks { Ok(()) } else { Err(Refusal::NotAllowed.into()) }
            }
            MemberChange::Role(..) => match self.current_membership(id, user).await?.role {
                Role::Owner => Ok(()),
                _ => Err(Refusal::NotAllowed.into()),
            },
        }
    }

    async fn there(&self, id: &ConversationId) -> ChatResult<()> {
        let found = self.parts.store.conversations.get(std::slice::from_ref(id)).await?.pop().flatten();
        if found.is_some() { Ok(()) } else { Err(Refusal::UnknownConversation.into()) }
    }

    /// Whether a group may grow. Two who join at the same moment may both find the last place.
    async fn has_room(&self, id: &ConversationId, more: usize) -> ChatResult<()> {
        let limit = self.config.group_members;
        let count = self.parts.store.conversations.count_members(id).await?;
        if count + more > limit {
            Err(Refusal::TooLarge { what: "group members", limit }.into())
        } else {
            Ok(())
        }
    }

    async fn append_change(
        &self,
        user: &UserId,
        id: &ConversationId,
        client_msg_id: ClientMsgId,
        change: &MembersChange,
    ) -> ChatResult<Ack> {
        let content: Arc<str> =
            serde_json::to_string(change).map_err(|error| Refusal::Invalid(error.to_string()))?.into();
        let (kind, content_type) = (RecordKind::Members, ContentType::System);
        let hash = ContentHash::of(kind, content_type, &content);
        let append = Append {
            conversation: id.clone(),
            sender: user.clone(),
            device: None,
            send_to: None,
            client_msg_id,
            kind,
            content_type,
            content,
            hash,
            floor: None,
        };
        let committed = match self.fresh_or_known(append).await? {
            Admitted::New(append, epoch) => self.commit()?.enqueue(append, Some(epoch))?.await?,
            Admitted::Known(found) => Committed { receipt: found.receipt, duplicate: true },
        };
        self.wait_applied(id, committed.receipt).await?;
        self.ack(id.clone(), committed, AckLevel::Logged).await
    }

    async fn wait_applied(&self, id: &ConversationId, receipt: Receipt) -> ChatResult<()> {
        let seq = receipt.mark.seq;
        let applied = self.progress.applied(&*self.parts.store.conversations, id, seq);
        let reached = tokio::time::timeout(self.config.patience, applied)
            .await
            .map_err(|_| unknown("members.apply", "logged, but not applied in time"))??;
        // Another one is applied, perhaps of a later epoch: the log may have lost this one before.
        if reached == seq { Ok(()) } else { self.wait_stored(id, receipt).await }
    }
}

fn record_of(change: &MemberChange) -> ChatResult<MembersChange> {
    let mut record = MembersChange::default();
    match change {
        MemberChange::Join(users) => {
            record.join = distinct(users.clone()).into_iter().map(|user| (user, Role::Member)).collect();
        }
        MemberChange::Leave(users) => record.leave = distinct(users.clone()),
        MemberChange::Role(user, role) => record.role.push((user.clone(), *role)),
    }
    let users = record.join.len() + record.leave.len() + record.role.len();
    if users == 0 {
        // Anybody could write such records, also into groups of others.
        return Err(Refusal::Invalid("nobody comes or goes".into()).into());
    }
    within_a_record(users)?;
    Ok(record)
}

fn within_a_record(users: usize) -> ChatResult<()> {
    let limit = USERS_PER_RECORD;
    if users > limit { Err(Refusal::TooLarge { what: "users at once", limit }.into()) } else { Ok(()) }
}

fn distinct(mut users: Vec<UserId>) -> Vec<UserId> {
    users.sort();
    users.dedup();
    users
}
