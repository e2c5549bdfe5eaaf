//! The inbox on Postgres: what the suite cannot ask for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{EXPIRY, Schema};
use im_core::{
    ClientMsgId, ContentHash, ContentType, ConversationId, Cursor, Delivered, Delivery, Entry, Epoch,
    ErrorKind, LogRecord, Ordinal, Partition, Position, Pull, Recipient, Record, RecordKind, Seq, SyncInbox,
    Timestamp, UserId,
};
use im_store_pg::PgBackend;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Some messages of a log.
fn records(numbers: std::ops::Range<u64>) -> Vec<LogRecord> {
    let record = |n| Record {
        conversation: ConversationId::group("g").unwrap(),
        seq: Seq(n),
        ordinal: Ordinal(n),
        created_at: Timestamp(1_800_000_000_000),
        sender: user("carol"),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new(format!("m{n}")).unwrap(),
        hole_after: None,
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "hello".into(),
        hash: ContentHash(n),
    };
    let place = |n| Position { epoch: Epoch(1), offset: n };
    numbers.map(|n| LogRecord { position: place(n), record: Arc::new(record(n)) }).collect()
}

async fn delivery(pg: &PgBackend, records: &[LogRecord], users: &[UserId]) -> Delivery {
    let indices: Arc<[u32]> = (0..records.len() as u32).collect();
    let recipient = |user: &UserId| Recipient { user: user.clone(), records: indices.clone() };
    Delivery {
        partition: Partition(0),
        inbox: pg.inbox().info().await.unwrap().incarnation,
        records: records.to_vec(),
        recipients: users.iter().map(recipient).collect(),
        checkpoint: None,
    }
}

async fn deliver(pg: &PgBackend, records: &[LogRecord], users: &[UserId]) -> Vec<Delivered> {
    let answers = pg.inbox().deliver(&delivery(pg, records, users).await).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

async fn page(pg: &PgBackend, user: &UserId, after: &Cursor) -> Option<Vec<Entry>> {
    match pg.inbox().pull(user, after, 10_000).await.unwrap() {
        Pull::Page { entries, more: false } => Some(entries),
        Pull::Page { .. } => panic!("more than 10,000 entries"),
        Pull::Resync => None,
    }
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.record.seq.0).collect()
}

async fn expire_all(pg: &PgBackend) {
    while pg.inbox().expire(1).await.unwrap() {}
}

/// A connection beside the backend's, in the schema.
async fn sql(schema: &Schema) -> PgConnection {
    let mut conn = PgConnection::connect(&crate::support::server()).await.unwrap();
    run(&mut conn, &format!("SET search_path TO {}", schema.quoted())).await;
    conn
}

async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap();
}

async fn numbers(conn: &mut PgConnection, sql: &str) -> Vec<i64> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(conn).await.unwrap()
}

/// Ages everything that is there: as if it had been delivered so much earlier.
async fn age(conn: &mut PgConnection, by: Duration) {
    let millis = by.as_millis();
    for parent in ["inbox", "inbox_records"] {
        let tables: Vec<(String, String)> = sqlx::query_as(
            "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i \
             JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass ORDER BY 2",
        )
        .bind(parent)
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        for (table, bounds) in tables {
            let bound = |n| bounds.split('\'').nth(n).unwrap().parse::<u128>().unwrap() - millis;
            let (from, to) = (bound(1), bound(3));
            let sql = format!(
                "ALTER TABLE {parent} DETACH PARTITION {table}; UPDATE {table} SET delivered = delivered - {millis}; \
                 ALTER TABLE {table} RENAME TO {parent}_{from}; \
                 ALTER TABLE {parent} ATTACH PARTITION {parent}_{from} FOR VALUES FROM ({from}) TO ({to})"
            );
            run(conn, &sql).await;
        }
    }
}

/// Tables of before they were aged by a minute.
const AGED: &str = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                    WHERE i.inhparent IN ('inbox'::regclass, 'inbox_records'::regclass) \
                    AND substring(c.relname FROM '[0-9]+$')::bigint < extract(epoch FROM now()) * 1000 - 30000";

/// As a node of the first version left it: a row for each entry.
#[tokio::test]
async fn the_rows_of_the_first_version_stay_what_they_were() {
    let schema = Schema::short_lived();
    let (alice, bob) = (user("alice"), user("bob"));
    let pg = schema.open().await;
    let anchor = pg.inbox().anchor(&alice).await.unwrap();
    deliver(&pg, &records(1..101), std::slice::from_ref(&alice)).await;
    deliver(&pg, &records(101..102), &[bob.clone(), alice.clone()]).await;
    let before = page(&pg, &alice, &anchor).await.unwrap();
    pg.close().await;
    let mut conn = sql(&schema).await;
    run(
        &mut conn,
        "CREATE TEMP TABLE single AS SELECT * FROM inbox_entries; TRUNCATE inbox; DROP VIEW inbox_entries; \
         ALTER TABLE inbox DROP COLUMN earlier; INSERT INTO inbox (delivered, user_id, place, nonce, previous, record) \
         SELECT delivered, user_id, place, nonce, previous, record FROM single; UPDATE schema_version SET version = 1",
    )
    .await;
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM inbox").await, [102]);
    let pg = schema.open().await;
    assert_eq!(page(&pg, &alice, &anchor).await.unwrap(), before);
    let later = deliver(&pg, &records(102..300), &[alice.clone(), bob.clone()]).await;
    // From any place on, as one inbox.
    let all = page(&pg, &alice, &anchor).await.unwrap();
    assert_eq!(seqs(&all), (1..300).collect::<Vec<_>>());
    assert_eq!(later[0].previous.as_ref(), before.last().map(|entry| &entry.cursor));
    for at in [0, 63, 99, 100, 101, 250] {
        assert_eq!(page(&pg, &alice, &all[at].cursor).await.unwrap(), all[at + 1..]);
    }
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM inbox_entries").await, [299 + 199]);
    // A cursor of another data stays none.
    assert_eq!(page(&pg, &bob, &all[0].cursor).await, None);
}

#[tokio::test]
async fn an_idle_users_cursor_outlives_the_expiry_of_its_entry() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let mut conn = sql(&schema).await;
    let alice = [user("alice")];
    let anchor = pg.inbox().anchor(&alice[0]).await.unwrap();
    let first = deliver(&pg, &records(1..4), &alice).await.remove(0);
    assert_eq!(first.previous.as_ref(), Some(&anchor));
    age(&mut conn, Duration::from_secs(60)).await;
    expire_all(&pg).await;
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM inbox").await, [0]);
    assert_eq!(page(&pg, &alice[0], &first.cursors[2]).await, Some(vec![]), "still the end");
    assert_eq!(page(&pg, &alice[0], &first.cursors[1]).await, None, "an entry after it has expired");
    assert_eq!(page(&pg, &alice[0], &anchor).await, None, "entries after it have expired");
    assert_eq!(pg.inbox().anchor(&alice[0]).await.unwrap(), first.cursors[2]);

    let second = deliver(&pg, &records(4..6), &alice).await.remove(0);
    assert_eq!(second.previous.as_ref(), first.cursors.last());
    let entries = page(&pg, &alice[0], &first.cursors[2]).await.unwrap();
    assert_eq!(seqs(&entries), [4, 5], "nothing that the client has not seen is gone");
    assert_eq!(page(&pg, &alice[0], &first.cursors[1]).await, None);
    let forged = Cursor::new(format!("3-{}", second.cursors[0].as_str().split_once('-').unwrap().1));
    assert_eq!(page(&pg, &alice[0], &forged).await, None, "the place is right, the entry was another");
}

/// The first of an inbox, without an anchor that anybody asked for.
#[tokio::test]
async fn the_place_before_the_first_entry_is_a_cursor() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let users = [user("alice"), user("bob")];
    let first = deliver(&pg, &records(1..3), &users).await;
    for (user, delivered) in users.iter().zip(&first) {
        let previous = delivered.previous.as_ref().unwrap();
        assert_eq!(seqs(&page(&pg, user, previous).await.unwrap()), [1, 2]);
        assert!(delivered.cursors[1].as_str().len() <= 23);
    }
    assert_eq!(first[0].cursors, first[1].cursors, "those who stand at one place are told one cursor");
}

/// Both stand at one place after one delivery, on other records.
#[tokio::test]
async fn the_cursor_of_another_recipient_of_a_delivery_is_refused() {
    let pg = Schema::short_lived().open().await;
    let both = [user("alice"), user("bob")];
    let mut delivery = delivery(&pg, &records(1..4), &both).await;
    (delivery.recipients[0].records, delivery.recipients[1].records) = ([0, 1].into(), [1, 2].into());
    let answers = pg.inbox().deliver(&delivery).await.unwrap();
    let cursors: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().cursors).collect();
    deliver(&pg, &records(4..5), &both).await;
    for (own, other) in [(0, 1), (1, 0)] {
        for cursor in &*cursors[own] {
            assert!(page(&pg, &both[own], cursor).await.is_some());
            assert_eq!(page(&pg, &both[other], cursor).await, None);
        }
    }
}

/// Rows hold 64 entries: of one delivery there are three, between others of one.
#[tokio::test]
async fn a_page_begins_and_ends_anywhere_in_a_row() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let mut conn = sql(&schema).await;
    let (alice, mut cursors) = ([user("alice")], Vec::new());
    for seqs in [1..2, 2..152, 152..153] {
        let delivered = deliver(&pg, &records(seqs), &alice).await.remove(0);
        cursors.extend(cursors.is_empty().then(|| delivered.previous.unwrap()));
        cursors.extend_from_slice(&delivered.cursors);
    }
    let rows = "SELECT place FROM inbox WHERE user_id = 'alice' ORDER BY place";
    assert_eq!(numbers(&mut conn, rows).await, [1, 65, 129, 151, 152]);
    for (at, cursor) in (0..).zip(&cursors) {
        for max in [1, 7, 64, 65, 200] {
            let Pull::Page { entries, more } = pg.inbox().pull(&alice[0], cursor, max).await.unwrap() else {
                panic!("resync at {at}")
            };
            let last = (at + max as u64).min(152);
            assert_eq!(seqs(&entries), (at + 1..=last).collect::<Vec<_>>());
            assert_eq!(more, last < 152);
            let told: Vec<_> = entries.into_iter().map(|entry| entry.cursor).collect();
            assert_eq!(told, cursors[at as usize + 1..=last as usize]);
        }
        let (place, nonce) = cursor.as_str().split_once('-').unwrap();
        let other = i64::from_str_radix(nonce, 16).unwrap() ^ 1 << 40;
        if at < 152 {
            assert_eq!(page(&pg, &alice[0], &Cursor::new(format!("{place}-{other:x}"))).await, None);
        }
    }
    let dense = "SELECT count(*) FROM inbox_entries a JOIN inbox_entries b ON b.user_id = a.user_id \
                 AND b.place = a.place + 1 AND b.previous = a.nonce";
    assert_eq!(numbers(&mut conn, dense).await, [151]);
}

#[tokio::test]
async fn a_gap_in_the_middle_or_at_the_end_is_seen() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let mut conn = sql(&schema).await;
    let alice = [user("alice")];
    let mut cursors = Vec::new();
    for seq in 1..7 {
        cursors.extend_from_slice(&deliver(&pg, &records(seq..seq + 1), &alice).await.remove(0).cursors);
    }
    run(&mut conn, "DELETE FROM inbox WHERE place = 6").await;
    assert_eq!(page(&pg, &alice[0], &cursors[0]).await, None, "the newest is gone");
    assert_eq!(pg.inbox().pull(&alice[0], &cursors[0], 4).await.unwrap(), Pull::Resync);
    deliver(&pg, &records(7..9), &alice).await;
    assert_eq!(page(&pg, &alice[0], &cursors[0]).await, None, "one in the middle is gone");
    assert_eq!(seqs(&page(&pg, &alice[0], &cursors[5]).await.unwrap()), [7, 8]);
}

/// Ten nodes that have no tables yet, in a schema whose name has to be quoted everywhere.
#[tokio::test]
async fn many_nodes_make_tables_at_once_and_drop_them_at_once() {
    let schema = Schema::apostrophe();
    let mut nodes = Vec::new();
    for _ in 0..10 {
        nodes.push(schema.builder().connections(2).open().await.unwrap());
    }
    let mut conn = sql(&schema).await;
    let (alice, count) = (user("alice"), nodes.len() as u64);
    let anchor = nodes[0].inbox().anchor(&alice).await.unwrap();
    let works = (0..).zip(nodes.clone()).map(|(n, pg)| {
        let alice = [alice.clone()];
        tokio::spawn(async move { deliver(&pg, &records(n..n + 1), &alice).await })
    });
    for work in works.collect::<Vec<_>>() {
        work.await.unwrap();
    }
    let mut got = seqs(&page(&nodes[0], &alice, &anchor).await.unwrap());
    got.sort_unstable();
    assert_eq!(got, (0..count).collect::<Vec<_>>());

    age(&mut conn, Duration::from_secs(60)).await;
    let young = deliver(&nodes[0], &records(50..52), std::slice::from_ref(&alice)).await.remove(0);
    assert!(numbers(&mut conn, AGED).await[0] >= 4, "tables of several spans");
    let works = nodes.clone().into_iter().map(|pg| tokio::spawn(async move { expire_all(&pg).await }));
    for work in works.collect::<Vec<_>>() {
        work.await.unwrap();
    }
    assert_eq!(numbers(&mut conn, "SELECT DISTINCT place FROM inbox_entries ORDER BY 1").await, [11, 12]);
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM inbox_records").await, [2]);
    assert_eq!(numbers(&mut conn, AGED).await, [0]);
    let entries = page(&nodes[1], &alice, &young.previous.unwrap()).await.unwrap();
    assert_eq!(seqs(&entries), [50, 51], "nothing younger goes");
    assert_eq!(page(&nodes[1], &alice, &anchor).await, None);
}

/// Three nodes deliver to the same users while spans of a second end.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_across_the_end_of_a_span_keep_their_order() {
    let schema = Schema::short_lived();
    let nodes = [schema.open().await, schema.open().await, schema.open().await];
    let mut conn = sql(&schema).await;
    let users: Vec<_> = (0..20).map(|n| user(&format!("u{n}"))).collect();
    let begin = Instant::now();
    let works = nodes.clone().map(|pg| {
        let users = users.clone();
        tokio::spawn(async move {
            let mut rounds = 0;
            while begin.elapsed() < EXPIRY {
                deliver(&pg, &records(rounds * 2..rounds * 2 + 2), &users).await;
                rounds += 1;
            }
            rounds as i64 * 2
        })
    });
    let mut due = 0;
    for work in works {
        due += work.await.unwrap();
    }
    let count = "SELECT count(*) FROM inbox_entries WHERE user_id = 'u7'";
    assert_eq!(numbers(&mut conn, count).await, [due]);
    let older = "SELECT count(*) FROM inbox_entries a JOIN inbox_entries b ON b.user_id = a.user_id AND b.place = a.place + 1 \
                 WHERE b.delivered < a.delivered OR b.previous <> a.nonce";
    assert_eq!(numbers(&mut conn, older).await, [0], "an entry is older than one before it");
    let tables = numbers(&mut conn, "SELECT count(DISTINCT tableoid) FROM inbox").await[0];
    assert!(tables >= 2, "all went into one table");
}

#[tokio::test]
async fn nodes_with_another_expiry_share_the_tables() {
    let schema = Schema::short_lived();
    let alice = [user("alice")];
    let day = schema.builder().expiry(Duration::from_secs(24 * 3600)).open().await.unwrap();
    let short = schema.open().await;
    let anchor = day.inbox().anchor(&alice[0]).await.unwrap();
    deliver(&day, &records(1..2), &alice).await;
    deliver(&short, &records(2..3), &alice).await;
    tokio::time::sleep(EXPIRY * 2).await;
    // Into the table of three hours, which nobody drops before it is over.
    deliver(&short, &records(3..4), &alice).await;
    expire_all(&short).await;
    assert_eq!(seqs(&page(&day, &alice[0], &anchor).await.unwrap()), [1, 2, 3]);

    let other = Schema::short_lived();
    let short = other.open().await;
    let day = other.builder().expiry(Duration::from_secs(24 * 3600)).open().await.unwrap();
    let anchor = short.inbox().anchor(&alice[0]).await.unwrap();
    deliver(&short, &records(1..2), &alice).await;
    deliver(&day, &records(2..3), &alice).await;
    assert_eq!(seqs(&page(&short, &alice[0], &anchor).await.unwrap()), [1, 2]);
}

/// Such as a dump.
#[tokio::test]
async fn a_long_reader_delays_an_expiry_and_nobody_else() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let (mut conn, mut reader) = (sql(&schema).await, sql(&schema).await);
    let alice = [user("alice")];
    deliver(&pg, &records(1..2), &alice).await;
    age(&mut conn, Duration::from_secs(60)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM inbox").await;
    let expiry = tokio::spawn({
        let pg = pg.clone();
        async move { pg.inbox().expire(1).await }
    });
    let mut slowest = Duration::ZERO;
    while !expiry.is_finished() {
        let begin = Instant::now();
        deliver(&pg, &records(2..3), &alice).await;
        slowest = slowest.max(begin.elapsed());
    }
    let refused = expiry.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Timeout);
    assert!(refused.is_transient());
    assert!(slowest < Duration::from_secs(1), "a delivery waited for {slowest:?}");
    run(&mut reader, "COMMIT").await;
    expire_all(&pg).await;
    assert_eq!(numbers(&mut conn, "SELECT count(*) FROM inbox WHERE place = 1").await, [0]);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_half_done() {
    let schema = Schema::fresh();
    let pg = schema.open().await;
    let users: Vec<_> = (0..200).map(|n| user(&format!("u{n}"))).collect();
    let mut conn = sql(&schema).await;
    let start = pg.inbox().anchor(&users[0]).await.unwrap();
    for n in 0..30 {
        let delivery = delivery(&pg, &records(n..n + 1), &users).await;
        let inbox = pg.inbox();
        let _ = tokio::time::timeout(Duration::from_micros(300 * n), inbox.deliver(&delivery)).await;
    }
    deliver(&pg, &records(100..101), &users).await;
    // In one look at all of them: a delivery goes on after its caller went away, and may end between two looks.
    let inboxes = "SELECT count(*) FROM (SELECT DISTINCT string_agg(record::text, ' ' ORDER BY place) \
                   FROM inbox_entries GROUP BY user_id) AS inboxes";
    assert_eq!(numbers(&mut conn, inboxes).await, [1]);
    assert!(seqs(&page(&pg, &users[0], &start).await.unwrap()).contains(&100));
}

#[tokio::test]
async fn a_recipient_named_twice_is_refused() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let given = delivery(&pg, &records(1..2), &[user("alice"), user("bob"), user("alice")]).await;
    let refused = pg.inbox().deliver(&given).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!refused.is_transient());
    assert_eq!(pg.inbox().ends(&[user("alice"), user("bob")]).await.unwrap(), [None, None]);
}

const PLANS: [&str; 2] = ["force_generic_plan", "force_custom_plan"];

/// What a pull really asks is explained on full tables, those of entries that live and as many of expired ones.
#[tokio::test]
async fn a_pull_reads_by_the_key_and_only_the_tables_that_live() {
    let schema = Schema::short_lived();
    let pg = schema.builder().expiry(Duration::from_secs(800)).open().await.unwrap();
    let mut conn = sql(&schema).await;
    let anchor = pg.inbox().anchor(&user("u1")).await.unwrap();
    let first = deliver(&pg, &records(1..2), &[user("u1")]).await;
    fill(&mut conn).await;
    let entries = page(&pg, &user("u1"), &anchor).await.unwrap();
    assert_eq!(entries.len(), first.len());
    let asked: String = sqlx::query_scalar(
        "SELECT query FROM pg_stat_activity WHERE query LIKE 'SELECT e.place, e.nonce, i.place%' \
         AND strpos(query, $1) > 0 LIMIT 1",
    )
    .bind(schema.quoted())
    .fetch_one(&mut conn)
    .await
    .unwrap();
    run(&mut conn, &format!("PREPARE pull (text, bigint, bigint, bigint) AS {asked}")).await;
    for analyzed in [false, true] {
        if analyzed {
            run(&mut conn, "ANALYZE inbox, inbox_records, inbox_ends").await;
        }
        for mode in PLANS {
            run(&mut conn, &format!("SET plan_cache_mode = {mode}")).await;
            explain(&mut conn, mode).await;
        }
    }
}

/// Entries of the last 2,000 seconds: in each 100 of them 100 for each of 100 users, and 5,000 for one.
async fn fill(conn: &mut PgConnection) {
    let now = numbers(conn, "SELECT (extract(epoch FROM now()) * 1000)::bigint / 100000 * 100000").await[0];
    for n in 0..=20 {
        let (from, to) = (now - n * 100_000, now - (n - 1) * 100_000);
        for parent in ["inbox", "inbox_records"] {
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {parent}_{from} PARTITION OF {parent} FOR VALUES FROM ({from}) TO ({to})"
            );
            run(conn, &sql).await;
        }
        let place = (20 - n) * 10_000 + 10;
        let sql = format!(
            "INSERT INTO inbox SELECT {from}, 'u' || u, {place} + p, 1, 1, p FROM generate_series(2, 101) u, \
             generate_series(1, 100) p; \
             INSERT INTO inbox SELECT {from}, 'long', {place} + p, 1, 1, p FROM generate_series(1, 5000) p; \
             INSERT INTO inbox_records SELECT {from}, p, '\\x00' FROM generate_series(1, 5000) p"
        );
        run(conn, &sql).await;
    }
    let ends = "INSERT INTO inbox_ends SELECT 'u' || n, 1, 1, 1 FROM generate_series(2, 5000) n; \
                INSERT INTO inbox_ends VALUES ('long', 1000000, 1, 1)";
    run(conn, ends).await;
}

async fn explain(conn: &mut PgConnection, mode: &str) {
    let sql = "EXPLAIN (ANALYZE, TIMING OFF) EXECUTE pull ('long', 10, 101, 900000)";
    let rows = sqlx::raw_sql(sql).fetch_all(conn).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = lines.join("\n");
    assert!(lines[0].contains("actual rows=101"), "{mode}: {plan}");
    let done = || lines.iter().filter(|line| !line.contains("never executed"));
    assert!(!done().any(|line| line.contains("Seq Scan")), "{mode}: {plan}");
    assert!(!done().any(|line| line.contains("Sort  (")), "{mode}: {plan}");
    // The end; the tables of the last 900 seconds, begun ones too, and the next; that of the page's records.
    let tables = done().filter(|line| line.contains(" on inbox_")).count();
    assert!(tables <= 13, "{mode}: {tables} tables: {plan}");
}

/// Each delivery changes a row of each recipient: on its page, or the index would grow with it. One change only: of more the server can
/// first give back the room when nobody else's transaction looks.
#[tokio::test]
async fn the_ends_are_updated_on_their_pages() {
    let schema = Schema::short_lived();
    let pg = schema.open().await;
    let users: Vec<_> = (0..300).map(|n| user(&format!("u{n}"))).collect();
    for n in 0..2 {
        deliver(&pg, &records(n..n + 1), &users).await;
    }
    // A closed connection has told what it did.
    pg.close().await;
    let mut conn = sql(&schema).await;
    let told = async {
        loop {
            let (all, on_page): (i64, i64) = sqlx::query_as(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'inbox_ends'::regclass",
            )
            .fetch_one(&mut conn)
            .await
            .unwrap();
            if all == 300 {
                return (all, on_page);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (all, on_page) = tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is told");
    assert!(on_page * 10 > all * 9, "{on_page} of {all} updates stayed on their page");
}
