//! Messages that are there if and only if the host's rows are.

use std::{sync::Arc, time::Duration};

use crate::support::{Schema, server};
use async_trait::async_trait;
use im_core::{
    ChatError, ChatResult, ClientMsgId, ContentType, ConversationId, DeviceId, ErrorKind, Leases, LogPart,
    NodeId, Outbox, Outgoing, Place, Platform, Policy, PolicyRequest, Pull, Receipt, Refusal, Result, Seq,
    StorePart, UserId, Verdict, Waiting,
};
use im_engine::{
    Config, Direction, Engine, Event, Hello, HistoryRange, Identity, MemberChange, NewGroup, NewMessage,
};
use im_store_pg::{PgBackend, PgOutbox};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Notify;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node, a conversation, and the host's table beside the chat's.
struct Bed {
    schema: Schema,
    pg: PgBackend,
    shop: UserId,
    alice: UserId,
    conversation: ConversationId,
}

async fn host() -> PgConnection {
    PgConnection::connect(&server()).await.unwrap()
}

async fn run(conn: &mut PgConnection, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(conn).await.unwrap();
}

impl Bed {
    /// No engine runs.
    async fn new() -> Self {
        let schema = Schema::fresh();
        let pg = schema.open().await;
        let (shop, alice) = (UserId::new("shop").unwrap(), UserId::new("alice").unwrap());
        let chat = Engine::builder(&pg).start().await.unwrap();
        let conversation = chat.open_single(&shop, &alice).await.unwrap().id;
        chat.shutdown().await;
        run(&mut host().await, format!("CREATE TABLE {}.orders (id text)", schema.quoted())).await;
        Self { schema, pg, shop, alice, conversation }
    }

    fn message(&self, id: &str) -> Outgoing {
        let client_msg_id = ClientMsgId::new(id).unwrap();
        Outgoing { client_msg_id, ..Outgoing::text(&self.shop, &self.conversation, format!("about {id}")) }
    }

    /// What the host does within its transaction: its own row, and the message.
    async fn order(&self, conn: &mut PgConnection, id: &str) -> ChatResult<Option<Receipt>> {
        run(&mut *conn, format!("INSERT INTO {}.orders VALUES ('{id}')", self.schema.quoted())).await;
        self.pg.send_in(conn, &self.message(id)).await
    }

    async fn ordered(&self, id: &str) {
        let mut host = host().await;
        let mut transaction = host.begin().await.unwrap();
        self.order(&mut transaction, id).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn orders(&self) -> Vec<String> {
        let sql = format!("SELECT id FROM {}.orders ORDER BY id", self.schema.quoted());
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut host().await).await.unwrap()
    }

    async fn waiting(&self) -> Vec<String> {
        let waiting = self.pg.outbox().waiting(None, 1000).await.unwrap();
        waiting.iter().map(|waiting| waiting.message.client_msg_id.to_string()).collect()
    }

    async fn drained(&self) {
        let empty = async {
            while !self.waiting().await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("the outbox is drained");
    }

    async fn history(&self, chat: &Engine) -> Vec<(u64, String)> {
        let range = HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 200 };
        let page = chat.history(&self.alice, &self.conversation, range).await.unwrap();
        assert!(!page.more);
        page.records.iter().map(|record| (record.seq.0, record.client_msg_id.to_string())).collect()
    }

    async fn refused(&self) -> Vec<(String, String)> {
        let refused = self.pg.outbox().refused(0, 100).await.unwrap();
        refused
            .iter()
            .map(|one| (one.message.as_ref().unwrap().client_msg_id.to_string(), one.code.clone()))
            .collect()
    }
}

fn numbered(ids: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(ids.iter().map(|id| (*id).to_owned())).collect()
}

#[tokio::test]
async fn a_committed_message_is_received_and_in_history_once() {
    let bed = Bed::new().await;
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    let identity = Identity {
        user: bed.alice.clone(),
        device: DeviceId::new("phone").unwrap(),
        platform: Platform::new("test").unwrap(),
    };
    let (session, _) = chat.connect(identity, Hello::default()).await.unwrap();
    let start = session.fresh().await.unwrap().cursor;
    bed.ordered("m1").await;
    let told = async { while !matches!(session.event().await, Event::Entries(_) | Event::End(_)) {} };
    tokio::time::timeout(PATIENCE, told).await.expect("alice is told");
    bed.drained().await;
    let Pull::Page { entries, .. } = session.pull(&start, 100).await.unwrap() else { panic!("resync") };
    let received: Vec<_> = entries.iter().map(|entry| &*entry.record.content).collect();
    assert_eq!(received, ["about m1"]);
    assert_eq!(bed.history(&chat).await, numbered(&["m1"]));
    assert_eq!(bed.orders().await, ["m1"]);
    chat.shutdown().await;
}

#[tokio::test]
async fn without_a_commit_there_is_no_message() {
    let bed = Bed::new().await;
    let mut given_up = host().await;
    let mut transaction = given_up.begin().await.unwrap();
    bed.order(&mut transaction, "rolled back").await.unwrap();
    assert!(bed.waiting().await.is_empty(), "not before the commit");
    transaction.rollback().await.unwrap();

    let mut killed = host().await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut killed).await.unwrap();
    let mut transaction = killed.begin().await.unwrap();
    bed.order(&mut transaction, "killed").await.unwrap();
    run(&mut host().await, format!("SELECT pg_terminate_backend({pid})")).await;
    transaction.commit().await.unwrap_err();

    let mut part = host().await;
    let mut transaction = part.begin().await.unwrap();
    let mut savepoint = transaction.begin().await.unwrap();
    bed.order(&mut savepoint, "undone").await.unwrap();
    savepoint.rollback().await.unwrap();
    bed.order(&mut transaction, "done").await.unwrap();
    transaction.commit().await.unwrap();

    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    bed.drained().await;
    assert_eq!(bed.history(&chat).await, numbered(&["done"]));
    assert_eq!(bed.orders().await, ["done"]);
    chat.shutdown().await;
}

/// An outbox of a node that dies, or hangs for ever, before it removes what it has sent.
#[derive(Debug)]
struct Dying(PgOutbox, Arc<Notify>);

#[async_trait]
impl Outbox for Dying {
    async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>> {
        self.0.waiting(after, max).await
    }

    async fn done(&self, _: &[Place]) -> Result<()> {
        self.1.notify_one();
        std::future::pending().await
    }

    async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()> {
        self.0.refuse(refused).await
    }

    async fn pass_on(&self) -> Result<bool> {
        self.0.pass_on().await
    }
}

#[tokio::test]
async fn a_node_that_dies_between_append_and_removal_doubles_nothing() {
    let bed = Bed::new().await;
    let sent = Arc::new(Notify::new());
    let outbox = Some(Arc::new(Dying(bed.pg.outbox(), sent.clone())) as Arc<dyn Outbox>);
    let mut config = Config::default();
    config.lease = Duration::from_millis(300);
    let dying = Engine::builder(&bed.pg)
        .store(StorePart { outbox, ..bed.pg.store().into() })
        .config(config)
        .start()
        .await
        .unwrap();
    bed.ordered("m1").await;
    bed.ordered("m2").await;
    tokio::time::timeout(PATIENCE, sent.notified()).await.unwrap();
    assert!(!bed.waiting().await.is_empty());
    assert!(!bed.history(&dying).await.is_empty(), "appended, but not removed");

    let chat = Engine::builder(bed.schema.open().await).start().await.unwrap();
    bed.drained().await;
    assert_eq!(bed.history(&chat).await, numbered(&["m1", "m2"]));
    chat.shutdown().await;
    dying.shutdown().await;
}

/// Gives every lease to everybody.
#[derive(Debug)]
struct Everybody;

#[async_trait]
impl Leases for Everybody {
    async fn claim(&self, _: &str, _: &NodeId, _: Duration) -> Result<bool> {
        Ok(true)
    }

    async fn release(&self, _: &str, _: &NodeId) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_that_drain_at_once_send_everything_once_in_order() {
    let bed = Bed::new().await;
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let pg = bed.schema.open().await;
        let log = LogPart { log: Arc::new(pg.log()), leases: Arc::new(Everybody) };
        nodes.push(Engine::builder(pg).log(log).start().await.unwrap());
    }
    let names: Vec<String> = (0..150).map(|n| format!("m{n:03}")).collect();
    for some in names.chunks(10) {
        let mut host = host().await;
        let mut transaction = host.begin().await.unwrap();
        for name in some {
            bed.order(&mut transaction, name).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    bed.drained().await;
    let due = numbered(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(bed.history(&nodes[0]).await, due);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_not_passed_over() {
    let bed = Bed::new().await;
    let mut late = host().await;
    let mut transaction = late.begin().await.unwrap();
    bed.order(&mut transaction, "late").await.unwrap();
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    for name in ["m1", "m2", "m3"] {
        bed.ordered(name).await;
        bed.drained().await;
    }
    assert_eq!(bed.history(&chat).await, numbered(&["m1", "m2", "m3"]));
    transaction.commit().await.unwrap();
    bed.drained().await;
    assert_eq!(bed.history(&chat).await, numbered(&["m1", "m2", "m3", "late"]));
    chat.shutdown().await;
}

#[tokio::test]
async fn a_retry_finds_the_first() {
    let bed = Bed::new().await;
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    bed.ordered("m1").await;
    // Who wants its place at once sends it again by the engine.
    let ack = chat.send(NewMessage::from(bed.message("m1"))).await.unwrap();
    assert_eq!(ack.seq, Seq(1));
    bed.drained().await;
    bed.ordered("m2").await;
    bed.drained().await;
    let mut again = host().await;
    let mut transaction = again.begin().await.unwrap();
    let known = bed.order(&mut transaction, "m1").await.unwrap().expect("it is known");
    assert_eq!((known.mark.seq, known.created_at), (Seq(1), ack.created_at));
    transaction.commit().await.unwrap();
    assert!(bed.waiting().await.is_empty());
    assert_eq!(bed.history(&chat).await, numbered(&["m1", "m2"]));
    assert_eq!(bed.orders().await, ["m1", "m1", "m2"]);
    chat.shutdown().await;
}

#[tokio::test]
async fn two_transactions_with_one_key_do_not_wait_for_each_other() {
    let bed = Bed::new().await;
    let (mut first, mut second, mut third) = (host().await, host().await, host().await);
    let mut one = first.begin().await.unwrap();
    let mut two = second.begin().await.unwrap();
    let mut three = third.begin().await.unwrap();
    bed.order(&mut one, "m").await.unwrap();
    let other = Outgoing { content: "other".into(), ..bed.message("m") };
    let both = async {
        bed.order(&mut two, "m").await.unwrap();
        bed.pg.send_in(&mut three, &other).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(4), both).await.expect("nobody waits");
    for transaction in [one, two, three] {
        transaction.commit().await.unwrap();
    }
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    bed.drained().await;
    assert_eq!(bed.history(&chat).await, numbered(&["m"]));
    assert_eq!(bed.refused().await, [("m".to_owned(), "conflict".to_owned())]);
    chat.shutdown().await;
}

#[tokio::test]
async fn the_hosts_transaction_holds_no_lock_of_the_log() {
    let bed = Bed::new().await;
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    let mut host = host().await;
    let mut transaction = host.begin().await.unwrap();
    bed.pg.send_in(&mut transaction, &bed.message("m1")).await.unwrap();
    let locks: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
         WHERE l.pid = pg_backend_pid() AND c.relnamespace = to_regnamespace($1) AND l.mode <> 'AccessShareLock'",
    )
    .bind(bed.schema.quoted())
    .fetch_all(&mut *transaction)
    .await
    .unwrap();
    // The table, its indexes and the sequence of its numbers; nothing that stops another.
    let is_own = |(name, mode): &(String, String)| name.starts_with("outbox") && mode == "RowExclusiveLock";
    assert!(locks.iter().all(is_own), "{locks:?}");
    assert!(!locks.is_empty());
    // And nothing of the chat waits for it.
    let others = async {
        chat.send(NewMessage::text(&bed.alice, &bed.conversation, "x")).await.unwrap();
        chat.create_group(&bed.shop, group("g")).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(4), others).await.expect("nobody waits");
    transaction.rollback().await.unwrap();
    chat.shutdown().await;
}

fn group(name: &str) -> NewGroup {
    let members = vec![UserId::new("alice").unwrap(), UserId::new("carol").unwrap()];
    NewGroup {
        id: ConversationId::group(name).unwrap(),
        name: None,
        members,
        client_msg_id: ClientMsgId::fresh(),
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_the_transaction_goes_on() {
    let bed = Bed::new().await;
    let mut host = host().await;
    let mut transaction = host.begin().await.unwrap();
    bed.order(&mut transaction, "m1").await.unwrap();
    let good = || bed.message("m2");
    let of = |sender: &str| UserId::new(sender).unwrap();
    let table = [
        ("invalid", Outgoing { content: "a\0b".into(), ..good() }),
        ("invalid", Outgoing { content_type: ContentType::System, ..good() }),
        ("invalid", Outgoing { sender: UserId::system(), ..good() }),
        ("too_large", Outgoing { content: "x".repeat((64 << 10) + 1).into(), ..good() }),
        (
            "unknown_conversation",
            Outgoing { conversation: ConversationId::group("nowhere").unwrap(), ..good() },
        ),
        ("not_member", Outgoing { sender: of("mallory"), ..good() }),
        ("conflict", Outgoing { content: "other".into(), ..bed.message("m1") }),
    ];
    for (code, message) in table {
        match bed.pg.send_in(&mut transaction, &message).await {
            Err(ChatError::Refused(refusal)) => assert_eq!(refusal.code(), code, "{refusal}"),
            other => panic!("{code}: {other:?}"),
        }
    }
    // Twice in one transaction is once.
    assert_eq!(bed.order(&mut transaction, "m1").await.unwrap(), None);
    let odd = Outgoing { content: "it's \"quoted\" \\ 字 👋".into(), ..bed.message("m3") };
    bed.pg.send_in(&mut transaction, &odd).await.unwrap();
    transaction.commit().await.unwrap();
    let waiting = bed.pg.outbox().waiting(None, 10).await.unwrap();
    assert_eq!(waiting.len(), 2);
    assert_eq!(waiting[1].message, odd);
    let chat = Engine::builder(&bed.pg).start().await.unwrap();
    bed.drained().await;
    let conflict =
        bed.pg.send_in(&mut host, &Outgoing { content: "other".into(), ..bed.message("m1") }).await;
    assert!(matches!(conflict, Err(ChatError::Refused(Refusal::Conflict))), "{conflict:?}");
    assert_eq!(bed.history(&chat).await, numbered(&["m1", "m3"]));
    chat.shutdown().await;
}

#[tokio::test]
async fn a_failure_of_the_database_is_told_as_one() {
    let bed = Bed::new().await;
    run(&mut host().await, format!("DROP TABLE {}.outbox", bed.schema.quoted())).await;
    match bed.pg.send_in(&mut host().await, &bed.message("m1")).await {
        Err(ChatError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::Other),
        other => panic!("{other:?}"),
    }
}

/// Forbids pictures.
#[derive(Debug)]
struct NoPictures;

#[async_trait]
impl Policy for NoPictures {
    async fn check(&self, request: &PolicyRequest) -> Result<Verdict> {
        Ok(match request {
            PolicyRequest::Send { content_type: ContentType::Image, .. } => {
                Verdict::Deny("no \0pictures".into())
            }
            _ => Verdict::Allow,
        })
    }
}

#[tokio::test]
async fn what_is_refused_after_the_commit_is_kept_with_the_reason_and_stops_nothing() {
    let bed = Bed::new().await;
    let chat = Engine::builder(&bed.pg).policy(NoPictures).start().await.unwrap();
    chat.create_group(&bed.shop, group("g")).await.unwrap();
    let (id, carol) = (ConversationId::group("g").unwrap(), UserId::new("carol").unwrap());
    let mut host = host().await;
    let mut transaction = host.begin().await.unwrap();
    let left = Outgoing { conversation: id.clone(), sender: carol.clone(), ..bed.message("left") };
    let picture = Outgoing { content_type: ContentType::Image, ..bed.message("picture") };
    for message in [&left, &picture, &bed.message("m1")] {
        bed.pg.send_in(&mut transaction, message).await.unwrap();
    }
    let leave = MemberChange::Leave(vec![carol.clone()]);
    chat.change_members(&carol, &id, ClientMsgId::fresh(), leave).await.unwrap();
    transaction.commit().await.unwrap();
    bed.drained().await;
    assert_eq!(bed.history(&chat).await, numbered(&["m1"]));
    let refused = bed.pg.outbox().refused(0, 10).await.unwrap();
    assert_eq!(refused.len(), 2);
    assert_eq!((refused[0].code.as_str(), refused[0].message.as_ref()), ("not_member", Some(&left)));
    assert_eq!((refused[1].code.as_str(), refused[1].message.as_ref()), ("denied", Some(&picture)));
    assert!(refused[1].reason.contains("no pictures"), "{:?}", refused[1].reason);
    assert!(refused[1].refused_at >= refused[1].put_at);
    bed.pg.outbox().forget_refused(&[refused[0].number]).await.unwrap();
    assert_eq!(bed.refused().await, [("picture".to_owned(), "denied".to_owned())]);
    chat.shutdown().await;
}

/// What a node of a newer version may have written is left to it for an hour; it stops nothing behind it.
#[tokio::test]
async fn what_cannot_be_read_stops_nothing_and_is_refused_after_an_hour() {
    let bed = Bed::new().await;
    let insert = |id: &str, put_at: &str| {
        format!(
            "INSERT INTO {}.outbox (put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
             VALUES ({put_at}, '{}', 'shop', '{id}', 'hologram', 'x', 1)",
            bed.schema.quoted(),
            bed.conversation
        )
    };
    for n in 0..5 {
        run(&mut host().await, insert(&format!("old {n}"), "1")).await;
    }
    let now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    run(&mut host().await, insert("new", now)).await;
    bed.ordered("m1").await;
    bed.ordered("m2").await;

    let looks = async || bed.pg.outbox().waiting(None, 1).await.unwrap();
    for _ in 0..2 {
        assert_eq!(looks().await.len(), 1);
        assert!(bed.pg.outbox().refused(0, 10).await.unwrap().is_empty(), "not before others could look");
    }
    assert!(bed.pg.outbox().pass_on().await.unwrap());
    let page = looks().await;
    assert_eq!(page.iter().map(|found| found.message.client_msg_id.as_str()).collect::<Vec<_>>(), ["m1"]);
    let next = bed.pg.outbox().waiting(Some(page[0].place), 1).await.unwrap();
    assert_eq!(next[0].message, bed.message("m2"));
    let refused = bed.pg.outbox().refused(0, 10).await.unwrap();
    let due = |refused: &im_store_pg::RefusedSend| {
        refused.code == "unreadable" && refused.message.is_none() && refused.reason.contains("content type")
    };
    assert!(refused.len() == 5 && refused.iter().all(due), "{refused:?}");
    assert_eq!(bed.schema.builder().check().await.unwrap().refused_sends, Some(5));

    // A node that can read it finds it.
    let update = format!(
        "UPDATE {}.outbox SET content_type = 'text' WHERE client_msg_id = 'new'",
        bed.schema.quoted()
    );
    run(&mut host().await, update).await;
    assert_eq!(bed.waiting().await, ["new", "m1", "m2"]);
    assert!(!bed.pg.outbox().pass_on().await.unwrap(), "nothing is left that cannot be read");
}

/// After a failover the server counts transactions on from where the standby stood, below what was seen before.
#[tokio::test]
async fn transactions_that_are_counted_anew_after_a_failover_are_not_passed_over() {
    let bed = Bed::new().await;
    assert!(bed.waiting().await.is_empty());
    let insert = format!(
        "INSERT INTO {}.outbox (transaction, put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
         VALUES (3, 1, '{}', 'shop', 'm1', 'text', 'x', 1)",
        bed.schema.quoted(),
        bed.conversation
    );
    run(&mut host().await, insert).await;
    assert!(bed.waiting().await.is_empty(), "nothing can come to stand there in this incarnation");
    bed.schema.builder().restored(true).open().await.unwrap();
    assert_eq!(bed.waiting().await, ["m1"]);
}
