//! What is newest, in memory.
//!
//! It goes in here and is moved into the file some seconds later, together with much else and in the order of its table: written by
//! itself almost every row would write a page of the file. A crash takes what was not moved yet; nothing is lost by that, because
//! each [`Layer`] can be made again from `messages`, which the acks waited for.

use std::{
    fmt::Debug,
    iter::Peekable,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use im_core::{Error, ErrorKind, Outcome, Result};
use tokio::{sync::watch, time::Instant};

use crate::{connect::Inner, error::BACKEND};

/// So many rows are worth to be moved at once.
const ENOUGH: usize = 256 * 1024;
/// At so many rows whatever adds some waits until these are moved; what began below may go beyond.
const MOST: usize = 2 * ENOUGH;
/// How long it waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long rows wait for others at most, and how long the move of [`GENTLY`] takes, or of less, while there is time.
const INTERVAL: Duration = Duration::from_secs(5);
/// So many rows are moved in an [`INTERVAL`]. A load beyond what is kept pace with leaves up to [`MOST`]: moved twice as fast, which
/// is faster than they come at half of the maximum, they make a delivery's p99 half as high again.
const GENTLY: usize = ENOUGH / 2;
/// How soon what could not be moved is tried again: before those who wait for room give up.
const RETRY: Duration = Duration::from_secs(1);
/// What one transaction moves, by [`RUN`] and by row, while the move keeps pace with what comes anew; appends wait for it: with 512
/// rows a delivery's p99 under load is a third higher …
const LEAST: usize = 128;
/// … and when it is a whole layer behind …
const SLICE: usize = 4096;
/// … and when somebody waits for all of it.
const HASTY: usize = 512;
/// What it costs to come to another place of the table, mostly a page to write, beside the row itself.
const RUN: usize = 7;

/// Rows that gather, with what else goes into the file behind them.
pub(crate) trait Layer: Default + Debug + Send + Sync + 'static {
    /// What the rows are called.
    const NAME: &'static str;

    /// How many rows it has.
    fn rows(&self) -> usize;

    fn is_empty(&self) -> bool;

    /// Writes it to the file, as long as that is open. An earlier call may have written some of it.
    fn write(&self, file: &Weak<Inner>, pace: &mut Pace) -> impl Future<Output = Result<()>> + Send;
}

/// What is not in the file, or not known to be.
#[derive(Debug)]
pub(crate) struct Fresh<L> {
    layers: Mutex<Layers<L>>,
    /// How many rows the open layer has.
    pub(crate) grown: watch::Sender<usize>,
    /// Held by the one who moves.
    moving: tokio::sync::Mutex<()>,
    /// How many wait for what is moved.
    hurry: watch::Sender<usize>,
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
            hurry: watch::Sender::new(0),
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
    pub(crate) async fn settle(&self, file: &Weak<Inner>) -> Result<()> {
        let _hurry = Hurry::new(&self.hurry);
        self.settle_gently(file).await
    }

    /// Moves everything that was added before the call, at the pace at which more comes.
    pub(crate) async fn settle_gently(&self, file: &Weak<Inner>) -> Result<()> {
        let _one_at_a_time = self.moving.lock().await;
        // What an earlier call could not move comes first.
        let earlier = self.layers().moving.is_some();
        for _ in 0..1 + usize::from(earlier) {
            let Some(layer) = self.to_move() else { break };
            layer.write(file, &mut self.pace(layer.rows())).await?;
            self.layers().moving = None;
        }
        Ok(())
    }

    fn pace(&self, rows: usize) -> Pace {
        let (grown, hurry) = (self.grown.subscribe(), self.hurry.subscribe());
        Pace { grown, hurry, began: Instant::now(), rows, moved: 0 }
    }

    /// Takes nothing any more.
    pub(crate) fn close(&self) {
        self.layers().is_closed = true;
    }
}

/// Somebody who waits for what is moved.
struct Hurry<'f>(&'f watch::Sender<usize>);

impl<'f> Hurry<'f> {
    fn new(waiting: &'f watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// Lets a layer be moved no faster than the next one grows, or than [`GENTLY`] in an [`INTERVAL`]: moved at a stretch it would hold up
/// appends, which then wait for each other.
#[derive(Debug)]
pub(crate) struct Pace {
    grown: watch::Receiver<usize>,
    hurry: watch::Receiver<usize>,
    began: Instant,
    /// How many the layer has.
    rows: usize,
    moved: usize,
}

impl Pace {
    /// Waits until more is to be moved.
    pub(crate) async fn turn(&mut self) {
        let moved = self.moved();
        // What a load beyond what is kept pace with has left takes longer than others.
        let intervals = share(self.rows, GENTLY).max(1.0);
        tokio::select! {
            _ = self.hurry.wait_for(|waiting| *waiting > 0) => {}
            _ = self.grown.wait_for(|rows| share(*rows, ENOUGH) >= moved) => {}
            () = tokio::time::sleep_until(self.began + INTERVAL.mul_f64(moved * intervals)) => {}
        }
    }

    /// What one transaction may cost now.
    pub(crate) fn slice(&self) -> usize {
        if *self.hurry.borrow() > 0 {
            return HASTY;
        }
        let behind = (share(*self.grown.borrow(), ENOUGH) - self.moved()).clamp(0.0, 1.0);
        LEAST.max((behind * SLICE as f64) as usize)
    }

    /// Notes that so many rows were moved.
    pub(crate) fn add(&mut self, rows: usize) {
        self.moved += rows;
    }

    /// The part of the layer that was moved.
    fn moved(&self) -> f64 {
        share(self.moved, self.rows).min(1.0)
    }
}

fn share(rows: usize, of: usize) -> f64 {
    rows as f64 / of.max(1) as f64
}

/// Moves layers into the file as long as it is open.
pub(crate) async fn run<L: Layer>(fresh: Arc<Fresh<L>>, file: Weak<Inner>) {
    let mut grown = fresh.grown.subscribe();
    // By what is there already.
    grown.mark_changed();
    while grown.changed().await.is_ok() {
        // Too few by then are moved all the same.
        let _ = tokio::time::timeout(INTERVAL, grown.wait_for(|rows| *rows >= ENOUGH)).await;
        while !fresh.layers().is_closed && file.strong_count() > 0 {
            let Err(error) = fresh.settle_gently(&file).await else { break };
            // They wait in memory; when there are too many, whatever adds some waits.
            tracing::warn!(%error, "{} were not moved into the file; again in {RETRY:?}", L::NAME);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The open file.
///
/// # Errors
/// All its handles are gone.
pub(crate) fn opened(file: &Weak<Inner>, operation: &'static str) -> Result<Arc<Inner>> {
    file.upgrade().ok_or_else(|| closed(operation))
}

/// Rows, in the order of their table, in slices of what one transaction moves.
pub(crate) struct Slices<I: Iterator> {
    rows: Peekable<I>,
}

impl<I: Iterator> Slices<I> {
    pub(crate) fn new(rows: I) -> Self {
        Self { rows: rows.peekable() }
    }

    /// The next one; empty after the last. `most` is what it may cost; `is_near`: the second row goes where the first went.
    pub(crate) fn next(&mut self, most: usize, is_near: impl Fn(&I::Item, &I::Item) -> bool) -> Vec<I::Item> {
        let (mut slice, mut cost) = (Vec::new(), 0);
        while cost < most
            && let Some(row) = self.rows.next()
        {
            cost += if slice.last().is_some_and(|last| is_near(last, &row)) { 1 } else { 1 + RUN };
            slice.push(row);
        }
        slice
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.rows.peek().is_none()
    }
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
    async fn a_layer_is_moved_as_the_next_one_grows_or_in_an_interval_unless_somebody_waits() {
        let fresh = Fresh::<Entries>::new();
        let mut pace = fresh.pace(1000);
        let turn = async |pace: &mut Pace| {
            let now = Instant::now();
            pace.turn().await;
            now.elapsed().as_millis()
        };
        assert_eq!((turn(&mut pace).await, pace.slice()), (0, LEAST));
        pace.add(500);
        assert_eq!((turn(&mut pace).await, pace.slice()), (INTERVAL.as_millis() / 2, LEAST));
        pace.add(100);
        fresh.grown.send_replace(ENOUGH * 31 / 50);
        assert_eq!((turn(&mut pace).await, pace.slice()), (0, LEAST));
        fresh.grown.send_replace(MOST);
        assert_eq!((turn(&mut pace).await, pace.slice()), (0, SLICE), "far behind");
        fresh.grown.send_replace(0);
        let mut other = fresh.pace(1000);
        other.add(1000);
        let hurry = async {
            tokio::time::sleep(Duration::from_millis(7)).await;
            let hurry = Hurry::new(&fresh.hurry);
            tokio::time::sleep(INTERVAL).await;
            drop(hurry);
        };
        let hastily = async { (turn(&mut other).await, other.slice()) };
        assert_eq!(tokio::join!(hastily, hurry).0, (7, HASTY));
        let mut double = fresh.pace(2 * GENTLY);
        double.add(GENTLY);
        assert_eq!(turn(&mut double).await, INTERVAL.as_millis());
        assert_eq!(*fresh.hurry.borrow(), 0);
    }

    /// Moves its rows one by one.
    #[derive(Debug, Default)]
    struct Rows(usize);

    impl Layer for Rows {
        const NAME: &'static str = "rows";

        fn rows(&self) -> usize {
            self.0
        }

        fn is_empty(&self) -> bool {
            self.0 == 0
        }

        async fn write(&self, _file: &Weak<Inner>, pace: &mut Pace) -> Result<()> {
            for _ in 0..self.0 {
                pace.turn().await;
                pace.add(1);
            }
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_move_gets_it_without_pauses() {
        let (fresh, file) = (Fresh::<Rows>::new(), Weak::new());
        let begun = Instant::now();
        fresh.add("test", |open| open.0 += 10).unwrap();
        fresh.settle_gently(&file).await.unwrap();
        assert_eq!(begun.elapsed(), INTERVAL.mul_f64(0.9));
        // While one is moved, and by itself.
        for added in [10, 0] {
            fresh.add("test", |open| open.0 += added).unwrap();
            let begun = Instant::now();
            let (gently, settled) = tokio::join!(fresh.settle_gently(&file), async {
                tokio::time::sleep(Duration::from_millis(7)).await;
                fresh.add("test", |open| open.0 += 10).unwrap();
                fresh.settle(&file).await
            });
            gently.and(settled).unwrap();
            assert_eq!(begun.elapsed().as_millis(), 7);
            assert!(fresh.is_empty());
        }
    }

    #[test]
    fn a_slice_has_many_rows_of_one_place_or_few_of_many() {
        let lengths = |rows: Vec<usize>| {
            let mut slices = Slices::new(rows.into_iter());
            let mut lengths = vec![];
            while !slices.is_over() {
                lengths.push(slices.next(SLICE, |a, b| a == b).len());
            }
            lengths
        };
        assert_eq!(lengths(vec![]), [0; 0]);
        assert_eq!(lengths(vec![0; 10_000]), [4089, 4089, 1822]);
        assert_eq!(lengths((0..1000).collect()), [512, 488]);
    }
}
