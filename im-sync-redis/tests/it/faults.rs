//! What befalls a server while messages flow: nothing that was acked is lost beyond what its settings say, nothing is shown twice or
//! out of order, no sequence id is given twice, and it works again within 5 s of its return.

use std::time::Duration;

use crate::support::play::{End, Play};
use crate::support::proxy::Proxy;
use crate::support::server::{Program, Server};
use im_engine::AckLevel;
use im_sync_redis::{RedisBackend, RedisBuilder};

/// Every write is on the disk before its answer.
const SYNCED: &str = "--appendonly yes --appendfsync always";

fn builder(server: &Server) -> RedisBuilder {
    builder_at(&server.url())
}

fn builder_at(url: &str) -> RedisBuilder {
    RedisBackend::builder(url).unwrap().partitions(4).command_timeout(Duration::from_secs(1))
}

/// Lets it be while messages flow. That is what the time is for: nothing waits for it.
pub(crate) async fn some_time() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}

pub(crate) fn nothing_is_lost(end: &End) {
    eprintln!("{} acked, {} resyncs, {} failures", end.acked, end.resyncs, end.failures.len());
    assert!(end.acked > 40, "{}", end.acked);
    assert_eq!(end.lost, 0, "of {}", end.acked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_syncs_every_write_may_be_killed_again_and_again() {
    let server = Server::start(SYNCED);
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    for _ in 0..5 {
        some_time().await;
        server.kill();
        server.restart();
        play.recovers().await;
    }
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert_eq!(end.resyncs, 0, "no entry was lost");
}

/// It writes down what it has before it ends. Killed it may lose of what it answered: while a sync takes longer it holds writes
/// back, for up to two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_syncs_every_second_may_be_ended() {
    let server = Server::start("--appendonly yes --appendfsync everysec");
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    for _ in 0..3 {
        some_time().await;
        server.end();
        server.restart();
        play.recovers().await;
    }
    nothing_is_lost(&play.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_half_a_minute_loses_nothing() {
    let server = Server::start(SYNCED);
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    server.signal("STOP");
    tokio::time::sleep(Duration::from_secs(30)).await;
    server.signal("CONT");
    play.recovers().await;
    let end = play.ends().await;
    nothing_is_lost(&end);
}

/// What a copy that lags does when it takes over.
#[tokio::test(flavor = "multi_thread")]
async fn messages_acked_as_stored_survive_a_server_that_loses_its_newest() {
    let server = Server::start("--appendonly no");
    let play = Play::begin(builder(&server), AckLevel::Stored).await;
    for _ in 0..3 {
        server.save();
        some_time().await;
        server.fall_back();
        play.recovers().await;
    }
    nothing_is_lost(&play.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_its_newest_never_gives_a_place_twice() {
    let server = Server::start("--appendonly no");
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    for _ in 0..3 {
        server.save();
        some_time().await;
        server.fall_back();
        play.recovers().await;
    }
    let end = play.ends().await;
    eprintln!("{} acked, {} of them lost, {} resyncs", end.acked, end.lost, end.resyncs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_emptied_is_filled_again() {
    let server = Server::start("--appendonly no");
    let play = Play::begin(builder(&server), AckLevel::Stored).await;
    some_time().await;
    server.ask(&["flushall"]);
    play.recovers().await;
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert!(end.resyncs > 0, "an inbox that is gone was taken for an empty one");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_and_scripts_that_are_forgotten_come_back() {
    let server = Server::start(SYNCED);
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    for _ in 0..5 {
        some_time().await;
        server.ask(&["script", "flush"]);
        server.ask(&["client", "kill", "type", "normal", "skipme", "yes"]);
        server.ask(&["client", "kill", "type", "pubsub"]);
        play.recovers().await;
    }
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert_eq!(end.resyncs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_and_goes_on_when_it_has_some() {
    goes_on_after_it_had_no_memory(Program::Installed).await;
}

/// It says so in other words.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_server_without_memory_refuses_and_goes_on_when_it_has_some() {
    goes_on_after_it_had_no_memory(Program::Oldest).await;
}

async fn goes_on_after_it_had_no_memory(program: Program) {
    let server = Server::start_as(program, SYNCED);
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    server.ask(&["config", "set", "maxmemory", "1mb"]);
    some_time().await;
    server.ask(&["config", "set", "maxmemory", "0"]);
    play.recovers().await;
    let end = play.ends().await;
    nothing_is_lost(&end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_a_copy_refuses_writes_and_nothing_is_lost() {
    goes_on_after_it_was_a_copy(Program::Installed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_server_that_becomes_a_copy_refuses_writes_and_nothing_is_lost() {
    goes_on_after_it_was_a_copy(Program::Oldest).await;
}

async fn goes_on_after_it_was_a_copy(program: Program) {
    let (server, master) = (Server::start_as(program, SYNCED), Server::start_as(program, SYNCED));
    let play = Play::begin(builder(&server), AckLevel::Logged).await;
    // It is told only what would make it one: the master refuses it, so it keeps its data.
    master.ask(&["config", "set", "requirepass", "secret"]);
    server.ask(&["replicaof", "127.0.0.1", &master.port().to_string()]);
    some_time().await;
    server.ask(&["replicaof", "no", "one"]);
    play.recovers().await;
    nothing_is_lost(&play.ends().await);
}

/// What was under way when it is cut was done or was not, and nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_again_and_again_loses_nothing() {
    let server = Server::start(SYNCED);
    let mut proxy = Proxy::to(&server.url()).await;
    let play = Play::begin(builder_at(&proxy.url(&server.url())), AckLevel::Logged).await;
    for _ in 0..5 {
        some_time().await;
        proxy.cut().await;
        some_time().await;
        proxy.mend().await;
        play.recovers().await;
    }
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert_eq!(end.resyncs, 0, "no entry was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up_and_nothing_is_lost() {
    let server = Server::start(SYNCED);
    let proxy = Proxy::to(&server.url()).await;
    let play = Play::begin(builder_at(&proxy.url(&server.url())), AckLevel::Logged).await;
    for _ in 0..3 {
        some_time().await;
        proxy.stall();
        play.recovers().await;
    }
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert_eq!(end.resyncs, 0, "no entry was lost");
}

/// Slow at first, then so slow that each command is done and its answer comes when nobody waits for it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_slow_and_loses_nothing() {
    let server = Server::start(SYNCED);
    let proxy = Proxy::to(&server.url()).await;
    let play = Play::begin(builder_at(&proxy.url(&server.url())), AckLevel::Logged).await;
    proxy.slow(Duration::from_millis(50));
    play.recovers().await;
    proxy.slow(Duration::from_millis(700));
    some_time().await;
    some_time().await;
    some_time().await;
    proxy.slow(Duration::ZERO);
    play.recovers().await;
    let end = play.ends().await;
    nothing_is_lost(&end);
    assert!(!end.failures.is_empty(), "it was never too slow");
}
