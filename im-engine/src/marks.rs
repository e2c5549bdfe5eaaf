//! Read marks and settings: batched per node, then told to the user's sessions.

use std::{sync::Arc, time::Duration};

use im_core::{
    ConversationId, DeviceId, Mark, Marked, Membership, ReadMark, Record, Seq, SettingsChange, State,
    StateChanges, StateVersion, StorePart, UserId,
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
    answer: oneshot::Sender<im_core::Result<Result<Marked, Refusal>>>,
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
    match mark_as_allowed(&parts.store, marks).await {
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

/// Moves the marks that lie within their users' rights; the others are told where those end.
async fn mark_as_allowed(
    store: &StorePart,
    marks: Vec<ReadMark>,
) -> im_core::Result<Vec<Result<Marked, Refusal>>> {
    let places: Vec<_> = marks.iter().map(|mark| (mark.conversation.clone(), mark.user.clone())).collect();
    let limits = limits(store, &places).await?;
    let refusal =
        |(mark, limit): (&ReadMark, Option<Limit>)| limit.ok_or(Refusal::NotMember)?.check(mark.seq);
    let checked: Vec<_> = marks.iter().zip(limits).map(refusal).collect();
    let allowed = marks.into_iter().zip(&checked).filter(|(_, checked)| checked.is_ok());
    let allowed: Vec<ReadMark> = allowed.map(|(mark, _)| mark).collect();
    let mut marked = match allowed.is_empty() {
        true => Vec::new(),
        false => store.states.mark_read(&allowed).await?,
    }
    .into_iter();
    let answer = |checked: Result<(), Refusal>| match checked {
        Ok(()) => marked.next().map(Ok),
        Err(refusal) => Some(Err(refusal)),
    };
    Ok(checked.into_iter().filter_map(answer).collect())
}

/// Up to where a user may know a timeline.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// As far as the store has it, and it is known who may know of it.
    head: Mark,
    left: Option<Seq>,
}

/// The limits of users in conversations; none for who never was a member.
///
/// The heads before the memberships: what comes in between lies above the head, whatever the membership says.
async fn limits(
    store: &StorePart,
    places: &[(ConversationId, UserId)],
) -> im_core::Result<Vec<Option<Limit>>> {
    let ids: Vec<_> = places.iter().map(|(id, _)| id.clone()).collect();
    let heads = store.messages.last(&ids).await?;
    let memberships = store.conversations.memberships(places, &None).await?;
    let limit = |(head, membership): (Option<Arc<Record>>, Option<Membership>)| {
        let membership = membership?;
        let head = head.map(|head| head.mark()).unwrap_or_default();
        let unapplied = membership.unapplied.filter(|unapplied| *unapplied < head.seq);
        Some(Limit {
            head: unapplied.map_or(head, |seq| Mark { seq, ..Mark::default() }),
            left: membership.intervals.last().and_then(|last| last.left).map(|left| left.seq),
        })
    };
    Ok(heads.into_iter().zip(memberships).map(limit).collect())
}

impl Limit {
    /// Who is behind may come again; who has left hears of nothing more.
    fn check(self, seq: Seq) -> Result<(), Refusal> {
        if self.left.is_some_and(|left| seq > left) {
            Err(Refusal::NotMember)
        } else if seq > self.head.seq {
            Err(Refusal::Behind { head: self.head })
        } else {
            Ok(())
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
        let mark = ReadMark { device: self.mark_device(mark.device.as_ref()), ..mark };
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
            .map_err(|_| unknown("state.mark_read", "the mark was given up"))???;
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
        if let Some(seq) = change.cleared {
            let limit = limits(&self.parts.store, &[(id.clone(), user.clone())]).await?.pop().flatten();
            limit.ok_or(Refusal::NotMember)?.check(seq)?;
        }
        let version = self.parts.store.states.set(user, id, change).await?;
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
        let device = self.mark_device(device);
        let State { version, changes } =
            self.parts.store.states.state(user, &device, &since, self.config.page).await?;
        let changes = match changes {
            StateChanges::All => None,
            StateChanges::Since(list) => Some(self.views(user, &device, ids_of(list)).await?),
        };
        Ok(StateView { version, changes })
    }
}
