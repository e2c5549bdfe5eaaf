//! A thousand seeds of the simulation. One seed again: `IM_SIM_SEED=17 cargo test -p im-testkit --test simulation`.
use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use im_testkit::sim::{Plan, run};

const SEEDS: u64 = 1000;

fn fails(seed: u64) -> Option<String> {
    let wrong = match run(Plan::of(seed)) {
        Ok(outcome) if outcome.report.is_right() => return None,
        Ok(outcome) => format!("{:#?}", outcome.report),
        Err(error) => error,
    };
    Some(format!(
        "seed {seed}: {wrong}\nagain: IM_SIM_SEED={seed} cargo test -p im-testkit --test simulation"
    ))
}

#[test]
fn a_thousand_seeds_lose_double_and_disorder_nothing() {
    if let Ok(seed) = std::env::var("IM_SIM_SEED") {
        let seed = seed.parse().expect("IM_SIM_SEED is a number");
        assert_eq!(fails(seed), None);
        return;
    }
    let next = AtomicU64::new(0);
    let work = || -> Vec<String> {
        std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < SEEDS))
            .filter_map(fails)
            .collect()
    };
    let failures: Vec<String> = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed panicked")).collect()
    });
    let shown = failures.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {SEEDS} seeds failed:\n{shown}", failures.len());
}

#[test]
fn a_seed_plays_the_same_again() {
    for seed in [3, 14, 159] {
        let (first, again) = (run(Plan::of(seed)).unwrap(), run(Plan::of(seed)).unwrap());
        assert_eq!(first.history, again.history, "seed {seed}");
        assert!(first.history.len() > 20, "seed {seed} plays something");
    }
}
