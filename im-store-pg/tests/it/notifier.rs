//! Notices over connections that break.

use std::{sync::Arc, time::Duration};

use crate::support::proxy::Proxy;
use crate::support::{Schema, server};
use im_core::{ConversationId, ErrorKind, Mark, NodeId, Notice, Noticed, Notifier, Ordinal, Outcome, Seq};
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

/// Ends all connections of an application.
async fn terminate(application: &str) {
    let pool = sqlx::PgPool::connect(&server()).await.unwrap();
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1) ended",
    )
    .bind(application)
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(ended > 0, "{application} has no connection");
}

#[tokio::test]
async fn a_subscriber_lags_each_time_its_connection_is_lost() {
    let schema = Schema::fresh();
    let application = format!("listens-{}", std::process::id());
    let hears = schema.builder_named(&application).open().await.unwrap().notifier();
    let says = schema.open().await.notifier();
    let mut receiver = hears.subscribe(&node()).await.unwrap();
    for n in 0..2 {
        // Twice without a notice between the two.
        for _ in 0..2 {
            terminate(&application).await;
            assert_eq!(next(&mut receiver).await, Noticed::Lagged);
        }
        terminate(&application).await;
        lags_and_goes_on(&mut receiver, &says, n).await;
    }
}

#[tokio::test]
async fn what_is_said_while_the_server_is_away_is_missing_with_a_word() {
    let schema = Schema::fresh();
    let mut proxy = Proxy::to(&server()).await;
    let hears = schema.builder_at(&proxy.url(&server())).open().await.unwrap().notifier();
    let says = schema.open().await.notifier();
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
    let schema = Schema::fresh();
    let proxy = Proxy::to(&server()).await;
    let hears = schema.builder_at(&proxy.url(&server())).open().await.unwrap().notifier();
    let says = schema.open().await.notifier();
    let mut receiver = hears.subscribe(&node()).await.unwrap();
    proxy.stall();
    lags_and_goes_on(&mut receiver, &says, 1).await;
}

#[tokio::test]
async fn a_server_that_is_away_fails_a_notify_for_the_time_being() {
    let schema = Schema::fresh();
    let mut proxy = Proxy::to(&server()).await;
    let notifier: Arc<dyn Notifier> =
        Arc::new(schema.builder_at(&proxy.url(&server())).open().await.unwrap().notifier());
    proxy.cut().await;
    let error = notifier.notify(vec![(node(), head(1))]).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient(), "{error:?}");
    assert!(notifier.subscribe(&node()).await.unwrap_err().is_transient());
    proxy.mend().await;
    notifier.notify(vec![(node(), head(1))]).await.unwrap();
}
