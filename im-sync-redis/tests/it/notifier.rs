//! Notices over connections that break.

use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::{ONE, named, shared};
use im_core::{ConversationId, Mark, NodeId, Notice, Noticed, Notifier, Ordinal, Seq};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(30);

fn head(n: u64) -> Notice {
    Notice::Head(ConversationId::group("g").unwrap(), Mark { seq: Seq(n), ordinal: Ordinal(0) })
}

fn node() -> NodeId {
    NodeId::new("node").unwrap()
}

async fn next(receiver: &mut Receiver<Noticed>) -> Noticed {
    tokio::time::timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap()
}

/// The next notice must be `Lagged`; after it notices flow.
async fn lags_and_goes_on(receiver: &mut Receiver<Noticed>, notifier: &dyn Notifier, n: u64) {
    assert_eq!(next(receiver).await, Noticed::Lagged);
    notifier.notify(vec![(node(), head(n))]).await.unwrap();
    loop {
        match next(receiver).await {
            Noticed::Lagged => {}
            notice => return assert_eq!(notice, Noticed::Notice(head(n))),
        }
    }
}

#[tokio::test]
async fn what_is_said_while_the_server_is_away_is_missing_with_a_word() {
    let prefix = shared();
    let mut proxy = Proxy::to(&named(ONE)).await;
    let hears = prefix.builder_at(&proxy.url(&named(ONE))).open().await.unwrap().notifier();
    let says = prefix.open().await.notifier();
    let mut receiver = hears.subscribe(&node()).await.unwrap();
    for (n, away) in [(0, 0), (10, 1500), (20, 7000)] {
        proxy.cut().await;
        says.notify(vec![(node(), head(n))]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(away)).await;
        proxy.mend().await;
        lags_and_goes_on(&mut receiver, &says, n + 1).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_found() {
    let prefix = shared();
    let proxy = Proxy::to(&named(ONE)).await;
    let builder = prefix.builder_at(&proxy.url(&named(ONE))).command_timeout(Duration::from_secs(1));
    let hears = builder.open().await.unwrap().notifier();
    let says = prefix.open().await.notifier();
    let mut receiver = hears.subscribe(&node()).await.unwrap();
    proxy.stall();
    lags_and_goes_on(&mut receiver, &says, 1).await;
}

#[tokio::test]
async fn a_server_that_is_away_fails_a_notify_and_a_subscription_for_the_time_being() {
    let prefix = shared();
    let mut proxy = Proxy::to(&named(ONE)).await;
    let builder = prefix.builder_at(&proxy.url(&named(ONE))).command_timeout(Duration::from_millis(500));
    let notifier = builder.open().await.unwrap().notifier();
    proxy.cut().await;
    let error = notifier.notify(vec![(node(), head(1))]).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(notifier.subscribe(&node()).await.unwrap_err().is_transient());
    proxy.mend().await;
    let mut receiver = loop {
        match notifier.subscribe(&node()).await {
            Ok(receiver) => break receiver,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    };
    while notifier.notify(vec![(node(), head(2))]).await.is_err() {}
    while next(&mut receiver).await != Noticed::Notice(head(2)) {}
}

#[tokio::test]
async fn a_closed_backend_ends_its_subscriptions() {
    let redis = shared().open().await;
    let mut receiver = redis.notifier().subscribe(&node()).await.unwrap();
    redis.close().await;
    let last = tokio::time::timeout(PATIENCE, receiver.recv()).await.unwrap();
    assert_eq!(last, None);
    assert!(redis.notifier().subscribe(&node()).await.unwrap_err().is_transient());
    assert!(redis.notifier().notify(vec![(node(), head(1))]).await.is_err());
}

#[tokio::test]
async fn a_subscription_outlives_its_notifier() {
    let prefix = shared();
    let mut receiver = prefix.open().await.notifier().subscribe(&node()).await.unwrap();
    let says = prefix.open().await.notifier();
    says.notify(vec![(node(), head(1))]).await.unwrap();
    assert_eq!(next(&mut receiver).await, Noticed::Notice(head(1)));
}
