//! Stores that mix up who is where.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationStore, DeviceId, Effect, Incarnation, Mark,
    Member, Membership, MessageStore, NewConversation, Parts, Result, Seq, SettingsChange, State,
    StateVersion, StorePart, UserId, UserState,
};

use super::{Broken, Shared, with_store};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("conversations::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "create_once" AnyName "creating a group with another name answers the one that is there"
    "in_record_order" EachTime "a change that comes again is made again"
    "in_record_order" OwnChanges "a node remembers what was applied"
    "members_at_a_record" MembersNow "the members at a record are those of today"
    "settings_stay" Reset "who leaves loses the settings"
    "state_version" ForEverybody "every change raises the version of everybody"
    "fenced" NotFenced "every worker is taken for the present one"
    "unapplied" NothingPending "no membership waits for a change"
    "exact_pages" SkipsOne "the first of every later page is left out"
    "large_groups" AlsoLeft "large groups that the user has left are listed"
    "hostile_ids" FoldsCase "ids that differ in case only are one"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let shared = shared.clone();
    with_store(parts, |part| {
        let StorePart { messages, conversations: right, states, .. } = part.clone();
        let wrapped = Arc::new(Wrapped { right, messages, states, defect, shared, known: Mutex::default() });
        StorePart { conversations: wrapped.clone(), states: wrapped, ..part }
    })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn ConversationStore>,
    messages: Arc<dyn MessageStore>,
    states: Arc<dyn UserState>,
    defect: Defect,
    shared: Arc<Shared>,
    /// What was applied when this node was first asked.
    known: Mutex<HashMap<ConversationId, Mark>>,
}

impl Wrapped {
    fn fold(&self, id: &ConversationId) -> ConversationId {
        let folded = ConversationId::new(id.as_str().to_lowercase());
        folded.ok().filter(|_| self.defect == Defect::FoldsCase).unwrap_or_else(|| id.clone())
    }

    /// The changes as if they were new.
    async fn made_new(&self, changes: &[ConversationChange]) -> Result<Vec<ConversationChange>> {
        let mut changes = changes.to_vec();
        for change in &mut changes {
            let id = [change.conversation.clone()];
            let applied = self.right.applied(&id).await?.pop().unwrap_or_default();
            change.at.seq = change.at.seq.max(Seq(applied.seq.0 + 1));
        }
        Ok(changes)
    }

    async fn reset_who_left(&self, changes: &[ConversationChange]) -> Result<()> {
        for change in changes {
            let Effect::Members(members) = &change.effect else { continue };
            for user in &members.leave {
                let nothing = SettingsChange {
                    nickname: Some("".into()),
                    hidden: Some(false),
                    undisturbed: Some(false),
                    cleared: None,
                };
                self.states.set(user, &change.conversation, &nothing).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ConversationStore for Wrapped {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        let mut created = self.right.create(conversations).await?;
        for (new, created) in conversations.iter().zip(&mut created) {
            if let (NewConversation::Group { id, .. }, None, Defect::AnyName) = (new, &created, self.defect) {
                *created = self.right.get(std::slice::from_ref(id)).await?.pop().flatten();
            }
        }
        Ok(created)
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        self.right.get(ids).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        let mut page = self.right.list(user, device, after, max).await?;
        if self.defect == Defect::SkipsOne && after.is_some() && !page.is_empty() {
            page.remove(0);
        }
        Ok(page)
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        if self.defect != Defect::AlsoLeft {
            return self.right.large_groups(user, after, max).await;
        }
        let all = self
            .right
            .list(user, &None, after, 1000)
            .await?
            .into_iter()
            .map(|membership| membership.conversation);
        Ok(all.filter(|group| group.large_since.is_some()).map(|group| group.id).take(max).collect())
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        let mut found = self.right.memberships(wanted, device).await?;
        if self.defect == Defect::NothingPending {
            found.iter_mut().flatten().for_each(|membership| membership.unapplied = None);
        }
        Ok(found)
    }

    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>> {
        let at = if self.defect == Defect::MembersNow { Seq(u64::MAX >> 1) } else { at };
        self.right.members(&self.fold(conversation), at, after, max).await
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        self.right.count_members(conversation).await
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        self.shared.next();
        let store = match self.defect {
            Defect::NotFenced => self.messages.info().await?.incarnation,
            _ => store.clone(),
        };
        let changes = match self.defect {
            Defect::EachTime => self.made_new(changes).await?,
            _ => changes.to_vec(),
        };
        self.right.apply_members(&store, &changes).await?;
        if self.defect == Defect::Reset {
            self.reset_who_left(&changes).await?;
        }
        Ok(())
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        let now = self.right.applied(ids).await?;
        if self.defect != Defect::OwnChanges {
            return Ok(now);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(ids.iter().zip(now).map(|(id, now)| *known.entry(id.clone()).or_insert(now)).collect())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserState for Wrapped {
    async fn mark_read(&self, marks: &[im_core::ReadMark]) -> Result<Vec<im_core::Marked>> {
        self.states.mark_read(marks).await
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        self.states.set(user, conversation, change).await
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        self.states.state(user, device, since, max).await
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        let versions = self.states.versions(users).await?;
        let changes = if self.defect == Defect::ForEverybody { self.shared.count() } else { 0 };
        Ok(versions
            .iter()
            .map(|version| StateVersion::new(format!("{}#{changes}", version.as_str())))
            .collect())
    }

    async fn forget_devices(&self, before: im_core::Timestamp) -> Result<usize> {
        self.states.forget_devices(before).await
    }
}
