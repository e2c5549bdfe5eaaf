//! A failover to a copy that lacks what was acked last, under a node that goes on.

use std::time::Duration;

use crate::support::Schema;
use crate::support::own::Own;
use im_core::{EPOCH_GAP, MessageLog, Pull, Seq, SyncInbox, UserId};
use im_engine::{Ack, Direction, Engine, HistoryRange, NewMessage};
use im_store_pg::PgBackend;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the same message until it is acked.
async fn sent(chat: &Engine, message: NewMessage) -> Ack {
    let acked = async {
        loop {
            match chat.send(message.clone()).await {
                Ok(ack) => return ack,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, acked).await.expect("it is acked")
}

/// The cursor of an inbox's end, when it is another one.
async fn moved(pg: &PgBackend, user: &UserId, from: &im_core::Cursor) -> im_core::Cursor {
    let moved = async {
        loop {
            if let Ok(ends) = pg.inbox().ends(std::slice::from_ref(user)).await
                && let Some(end) = ends[0].clone().filter(|end| end != from)
            {
                return end;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("it is delivered")
}

#[tokio::test]
async fn a_failover_that_loses_the_newest_is_noticed() {
    let primary = Own::start();
    let schema = Schema::fresh();
    let pg = schema.builder_at(&primary.url()).expiry(Duration::from_secs(3600)).open().await.unwrap();
    let chat = Engine::builder(&pg).start().await.unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| UserId::new(name).unwrap());
    let id = chat.open_single(&alice, &bob).await.unwrap().id;
    let start = pg.inbox().anchor(&bob).await.unwrap();
    assert_eq!(sent(&chat, NewMessage::text(&alice, &id, "kept")).await.seq, Seq(1));
    let kept = moved(&pg, &bob, &start).await;
    let before = pg.log().info().await.unwrap();

    let standby = primary.copy();
    assert_eq!(sent(&chat, NewMessage::text(&alice, &id, "lost")).await.seq, Seq(2));
    let lost = moved(&pg, &bob, &kept).await;
    primary.down("immediate");
    standby.up();
    standby.promote();

    let next = sent(&chat, NewMessage::text(&alice, &id, "next")).await;
    assert!(next.seq.0 > EPOCH_GAP, "the place of what was lost is not given again: {:?}", next.seq);
    let after = pg.log().info().await.unwrap();
    assert_ne!(after.incarnation, before.incarnation);
    let (epoch, of) = after.epoch.unwrap();
    assert!(epoch > before.epoch.unwrap().0 && of == after.incarnation);
    let range = HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 };
    let page = chat.history(&bob, &id, range).await.unwrap();
    let seen: Vec<_> =
        page.records.iter().map(|record| (record.seq, &*record.content, record.hole_after)).collect();
    assert_eq!(seen, [(Seq(1), "kept", None), (next.seq, "next", Some(Seq(1)))]);
    moved(&pg, &bob, &kept).await;
    assert_eq!(pg.inbox().pull(&bob, &lost, 100).await.unwrap(), Pull::Resync);
    chat.shutdown().await;
}
