//! The engine on reference backends under paused time, with seeded faults.
//!
//! [`run`] plays one seed: several nodes share one set of data; clients chat, read, come and go; workers crash and come back as
//! zombies, leases are lost in mid-batch, signals are dropped and doubled, parts fail before and after their effects, lose their
//! tails and become other incarnations. At last everything calms down, and the [history checker](crate::checker) looks at what
//! every client saw. One seed always plays the same.

mod chaos;
mod client;
mod world;

use std::{sync::Arc, time::Duration};

use crate::checker::{self, Event, Report};
use world::World;

/// What a run is made of; [`Plan::of`] draws one from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many server nodes.
    pub nodes: usize,
    /// How many users; every third has two devices.
    pub users: usize,
    /// How many groups.
    pub groups: usize,
    /// From how many members on a group is large.
    pub threshold: usize,
    /// How many log partitions.
    pub partitions: u16,
    /// Whether log, store or inbox loses its tail, once: two losses within one window are more than any loss window covers.
    pub losses: bool,
    /// Whether log and store are the same data: then only the inbox loses its tail, and no worker copies.
    pub joined: bool,
    /// How long clients chat while things go wrong.
    pub chat: Duration,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let pick = |salt: u64, from: u64, to: u64| {
            // splitmix64, by its published constants: spreads the seeds over the plans.
            let mut z = seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            from + (z ^ (z >> 31)) % (to - from + 1)
        };
        Self {
            seed,
            nodes: pick(1, 1, 3) as usize,
            users: pick(2, 3, 5) as usize,
            groups: pick(3, 1, 2) as usize,
            threshold: [3, 500][pick(4, 0, 1) as usize],
            partitions: pick(5, 1, 2) as u16,
            losses: pick(6, 0, 2) == 0,
            joined: pick(8, 0, 3) == 0,
            chat: Duration::from_secs(pick(7, 15, 30)),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What went wrong.
    pub report: Report,
    /// What the clients did and saw.
    pub history: Vec<Event>,
}

/// Plays a plan. Makes its own runtime: one thread, time paused.
///
/// # Errors
/// When the runtime or an engine cannot be started, or the clients do not become quiet: the text says what was missing.
pub fn run(plan: Plan) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(play(plan))
}

async fn play(plan: Plan) -> Result<Outcome, String> {
    let world = Arc::new(World::new(plan).await?);
    let clients = client::start(&world);
    chaos::rage(&world).await;
    world.calm_down().await?;
    for (number, client) in clients.into_iter().enumerate() {
        match tokio::time::timeout(world::PATIENCE, client).await {
            Ok(ended) => ended.map_err(|error| error.to_string())?,
            Err(_) => {
                let state = world.describe().await;
                return Err(format!("client {number} did not become quiet\n{state}"));
            }
        }
    }
    let history = world.finish().await?;
    let report = checker::check(&history);
    Ok(Outcome { report, history })
}
