//! The server goes away, or the way to it, while a chat is played: nothing acked is lost or doubled, failures are for the time being,
//! and everything works again soon after the server's return, without a restart of a node.

use std::{collections::BTreeMap, time::Duration};

use crate::support::own::Own;
use crate::support::play::Play;
use crate::support::proxy::{New, Proxy};
use crate::support::{Schema, server};
use im_engine::{ChatError, ErrorKind, Outcome};
use im_store_pg::PgBackend;

/// Longer than a connection is waited for.
const AWAY: Duration = Duration::from_secs(4);

/// So long that whoever tries again and again has come to its longest pause.
const LONG: Duration = Duration::from_millis(6600);

/// What was told to callers, by kind.
fn told(failures: &[ChatError]) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for failure in failures {
        let words = match failure {
            ChatError::Failed(error) => {
                format!("{} {:?} {:?}", error.backend(), error.kind(), error.outcome())
            }
            ChatError::Refused(refusal) => format!("{refusal:?}"),
        };
        *told.entry(words).or_default() += 1;
    }
    told
}

async fn restarted(mode: &'static str, away: Duration) {
    let own = std::sync::Arc::new(tokio::task::spawn_blocking(Own::start).await.unwrap());
    let url = own.url();
    let mut play = Play::begin(async || PgBackend::connect(&url).await.unwrap()).await;
    let stopping = own.clone();
    tokio::task::spawn_blocking(move || stopping.down(mode)).await.unwrap();
    tokio::time::sleep(away).await;
    let starting = own.clone();
    tokio::task::spawn_blocking(move || starting.up()).await.unwrap();
    play.recovers().await.in_time();
    let failures = play.ends_well().await;
    eprintln!("{mode}: {:?}", told(&failures));
    assert!(!failures.is_empty(), "nothing was cut in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_restarts_fast() {
    restarted("fast", AWAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_restarts_at_once() {
    restarted("immediate", Duration::ZERO).await;
}

/// A chat by way of a proxy.
async fn by_proxy() -> (Proxy, Play) {
    let (schema, proxy) = (Schema::fresh(), Proxy::to(&server()).await);
    let url = proxy.url(&server());
    let play =
        Play::begin(async || PgBackend::builder(&url).unwrap().schema(schema.name()).open().await.unwrap())
            .await;
    (proxy, play)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_is_cut() {
    let (mut proxy, mut play) = by_proxy().await;
    proxy.cut().await;
    proxy.new_ones(New::Closed);
    proxy.mend().await;
    tokio::time::sleep(LONG).await;
    proxy.new_ones(New::Served);
    play.recovers().await.in_time();
    let failures = play.ends_well().await;
    eprintln!("cut: {:?}", told(&failures));
    assert!(!failures.is_empty(), "nothing was cut in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_is_stalled() {
    let (proxy, mut play) = by_proxy().await;
    proxy.new_ones(New::Waiting);
    proxy.stall();
    tokio::time::sleep(AWAY).await;
    proxy.new_ones(New::Served);
    play.recovers().await.in_time();
    let failures = play.ends_well().await;
    eprintln!("stalled: {:?}", told(&failures));
    assert!(!failures.is_empty(), "nothing was stalled");
    // The commit of what was under way may have happened.
    let is_silence = |failure: &ChatError| match failure {
        ChatError::Failed(error) => error.kind() == ErrorKind::Timeout,
        ChatError::Refused(_) => false,
    };
    let mut silence = failures.iter().filter(|failure| is_silence(failure));
    assert!(silence.all(|failure| failure.outcome() == Outcome::Unknown));
}
