//! What the server does for each query on tables that are filled: no table is read through, no timeline sorted.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::Schema;
use im_core::{
    Append, AppendOutcome, Checkpoint, ClientMsgId, Connect, ContentHash, ContentType, ConversationId,
    ConversationStore, Delivery, DeviceId, Direction, Epoch, HistoryQuery, Lineage, LogRead, LogRecord,
    MessageLog, MessageStore, NewConversation, NodeId, Outbox, Outgoing, Partition, Platform, Position,
    Presence, ReadMark, Recipient, RecordKind, Refusal, SendKey, Seq, SessionId, SessionRef, SettingsChange,
    SyncInbox, UserId, UserState, WhenFull,
};
use im_store_pg::{PgBackend, PgPresence};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

const USERS: usize = 200;
const LENGTH: usize = 200;
/// More rows than any page has.
const MANY: f64 = 2000.0;

/// Collects the plans that the server tells of as notices.
#[derive(Clone, Default)]
struct Plans(Arc<Mutex<Vec<Value>>>);

impl Visit for &Plans {
    fn record_str(&mut self, _: &Field, text: &str) {
        if let Some((_, plan)) = text.split_once("plan:") {
            self.0.lock().unwrap().extend(serde_json::from_str::<Value>(plan));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }
}

impl Subscriber for Plans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut &*self);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// What is wrong in a plan.
fn faults(node: &Value, faults: &mut Vec<String>) {
    let text = |name: &str| node[name].as_str().unwrap_or_default();
    let relation = text("Relation Name");
    let filled = [
        "messages_",
        "inbox",
        "conversations",
        "group_members",
        "read_marks",
        "user_states",
        "state_changes",
        "sessions",
        "outbox",
    ];
    if text("Node Type") == "Seq Scan" && filled.iter().any(|name| relation.starts_with(name)) {
        // Tables of spans to come are empty.
        if node["Actual Rows"].as_f64().unwrap_or_default() > 0.0
            || node["Rows Removed by Filter"].as_f64().unwrap_or_default() > 0.0
        {
            faults.push(format!("{relation} is read through"));
        }
    }
    if text("Node Type").contains("Sort") && node["Actual Rows"].as_f64().unwrap_or_default() > MANY {
        faults.push(format!("{} rows are sorted", node["Actual Rows"]));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        self::faults(child, faults);
    }
}

fn user(n: usize) -> UserId {
    UserId::new(format!("user-{n:04}")).unwrap()
}

fn single(n: usize) -> ConversationId {
    ConversationId::single(&user(n), &user((n + 1) % USERS)).unwrap()
}

fn append(n: usize, at: usize) -> Append {
    Append {
        conversation: single(n),
        sender: user(n),
        device: None,
        send_to: Some(user((n + 1) % USERS)),
        client_msg_id: ClientMsgId::new(format!("m{at}")).unwrap(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "x".repeat(100).into(),
        hash: ContentHash(1),
        floor: None,
    }
}

async fn everything(pg: &PgBackend, partition: Partition) -> Vec<LogRecord> {
    let (mut all, mut after) = (Vec::new(), Position::START);
    loop {
        match pg.log().read(partition, after, 1000, Duration::ZERO).await.unwrap() {
            LogRead::Records(records) if records.is_empty() => return all,
            LogRead::Records(records) => {
                after = records.last().unwrap().position;
                all.extend(records);
            }
            LogRead::Trimmed(_) => panic!("trimmed"),
        }
    }
}

async fn fill(pg: &PgBackend) -> Delivery {
    let info = pg.log().info().await.unwrap();
    pg.log().open_epoch(Epoch(1), &info.incarnation).await.unwrap();
    let new: Vec<_> = (0..USERS).map(|n| NewConversation::Single(user(n), user((n + 1) % USERS))).collect();
    pg.store().create(&new).await.unwrap();
    for partition in Partition::all(info.partitions) {
        for at in (0..LENGTH).step_by(10) {
            let of = |n: usize| (at..at + 10).map(move |at| append(n, at));
            let batch: Vec<_> = (0..USERS)
                .filter(|n| Partition::of(&single(*n), info.partitions) == partition)
                .flat_map(of)
                .collect();
            pg.log().append(partition, Epoch(1), &batch).await.unwrap();
        }
    }
    let records = everything(pg, Partition(0)).await;
    let lineage = Lineage {
        log: info.incarnation.clone(),
        store: info.incarnation.clone(),
        inbox: info.incarnation.clone(),
    };
    let position = records.last().unwrap().position;
    let mut last = None;
    for some in records.chunks(100).take(10) {
        let all: Arc<[u32]> = (0..some.len() as u32).collect();
        let recipients = (0..USERS).map(|n| Recipient { user: user(n), records: all.clone() }).collect();
        let checkpoint = Checkpoint { position, rewind: position, lineage: lineage.clone() };
        let delivery = Delivery {
            partition: Partition(0),
            inbox: info.incarnation.clone(),
            records: some.to_vec(),
            recipients,
            checkpoint: Some(checkpoint),
        };
        pg.inbox().deliver(&delivery).await.unwrap();
        last = Some(delivery);
    }
    last.unwrap()
}

/// Rows of others, so that no table is small enough to be read through rightly.
async fn fill_elsewhere(beside: &sqlx::PgPool, schema: &Schema) {
    let schema = format!("\"{}\"", schema.name().replace('"', "\"\""));
    let sql = format!(
        "SET search_path TO {schema}; \
         INSERT INTO conversations (id, type, created_at, updated_at) SELECT 'elsewhere' || n, 'GROUP', 1, 1 \
         FROM generate_series(1, 20000) n; \
         INSERT INTO group_members (conversation_id, main_user, joined, joined_ordinal, role, created_at) \
         SELECT 'elsewhere' || n, 'somebody' || n % 1000, 1, 0, 'member', 1 FROM generate_series(1, 20000) n; \
         INSERT INTO read_marks SELECT 'elsewhere' || n, 'somebody' || n % 1000, '', 1, 1 FROM generate_series(1, 20000) n; \
         INSERT INTO user_states SELECT 'somebody' || n, 1 FROM generate_series(1, 20000) n; \
         INSERT INTO state_changes SELECT 'somebody' || n, 'elsewhere', 1 FROM generate_series(1, 20000) n; \
         INSERT INTO nodes SELECT 'elsewhere' || n, CASE n % 2 WHEN 0 THEN 1 ELSE 1::bigint << 50 END, 1 FROM generate_series(1, 40) n; \
         INSERT INTO sessions (user_id, session, slot, node, life, device, platform, displaced) SELECT 'somebody' || n, 'session', \
         'slot', 'elsewhere' || 1 + 2 * (n % 20), 1, 'device', 'web', false FROM generate_series(1, 20000) n; \
         INSERT INTO outbox (transaction, put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
         SELECT n, 1, 'elsewhere' || n, 'somebody' || n, 'm' || n, 'text', 'x', 1 FROM generate_series(1, 20000) n; \
         INSERT INTO inbox_ends SELECT 'somebody' || n, 1, 1, 1 FROM generate_series(1, 20000) n; \
         ANALYZE conversations, group_members, read_marks, user_states, state_changes, inbox_ends, nodes, sessions, outbox, inbox, \
         inbox_records, messages; \
         RESET search_path"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(beside).await.unwrap();
}

async fn be_there(presence: &PgPresence, user: &UserId) {
    let node = NodeId::new("node").unwrap();
    for name in ["1", "2"] {
        let id = SessionId::new(name).unwrap();
        let (device, platform) = (DeviceId::new(name).unwrap(), Platform::new("web").unwrap());
        let session = SessionRef { id, node: node.clone(), device, platform };
        let slot = "slot".into();
        let request = Connect { user: user.clone(), session, slot, max: 1, when_full: WhenFull::KickOld };
        presence.connect(&request).await.unwrap();
    }
    let held = ["1", "2", "3"].map(|name| (user.clone(), SessionId::new(name).unwrap()));
    assert_eq!(presence.beat(&node, &held).await.unwrap().len(), 2);
    let users: Vec<_> = (0..USERS).map(self::user).collect();
    presence.sessions(&users).await.unwrap();
    presence.disconnect(&held).await.unwrap();
}

/// A node whose server tells the plans of its queries.
async fn explained(schema: &Schema) -> PgBackend {
    let builder = PgBackend::builder(&explaining()).unwrap().schema(schema.name());
    builder.expiry(Duration::from_secs(3600)).open().await.unwrap()
}

fn explaining() -> String {
    format!(
        "{}?options=-c%20session_preload_libraries=auto_explain%20-c%20auto_explain.log_min_duration=0%20\
         -c%20auto_explain.log_analyze=on%20-c%20auto_explain.log_buffers=on%20-c%20auto_explain.log_level=notice%20\
         -c%20auto_explain.log_format=json%20-c%20client_min_messages=notice",
        crate::support::server()
    )
}

/// While somebody's snapshot is open nothing that is deleted can be cleared away.
#[tokio::test]
async fn a_look_into_the_outbox_does_not_step_over_what_is_gone() {
    let schema = Schema::fresh();
    let plans = Plans::default();
    let _guard = tracing::subscriber::set_default(plans.clone());
    let pg = explained(&schema).await;
    let outbox = pg.outbox();
    let beside = sqlx::PgPool::connect(&crate::support::server()).await.unwrap();
    let run = |sql: String| {
        let beside = beside.clone();
        async move { sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&beside).await.unwrap() }
    };
    let mut snapshot = beside.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *snapshot).await.unwrap();
    let table = format!("{}.outbox", schema.quoted());
    run(format!(
        "INSERT INTO {table} (put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
         SELECT 1, 'g', 'shop', 'm' || n, 'text', 'x', 1 FROM generate_series(1, 5000) n"
    ))
    .await;
    let last: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT max(transaction) FROM {table}")))
        .fetch_one(&beside)
        .await
        .unwrap();
    run(format!("DELETE FROM {table}")).await;
    let over = async {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1";
        while !sqlx::query_scalar::<_, bool>(sql).bind(last).fetch_one(&beside).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), over).await.unwrap();
    assert!(outbox.waiting(None, 100).await.unwrap().is_empty());
    plans.0.lock().unwrap().clear();
    assert!(outbox.waiting(None, 100).await.unwrap().is_empty());
    let plans = plans.0.lock().unwrap();
    let plan = plans.iter().find(|plan| plan["Query Text"].as_str().unwrap().contains(".outbox")).unwrap();
    let blocks = plan["Plan"]["Shared Hit Blocks"].as_u64().unwrap();
    assert!(blocks < 20, "{blocks} blocks were read");
    drop(snapshot);
}

#[tokio::test]
async fn what_cannot_be_read_in_the_outbox_takes_no_statement_each() {
    let schema = Schema::fresh();
    let plans = Plans::default();
    let _guard = tracing::subscriber::set_default(plans.clone());
    let pg = explained(&schema).await;
    let sql = format!(
        "INSERT INTO {}.outbox (put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
         SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, 'g', 'shop', 'm' || n, \
         CASE WHEN n > 2500 THEN 'text' ELSE 'hologram' END, 'x', 1 FROM generate_series(1, 2510) n",
        schema.quoted()
    );
    let mut host = PgConnection::connect(&crate::support::server()).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut host).await.unwrap();
    plans.0.lock().unwrap().clear();
    let page = pg.outbox().waiting(None, 3).await.unwrap();
    let names: Vec<_> = page.iter().map(|waiting| waiting.message.client_msg_id.as_str()).collect();
    assert_eq!(names, ["m2501", "m2502", "m2503"]);
    let next = pg.outbox().waiting(Some(page[2].place), 3).await.unwrap();
    assert_eq!(next[0].message.client_msg_id.as_str(), "m2504");
    let plans = plans.0.lock().unwrap();
    let looks = plans.iter().filter(|plan| plan["Query Text"].as_str().unwrap().contains(".outbox"));
    // The look from the beginning is made twice when it learns what the data are.
    assert!((3..=9).contains(&looks.count()));
}

/// While nobody else appends. It takes steps after another node did, and until it is alone again.
#[tokio::test]
async fn an_append_after_another_is_one_statement() {
    let schema = Schema::fresh();
    let (other, plans) = (schema.open().await, Plans::default());
    let _guard = tracing::subscriber::set_default(plans.clone());
    let pg = explained(&schema).await;
    let (id, mut receipts) = (single(7), Vec::new());
    let partition = Partition::of(&id, 4);
    pg.log().open_epoch(Epoch(1), &pg.log().info().await.unwrap().incarnation).await.unwrap();
    let mut statements = Vec::new();
    for (at, node) in [&pg, &pg, &pg, &other, &pg, &pg, &pg].into_iter().enumerate() {
        plans.0.lock().unwrap().clear();
        let outcomes = node.log().append(partition, Epoch(1), &[append(7, at), append(7, at)]).await.unwrap();
        let [AppendOutcome::Appended(first), AppendOutcome::Duplicate(second)] = outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert_eq!(first, second);
        receipts.push(first);
        let plans = plans.0.lock().unwrap();
        let is_of_append = |plan: &&Value| {
            let text = plan["Query Text"].as_str().unwrap();
            ["log_partitions", "conversations"].iter().any(|table| text.contains(table))
        };
        statements.push(plans.iter().filter(is_of_append).count());
    }
    assert_eq!(statements, [4, 1, 1, 0, 5, 4, 1]);
    let LogRead::Records(records) =
        pg.log().read(partition, Position::START, 100, Duration::ZERO).await.unwrap()
    else {
        panic!("trimmed")
    };
    let told: Vec<_> = receipts.iter().map(|got| (got.mark, got.position, got.created_at)).collect();
    let stored: Vec<_> =
        records.iter().map(|it| (it.record.mark(), it.position, it.record.created_at)).collect();
    assert_eq!(told, stored);
    assert!(stored.is_sorted_by_key(|(.., created_at)| *created_at) && stored[0].2.0 > 1_700_000_000_000);
    assert!((1..).zip(&stored).all(|(seq, (mark, ..))| mark.seq == Seq(seq)));
}

#[tokio::test]
async fn no_query_reads_a_table_through_or_sorts_a_timeline() {
    let schema = Schema::fresh();
    let filling = schema.builder().expiry(Duration::from_secs(3600)).open().await.unwrap();
    let delivery = fill(&filling).await;
    let beside = sqlx::PgPool::connect(&crate::support::server()).await.unwrap();
    fill_elsewhere(&beside, &schema).await;
    let plans = Plans::default();
    let _guard = tracing::subscriber::set_default(plans.clone());
    let pg = explained(&schema).await;
    let (alice, id) = (user(7), single(7));
    let (log, store, inbox) = (pg.log(), pg.store(), pg.inbox());
    let partition = Partition::of(&id, 4);
    for at in [9000, 9000, 9001, 9002] {
        log.append(partition, Epoch(1), &[append(7, at)]).await.unwrap();
    }
    log.read(partition, Position::START, 100, Duration::ZERO).await.unwrap();
    log.read(partition, Position { epoch: Epoch(1), offset: 300 }, 100, Duration::ZERO).await.unwrap();
    let key = SendKey {
        conversation: id.clone(),
        sender: alice.clone(),
        client_msg_id: ClientMsgId::new("m5").unwrap(),
    };
    assert!(log.find(&[key]).await.unwrap()[0].is_some());
    for direction in [Direction::Forward, Direction::Backward] {
        let query =
            HistoryQuery { conversation: id.clone(), from: Seq(20), to: Some(Seq(300)), direction, max: 50 };
        store.history(&query).await.unwrap();
    }
    MessageStore::get(&store, &[(id.clone(), Seq(5)), (single(9), Seq(6))]).await.unwrap();
    store.last(&[id.clone(), single(9)]).await.unwrap();
    store.above(partition, Position { epoch: Epoch(1), offset: 500 }, 50).await.unwrap();
    store.list(&alice, &None, &None, 50).await.unwrap();
    store.memberships(&[(id.clone(), alice.clone())], &None).await.unwrap();
    store.members(&id, Seq(5), &None, 50).await.unwrap();
    store.count_members(&id).await.unwrap();
    store.large_groups(&alice, &None, 50).await.unwrap();
    let mark = ReadMark { user: user(8), device: None, conversation: id.clone(), seq: Seq(50) };
    store.mark_read(&[mark]).await.unwrap();
    let change = SettingsChange { undisturbed: Some(true), ..SettingsChange::default() };
    let version = store.set(&alice, &id, &change).await.unwrap();
    store.state(&alice, &None, &version, 50).await.unwrap();
    store.versions(std::slice::from_ref(&alice)).await.unwrap();
    let delivered = inbox.deliver(&delivery).await.unwrap().remove(0).unwrap();
    inbox.pull(&user(0), &delivered.previous.unwrap(), 50).await.unwrap();
    inbox.ends(std::slice::from_ref(&alice)).await.unwrap();
    be_there(&pg.presence(), &alice).await;
    let mut host = PgConnection::connect(&explaining()).await.unwrap();
    pg.send_in(&mut host, &Outgoing::text(&alice, &id, "x")).await.unwrap();
    let waiting = pg.outbox().waiting(None, 50).await.unwrap();
    let places: Vec<_> = waiting.iter().map(|waiting| waiting.place).collect();
    assert_eq!(pg.outbox().waiting(Some(places[0]), 50).await.unwrap().len(), 50);
    pg.outbox().done(&places[..40]).await.unwrap();
    pg.outbox().refuse(&[(places[40], Refusal::NotMember)]).await.unwrap();
    let plans = plans.0.lock().unwrap();
    assert!(plans.len() > 40, "{} plans were told of", plans.len());
    let wrong: Vec<_> = plans
        .iter()
        .filter_map(|plan| {
            let mut found = Vec::new();
            faults(&plan["Plan"], &mut found);
            (!found.is_empty()).then(|| format!("{found:?}: {}", plan["Query Text"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
