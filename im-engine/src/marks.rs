//! Read marks and settings: batched per node, then told to the user's sessions.

use std::time::Duration;

use im_core::{
    ConversationId, DeviceId, Mark, Marked, ReadMark, Seq, SettingsChange, State, StateChanges, StateVersion,
    UserId,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    ReadMarks, Refusal,
    builder::Complete,
    engine::Inner,
    error::{ChatResult, unknown},
    reads::{ConversationView, ids_of},
};

/// How many marks go into one write.
const BATCH: usize = 512;
/// How many marks may wait.
const QUEUE: usize = 8192;
/// The longest nickname, in bytes.
const NICKNAME_BYTES: usize = 256;

/// A user's own state, with what is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateView {
    /// The version that this leads to.
    pub version: StateVersion,
    /// The conversations that changed, as they are now; none: anything may have changed, list them all.
    pub changes: Option<Vec<ConversationView>>,
}

#[derive(Debug)]
pub(crate) struct Job {
    mark: ReadMark,
    answer: oneshot::Sender<im_core::Result<Marked>>,
}

pub(crate) type Queue = mpsc::Sender<Job>;

/// The queue of marks and the task that writes them; it ends with the queue.
pub(crate) fn queue(parts: Complete) -> (Queue, impl Future<Output = ()> + Send) {
    let (queue, mut jobs) = mpsc::channel(QUEUE);
    let task = async move {
        let mut batch = Vec::new();
        while jobs.recv_many(&mut batch, BATCH).await > 0 {
            write(&parts, std::mem::take(&mut batch)).await;
        }
    };
    (queue, task)
}

async fn write(parts: &Complete, batch: Vec<Job>) {
    let (marks, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.mark, job.answer)).unzip();
    match parts.store.states.mark_read(&marks).await {
        Ok(marked) => {
            for (answer, marked) in answers.into_iter().zip(marked) {
                let _ = answer.send(Ok(marked));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

impl Inner {
    /// The device whose mark counts; none where the user's devices share marks.
    pub(crate) fn mark_device(&self, device: Option<&DeviceId>) -> Option<DeviceId> {
        match self.config.read_marks {
            ReadMarks::PerUser => None,
            ReadMarks::PerDevice => device.cloned(),
        }
    }

    pub(crate) async fn mark_read(&self, mark: ReadMark) -> ChatResult<Mark> {
        let seq = self.within_right(&mark.user, &mark.conversation, mark.seq).await?;
        let mark = ReadMark { device: self.mark_device(mark.device.as_ref()), seq, ..mark };
        let user = mark.user.clone();
        let (answer, marked) = oneshot::channel();
        let queue = self.marks()?;
        queue.try_send(Job { mark, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded(Duration::from_millis(100)),
            mpsc::error::TrySendError::Closed(_) => Refusal::ShuttingDown,
        })?;
        drop(queue);
        let marked = tokio::time::timeout(self.config.patience, marked)
            .await
            .map_err(|_| unknown("state.mark_read", "no answer in time"))?
            .map_err(|_| unknown("state.mark_read", "the mark was given up"))??;
        match marked {
            Marked::Moved(mark, version) => {
                self.signaller.state(user, version).await;
                Ok(mark)
            }
            Marked::Unmoved(mark) => Ok(mark),
            Marked::Behind(head) => Err(Refusal::Behind { head }.into()),
            Marked::NoMember => Err(Refusal::NotMember.into()),
        }
    }

    pub(crate) async fn set(
        &self,
        user: &UserId,
        id: &ConversationId,
        change: &SettingsChange,
    ) -> ChatResult<StateVersion> {
        if change.nickname.as_ref().is_some_and(|nickname| nickname.len() > NICKNAME_BYTES) {
            return Err(Refusal::TooLarge { what: "nickname bytes", limit: NICKNAME_BYTES }.into());
        }
        let mut change = change.clone();
        if let Some(cleared) = change.cleared {
            change.cleared = Some(self.within_right(user, id, cleared).await?);
        }
        let version = self.parts.store.states.set(user, id, &change).await?;
        let version = version.ok_or(Refusal::NotMember)?;
        self.signaller.state(user.clone(), version.clone()).await;
        Ok(version)
    }

    pub(crate) async fn state(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        since: Option<StateVersion>,
    ) -> ChatResult<StateView> {
        let own = self.mark_device(device);
        let State { version, changes } =
            self.parts.store.states.state(user, &own, &since, self.config.page).await?;
        let changes = match changes {
            StateChanges::All => None,
            StateChanges::Since(list) => Some(self.views(user, device, ids_of(&list)).await?),
        };
        Ok(StateView { version, changes })
    }

    /// A place, or the user's last one if that is before: whoever left is not to learn how the conversation goes on.
    async fn within_right(&self, user: &UserId, id: &ConversationId, seq: Seq) -> ChatResult<Seq> {
        let membership = self.membership(id, user).await?;
        if let Some(unapplied) = membership.unapplied.filter(|unapplied| *unapplied < seq) {
            return Err(Refusal::Behind { head: Mark { seq: unapplied, ..Mark::default() } }.into());
        }
        let left = membership.intervals.last().and_then(|last| last.left);
        Ok(left.map_or(seq, |left| left.seq.min(seq)))
    }
}
