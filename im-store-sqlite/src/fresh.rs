//! What is newest, in memory.
//!
//! It goes in here and is moved into the file some seconds later, together with much else and in the order of its table: written by
//! itself almost every row would write a page of the file. A crash takes what was not moved yet; nothing is lost by that, because
//! each [`Layer`] can be made again from `messages`, which the acks waited for.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use im_core::{Error, ErrorKind, Outcome, Result};
use tokio::sync::watch;

use crate::{connect::Inner, error::BACKEND};

/// So many rows are worth to be moved at once.
const ENOUGH: usize = 256 * 1024;
/// At so many rows whatever adds some waits until these are moved; what began below may go beyond.
const MOST: usize = 2 * ENOUGH;
/// How long it waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long rows wait for others at most.
const INTERVAL: Duration = Duration::from_secs(5);
/// How soon what could not be moved is tried again: before those who wait for room give up.
const RETRY: Duration = Duration::from_secs(1);
/// What one transaction moves, by [`RUN`] and by row, while as many rows have come anew as are worth to be moved; appends wait for
/// it, so it is the less the fewer have come …
const SLICE: usize = 4096;
/// … but not less than this.
const LEAST: usize = 512;
/// So many times its own length a transaction that moves rows leaves to the others, as long as few rows have come anew: at half of
/// the most that two cores can deliver, the p99 is made of what is moved at a stretch.
const PAUSE: f64 = 4.0;
/// What it costs to come to another place of the table, mostly a page to write, beside the row itself.
const RUN: usize = 7;

/// Rows that gather, with what else goes into the file behind them.
pub(crate) trait Layer: Default + Debug + Send + Sync + 'static {
    /// What the rows are called.
    const NAME: &'static str;

    /// Where such layers are.
    fn fresh(inner: &Inner) -> &Fresh<Self>;

    /// How many rows it has.
    fn rows(&self) -> usize;

    fn is_empty(&self) -> bool;

    /// Writes it to the file. An earlier call may have written some of it.
    fn write(&self, inner: &Inner) -> impl Future<Output = Result<()>> + Send;
}

/// What is not in the file, or not known to be.
#[derive(Debug)]
pub(crate) struct Fresh<L> {
    layers: Mutex<Layers<L>>,
    /// How many rows the open layer has.
    pub(crate) grown: watch::Sender<usize>,
    /// Held by the one who moves.
    moving: tokio::sync::Mutex<()>,
    /// Held too by those who wait for it.
    hurry: Arc<()>,
}

#[derive(Debug, Default)]
struct Layers<L> {
    /// Takes what is new.
    open: L,
    /// Is being moved into the file.
    moving: Option<Arc<L>>,
    is_closed: bool,
}

impl<L: Layer> Fresh<L> {
    pub(crate) fn new() -> Self {
        Self {
            layers: Mutex::default(),
            grown: watch::Sender::new(0),
            moving: tokio::sync::Mutex::default(),
            hurry: Arc::default(),
        }
    }

    fn layers(&self) -> MutexGuard<'_, Layers<L>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room.
    pub(crate) async fn room(&self, operation: &'static str) -> Result<()> {
        if *self.grown.borrow() < MOST {
            return Ok(());
        }
        let mut grown = self.grown.subscribe();
        let has_room = tokio::time::timeout(PATIENCE, grown.wait_for(|rows| *rows < MOST)).await;
        has_room.map(drop).map_err(|_| {
            let message = format!("{} from before cannot be written to the file", L::NAME);
            Error::new(ErrorKind::Unavailable, BACKEND, operation, message).with_outcome(Outcome::NotDone)
        })
    }

    /// Adds to the open layer.
    pub(crate) fn add(&self, operation: &'static str, add: impl FnOnce(&mut L)) -> Result<()> {
        let mut layers = self.layers();
        if layers.is_closed {
            return Err(closed(operation));
        }
        add(&mut layers.open);
        self.grown.send_replace(layers.open.rows());
        Ok(())
    }

    /// Looks at what is there, the older first. To be called before the file is asked: what is moved meanwhile is then seen here
    /// or there.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&[&L]) -> R) -> R {
        let layers = self.layers();
        match &layers.moving {
            Some(moving) => look(&[moving, &layers.open]),
            None => look(&[&layers.open]),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.look(|layers| layers.iter().all(|layer| layer.is_empty()))
    }

    /// What is to be moved next: what could not be moved before, or the open layer; none where nothing is.
    pub(crate) fn to_move(&self) -> Option<Arc<L>> {
        let mut layers = self.layers();
        if layers.moving.is_none() && !layers.open.is_empty() {
            layers.moving = Some(Arc::new(std::mem::take(&mut layers.open)));
            self.grown.send_replace(0);
        }
        layers.moving.clone()
    }

    /// Moves everything that was added before the call, and as fast as can be.
    pub(crate) async fn settle(&self, inner: &Inner) -> Result<()> {
        let _hurry = self.hurry.clone();
        self.settle_gently(inner).await
    }

    /// Moves everything that was added before the call, with pauses as long as there is time.
    async fn settle_gently(&self, inner: &Inner) -> Result<()> {
        let _one_at_a_time = self.moving.lock().await;
        // What an earlier call could not move comes first.
        for _ in 0..2 {
            let Some(layer) = self.to_move() else { break };
            layer.write(inner).await?;
            self.layers().moving = None;
        }
        Ok(())
    }

    /// What the next transaction that moves rows may cost.
    pub(crate) fn slice(&self) -> usize {
        (*self.grown.borrow() * SLICE / ENOUGH).max(LEAST)
    }

    /// Leaves the processors and the writer to others after a transaction that moved rows.
    pub(crate) async fn pause(&self, began: Instant) {
        if Arc::strong_count(&self.hurry) == 1 {
            let times = pause(*self.grown.borrow());
            tokio::time::sleep(began.elapsed().mul_f64(times)).await;
        }
    }

    /// Takes nothing any more.
    pub(crate) fn close(&self) {
        self.layers().is_closed = true;
    }
}

/// How many times its own length what moved rows leaves to others when so many have come anew.
fn pause(grown: usize) -> f64 {
    PAUSE * (1.0 - grown as f64 / ENOUGH as f64).max(0.0)
}

/// Moves layers into the file until it is closed.
pub(crate) async fn run<L: Layer>(inner: Weak<Inner>, mut grown: watch::Receiver<usize>) {
    while grown.changed().await.is_ok() {
        // Too few by then are moved all the same.
        let _ = tokio::time::timeout(INTERVAL, grown.wait_for(|rows| *rows >= ENOUGH)).await;
        while let Some(inner) = inner.upgrade().filter(|inner| !L::fresh(inner).layers().is_closed) {
            let Err(error) = L::fresh(&inner).settle_gently(&inner).await else { break };
            // They wait in memory; when there are too many, whatever adds some waits.
            tracing::warn!(%error, "{} were not moved into the file; again in {RETRY:?}", L::NAME);
            drop(inner);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Cuts rows, in the order of their table, into what one transaction moves at a time. `most` is what it may cost, asked before each;
/// `is_near`: the second row goes where the first went.
pub(crate) fn slices<T>(
    rows: impl Iterator<Item = T>,
    most: impl Fn() -> usize,
    is_near: impl Fn(&T, &T) -> bool,
) -> impl Iterator<Item = Vec<T>> {
    let mut rows = rows.fuse();
    std::iter::from_fn(move || {
        let (mut slice, mut cost, most) = (Vec::new(), 0, most());
        while cost < most
            && let Some(row) = rows.next()
        {
            cost += if slice.last().is_some_and(|last| is_near(last, &row)) { 1 } else { 1 + RUN };
            slice.push(row);
        }
        Some(slice).filter(|slice| !slice.is_empty())
    })
}

/// What is said to whoever comes after the end.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, operation, "the file was closed")
        .with_outcome(Outcome::NotDone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::Entries;

    #[tokio::test(start_paused = true)]
    async fn who_adds_waits_for_room_and_is_told_at_last_that_there_is_none() {
        let fresh = Fresh::<Entries>::new();
        fresh.room("test").await.unwrap();
        fresh.grown.send_replace(MOST);
        let refused = fresh.room("test").await.unwrap_err();
        assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Unavailable, Outcome::NotDone));
        assert!(refused.is_transient());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_moved_leaves_time_to_others_unless_much_has_come_or_somebody_waits() {
        let fresh = Fresh::<Entries>::new();
        let paused = async || {
            let (began, now) = (Instant::now() - Duration::from_secs(1), tokio::time::Instant::now());
            fresh.pause(began).await;
            now.elapsed().as_secs()
        };
        assert_eq!(paused().await, 4);
        fresh.grown.send_replace(ENOUGH / 2);
        assert_eq!(paused().await, 2);
        fresh.grown.send_replace(MOST);
        assert_eq!(paused().await, 0);
        fresh.grown.send_replace(0);
        let hurry = fresh.hurry.clone();
        assert_eq!(paused().await, 0);
        drop(hurry);
        assert_eq!(paused().await, 4);
    }

    #[test]
    fn a_slice_has_many_rows_of_one_place_or_few_of_many() {
        let lengths = |rows: Vec<usize>| {
            let slices = slices(rows.into_iter(), || SLICE, |a, b| a == b);
            slices.map(|slice| slice.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(vec![]), [0; 0]);
        assert_eq!(lengths(vec![0; 10_000]), [4089, 4089, 1822]);
        assert_eq!(lengths((0..1000).collect()), [512, 488]);
    }
}
