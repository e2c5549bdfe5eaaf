//! What happens when callers go away, connections die, and locks are held.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use crate::support::bed::{self, Bed, PATIENCE, append};
use crate::support::proxy::{Lost, Proxy};
use crate::support::{Schema, server};
use im_core::{
    AppendOutcome, ConversationStore, Delivery, Error, ErrorKind, LogRecord, MessageLog, MessageStore,
    Outcome, Partition, Position, Pull, Recipient, SyncInbox, Timestamp, UserId, UserState,
};
use im_store_pg::PgBackend;
use sqlx::{PgPool, postgres::PgPoolOptions};

/// How long a free connection is waited for, as documented.
const ACQUIRE: Duration = Duration::from_secs(3);
/// What a busy machine may add to a time.
const SLACK: Duration = Duration::from_secs(2);

/// How many transactions the connections of a name have open, and how many locks they hold.
async fn left_open(beside: &PgPool, name: &str) -> (i64, i64) {
    let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL), \
               (SELECT count(*) FROM pg_locks JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1)";
    sqlx::query_as(sql).bind(name).fetch_one(beside).await.unwrap()
}

#[tokio::test]
async fn what_is_left_open_is_counted() {
    let name = format!("leaves-{}", uuid::Uuid::new_v4().simple());
    let (beside, own) = (hosts(1).await, hosts(1).await);
    sqlx::query("SELECT set_config('application_name', $1, false)").bind(&name).execute(&own).await.unwrap();
    let mut transaction = own.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *transaction).await.unwrap();
    assert_eq!(left_open(&beside, &name).await.0, 1, "a transaction");
    transaction.rollback().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(hashtext($1))").bind(&name).execute(&own).await.unwrap();
    assert_eq!(left_open(&beside, &name).await, (0, 1), "a lock without one");
}

/// A transaction that keeps appends waiting.
async fn locked(bed: &Bed) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = bed.beside.begin().await.unwrap();
    let lock = bed.sql("SELECT 1 FROM {im}.log_partitions FOR UPDATE");
    sqlx::query(lock).execute(&mut *transaction).await.unwrap();
    transaction
}

/// The other one is kept by an append that waits.
#[tokio::test]
async fn a_connection_that_comes_back_is_theirs_who_wait() {
    let bed = Bed::open(|builder| builder.connections(2)).await;
    let transaction = locked(&bed).await;
    let reads = async {
        bed.wait(1).await;
        let store = bed.pg.store();
        futures::future::try_join_all((0..20).map(|_| store.info())).await.unwrap();
        transaction.rollback().await.unwrap();
    };
    let (appended, ()) = tokio::join!(bed.append_one("m"), reads);
    appended.unwrap();
}

#[tokio::test]
async fn what_comes_one_after_the_other_takes_one_connection() {
    let bed = Bed::open(|builder| builder).await;
    let transaction = locked(&bed).await;
    let names: Vec<_> = (0..4).map(|n| format!("m{n}")).collect();
    let four = futures::future::try_join_all(names.iter().map(|name| bed.append_one(name)));
    let release = async {
        bed.wait(4).await;
        transaction.rollback().await.unwrap();
    };
    tokio::join!(four, release).0.unwrap();
    // Those that the pool had to look at are there again.
    let used = async |since: f64| -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 \
                   AND extract(epoch FROM query_start)::float8 > $2";
        sqlx::query_scalar(sql).bind(&bed.name).bind(since).fetch_one(&bed.beside).await.unwrap()
    };
    let now: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
        .fetch_one(&bed.beside)
        .await
        .unwrap();
    for _ in 0..100 {
        bed.pg.store().info().await.unwrap();
    }
    // Perhaps the one that listens, too.
    let used = used(now).await;
    assert!((1..=2).contains(&used), "{used} connections were used");
}

#[tokio::test]
async fn callers_that_go_away_leave_no_transaction_and_no_lock() {
    let bed = Bed::open(|builder| builder).await;
    for n in 0..100 {
        let names: Vec<_> = (0..20).map(|at| format!("m{n}-{at}")).collect();
        let mut call = Box::pin(bed.append(&names));
        // Another moment of the call each time: it is waited for until it was woken so often, or for so long.
        let mut polls = 0;
        let woken = poll_fn(|cx| {
            polls += 1;
            if call.as_mut().poll(cx).is_ready() || polls > n % 12 { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = tokio::time::timeout(Duration::from_millis(n / 12), woken).await;
        drop(call);
    }
    // Comes after all that is still being done: it waits for the same lock.
    bed.append(&["last".to_owned()]).await.unwrap();
    let settled = async {
        while left_open(&bed.beside, &bed.name).await != (0, 0) {
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
    sqlx::query(bed.sql("SELECT 1 FROM {im}.log_partitions FOR UPDATE"))
        .execute(&mut *holding)
        .await
        .unwrap();
    let error = bed.append(&["m".to_owned()]).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    holding.rollback().await.unwrap();
    assert!(matches!(bed.append(&["m".to_owned()]).await.unwrap()[0], AppendOutcome::Appended(_)));
}

#[tokio::test]
async fn what_postgres_cannot_keep_is_refused_alone() {
    let bed = Bed::open(|builder| builder).await;
    let mut batch = ["a", "b", "c"].map(append);
    batch[1].content = "one\0two".into();
    batch[2].content = "it's \"quoted\" \\ 字 👋".into();
    let outcomes = bed.pg.log().append(bed.partition, bed.epoch, &batch).await.unwrap();
    assert!(matches!(outcomes[0], AppendOutcome::Appended(_)));
    assert!(matches!(&outcomes[1], AppendOutcome::Failed(error) if error.kind() == ErrorKind::Invalid));
    assert!(matches!(outcomes[2], AppendOutcome::Appended(_)));
    assert_eq!(bed.records().await.len(), 2);
}

/// The error of an append whose commit the server was told, and whose answer was lost; and how long it took.
async fn loses_the_answer(how: Lost) -> (Error, Duration) {
    let proxy = Proxy::to(&server()).await;
    let timeout = Duration::from_millis(500);
    let bed = Bed::at(&proxy.url(&server()), |builder| builder.statement_timeout(timeout)).await;
    proxy.at_commit(Some(how));
    let failed = bed.fails("m").await;
    proxy.at_commit(None);
    assert!(matches!(bed.append_one("m").await.unwrap(), AppendOutcome::Duplicate(_)), "it was done");
    assert_eq!(bed.names().await, ["m"]);
    failed
}

#[tokio::test]
async fn a_commit_whose_connection_is_cut_may_have_happened() {
    let (error, _) = loses_the_answer(Lost::Cut).await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_commit_whose_connection_falls_silent_is_given_up_and_may_have_happened() {
    let (error, took) = loses_the_answer(Lost::Silent).await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    assert!(error.is_transient());
    assert!(took < Duration::from_millis(1500) + SLACK, "{took:?}");
}

#[tokio::test]
async fn reads_are_asked_again_where_their_connection_was_ended() {
    let bed = Bed::open(|builder| builder).await;
    bed.append_one("m").await.unwrap();
    let (store, ids) = (bed.pg.store(), [bed::conversation()]);
    let member = [(bed::conversation(), UserId::new("alice").unwrap())];
    for _ in 0..4 {
        // All of them are there, and were in use a moment ago.
        futures::future::try_join_all((0..4).map(|_| store.last(&ids))).await.unwrap();
        sqlx::query(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1",
        )
        .bind(&bed.name)
        .execute(&bed.beside)
        .await
        .unwrap();
        assert!(store.last(&ids).await.unwrap()[0].is_some());
        assert!(store.memberships(&member, &None).await.unwrap()[0].is_none());
    }
}

#[tokio::test]
async fn connections_that_fall_silent_are_replaced() {
    let proxy = Proxy::to(&server()).await;
    let bed = Bed::at(&proxy.url(&server()), |builder| builder).await;
    let (log, partition) = (bed.pg.log(), bed.partition);
    for round in 0..2 {
        // All of them are there, and idle.
        let read = || log.read(partition, Position::START, 1, Duration::ZERO);
        futures::future::try_join_all((0..4).map(|_| read())).await.unwrap();
        proxy.stall();
        let begun = Instant::now();
        for at in 0..8 {
            bed.append_one(&format!("m{round}-{at}")).await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    tokio::time::timeout(PATIENCE, bed.pg.close()).await.expect("none is held for ever");
}

#[tokio::test]
async fn a_node_that_is_cut_off_while_it_migrates_keeps_no_other_from_it() {
    let (schema, proxy) = (Schema::fresh(), Proxy::to(&server()).await);
    let name = format!("faults-{}", uuid::Uuid::new_v4().simple());
    let beside = PgPoolOptions::new().max_connections(2).connect(&server()).await.unwrap();
    let mut holding = beside.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('im-store-pg/' || $1, 0))")
        .bind(schema.name())
        .execute(&mut *holding)
        .await
        .unwrap();
    let url = format!("{}?application_name={name}", proxy.url(&server()));
    let cut_off = tokio::spawn(schema.builder_at(&url).open());
    bed::wait(&beside, &name, 1).await;
    proxy.stall();
    // Now the lock is of the one that says nothing any more.
    holding.rollback().await.unwrap();
    let begun = Instant::now();
    schema.open().await;
    assert!(begun.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", begun.elapsed());
    cut_off.abort();
}

#[tokio::test]
async fn who_finds_all_connections_in_use_is_told_so_and_nothing_is_done() {
    let bed = Arc::new(
        Bed::open(|builder| builder.connections(2).statement_timeout(Duration::from_secs(20))).await,
    );
    let mut holding = bed.beside.begin().await.unwrap();
    sqlx::query(bed.sql("SELECT 1 FROM {im}.log_partitions FOR UPDATE"))
        .execute(&mut *holding)
        .await
        .unwrap();
    let waits = ["a", "b"].map(|name| {
        let bed = bed.clone();
        tokio::spawn(async move { bed.append_one(name).await })
    });
    bed.wait(2).await;
    let (error, took) = bed.fails("c").await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    assert!((ACQUIRE..ACQUIRE + SLACK).contains(&took), "{took:?}");
    holding.rollback().await.unwrap();
    for wait in waits {
        assert!(matches!(wait.await.unwrap().unwrap(), AppendOutcome::Appended(_)));
    }
    let begun = Instant::now();
    assert!(matches!(bed.append_one("d").await.unwrap(), AppendOutcome::Appended(_)));
    assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
    let mut names = bed.names().await;
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "d"]);
}

/// A pool of a host's.
async fn hosts(connections: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(1));
    options.connect(&server()).await.unwrap()
}

#[tokio::test]
async fn who_finds_the_hosts_connections_in_use_is_told_so() {
    let (schema, pool) = (Schema::fresh(), hosts(2).await);
    let pg = PgBackend::with_pool(pool.clone()).schema(schema.name()).open().await.unwrap();
    let (partition, epoch) = Bed::begin(&pg).await;
    let held = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let error = pg.log().append(partition, epoch, &[append("m")]).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    drop(held);
    let outcomes = pg.log().append(partition, epoch, &[append("m")]).await.unwrap();
    assert!(matches!(outcomes[0], AppendOutcome::Appended(_)));
}

#[tokio::test]
async fn a_server_that_takes_no_connections_is_unavailable() {
    let mut proxy = Proxy::to(&server()).await;
    let bed = Bed::at(&proxy.url(&server()), |builder| builder).await;
    proxy.cut().await;
    // The first may have been under way when the connection broke.
    let _ = bed.append_one("m").await;
    let (error, took) = bed.fails("m").await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    assert!(took < ACQUIRE + SLACK, "{took:?}");
    proxy.mend().await;
    assert!(matches!(bed.append_one("m").await.unwrap(), AppendOutcome::Appended(_)));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_not_done() {
    let bed = Bed::open(|builder| builder.statement_timeout(Duration::from_millis(300))).await;
    let slow = "CREATE FUNCTION {im}.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'; \
                CREATE TRIGGER slow BEFORE INSERT ON {im}.messages FOR EACH ROW EXECUTE FUNCTION {im}.slow()";
    sqlx::raw_sql(bed.sql(slow)).execute(&bed.beside).await.unwrap();
    let (error, took) = bed.fails("m").await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    assert!(took < Duration::from_millis(300) + SLACK, "{took:?}");
    sqlx::raw_sql(bed.sql("DROP TRIGGER slow ON {im}.messages")).execute(&bed.beside).await.unwrap();
    assert_eq!(bed.records().await, []);
    let AppendOutcome::Appended(receipt) = bed.append_one("m").await.unwrap() else { panic!("not new") };
    assert_eq!(receipt.mark.seq.0, 1);
}

#[tokio::test]
async fn a_pool_of_another_isolation_is_refused() {
    let pool = hosts(1).await;
    sqlx::query("SET default_transaction_isolation TO 'serializable'").execute(&pool).await.unwrap();
    let opened = PgBackend::with_pool(pool).schema(Schema::fresh().name()).open().await;
    let error = opened.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Invalid, false), "{error:?}");
}

/// A node by a pool whose one connection is given another isolation later.
async fn isolated(bed: &Bed) -> PgBackend {
    let pool = hosts(1).await;
    let pg = PgBackend::with_pool(pool.clone()).schema(bed.schema.name()).open().await.unwrap();
    sqlx::query("SELECT set_config('application_name', $1, false)")
        .bind(&bed.name)
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("SET default_transaction_isolation TO 'repeatable read'").execute(&pool).await.unwrap();
    pg
}

#[tokio::test]
async fn an_append_that_waits_for_another_sees_what_that_did_whatever_is_the_default() {
    let bed = Bed::open(|builder| builder).await;
    let nodes = [isolated(&bed).await, isolated(&bed).await];
    let mut holding = bed.beside.begin().await.unwrap();
    sqlx::query(bed.sql("SELECT 1 FROM {im}.log_partitions FOR UPDATE"))
        .execute(&mut *holding)
        .await
        .unwrap();
    let appends = nodes.map(|pg| {
        let (partition, epoch) = (bed.partition, bed.epoch);
        tokio::spawn(async move { pg.log().append(partition, epoch, &[append("m"), append("n")]).await })
    });
    bed.wait(2).await;
    holding.rollback().await.unwrap();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(bed.names().await, ["m", "n"]);
}

/// A delivery of the log's records to a user.
async fn delivery(bed: &Bed, user: &UserId, records: Vec<LogRecord>) -> Delivery {
    Delivery {
        partition: Partition(0),
        inbox: bed.pg.inbox().info().await.unwrap().incarnation,
        recipients: vec![Recipient { user: user.clone(), records: [0].into() }],
        records,
        checkpoint: None,
    }
}

#[tokio::test]
async fn a_serialization_failure_passes_and_nothing_was_done() {
    let (bed, alice) = (Bed::open(|builder| builder).await, UserId::new("alice").unwrap());
    bed.append_one("m").await.unwrap();
    let read = bed.pg.log().read(bed.partition, Position::START, 1, Duration::ZERO).await.unwrap();
    let im_core::LogRead::Records(records) = read else { panic!("trimmed") };
    let anchor = bed.pg.inbox().anchor(&alice).await.unwrap();
    let (pg, delivery) = (isolated(&bed).await, delivery(&bed, &alice, records).await);
    let mut other = bed.beside.begin().await.unwrap();
    sqlx::query(bed.sql("UPDATE {im}.inbox_ends SET nonce = nonce")).execute(&mut *other).await.unwrap();
    let delivering = tokio::spawn({
        let (inbox, delivery) = (pg.inbox(), delivery.clone());
        async move { inbox.deliver(&delivery).await }
    });
    bed.wait(1).await;
    other.commit().await.unwrap();
    let error = delivering.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    pg.inbox().deliver(&delivery).await.unwrap();
    let Pull::Page { entries, .. } = pg.inbox().pull(&alice, &anchor, 10).await.unwrap() else {
        panic!("the cursor is not served")
    };
    assert_eq!(entries.len(), 1, "delivered once");
}

#[tokio::test]
async fn a_deadlock_passes_and_nothing_was_done() {
    let bed = Arc::new(Bed::open(|builder| builder).await);
    bed.append_one("m").await.unwrap();
    let mut other = bed.beside.begin().await.unwrap();
    // So the node is the one to give way.
    sqlx::query("SET LOCAL deadlock_timeout TO '60s'").execute(&mut *other).await.unwrap();
    sqlx::query(bed.sql("SELECT 1 FROM {im}.conversations FOR UPDATE")).execute(&mut *other).await.unwrap();
    let appending = tokio::spawn({
        let bed = bed.clone();
        async move { bed.fails("n").await }
    });
    bed.wait(1).await;
    sqlx::query(bed.sql("SELECT 1 FROM {im}.log_partitions FOR UPDATE")).execute(&mut *other).await.unwrap();
    let (error, _) = appending.await.unwrap();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
    other.rollback().await.unwrap();
    assert!(matches!(bed.append_one("n").await.unwrap(), AppendOutcome::Appended(_)));
    assert_eq!(bed.names().await, ["m", "n"]);
}

/// The hundred devices before are forgotten, with their marks, whatever becomes of the rest.
#[tokio::test]
async fn devices_that_are_forgotten_in_part_are_not_said_to_be_kept() {
    let bed = Bed::open(|builder| builder).await;
    let sql = "INSERT INTO {im}.devices SELECT 'alice', n::text, 1 FROM generate_series(1, 150) n; CREATE SEQUENCE {im}.forgotten; \
               CREATE FUNCTION {im}.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               IF nextval('{im}.forgotten') > 100 THEN RAISE 'enough'; END IF; RETURN old; END $$; \
               CREATE TRIGGER stop BEFORE DELETE ON {im}.devices FOR EACH ROW EXECUTE FUNCTION {im}.stop()";
    sqlx::raw_sql(bed.sql(sql)).execute(&bed.beside).await.unwrap();
    let error = bed.pg.store().forget_devices(Timestamp(2)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    let left: i64 = sqlx::query_scalar(bed.sql("SELECT count(*) FROM {im}.devices"))
        .fetch_one(&bed.beside)
        .await
        .unwrap();
    assert_eq!(left, 50);
}
