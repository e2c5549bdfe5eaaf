//! Who may send: remembered for at most a second; a refusal is never remembered.
//!
//! Who goes on sending is asked about again before that, beside the sends, each at another moment: else all who send would wait
//! for the store once a second, and together.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use im_core::{ConversationId, Error, ErrorKind, Membership, Outcome, UserId};
use lru::LruCache;
use tokio::time::Instant;

use crate::{
    Refusal,
    engine::Inner,
    error::ChatResult,
    lookups::{MOST, MOST_WAITING},
};

type Key = (ConversationId, UserId);

/// The part of its time after which an admission is to be asked about again, at the earliest and at the latest.
const AGAIN: (f64, f64) = (0.5, 0.8);
/// For that part of its time it waits for others then: many are few reads of the store.
const GATHER: f64 = 0.05;

/// Members who were admitted a moment ago.
#[derive(Debug)]
pub(crate) struct Admissions {
    recent: Mutex<LruCache<Key, Admitted>>,
    /// Who is to be asked about again; somebody is about to do it while there are any.
    due: Mutex<Vec<Key>>,
    /// Held by the one who asks again.
    asking: tokio::sync::Mutex<()>,
    lifetime: Duration,
}

#[derive(Debug)]
struct Admitted {
    /// When was asked; the answer may be as old as that.
    asked: Instant,
    /// The other user of a SINGLE conversation.
    peer: Option<UserId>,
    /// When to ask again.
    again: Instant,
}

/// What is remembered of a sender.
struct Recent {
    peer: Option<UserId>,
    /// It is time to ask again about those who are due, of whom this is the first.
    is_first_due: bool,
}

impl Admissions {
    pub(crate) fn new(entries: usize, lifetime: Duration) -> Self {
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        let lifetime = lifetime.min(Duration::from_secs(1));
        let recent = Mutex::new(LruCache::new(entries));
        Self { recent, due: Mutex::default(), asking: tokio::sync::Mutex::default(), lifetime }
    }

    fn recent(&self, key: &Key) -> Option<Recent> {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Admitted { asked, peer, again } = recent.get_mut(key)?;
        let end = *asked + self.lifetime;
        if end <= now {
            return None;
        }
        let is_due = *again <= now;
        if is_due {
            *again = end;
        }
        let peer = peer.clone();
        drop(recent);
        Some(Recent { peer, is_first_due: is_due && self.is_first_due(key) })
    }

    fn due(&self) -> MutexGuard<'_, Vec<Key>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to those who are due, while they are not too many; whether there was none.
    fn is_first_due(&self, key: &Key) -> bool {
        let mut due = self.due();
        if due.len() >= MOST_WAITING {
            return false;
        }
        due.push(key.clone());
        due.len() == 1
    }

    fn remember(&self, key: Key, asked: Instant, peer: Option<UserId>) {
        // Each by its name: those who were asked about together are not the next time.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&key) as u32;
        let part = AGAIN.0 + (AGAIN.1 - AGAIN.0) * f64::from(hash) / f64::from(u32::MAX);
        let again = asked + self.lifetime.mul_f64(part);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.peek(&key).is_none_or(|known| known.asked <= asked) {
            recent.put(key, Admitted { asked, peer, again });
        }
    }

    /// What was asked later says otherwise.
    fn forget(&self, key: &Key, asked: Instant) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.peek(key).is_some_and(|known| known.asked <= asked) {
            recent.pop(key);
        }
    }
}

impl Inner {
    /// Whether a user may send to a conversation: then the other user, if it is a SINGLE.
    pub(crate) async fn admission(
        self: &Arc<Self>,
        conversation: &ConversationId,
        user: &UserId,
    ) -> ChatResult<Option<UserId>> {
        let key = (conversation.clone(), user.clone());
        if let Some(Recent { peer, is_first_due }) = self.admissions.recent(&key) {
            if is_first_due {
                self.spawn_until_stop(self.clone().ask_again());
            }
            return Ok(peer);
        }
        let asked = Instant::now();
        let membership = self.current_membership(conversation, user).await?;
        let peer = peer(&membership, user);
        self.admissions.remember(key, asked, peer.clone());
        Ok(peer)
    }

    /// Asks about all who are due. Where that fails their admissions end in their time, and the sends after that are told.
    async fn ask_again(self: Arc<Self>) {
        tokio::time::sleep(self.admissions.lifetime.mul_f64(GATHER)).await;
        // However slow the store is, its connections are for others.
        let _one_at_a_time = self.admissions.asking.lock().await;
        let due = std::mem::take(&mut *self.admissions.due());
        for keys in due.chunks(MOST) {
            let asked = Instant::now();
            let Ok(found) = self.parts.store.conversations.memberships(keys, &None).await else { continue };
            for (key, membership) in keys.iter().zip(found) {
                match membership.filter(Membership::is_current) {
                    Some(membership) => {
                        self.admissions.remember(key.clone(), asked, peer(&membership, &key.1))
                    }
                    None => self.admissions.forget(key, asked),
                }
            }
        }
    }

    /// What a user is in a conversation, also after leaving.
    pub(crate) async fn membership(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> ChatResult<Membership> {
        let conversations = &self.parts.store.conversations;
        let too_many = Refusal::Overloaded(Duration::from_millis(100));
        let (answer, reader) = self.lookups.enter((conversation.clone(), user.clone())).ok_or(too_many)?;
        if let Some(reader) = reader {
            // Whoever asks is answered after the end too, and the end waits for none of them.
            self.runtime.spawn(reader.run(conversations.clone()));
        }
        let stopped = |_| {
            let message = "the runtime is shutting down";
            let error = Error::new(ErrorKind::Unavailable, "engine", "conversations.memberships", message);
            error.with_outcome(Outcome::NotDone)
        };
        if let Some(membership) = answer.await.map_err(stopped)?? {
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use im_core::{MockConversationStore, Parts, memory::Memory};

    use super::*;
    use crate::{Engine, lookups::tests::member};

    const MILLI: Duration = Duration::from_millis(1);

    /// What the store says of everybody.
    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    enum Says {
        #[default]
        Member,
        Left,
        Nobody,
        Nothing,
    }

    struct Bed {
        engine: Engine,
        store: Arc<Mutex<Store>>,
    }

    #[derive(Debug, Default)]
    struct Store {
        says: Says,
        asked: usize,
        reads: usize,
    }

    impl Bed {
        async fn open() -> Self {
            let store = Arc::new(Mutex::new(Store::default()));
            let told = store.clone();
            let mut conversations = MockConversationStore::new();
            conversations.expect_get().returning(|ids| Ok(vec![None; ids.len()]));
            conversations.expect_memberships().returning(move |wanted, _| {
                let mut told = told.lock().unwrap();
                told.asked += wanted.len();
                told.reads += 1;
                let members = wanted.iter().map(|(id, _)| member(id));
                let left = |mut member: Membership| {
                    member.intervals[0].left = Some(im_core::Mark::default());
                    Some(member)
                };
                match told.says {
                    Says::Member => Ok(members.map(Some).collect()),
                    Says::Left => Ok(members.map(left).collect()),
                    Says::Nobody => Ok(vec![None; wanted.len()]),
                    Says::Nothing => Err(Error::new(ErrorKind::Unavailable, "mock", "test", "it is away")),
                }
            });
            let mut parts = Parts::from(&Memory::new());
            parts.store.as_mut().unwrap().conversations = Arc::new(conversations);
            Self { engine: Engine::builder(parts).start().await.unwrap(), store }
        }

        fn says(&self, says: Says) {
            self.store.lock().unwrap().says = says;
        }

        fn asked(&self) -> usize {
            self.store.lock().unwrap().asked
        }

        fn reads(&self) -> usize {
            self.store.lock().unwrap().reads
        }

        /// Whether somebody is admitted, and without waiting.
        async fn admits(&self, name: &str) -> (bool, bool) {
            let (group, user) = (ConversationId::group("g").unwrap(), UserId::new(name).unwrap());
            let mut admission = Box::pin(self.engine.inner().admission(&group, &user));
            let at_once = (&mut admission).now_or_never();
            let waited = at_once.is_none();
            let admitted = match at_once {
                Some(admitted) => admitted,
                None => admission.await,
            };
            (admitted.is_ok(), !waited)
        }
    }

    /// Lets what was begun beside come to its end: nothing of it waits for a time.
    async fn settle() {
        tokio::time::sleep(MILLI).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_on_sending_waits_once_and_who_comes_back_is_asked_about() {
        let bed = Bed::open().await;
        assert_eq!(bed.admits("alice").await, (true, false));
        for _ in 0..100 {
            tokio::time::sleep(90 * MILLI).await;
            assert_eq!(bed.admits("alice").await, (true, true));
        }
        // In nine seconds: once in half a second at most, and before each second's end.
        assert!((10..=18).contains(&bed.asked()), "{}", bed.asked());
        let asked = bed.asked();
        tokio::time::sleep(1000 * MILLI).await;
        assert_eq!(bed.admits("alice").await, (true, false));
        assert_eq!(bed.asked(), asked + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_no_member_any_more_sends_for_a_second_at_most_and_is_asked_about_each_time_then() {
        for says in [Says::Nobody, Says::Left] {
            let bed = Bed::open().await;
            let begun = Instant::now();
            assert!(bed.admits("alice").await.0);
            bed.says(says);
            while bed.admits("alice").await.0 {
                settle().await;
            }
            let took = begun.elapsed();
            assert!((550 * MILLI..=850 * MILLI + 2 * MILLI).contains(&took), "{took:?}");
            let asked = bed.asked();
            assert_eq!(bed.admits("alice").await, (false, false));
            assert_eq!(bed.asked(), asked + 1);
            bed.says(Says::Member);
            assert_eq!(bed.admits("alice").await, (true, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_store_is_away_an_admission_ends_in_its_time() {
        let bed = Bed::open().await;
        let begun = Instant::now();
        assert!(bed.admits("alice").await.0);
        bed.says(Says::Nothing);
        while bed.admits("alice").await.0 {
            settle().await;
        }
        assert_eq!(begun.elapsed(), 1000 * MILLI);
        assert_eq!(bed.asked(), 3, "once more before its end, and then by the one who was refused");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_came_together_are_asked_about_a_few_at_a_time_later() {
        let bed = Bed::open().await;
        let names: Vec<String> = (0..100).map(|number| format!("user-{number}")).collect();
        for name in &names {
            assert!(bed.admits(name).await.0);
        }
        let reads = bed.reads();
        let (mut asked, mut most) = (bed.asked(), 0);
        for _ in 0..100 {
            for name in &names {
                assert!(bed.admits(name).await.1);
            }
            tokio::time::sleep(9 * MILLI).await;
            let before = std::mem::replace(&mut asked, bed.asked());
            most = most.max(asked - before);
        }
        assert_eq!(asked, 200);
        assert!((1..=30).contains(&most), "{most}");
        // In 0.3 s, gathered for 0.05 s each time.
        assert!((5..=7).contains(&(bed.reads() - reads)), "{}", bed.reads() - reads);
    }

    /// The store of the mock answers at once: what is slow is who was there before.
    #[tokio::test(start_paused = true)]
    async fn of_a_slow_store_one_asks_at_a_time_about_all_who_came_meanwhile_and_not_about_too_many() {
        let bed = Bed::open().await;
        let admissions = &bed.engine.inner().admissions;
        for name in ["alice", "bob"] {
            assert!(bed.admits(name).await.0);
        }
        let asking = admissions.asking.lock().await;
        tokio::time::sleep(500 * MILLI).await;
        for _ in 0..45 {
            tokio::time::sleep(10 * MILLI).await;
            assert!(bed.admits("alice").await.1 && bed.admits("bob").await.1);
        }
        assert_eq!((bed.reads(), admissions.due().len()), (2, 2));
        drop(asking);
        settle().await;
        assert_eq!((bed.reads(), bed.asked(), admissions.due().len()), (3, 4, 0));

        let key = (ConversationId::group("g").unwrap(), UserId::new("carol").unwrap());
        assert_eq!((0..2 * MOST_WAITING).filter(|_| admissions.is_first_due(&key)).count(), 1);
        assert_eq!(admissions.due().len(), MOST_WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_asked_for_earlier_does_not_count_against_a_later_one() {
        let admissions = Admissions::new(10, Duration::from_secs(1));
        let key = (ConversationId::group("g").unwrap(), UserId::new("alice").unwrap());
        let earlier = Instant::now();
        tokio::time::sleep(600 * MILLI).await;
        admissions.remember(key.clone(), Instant::now(), None);
        admissions.remember(key.clone(), earlier, Some(UserId::new("bob").unwrap()));
        admissions.forget(&key, earlier);
        tokio::time::sleep(450 * MILLI).await;
        assert_eq!(admissions.recent(&key).unwrap().peer, None);
        admissions.forget(&key, Instant::now());
        assert!(admissions.recent(&key).is_none());
    }
}
