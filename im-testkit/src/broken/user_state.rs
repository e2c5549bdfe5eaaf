//! Stores that move marks back, ahead, or for the wrong device.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationStore, DeviceId, Incarnation, Mark, Marked,
    Member, Membership, NewConversation, Ordinal, Parts, ReadMark, Result, Seq, SettingsChange, State,
    StateChanges, StateVersion, StorePart, Timestamp, UserId, UserState,
};

use super::{Broken, Shared, with_store};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("user_state::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "forward_only" SaysAsked "a mark that does not move is answered as asked"
    "behind" ToTheHead "a mark above the head is put onto the head"
    "with_its_ordinal" OrdinalIsSeq "everything counts"
    "state_version" AlwaysRaises "setting what is set raises the version"
    "state_version" LeavesOut "the state since a version leaves a conversation out"
    "durable" LostAtRestart "a restart loses the marks"
    "another_incarnation" TrustsAny "an unknown version means that nothing changed"
    "device_begins_high" NoDevices "devices are not told apart"
    "forget_devices" NeverForgets "no device is ever forgotten"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let shared = shared.clone();
    with_store(parts, |part| {
        let StorePart { conversations, states: right, .. } = part.clone();
        let wrapped = Arc::new(Wrapped { right, conversations, defect, shared });
        StorePart { conversations: wrapped.clone(), states: wrapped, ..part }
    })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn UserState>,
    conversations: Arc<dyn ConversationStore>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    async fn mark(&self, wanted: &ReadMark) -> Result<Vec<Marked>> {
        let marked = self.right.mark_read(std::slice::from_ref(wanted)).await?;
        let change = |marked| match (self.defect, marked) {
            (Defect::SaysAsked, Marked::Unmoved(mark)) => Marked::Unmoved(Mark { seq: wanted.seq, ..mark }),
            (Defect::OrdinalIsSeq, Marked::Moved(mark, version)) => {
                Marked::Moved(Mark { ordinal: Ordinal(mark.seq.0), ..mark }, version)
            }
            (_, marked) => marked,
        };
        match marked.first() {
            Some(Marked::Behind(head)) if self.defect == Defect::ToTheHead => {
                self.right.mark_read(&[ReadMark { seq: head.seq, ..wanted.clone() }]).await
            }
            _ => Ok(marked.into_iter().map(change).collect()),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl UserState for Wrapped {
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>> {
        let mut all = Vec::new();
        for mark in marks {
            all.extend(self.mark(mark).await?);
        }
        Ok(all)
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        if self.defect == Defect::AlwaysRaises {
            let twice =
                SettingsChange { undisturbed: Some(self.shared.next().is_multiple_of(2)), ..change.clone() };
            return self.right.set(user, conversation, &twice).await;
        }
        self.right.set(user, conversation, change).await
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        let device = device.as_ref().filter(|_| self.defect != Defect::NoDevices).cloned();
        let mut state = self.right.state(user, &device, since, max).await?;
        match (&mut state.changes, self.defect) {
            (StateChanges::Since(changed), Defect::LeavesOut) => drop(changed.pop()),
            (changes @ StateChanges::All, Defect::TrustsAny) if since.is_some() => {
                *changes = StateChanges::Since(Vec::new());
            }
            _ => {}
        }
        Ok(state)
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        self.right.versions(users).await
    }

    async fn forget_devices(&self, before: Timestamp) -> Result<usize> {
        match self.defect {
            Defect::NeverForgets => Ok(0),
            _ => self.right.forget_devices(before).await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ConversationStore for Wrapped {
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>> {
        self.conversations.create(conversations).await
    }

    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>> {
        self.conversations.get(ids).await
    }

    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>> {
        self.conversations.list(user, device, after, max).await
    }

    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>> {
        self.conversations.large_groups(user, after, max).await
    }

    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>> {
        let mut found = self.conversations.memberships(wanted, device).await?;
        if self.defect == Defect::LostAtRestart && self.shared.reopened() {
            found.iter_mut().flatten().for_each(|membership| membership.read = Mark::default());
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
        self.conversations.members(conversation, at, after, max).await
    }

    async fn count_members(&self, conversation: &ConversationId) -> Result<usize> {
        self.conversations.count_members(conversation).await
    }

    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()> {
        self.conversations.apply_members(store, changes).await
    }

    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>> {
        self.conversations.applied(ids).await
    }
}
