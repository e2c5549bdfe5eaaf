//! The newest part of the inbox, in memory.
//!
//! A delivery goes in here and is moved into the file some seconds later, together with many others and in the order of the table:
//! written by itself almost every entry would write a page of the file. A crash takes what was not moved yet. Nothing is lost
//! by that: a checkpoint goes into the file behind its entries, so the fan-out delivers them again, and at the same places,
//! because an entry's place is that of its message in the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use im_core::{Checkpoint, Delivery, Error, ErrorKind, Outcome, Partition, Result, UserId};
use tokio::sync::watch;

use crate::{
    deliver::messages,
    error::BACKEND,
    expire::{Note, Span},
};

/// So many entries are worth to be moved at once.
pub(crate) const ENOUGH: usize = 256 * 1024;
/// At so many entries deliveries wait until some are moved; a delivery that began below may go beyond.
const MOST: usize = 2 * ENOUGH;
/// How long a delivery waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries that are not in the file, or not known to be.
#[derive(Debug)]
pub(crate) struct Fresh {
    layers: Mutex<Layers>,
    /// How many entries the open layer has.
    pub(crate) grown: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Layers {
    /// Takes deliveries.
    open: Layer,
    /// Is being moved into the file.
    moving: Option<Arc<Layer>>,
    is_closed: bool,
}

/// Entries with what belongs to them.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    users: HashMap<UserId, Entries>,
    entries: usize,
    /// When they were delivered.
    notes: BTreeMap<Span, Note>,
    /// Where the fan-out stands once they are in the file.
    checkpoints: BTreeMap<Partition, Checkpoint>,
}

/// Entries of one user.
#[derive(Debug, Default)]
struct Entries {
    /// Ascending.
    places: Vec<i64>,
    /// Some may be in the file already, or lie between those that are.
    has_repeats: bool,
}

impl Fresh {
    pub(crate) fn new() -> Self {
        Self { layers: Mutex::default(), grown: watch::Sender::new(0) }
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a delivery.
    pub(crate) async fn room(&self, operation: &'static str) -> Result<()> {
        let mut grown = self.grown.subscribe();
        let has_room = tokio::time::timeout(PATIENCE, grown.wait_for(|entries| *entries < MOST)).await;
        has_room.map(drop).map_err(|_| {
            let message = "the entries delivered before cannot be written to the file";
            Error::new(ErrorKind::Unavailable, BACKEND, operation, message).with_outcome(Outcome::NotDone)
        })
    }

    /// Takes a delivery; `before` is the newest place of each recipient before it, `checkpoint` where the fan-out stands with it.
    pub(crate) fn add(
        &self,
        delivery: &Delivery,
        before: &[i64],
        note: Option<(Span, Note)>,
        checkpoint: Option<Checkpoint>,
        operation: &'static str,
    ) -> Result<()> {
        let mut layers = self.layers();
        if layers.is_closed {
            return Err(closed(operation));
        }
        let open = &mut layers.open;
        for (recipient, before) in delivery.recipients.iter().zip(before) {
            open.add(&recipient.user, *before, messages(delivery, recipient));
        }
        if let Some((span, note)) = note {
            open.notes.entry(span).and_modify(|known| *known = known.joined(note)).or_insert(note);
        }
        open.checkpoints.extend(checkpoint.map(|checkpoint| (delivery.partition, checkpoint)));
        self.grown.send_replace(open.entries);
        Ok(())
    }

    /// A user's entries from one on, ascending.
    pub(crate) fn from(&self, user: &UserId, from: i64) -> Vec<i64> {
        let layers = self.layers();
        let mut entries: Vec<i64> = layers.each().flat_map(|layer| layer.from(user, from)).copied().collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The newest entry of each user.
    pub(crate) fn ends(&self, users: &[UserId]) -> Vec<Option<i64>> {
        let layers = self.layers();
        let end =
            |user| layers.each().filter_map(|layer| layer.users.get(user)?.places.last().copied()).max();
        users.iter().map(end).collect()
    }

    /// What is to be moved next: what could not be moved before, or the open layer; none where nothing is.
    pub(crate) fn to_move(&self) -> Option<Arc<Layer>> {
        let mut layers = self.layers();
        if layers.moving.is_none() && !layers.open.is_empty() {
            layers.moving = Some(Arc::new(std::mem::take(&mut layers.open)));
            self.grown.send_replace(0);
        }
        layers.moving.clone()
    }

    /// What was to be moved is in the file.
    pub(crate) fn moved(&self) {
        self.layers().moving = None;
    }

    /// Takes no delivery any more.
    pub(crate) fn close(&self) {
        self.layers().is_closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.layers().is_closed
    }
}

/// What is said to whoever comes after the end.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, "the file was closed")
        .with_outcome(Outcome::NotDone)
}

impl Layers {
    fn each(&self) -> impl Iterator<Item = &Layer> {
        self.moving.as_deref().into_iter().chain([&self.open])
    }
}

impl Layer {
    fn add(&mut self, user: &UserId, before: i64, messages: impl Iterator<Item = i64>) {
        let known = match self.users.get_mut(user) {
            Some(known) => known,
            None => self.users.entry(user.clone()).or_default(),
        };
        let places = &mut known.places;
        for message in messages {
            known.has_repeats |= message <= before;
            // Only a repeat is not above them all.
            let place = match places.last() {
                Some(last) if *last >= message => places.binary_search(&message).err(),
                _ => Some(places.len()),
            };
            if let Some(place) = place {
                places.insert(place, message);
                self.entries += 1;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.entries == 0 && self.checkpoints.is_empty()
    }

    fn from(&self, user: &UserId, from: i64) -> &[i64] {
        let places = self.users.get(user).map_or(&[][..], |entries| &entries.places);
        &places[places.partition_point(|entry| *entry < from)..]
    }

    /// The entries of those users, in the order of the table, that are all new to the file, or of those of whom some may not be.
    pub(crate) fn users(&self, with_repeats: bool) -> Vec<(&UserId, &[i64])> {
        let users = self.users.iter().filter(|(_, entries)| entries.has_repeats == with_repeats);
        let mut users: Vec<_> = users.map(|(user, entries)| (user, entries.places.as_slice())).collect();
        // Neighbours go to one page.
        users.sort_unstable_by_key(|(user, _)| *user);
        users
    }

    /// Places at which a span of time begins, ascending: what expires first does not share a row with what expires later.
    pub(crate) fn breaks(&self) -> Vec<i64> {
        let mut breaks: Vec<i64> = self.notes.values().map(Note::lowest).collect();
        breaks.sort_unstable();
        breaks
    }

    pub(crate) fn notes(&self) -> &BTreeMap<Span, Note> {
        &self.notes
    }

    pub(crate) fn checkpoints(&self) -> &BTreeMap<Partition, Checkpoint> {
        &self.checkpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn entries_are_in_order_and_once_whatever_is_repeated() {
        let mut layer = Layer::default();
        layer.add(&user("b"), 4, [5, 7].into_iter());
        layer.add(&user("a"), 5, [6].into_iter());
        let (a, b) = (user("a"), user("b"));
        assert_eq!(layer.users(false), [(&a, &[6][..]), (&b, &[5, 7])]);
        layer.add(&user("b"), 7, [3, 5, 6, 9].into_iter());
        assert_eq!(layer.users(false), [(&a, &[6][..])]);
        assert_eq!(layer.users(true), [(&b, &[3, 5, 6, 7, 9][..])]);
        assert_eq!(layer.entries, 6);
        assert_eq!(layer.from(&b, 6), [6, 7, 9]);
        assert!(layer.from(&user("c"), 0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_waits_for_room_and_says_at_last_that_there_is_none() {
        let fresh = Fresh::new();
        fresh.room("test").await.unwrap();
        fresh.grown.send_replace(MOST);
        let refused = fresh.room("test").await.unwrap_err();
        assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Unavailable, Outcome::NotDone));
        assert!(refused.is_transient());
    }
}
