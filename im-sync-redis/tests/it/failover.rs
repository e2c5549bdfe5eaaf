//! What befalls several servers while messages flow: slots move, and copies take over from masters that die.

use std::time::{Duration, Instant};

use im_core::{SyncInbox, UserId};
use im_engine::AckLevel;
use im_sync_redis::{RedisBackend, RedisBuilder};
use tokio::task::JoinSet;

use crate::faults::{nothing_is_lost, some_time};
use crate::support::{cluster::Cluster, play::Play, sentinel::Pair, server::Server};

/// The other masters go on, and say nothing of the one that is away.
const PARTIAL: &str = "--appendonly yes --appendfsync everysec --cluster-require-full-coverage no";

fn builder(url: &str) -> RedisBuilder {
    let timeout = Duration::from_secs(1);
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
        let dead = tokio::task::block_in_place(|| cluster.lose(which, Server::kill));
        play.recovers().await;
        tokio::task::block_in_place(|| {
            dead.restart();
            cluster.agrees();
        });
    }
    nothing_is_lost(&play.ends().await);
}

/// Its connections stay open, and the other masters answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stands_still_is_replaced_in_a_cluster() {
    let cluster = Cluster::start(3, 1, PARTIAL);
    let play = Play::begin(builder(&cluster.url()), AckLevel::Stored).await;
    for which in 0..3 {
        some_time().await;
        let silent = tokio::task::block_in_place(|| cluster.lose(which, |master| master.signal("STOP")));
        play.recovers().await;
        tokio::task::block_in_place(|| {
            silent.signal("CONT");
            cluster.agrees();
        });
    }
    nothing_is_lost(&play.ends().await);
}

/// The client by itself gives a connection up only where nothing was asked on it for a while.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_a_pause_finds_the_next_master_too() {
    let cluster = Cluster::start(3, 1, PARTIAL);
    let inbox = builder(&cluster.url()).open().await.unwrap().inbox();
    // Some for each master.
    let users: Vec<_> = (0..12).map(|n| UserId::new(format!("user {n}")).unwrap()).collect();
    let (asking, asked) = (inbox.clone(), users.clone());
    let asking = tokio::spawn(async move {
        let mut under_way = JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            for user in &asked {
                let (inbox, user) = (asking.clone(), user.clone());
                under_way.spawn(async move { inbox.anchor(&user).await });
            }
            while under_way.try_join_next().is_some() {}
        }
    });
    for which in 0..3 {
        some_time().await;
        let silent = tokio::task::block_in_place(|| cluster.lose(which, |master| master.signal("STOP")));
        let begun = Instant::now();
        for user in &users {
            while let Err(error) = inbox.anchor(user).await {
                assert!(error.is_transient() && begun.elapsed() < Duration::from_secs(5), "{error:?}");
            }
        }
        tokio::task::block_in_place(|| {
            silent.signal("CONT");
            cluster.agrees();
        });
    }
    asking.abort();
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
