//! What happens when callers go away, connections die, and locks are held.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::{sync::Arc, time::Duration};

use im_core::{
    Append, AppendOutcome, ClientMsgId, ContentHash, ContentType, ConversationId, Epoch, ErrorKind, LogRead,
    MessageLog, Outcome, Partition, Position, RecordKind, Seq, UserId,
};
use im_store_pg::{PgBackend, PgBuilder};
use sqlx::{PgPool, postgres::PgPoolOptions};
use support::Schema;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn conversation() -> ConversationId {
    ConversationId::group("g").unwrap()
}

fn append(name: String) -> Append {
    Append {
        conversation: conversation(),
        sender: UserId::new("alice").unwrap(),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new(name).unwrap(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "x".into(),
        hash: ContentHash(1),
        floor: None,
    }
}

/// A node with an epoch open, whose connections have a name; and a connection beside it.
struct Bed {
    pg: PgBackend,
    partition: Partition,
    epoch: Epoch,
    beside: PgPool,
    name: String,
    schema: Schema,
}

impl Bed {
    async fn open(change: impl FnOnce(PgBuilder) -> PgBuilder) -> Self {
        let schema = Schema::fresh();
        let name = format!("faults-{}", uuid::Uuid::new_v4().simple());
        let pg = change(schema.builder_named(&name)).open().await.unwrap();
        let log = pg.log();
        let info = log.info().await.unwrap();
        let epoch = Epoch(1);
        log.open_epoch(epoch, &info.incarnation).await.unwrap();
        let partition = Partition::of(&conversation(), info.partitions);
        let beside = PgPoolOptions::new().max_connections(2).connect(&support::server()).await.unwrap();
        Self { pg, partition, epoch, beside, name, schema }
    }

    async fn append(&self, names: &[String]) -> im_core::Result<Vec<AppendOutcome>> {
        let batch: Vec<_> = names.iter().cloned().map(append).collect();
        self.pg.log().append(self.partition, self.epoch, &batch).await
    }

    /// How many of the node's connections stand in a transaction, or hold a lock while they do nothing.
    async fn left_open(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity a WHERE a.application_name = $1 AND a.state <> 'active' \
                   AND (a.state LIKE 'idle in transaction%' OR EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid))";
        sqlx::query_scalar(sql).bind(&self.name).fetch_one(&self.beside).await.unwrap()
    }

    async fn records(&self) -> Vec<(Seq, String)> {
        let read = self.pg.log().read(self.partition, Position::START, 10_000, Duration::ZERO).await.unwrap();
        let LogRead::Records(records) = read else { panic!("trimmed") };
        records.iter().map(|record| (record.record.seq, record.record.client_msg_id.to_string())).collect()
    }
}

#[tokio::test]
async fn callers_that_go_away_leave_no_transaction_and_no_lock() {
    let bed = Bed::open(|builder| builder).await;
    for n in 0..100 {
        let names: Vec<_> = (0..20).map(|at| format!("m{n}-{at}")).collect();
        let mut call = Box::pin(bed.append(&names));
        // Another moment of the call each time.
        for _ in 0..n % 12 {
            tokio::select! {
                biased;
                _ = &mut call => break,
                () = tokio::task::yield_now() => {}
            }
        }
        drop(call);
    }
    // Comes after all that is still being done: it waits for the same lock.
    bed.append(&["last".to_owned()]).await.unwrap();
    let settled = async {
        while bed.left_open().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("nothing stays open");
    let records = bed.records().await;
    let seqs: Vec<_> = records.iter().map(|(seq, _)| seq.0).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(seqs.len() % 20, 1, "each batch is there as a whole or not at all, and the last one");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_connections_are_ended_in_mid_transaction() {
    let bed = Arc::new(Bed::open(|builder| builder).await);
    let killer = tokio::spawn({
        let bed = bed.clone();
        async move {
            for _ in 0..40 {
                sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND random() < 0.5")
                    .bind(&bed.name)
                    .execute(&bed.beside)
                    .await
                    .unwrap();
                sqlx::query("SELECT pg_sleep(0.02)").execute(&bed.beside).await.unwrap();
            }
        }
    });
    let (mut acked, mut failures) = (Vec::new(), 0);
    while !killer.is_finished() {
        let names: Vec<_> = (0..10).map(|at| format!("m{}-{at}", acked.len())).collect();
        loop {
            match bed.append(&names).await {
                Ok(outcomes) => {
                    assert!(outcomes.iter().all(|outcome| matches!(
                        outcome,
                        AppendOutcome::Appended(_) | AppendOutcome::Duplicate(_)
                    )));
                    break acked.extend(names);
                }
                Err(error) => {
                    assert!(error.is_transient(), "{error:?}");
                    failures += 1;
                }
            }
        }
    }
    killer.await.unwrap();
    assert!(failures > 0, "nothing was cut in the middle");
    let stored: Vec<_> = bed.records().await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(stored, acked, "once each, in order");
}

#[tokio::test]
async fn who_waits_too_long_for_a_lock_is_told_that_nothing_was_done() {
    let bed = Bed::open(|builder| builder.statement_timeout(Duration::from_millis(300))).await;
    let mut holding = bed.beside.begin().await.unwrap();
    let lock =
        format!("SELECT 1 FROM \"{}\".log_partitions FOR UPDATE", bed.schema.name().replace('"', "\"\""));
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *holding).await.unwrap();
    let error = bed.append(&["m".to_owned()]).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    holding.rollback().await.unwrap();
    assert!(matches!(bed.append(&["m".to_owned()]).await.unwrap()[0], AppendOutcome::Appended(_)));
}

#[tokio::test]
async fn what_postgres_cannot_keep_is_refused_alone() {
    let bed = Bed::open(|builder| builder).await;
    let mut batch: Vec<_> = ["a", "b", "c"].iter().map(|name| append((*name).to_owned())).collect();
    batch[1].content = "one\0two".into();
    batch[2].content = "it's \"quoted\" \\ 字 👋".into();
    let outcomes = bed.pg.log().append(bed.partition, bed.epoch, &batch).await.unwrap();
    assert!(matches!(outcomes[0], AppendOutcome::Appended(_)));
    assert!(matches!(&outcomes[1], AppendOutcome::Failed(error) if error.kind() == ErrorKind::Invalid));
    assert!(matches!(outcomes[2], AppendOutcome::Appended(_)));
    assert_eq!(bed.records().await.len(), 2);
}
