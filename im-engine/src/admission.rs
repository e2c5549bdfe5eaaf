//! Who may send: remembered for at most a second; a refusal is never remembered.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use im_core::{ConversationId, Membership, UserId};
use lru::LruCache;
use tokio::time::Instant;

use crate::{Refusal, engine::Inner, error::ChatResult};

type Key = (ConversationId, UserId);

/// When a member was asked about, and the other user of a SINGLE conversation.
type Admitted = (Instant, Option<UserId>);

/// Members who were admitted a moment ago, with the other user of a SINGLE conversation.
#[derive(Debug)]
pub(crate) struct Admissions {
    recent: Mutex<LruCache<Key, Admitted>>,
    lifetime: Duration,
}

impl Admissions {
    pub(crate) fn new(entries: usize, lifetime: Duration) -> Self {
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        Self { recent: Mutex::new(LruCache::new(entries)), lifetime: lifetime.min(Duration::from_secs(1)) }
    }

    fn recent(&self, key: &Key) -> Option<Option<UserId>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, peer) = recent.get(key)?;
        (since.elapsed() < self.lifetime).then(|| peer.clone())
    }

    fn remember(&self, key: Key, asked: Instant, peer: Option<UserId>) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).put(key, (asked, peer));
    }
}

impl Inner {
    /// Whether a user may send to a conversation: then the other user, if it is a SINGLE.
    pub(crate) async fn admission(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> ChatResult<Option<UserId>> {
        let key = (conversation.clone(), user.clone());
        if let Some(peer) = self.admissions.recent(&key) {
            return Ok(peer);
        }
        let asked = Instant::now();
        let membership = self.current_membership(conversation, user).await?;
        let peer = peer(&membership, user);
        self.admissions.remember(key, asked, peer.clone());
        Ok(peer)
    }

    /// What a user is in a conversation, also after leaving.
    pub(crate) async fn membership(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> ChatResult<Membership> {
        let wanted = [(conversation.clone(), user.clone())];
        let conversations = &self.parts.store.conversations;
        if let Some(membership) = conversations.memberships(&wanted, &None).await?.pop().flatten() {
            return Ok(membership);
        }
        let there = conversations.get(std::slice::from_ref(conversation)).await?.pop().flatten();
        Err(there.map_or(Refusal::UnknownConversation, |_| Refusal::NotMember).into())
    }

    /// What a present member is in a conversation.
    pub(crate) async fn current_membership(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> ChatResult<Membership> {
        let membership = self.membership(conversation, user).await?;
        if membership.is_current() { Ok(membership) } else { Err(Refusal::NotMember.into()) }
    }
}

/// The other user of a SINGLE conversation.
pub(crate) fn peer(membership: &Membership, user: &UserId) -> Option<UserId> {
    let (low, high) = membership.conversation.users.clone()?;
    Some(if low == *user { high } else { low })
}
