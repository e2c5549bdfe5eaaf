//! Who is told what a backend's notifier hears: bounded, and never silent about what did not fit.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use tokio::sync::mpsc;

use crate::{Notice, Noticed};

/// How many notices wait for a subscriber before it lags.
const CAPACITY: usize = 1024;

/// The way to one subscriber.
#[derive(Debug)]
pub struct Subscription {
    sender: mpsc::Sender<Noticed>,
    lagging: bool,
}

impl Subscription {
    /// With what the subscriber gets.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Noticed>) {
        let (sender, receiver) = mpsc::channel(CAPACITY + 1);
        (Self { sender, lagging: false }, receiver)
    }

    /// Resolves when the subscriber is gone.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn put(&mut self, noticed: Noticed) {
        // The last place is kept for `Lagged`, so that it is there also when nothing ever follows.
        let put = if self.sender.capacity() > 1 {
            self.lagging = false;
            noticed
        } else if self.lagging {
            return;
        } else {
            self.lagging = true;
            Noticed::Lagged
        };
        // A receiver that is gone misses nothing.
        let _ = self.sender.try_send(put);
    }
}

/// The subscribers of a process by what they listen to: a node, a channel, a subject.
#[derive(Debug)]
pub struct Subscribers<K>(HashMap<K, Vec<Subscription>>);

impl<K> Default for Subscribers<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Subscribers<K> {
    /// Adds one.
    pub fn add(&mut self, key: K, subscription: Subscription) {
        self.0.entry(key).or_default().push(subscription);
    }

    /// Tells all subscribers of a key; the notice comes back where there is none.
    pub fn tell<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, notice: Notice) -> Option<Notice>
    where
        K: Borrow<Q>,
    {
        // Mostly there is one, and a notice may have thousands of users: only a second subscriber costs a copy.
        let Some((last, others)) = self.there(key).and_then(|there| there.split_last_mut()) else {
            return Some(notice);
        };
        others.iter_mut().for_each(|subscription| subscription.put(Noticed::Notice(notice.clone())));
        last.put(Noticed::Notice(notice));
        None
    }

    /// Tells the subscribers of a key that they may have missed something.
    pub fn lag<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let there = self.there(key).into_iter().flatten();
        there.for_each(|subscription| subscription.put(Noticed::Lagged));
    }

    /// Tells all that they may have missed something.
    pub fn lag_all(&mut self) {
        self.0.values_mut().flatten().for_each(|subscription| subscription.put(Noticed::Lagged));
    }

    /// Forgets a key if nobody listens to it any more; whether it did.
    pub fn retire<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.there(key).is_some_and(|there| there.is_empty()) && self.0.remove(key).is_some()
    }

    /// Forgets the keys to which nobody listens any more.
    pub fn retire_all(&mut self) {
        self.0.retain(|_, there| there.iter().any(|subscription| !subscription.is_closed()));
    }

    /// What is listened to.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Whether it is listened to.
    #[must_use]
    pub fn contains<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Whether nothing is listened to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn there<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut Vec<Subscription>>
    where
        K: Borrow<Q>,
    {
        let there = self.0.get_mut(key)?;
        there.retain(|subscription| !subscription.is_closed());
        Some(there)
    }
}
