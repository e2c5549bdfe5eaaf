//! Look-ups of one membership each, which many callers make at once, as few reads of the store.
//!
//! A sender is asked about again within a second: many senders are many look-ups, each of which would take a statement and a
//! connection of its own, of which the sends then have none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_core::{ConversationId, ConversationStore, Error, ErrorKind, Membership, Result, UserId};
use tokio::sync::oneshot;

/// How many look-ups a read takes at most.
pub(crate) const MOST: usize = 500;
/// How many look-ups wait at most. Whoever comes when there are more is refused.
pub(crate) const MOST_WAITING: usize = 10_000;
/// How many reads are under way at once.
const READERS: usize = 2;

/// Who waits for an answer. It begins with a read that begins later, so nobody is told what was true before it asked.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<Waiting>);

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

/// The answer, which does not come where the reader's runtime goes away.
pub(crate) type Answer = oneshot::Receiver<Result<Option<Membership>>>;

impl Lookups {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a look-up; and a reader to be run, where one more is needed. None where too many wait.
    pub(crate) fn enter(
        self: &Arc<Self>,
        wanted: (ConversationId, UserId),
    ) -> Option<(Answer, Option<Reader>)> {
        let mut waiting = self.lock();
        if waiting.asked.len() >= MOST_WAITING {
            waiting.asked.retain(|asked| !asked.answer.is_closed());
        }
        if waiting.asked.len() >= MOST_WAITING {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        waiting.asked.push(Asked { wanted, answer });
        let is_needed = waiting.readers < READERS;
        waiting.readers += usize::from(is_needed);
        drop(waiting);
        let reader = || Reader { lookups: self.clone(), has_ended: false };
        Some((answered, is_needed.then(reader)))
    }
}

/// One who reads for all that wait. However it ends, it is counted no longer: else nobody would ever read for those who come.
#[derive(Debug)]
pub(crate) struct Reader {
    lookups: Arc<Lookups>,
    has_ended: bool,
}

impl Reader {
    /// Answers until nobody waits.
    pub(crate) async fn run(mut self, store: Arc<dyn ConversationStore>) {
        loop {
            let asked = self.next();
            if asked.is_empty() {
                return;
            }
            read(&*store, asked).await;
        }
    }

    /// What comes next; nothing, and one reader less, where nobody waits.
    fn next(&mut self) -> Vec<Asked> {
        let mut waiting = self.lookups.lock();
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
        let mut waiting = self.lookups.lock();
        waiting.readers -= 1;
        if waiting.readers == 0 {
            waiting.asked.clear();
        }
    }
}

/// Whether it is a row that could not be read, and not the store.
fn is_of_a_row(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid)
}

/// Answers each; what cannot be read of one hides no other.
async fn read(store: &dyn ConversationStore, asked: Vec<Asked>) {
    let mut parts = vec![asked];
    while let Some(mut asked) = parts.pop() {
        let wanted: Vec<_> = asked.iter().map(|asked| asked.wanted.clone()).collect();
        let found = match store.memberships(&wanted, &None).await {
            Err(error) if asked.len() > 1 && is_of_a_row(&error) => {
                let half = asked.split_off(asked.len() / 2);
                parts.extend([half, asked]);
                continue;
            }
            Err(error) => vec![Err(error); asked.len()],
            Ok(found) => found.into_iter().map(Ok).collect(),
        };
        for (asked, found) in asked.into_iter().zip(found) {
            // Who has given up meanwhile is not there any more.
            let _ = asked.answer.send(found);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use im_core::{
        Conversation, ConversationKind, Error, ErrorKind, Interval, MockConversationStore, Role, Settings,
        Timestamp,
    };

    use super::*;

    fn user(number: usize) -> UserId {
        UserId::new(format!("user-{number:05}")).unwrap()
    }

    fn wanted(number: usize) -> (ConversationId, UserId) {
        (ConversationId::single(&user(number), &user(number + 1)).unwrap(), user(number))
    }

    pub(crate) fn member(id: &ConversationId) -> Membership {
        let conversation = Conversation {
            id: id.clone(),
            kind: ConversationKind::Group,
            name: None,
            users: None,
            created_at: Timestamp(0),
            large_since: None,
        };
        let intervals = vec![Interval { joined: im_core::Mark::default(), left: None }];
        let (role, settings, read) = (Role::Member, Settings::default(), im_core::Mark::default());
        Membership { conversation, role, intervals, settings, read, unapplied: None }
    }

    /// A store that has every third user nowhere, and fails where `fails` says so; with how often it was read.
    fn store(
        fails: impl Fn(&[(ConversationId, UserId)]) -> Option<ErrorKind> + Send + Sync + 'static,
    ) -> (Arc<dyn ConversationStore>, Arc<AtomicUsize>) {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let mut store = MockConversationStore::new();
        store.expect_memberships().returning(move |wanted, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            if let Some(kind) = fails(wanted) {
                return Err(Error::new(kind, "mock", "conversations.memberships", "as it is meant to"));
            }
            Ok(wanted.iter().map(|(id, of)| is_there(of).then(|| member(id))).collect())
        });
        (Arc::new(store), reads)
    }

    fn is_there(user: &UserId) -> bool {
        !user.as_str()["user-".len()..].parse::<usize>().unwrap().is_multiple_of(3)
    }

    /// Look-ups, and the readers that they need.
    fn enter(lookups: &Arc<Lookups>, count: usize) -> (Vec<Answer>, Vec<Reader>) {
        let (answers, readers): (Vec<_>, Vec<_>) =
            (0..count).map(|number| lookups.enter(wanted(number)).unwrap()).unzip();
        (answers, readers.into_iter().flatten().collect())
    }

    async fn run(readers: Vec<Reader>, store: &Arc<dyn ConversationStore>) {
        futures::future::join_all(readers.into_iter().map(|reader| reader.run(store.clone()))).await;
    }

    #[tokio::test]
    async fn many_share_a_read_and_nobody_gets_anothers_answer() {
        let (lookups, (store, reads)) = (Arc::default(), store(|_| None));
        let (mut answers, readers) = enter(&lookups, 3 * MOST);
        assert_eq!(readers.len(), READERS);
        // Who gives up takes nobody along, not even the one whose look-up came first, and is not read of.
        answers.drain(..MOST);
        run(readers, &store).await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        for (number, answer) in (MOST..).zip(answers) {
            let found = answer.await.unwrap().unwrap().map(|found| found.conversation.id);
            let (id, user) = wanted(number);
            assert_eq!(found, is_there(&user).then_some(id));
        }
        assert_eq!(enter(&lookups, 1).1.len(), 1, "the readers have ended");
    }

    #[tokio::test]
    async fn what_cannot_be_read_hides_no_other_and_nobody_waits_for_a_store_that_is_away() {
        for (kind, most) in
            [(ErrorKind::Corrupt, 2 * 9 + 1), (ErrorKind::Unavailable, 1), (ErrorKind::Denied, 1)]
        {
            let odd = |wanted: &[(_, UserId)]| wanted.iter().any(|(_, of)| *of == user(7));
            let (lookups, (store, reads)) =
                (Arc::default(), store(move |wanted| odd(wanted).then_some(kind)));
            let (answers, readers) = enter(&lookups, MOST);
            run(readers, &store).await;
            assert!(reads.load(Ordering::Relaxed) <= most, "{reads:?}");
            for (number, answer) in answers.into_iter().enumerate() {
                let failed = answer.await.unwrap().err().map(|error| error.kind());
                assert_eq!(failed, (number == 7 || kind != ErrorKind::Corrupt).then_some(kind));
            }
        }
    }

    #[tokio::test]
    async fn of_too_many_the_last_are_refused_until_there_is_room() {
        let (lookups, (store, _)) = (Arc::default(), store(|_| None));
        let (mut answers, readers) = enter(&lookups, MOST_WAITING);
        assert!(lookups.enter(wanted(0)).is_none());
        drop(answers.pop());
        answers.push(lookups.enter(wanted(0)).unwrap().0);
        assert!(lookups.enter(wanted(0)).is_none());
        run(readers, &store).await;
        assert!(futures::future::join_all(answers).await.into_iter().all(|answer| answer.unwrap().is_ok()));
    }

    #[tokio::test]
    async fn readers_that_are_cut_off_leave_nobody_waiting() {
        let lookups = Arc::default();
        let (mut answers, mut readers) = enter(&lookups, 3);
        drop(readers.pop());
        assert!(answers[2].try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(readers);
        assert!(answers[2].try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert_eq!(enter(&lookups, 1).1.len(), 1);
    }
}
