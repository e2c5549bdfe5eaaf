//! What befalls the connection that listens.

use std::time::Duration;

use im_core::{ConversationId, Mark, NodeId, Notice, Noticed, Notifier, Ordinal, Seq, SessionId, UserId};
use tokio::sync::mpsc::Receiver;

use crate::support::{Program, Server};

const PATIENCE: Duration = Duration::from_secs(60);

fn node() -> NodeId {
    NodeId::new("a node. with * and > 用户").unwrap()
}

fn head(n: u64) -> Notice {
    Notice::Head(ConversationId::group("g").unwrap(), Mark { seq: Seq(n), ordinal: Ordinal(n) })
}

async fn next(receiver: &mut Receiver<Noticed>) -> Noticed {
    tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("a word in time").expect("not closed")
}

/// Nothing was told while the server was away, and that is told.
#[tokio::test]
async fn a_server_that_is_killed_leaves_a_word_and_is_heard_again() {
    for program in [Program::Installed, Program::Newest] {
        let server = Server::start(program, "");
        let (hears, says) = (
            server.builder().open().await.unwrap().notifier(),
            server.builder().open().await.unwrap().notifier(),
        );
        let mut receiver = hears.subscribe(&node()).await.unwrap();
        for n in 0..3 {
            says.notify(vec![(node(), head(n))]).await.unwrap();
            assert_eq!(next(&mut receiver).await, Noticed::Notice(head(n)));
            server.kill();
            let away = says.notify(vec![(node(), head(100))]).await;
            assert!(away.as_ref().is_err_and(im_core::Error::is_transient) || away.is_ok(), "{away:?}");
            server.restart();
            assert_eq!(next(&mut receiver).await, Noticed::Lagged);
            while says.notify(vec![(node(), head(n))]).await.is_err() {
                tokio::task::yield_now().await;
            }
            assert_eq!(next(&mut receiver).await, Noticed::Notice(head(n)));
        }
    }
}

/// Then it is told that it is missing.
#[tokio::test]
async fn a_notice_that_no_server_takes_is_missing_with_a_word() {
    let server = Server::start(Program::Newest, "");
    let notifier = server.builder().open().await.unwrap().notifier();
    let mut receiver = notifier.subscribe(&node()).await.unwrap();
    let session = |n| SessionId::new(format!("{}{n}", "x".repeat(50))).unwrap();
    let large = Notice::Kick(UserId::new("a").unwrap(), (0..30_000).map(session).collect());
    notifier.notify([head(1), large, head(2)].map(|notice| (node(), notice)).into()).await.unwrap();
    for due in [Noticed::Notice(head(1)), Noticed::Lagged, Noticed::Notice(head(2))] {
        assert_eq!(next(&mut receiver).await, due);
    }
}

#[tokio::test]
async fn a_closed_backend_ends_its_subscriptions() {
    let server = Server::start(Program::Newest, "");
    let nats = server.builder().open().await.unwrap();
    let mut receiver = nats.notifier().subscribe(&node()).await.unwrap();
    nats.close().await;
    let last = tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("an end in time");
    assert_eq!(last, None);
    assert!(nats.notifier().notify(vec![(node(), head(1))]).await.unwrap_err().is_transient());
}
