//! Look-ups of one membership each, which many callers make at once, as few statements.
//!
//! A sender is asked about again a second after it was: many senders are many look-ups, each of which would take a round trip and a
//! connection of its own, of which the sends then have none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_core::{ConversationId, Error, ErrorKind, Membership, Outcome, Result, UserId};
use tokio::sync::oneshot;

use crate::{connect::Inner, error::BACKEND, memberships};

/// How many look-ups a statement takes at most.
const MOST: usize = 500;
/// How many look-ups wait at most. Whoever comes when there are more is refused.
const MOST_WAITING: usize = 10_000;
/// How many statements are under way at once.
const READERS: usize = 2;

/// Who waits for an answer. It begins with a statement that begins later, so nobody is told what was true before it asked.
#[derive(Debug, Default)]
pub(crate) struct Gather(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    asked: Vec<Asked>,
    readers: usize,
}

#[derive(Debug)]
struct Asked {
    wanted: (ConversationId, UserId),
    answer: oneshot::Sender<Result<Option<Membership>>>,
}

impl Gather {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a look-up; whether one reader more is needed. None where too many wait.
    fn enter(&self, asked: Asked) -> Option<bool> {
        let mut waiting = self.lock();
        if waiting.asked.len() >= MOST_WAITING {
            waiting.asked.retain(|asked| !asked.answer.is_closed());
        }
        if waiting.asked.len() >= MOST_WAITING {
            return None;
        }
        waiting.asked.push(asked);
        let is_needed = waiting.readers < READERS;
        waiting.readers += usize::from(is_needed);
        Some(is_needed)
    }
}

/// One who reads for all that wait. However it ends, it is counted no longer: else nobody would ever read for those who come.
#[derive(Debug)]
struct Reader {
    gather: Arc<Gather>,
    has_ended: bool,
}

impl Reader {
    /// What comes next; nothing, and one reader less, where nobody waits.
    fn next(&mut self) -> Vec<Asked> {
        let mut waiting = self.gather.lock();
        waiting.asked.retain(|asked| !asked.answer.is_closed());
        let count = waiting.asked.len().min(MOST);
        if count == 0 {
            waiting.readers -= 1;
            self.has_ended = true;
        }
        waiting.asked.drain(..count).collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Its runtime has gone, or it has panicked. Those for whom nobody reads now are told by the end of their channels.
        let mut waiting = self.gather.lock();
        waiting.readers -= 1;
        if waiting.readers == 0 {
            waiting.asked.clear();
        }
    }
}

/// What a user is and has in a conversation.
pub(crate) async fn one(
    inner: &Arc<Inner>,
    wanted: (ConversationId, UserId),
    operation: &'static str,
) -> Result<Option<Membership>> {
    let (answer, answered) = oneshot::channel();
    let is_needed = inner.gather.enter(Asked { wanted, answer }).ok_or_else(|| {
        Error::new(ErrorKind::Full, BACKEND, operation, "too many look-ups wait")
            .with_outcome(Outcome::NotDone)
    })?;
    if is_needed {
        let reader = Reader { gather: inner.gather.clone(), has_ended: false };
        tokio::spawn(read(reader, inner.clone(), operation));
    }
    answered.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, "the runtime is shutting down"))
    })
}

/// Answers until nobody waits.
async fn read(mut reader: Reader, inner: Arc<Inner>, operation: &'static str) {
    loop {
        let asked = reader.next();
        if asked.is_empty() {
            return;
        }
        let (wanted, answers): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|asked| (asked.wanted, asked.answer)).unzip();
        let found = match memberships::read(&inner, &wanted, None, operation).await {
            Ok(found) => found,
            Err(error) => vec![Err(error); answers.len()],
        };
        for (answer, found) in answers.into_iter().zip(found) {
            // Who has given up meanwhile is not there any more.
            let _ = answer.send(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn enter(gather: &Arc<Gather>) -> (Option<Reader>, oneshot::Receiver<Result<Option<Membership>>>) {
        let (answer, answered) = oneshot::channel();
        let wanted = (ConversationId::group("g").unwrap(), UserId::new("alice").unwrap());
        let is_needed = gather.enter(Asked { wanted, answer }).unwrap();
        (is_needed.then(|| Reader { gather: gather.clone(), has_ended: false }), answered)
    }

    #[test]
    fn readers_that_are_cut_off_leave_nobody_waiting() {
        let gather = Arc::new(Gather::default());
        let (first, _one) = enter(&gather);
        let (second, _other) = enter(&gather);
        let (third, mut waits) = enter(&gather);
        assert!(third.is_none());
        drop(first);
        assert_eq!(waits.try_recv().err(), Some(TryRecvError::Empty), "the second still reads");
        drop(second);
        assert_eq!(waits.try_recv().err(), Some(TryRecvError::Closed));
        let (again, answered) = enter(&gather);
        let mut again = again.unwrap();
        assert_eq!(again.next().len(), 1);
        drop(answered);
        assert!(again.next().is_empty());
        drop(again);
        assert_eq!(gather.lock().readers, 0);
    }
}
