//! What goes wrong in a simulation, and when.

use std::{sync::Arc, time::Duration};

use im_core::{Leases, NodeId, Partition};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::world::World;
use crate::fault::Odds;

/// Lets things go wrong until the chat's time is over.
pub(super) async fn rage(world: &Arc<World>) {
    let mut dice = StdRng::seed_from_u64(world.plan.seed ^ 0xc4a0_5c4a_05c4_a05c);
    let end = tokio::time::Instant::now() + world.plan.chat;
    let mut losses = usize::from(world.plan.losses);
    while tokio::time::Instant::now() < end {
        let pause = dice.random_range(200..2500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match dice.random_range(0..10) {
            0 | 1 => kill(world, &mut dice).await,
            2 | 3 => freeze(world, &mut dice),
            4 => steal_lease(world, &mut dice).await,
            5 | 6 => calm(world),
            7 if losses > 0 => {
                losses -= 1;
                lose_tail(world, &mut dice).await;
            }
            _ => trouble(world, &mut dice),
        }
    }
}

/// A node dies in the middle of whatever it does; another one is started.
async fn kill(world: &World, dice: &mut StdRng) {
    if let Some(node) = world.take_node(dice.random_range(0..8)) {
        node.faults.kill();
        // The dead node's tasks hang in its parts for ever, as a dead process's do not; nothing of them is seen.
        std::mem::forget(node);
    }
    // A node starts without faults on parts in this process: it can always start.
    let _ = world.start_node().await;
}

/// A node stands still for longer than its leases last, then goes on as a zombie.
fn freeze(world: &World, dice: &mut StdRng) {
    let Some(node) = world.node(dice.random_range(0..8)) else { return };
    node.faults.freeze();
    let pause = Duration::from_millis(dice.random_range(1000..6000));
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        node.faults.thaw();
    });
}

/// Somebody else takes a worker's lease in mid-batch.
async fn steal_lease(world: &World, dice: &mut StdRng) {
    let projection = ["fanout", "persist"][dice.random_range(0..2)];
    let partition = Partition(dice.random_range(0..world.plan.partitions));
    let lease = format!("{projection}/{}", partition.0);
    for node in world.all_nodes() {
        let _ = world.log.release(&lease, node.engine.node()).await;
    }
    if let Ok(thief) = NodeId::new("thief") {
        let _ = world.log.claim(&lease, &thief, Duration::from_secs(1)).await;
    }
}

fn trouble(world: &World, dice: &mut StdRng) {
    let odds = Odds {
        late: dice.random_range(0..300),
        delay: Duration::from_millis(dice.random_range(1..800)),
        fail_before: dice.random_range(0..100),
        fail_after: dice.random_range(0..100),
        drop: dice.random_range(0..600),
        double: dice.random_range(0..300),
        reorder: dice.random_range(0..300),
    };
    world.all_nodes().iter().for_each(|node| node.faults.set(odds));
}

fn calm(world: &World) {
    world.all_nodes().iter().for_each(|node| node.faults.set(Odds::default()));
}

async fn lose_tail(world: &World, dice: &mut StdRng) {
    let n = dice.random_range(1..6);
    let before = world.kept().await;
    match dice.random_range(0..3) {
        _ if world.plan.joined => world.inbox.lose_tail(n),
        0 => world.log.lose_tail(n),
        1 => world.store.lose_tail(n),
        _ => world.inbox.lose_tail(n),
    }
    world.forgive(before).await;
}
