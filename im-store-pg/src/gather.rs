//! Look-ups of one membership each, which many callers make at once, as few statements.
//!
//! A sender is asked about again a second after it was: many senders are many look-ups, each of which would take a round trip and a
//! connection of its own, of which the sends then have none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_core::{ConversationId, Error, ErrorKind, Membership, Result, UserId};
use tokio::sync::oneshot;

use crate::{
    connect::Inner,
    error::{BACKEND, failed},
    memberships,
};

/// How many look-ups a statement takes at most.
const MOST: usize = 500;
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

    /// Enters a look-up; whether one reader more is needed.
    fn enter(&self, asked: Asked) -> bool {
        let mut waiting = self.lock();
        waiting.asked.push(asked);
        let is_needed = waiting.readers < READERS;
        waiting.readers += usize::from(is_needed);
        is_needed
    }

    /// What comes next; nothing, and one reader less, where nobody waits.
    fn next(&self) -> Vec<Asked> {
        let mut waiting = self.lock();
        waiting.asked.retain(|asked| !asked.answer.is_closed());
        let count = waiting.asked.len().min(MOST);
        if count == 0 {
            waiting.readers -= 1;
        }
        waiting.asked.drain(..count).collect()
    }
}

/// What a user is and has in a conversation.
pub(crate) async fn one(
    inner: &Arc<Inner>,
    wanted: (ConversationId, UserId),
    operation: &'static str,
) -> Result<Option<Membership>> {
    let (answer, answered) = oneshot::channel();
    if inner.gather.enter(Asked { wanted, answer }) {
        tokio::spawn(read(inner.clone(), operation));
    }
    answered.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, "the runtime is shutting down"))
    })
}

/// Answers until nobody waits.
async fn read(inner: Arc<Inner>, operation: &'static str) {
    loop {
        let asked = inner.gather.next();
        if asked.is_empty() {
            return;
        }
        let (wanted, answers): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|asked| (asked.wanted, asked.answer)).unzip();
        let found = match inner.pool.acquire().await {
            Ok(mut conn) => memberships::get(&inner, &mut conn, &wanted, None, operation).await,
            Err(error) => Err(failed(operation)(error)),
        };
        let found = match found {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); answers.len()],
        };
        for (answer, found) in answers.into_iter().zip(found) {
            // Who has given up meanwhile is not there any more.
            let _ = answer.send(found);
        }
    }
}
