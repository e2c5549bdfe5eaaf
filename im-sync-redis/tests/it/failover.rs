//! What befalls several servers while messages flow: slots move, and copies take over from masters that die.

use im_engine::AckLevel;
use im_sync_redis::{RedisBackend, RedisBuilder};

use crate::faults::{nothing_is_lost, some_time};
use crate::support::{cluster::Cluster, play::Play, sentinel::Pair};

fn builder(url: &str) -> RedisBuilder {
    let timeout = std::time::Duration::from_secs(1);
    RedisBackend::builder(url).unwrap().partitions(4).command_timeout(timeout)
}

/// Nothing is lost by it, and nobody has to begin afresh.
#[tokio::test(flavor = "multi_thread")]
async fn slots_move_while_messages_flow() {
    let cluster = Cluster::start(3, 0, "--appendonly yes --appendfsync always");
    let play = Play::begin(builder(&cluster.url()), AckLevel::Logged).await;
    let [one, two, three] = cluster.masters()[..] else { panic!("three masters") };
    for (from, to) in [(one, two), (two, three), (three, one)] {
        tokio::task::block_in_place(|| cluster.move_slots(from, to, 2000));
        play.recovers().await;
    }
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert_eq!(end.resyncs, 0, "no entry was lost");
}

/// A copy lacks what was under way to it: what was acked as stored is there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_over_in_a_cluster() {
    let cluster = Cluster::start(3, 1, "--appendonly yes --appendfsync everysec");
    let play = Play::begin(builder(&cluster.url()), AckLevel::Stored).await;
    for which in 0..3 {
        some_time().await;
        let dead = tokio::task::block_in_place(|| cluster.lose(which));
        play.recovers().await;
        tokio::task::block_in_place(|| {
            dead.restart();
            cluster.agrees();
        });
    }
    nothing_is_lost(&play.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_over_by_a_sentinels_word() {
    let pair = Pair::start("--appendonly yes --appendfsync everysec");
    let play = Play::begin(builder(&pair.url()), AckLevel::Stored).await;
    for _ in 0..2 {
        some_time().await;
        let [master, copy] = pair.roles();
        master.kill();
        tokio::task::block_in_place(|| pair.takes_over(copy));
        play.recovers().await;
        master.restart();
        tokio::task::block_in_place(|| pair.agrees());
    }
    nothing_is_lost(&play.ends().await);
}

/// Who asked for no more than *logged* may lose what the copy lacks; no place is given twice, and nothing is shown twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_lacks_is_lost_and_its_places_are_not_given_again() {
    let pair = Pair::start("--appendonly yes --appendfsync everysec");
    let play = Play::begin(builder(&pair.url()), AckLevel::Logged).await;
    // The copy follows nobody for a while, and hears nothing of what is acked meanwhile.
    let [master, copy] = pair.roles();
    copy.ask(&["replicaof", "127.0.0.1", "1"]);
    some_time().await;
    master.kill();
    tokio::task::block_in_place(|| pair.takes_over(copy));
    play.recovers().await;
    let end = play.ends().await;
    eprintln!("{} acked, {} of them lost, {} resyncs", end.acked, end.lost, end.resyncs);
    // What the store had taken from the master meanwhile is not lost.
    assert!(end.resyncs > 0, "the copy had everything");
}
