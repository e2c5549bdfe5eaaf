//! Read marks and settings in the memory store.

use async_trait::async_trait;

use super::{
    BACKEND,
    store::{MemoryStore, State as Store},
    tables::{Tables, version, version_number},
};
use crate::{
    ConversationId, DeviceId, Error, ErrorKind, Mark, Marked, ReadMark, Result, SettingsChange, State,
    StateChanges, StateVersion, Timestamp, UserId, UserState,
};

/// What became of a read mark, before the version has its text.
enum Step {
    Moved(Mark, u64),
    Unmoved(Mark),
    Behind(Mark),
    NoMember,
}

impl Tables {
    fn mark_read(&mut self, read: &ReadMark) -> Step {
        let ReadMark { user, device, conversation, seq } = read;
        if self.member(conversation, user).is_none() {
            return Step::NoMember;
        }
        let head = self.head(conversation);
        if *seq > head.seq {
            return Step::Behind(head);
        }
        let wanted = self.mark_at(conversation, *seq);
        let own = self.user(user);
        let mark = own.marks.entry(conversation.clone()).or_default().slot(device.as_ref());
        if wanted.seq <= mark.seq {
            return Step::Unmoved(*mark);
        }
        *mark = wanted;
        own.raise(conversation);
        Step::Moved(wanted, own.version)
    }

    /// The user's version after the change.
    fn set(&mut self, user: &UserId, conversation: &ConversationId, change: &SettingsChange) -> u64 {
        let cleared = change.cleared.map(|seq| self.mark_at(conversation, seq)).unwrap_or_default();
        let own = self.user(user);
        let settings = own.settings.entry(conversation.clone()).or_default();
        let before = settings.clone();
        if let Some(nickname) = &change.nickname {
            settings.nickname = Some(nickname.clone()).filter(|name| !name.is_empty());
        }
        settings.hidden = change.hidden.unwrap_or(settings.hidden);
        settings.undisturbed = change.undisturbed.unwrap_or(settings.undisturbed);
        settings.cleared = cleared.max(settings.cleared);
        if *settings != before {
            own.raise(conversation);
        }
        own.version
    }

    fn knows_device(&self, user: &UserId, device: &DeviceId) -> bool {
        self.users.get(user).is_some_and(|own| own.devices.contains_key(device))
    }

    /// Notes that a device is there; a new one begins at the user's highest marks.
    fn see_device(&mut self, user: &UserId, device: &DeviceId, now: Timestamp) {
        let own = self.user(user);
        if own.devices.insert(device.clone(), now).is_none() {
            for marks in own.marks.values_mut() {
                let highest = marks.highest();
                *marks.slot(Some(device)) = highest;
            }
        }
    }

    fn forget_devices(&mut self, before: Timestamp) -> usize {
        let mut forgotten = 0;
        for own in self.users.values_mut() {
            let known = own.devices.len();
            own.devices.retain(|_, seen| *seen >= before);
            forgotten += known - own.devices.len();
            for marks in own.marks.values_mut() {
                marks.devices.retain(|device, _| own.devices.contains_key(device));
            }
        }
        forgotten
    }

    /// The conversations that changed after a version, at most `max`; none if there are more.
    fn changed(&self, user: &UserId, since: u64, max: usize) -> Option<Vec<&ConversationId>> {
        let own = self.users.get(user)?;
        let changed: Vec<_> =
            own.changed.iter().filter(|(_, version)| **version > since).map(|(id, _)| id).collect();
        (changed.len() <= max).then_some(changed)
    }
}

impl Store {
    fn version_of(&self, user: &UserId) -> StateVersion {
        version(&self.incarnation, self.tables().users.get(user).map_or(0, |own| own.version))
    }

    fn changes(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        since: &StateVersion,
        max: usize,
    ) -> Option<Vec<crate::Membership>> {
        let tables = self.tables();
        let since = version_number(&self.incarnation, since)?;
        let present = tables.users.get(user).map_or(0, |own| own.version);
        if since >= present {
            return (since == present).then(Vec::new);
        }
        let changed = tables.changed(user, since, max)?;
        Some(changed.into_iter().filter_map(|id| tables.membership(id, user, device)).collect())
    }
}

#[async_trait]
impl UserState for MemoryStore {
    async fn mark_read(&self, marks: &[ReadMark]) -> Result<Vec<Marked>> {
        let marks = marks.to_vec();
        let mut state = self.state();
        let moved: Vec<_> =
            state.data.write(move |tables| marks.iter().map(|mark| tables.mark_read(mark)).collect());
        let marked = |moved| match moved {
            Step::Moved(mark, number) => Marked::Moved(mark, version(&state.incarnation, number)),
            Step::Unmoved(mark) => Marked::Unmoved(mark),
            Step::Behind(head) => Marked::Behind(head),
            Step::NoMember => Marked::NoMember,
        };
        Ok(moved.into_iter().map(marked).collect())
    }

    async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> Result<Option<StateVersion>> {
        let mut state = self.state();
        if state.tables().member(conversation, user).is_none() {
            return Ok(None);
        }
        let head = state.tables().head(conversation);
        if change.cleared.is_some_and(|seq| seq > head.seq) {
            let message = format!("cannot clear above the head {}", head.seq.0);
            return Err(Error::new(ErrorKind::Behind, BACKEND, "states.set", message));
        }
        let (user, conversation, change) = (user.clone(), conversation.clone(), change.clone());
        let number = state.data.write(move |tables| tables.set(&user, &conversation, &change));
        Ok(Some(version(&state.incarnation, number)))
    }

    async fn state(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        since: &Option<StateVersion>,
        max: usize,
    ) -> Result<State> {
        let now = self.clock.now();
        let mut state = MemoryStore::state(self);
        let mut since = since.as_ref();
        if let Some(device) = device {
            // A device that was forgotten gets other marks than it had, which no version tells.
            since = since.filter(|_| state.tables().knows_device(user, device));
            let (user, device) = (user.clone(), device.clone());
            state.data.write(move |tables| tables.see_device(&user, &device, now));
        }
        let changes = since.and_then(|since| state.changes(user, device.as_ref(), since, max));
        let changes = changes.map_or(StateChanges::All, StateChanges::Since);
        Ok(State { version: state.version_of(user), changes })
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<StateVersion>> {
        let state = MemoryStore::state(self);
        Ok(users.iter().map(|user| state.version_of(user)).collect())
    }

    async fn forget_devices(&self, before: Timestamp) -> Result<usize> {
        Ok(MemoryStore::state(self).data.write(move |tables| tables.forget_devices(before)))
    }
}
