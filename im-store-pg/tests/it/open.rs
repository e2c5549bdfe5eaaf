//! Opening a database: what is refused, with what to do; who may do what; and one that was put back from a backup.

use std::{str::FromStr, time::Duration};

use crate::support::{Schema, server};
use im_core::{
    ConversationId, Durability, Error, ErrorKind, MessageLog, MessageStore, Pull, Seq, SyncInbox, UserId,
};
use im_engine::{Direction, Engine, HistoryRange, NewMessage};
use im_store_pg::{PgBackend, PgBuilder};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs statements one by one, as the administrator.
async fn run(url: &str, sql: &[String]) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    for sql in sql {
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut conn).await.unwrap();
    }
}

fn fresh_name(kind: &str) -> String {
    format!("{kind}_{}", uuid::Uuid::new_v4().simple())
}

/// The test server's URL for a role and a database; the administrator's or the usual one where none is given.
fn url(role: Option<&str>, database: Option<&str>) -> String {
    let options = PgConnectOptions::from_str(&server()).unwrap();
    format!(
        "postgres://{}@{}:{}/{}",
        role.unwrap_or(options.get_username()),
        options.get_host(),
        options.get_port(),
        database.or(options.get_database()).unwrap()
    )
}

/// A database of its own.
struct Database(String);

impl Database {
    async fn fresh(options: &str) -> Self {
        let name = fresh_name("test");
        run(&server(), &[format!("CREATE DATABASE {name} TEMPLATE template0 {options}")]).await;
        Self(name)
    }

    fn url(&self, role: Option<&str>) -> String {
        url(role, Some(&self.0))
    }

    async fn remove(self) {
        run(&server(), &[format!("DROP DATABASE {} WITH (FORCE)", self.0)]).await;
    }
}

/// A role that may do nothing but sign in.
async fn role() -> String {
    let name = fresh_name("role");
    run(&server(), &[format!("CREATE ROLE {name} LOGIN")]).await;
    name
}

/// A role in a database of its own, and the schema that it is to run on.
struct Newcomer {
    database: Database,
    role: String,
    schema: Schema,
}

impl Newcomer {
    async fn fresh() -> Self {
        let database = Database::fresh("ENCODING 'UTF8'").await;
        Self { database, role: role().await, schema: Schema::fresh() }
    }

    fn builder(&self) -> PgBuilder {
        builder(&self.database.url(Some(&self.role)), &self.schema)
    }

    /// What an administrator does in the database.
    async fn is_given(&self, sql: impl Into<String>) {
        run(&self.database.url(None), &[sql.into()]).await;
    }

    /// A message goes all its way; then everything goes.
    async fn runs(self) {
        let pg = self.builder().open().await.unwrap();
        works(&pg).await;
        pg.close().await;
        self.database.remove().await;
        remove_role(&self.role, &server()).await;
    }
}

async fn remove_role(name: &str, database: &str) {
    run(database, &[format!("DROP OWNED BY {name} CASCADE")]).await;
    run(&server(), &[format!("DROP ROLE {name}")]).await;
}

fn builder(url: &str, schema: &Schema) -> PgBuilder {
    schema.builder_at(url)
}

async fn refused(builder: PgBuilder) -> Error {
    builder.open().await.map(drop).unwrap_err()
}

/// What a problem says is to be done.
fn advice(problem: &Error) -> String {
    let text = problem.to_string();
    text[text.find("GRANT").unwrap_or_else(|| panic!("no advice in {text}"))..].to_owned()
}

/// A message goes all its way.
async fn works(pg: &PgBackend) {
    let chat = Engine::builder(pg).start().await.unwrap();
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let id = chat.open_single(&alice, &bob).await.unwrap().id;
    let start = pg.inbox().anchor(&bob).await.unwrap();
    chat.send(NewMessage::text(&alice, &id, "x")).await.unwrap();
    assert_eq!(history(&chat, &bob, &id).await, [(1, "x".to_owned())]);
    delivered(pg, &bob, &start, 1).await;
    chat.shutdown().await;
}

async fn history(chat: &Engine, user: &UserId, id: &ConversationId) -> Vec<(u64, String)> {
    let range = HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 };
    let page = chat.history(user, id, range).await.unwrap();
    page.records.iter().map(|record| (record.seq.0, record.content.to_string())).collect()
}

/// The cursor of the last entry, when there are so many after a cursor.
async fn delivered(pg: &PgBackend, user: &UserId, after: &im_core::Cursor, count: usize) -> im_core::Cursor {
    let inbox = pg.inbox();
    let all = async {
        loop {
            let Pull::Page { entries, .. } = inbox.pull(user, after, 100).await.unwrap() else {
                panic!("resync")
            };
            if entries.len() == count {
                return entries[count - 1].cursor.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it is delivered")
}

#[tokio::test]
async fn ten_nodes_open_a_new_schema_at_once() {
    let schema = Schema::fresh();
    let nodes = (0..10).map(|_| schema.open());
    let opened = tokio::time::timeout(PATIENCE, futures::future::join_all(nodes)).await.unwrap();
    assert_eq!(opened.len(), 10);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_of_with_the_reason() {
    let error = refused(PgBackend::builder("postgres://im@127.0.0.1:1/chat").unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_check_changes_nothing_and_a_migration_makes_what_nodes_need() {
    let schema = Schema::fresh();
    let before = schema.builder().check().await.unwrap();
    assert_eq!((before.schema_version, before.partitions), (None, None));
    assert!(before.problems.is_empty() && !before.is_migrated());
    assert!(before.to_string().contains("not made yet"));
    assert_eq!(schema.builder().check().await.unwrap().schema_version, None, "nothing was made");

    let made = schema.builder().partitions(7).migrate().await.unwrap();
    assert!(made.is_migrated() && made.problems.is_empty(), "{made}");
    assert_eq!((made.schema_version, made.partitions), (Some(made.program_version), Some(7)));
    let again = schema.builder().migrate().await.unwrap();
    assert_eq!(again.partitions, Some(7), "what is there stays");

    let after = schema.builder().check().await.unwrap();
    assert!(after.is_migrated());
    assert_eq!((after.encoding.as_str(), after.durability), ("UTF8", Durability::Synced));
    assert_eq!(after.to_string(), made.to_string());
    assert!(after.server.split('.').next().unwrap().parse::<u32>().unwrap() >= 14);
    let pg = schema.open().await;
    assert_eq!(pg.log().info().await.unwrap().partitions, 7);
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_all() {
    let schema = Schema::fresh();
    let made = schema.builder().migrate().await.unwrap();
    run(&server(), &[format!("UPDATE {}.schema_version SET version = version + 1", schema.quoted())]).await;
    let error = refused(schema.builder()).await;
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    assert!(error.to_string().contains("run a newer version"), "{error}");
    assert_eq!(schema.builder().migrate().await.unwrap_err().kind(), ErrorKind::NewerVersion);
    let report = schema.builder().check().await.unwrap();
    assert_eq!(report.schema_version, Some(made.program_version + 1));
    assert_eq!(report.problems[0].kind(), ErrorKind::NewerVersion);
    assert!(!report.is_migrated());
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let database = Database::fresh(&format!("ENCODING '{encoding}' LOCALE 'C'")).await;
        let schema = Schema::fresh();
        let error = refused(builder(&database.url(None), &schema)).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&format!("in {encoding}: create another one")), "{error}");
        let report = builder(&database.url(None), &schema).check().await.unwrap();
        assert_eq!(report.encoding, encoding);
        database.remove().await;
    }
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_is_told_what_to_grant() {
    let newcomer = Newcomer::fresh().await;
    let error = refused(newcomer.builder()).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("let an operator migrate"), "{error}");
    newcomer.is_given(advice(&error)).await;
    newcomer.runs().await;
}

#[tokio::test]
async fn a_role_runs_on_a_schema_that_an_operator_made_for_it() {
    let newcomer = Newcomer::fresh().await;
    let Newcomer { schema, role, .. } = &newcomer;
    newcomer.is_given(format!("CREATE SCHEMA {} AUTHORIZATION {role}", schema.quoted())).await;
    newcomer.runs().await;
}

#[tokio::test]
async fn a_role_runs_on_what_an_operator_migrated_once_it_has_the_rights_it_is_told_of() {
    let (newcomer, operator) = (Newcomer::fresh().await, role().await);
    let Newcomer { database, schema, role } = &newcomer;
    newcomer.is_given(format!("GRANT CREATE ON DATABASE {} TO {operator}", database.0)).await;
    let made = builder(&database.url(Some(&operator)), schema).migrate().await.unwrap();
    assert!(made.is_migrated() && made.problems.is_empty(), "{made}");

    let error = refused(newcomer.builder()).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("no USAGE on the schema"), "{error}");
    let report = newcomer.builder().check().await.unwrap();
    assert!(report.problems.iter().all(|problem| problem.kind() == ErrorKind::Denied));
    let advice: Vec<_> = report.problems.iter().map(advice).collect();
    let quoted = schema.quoted();
    let due = [
        format!("GRANT USAGE ON SCHEMA {quoted} TO {role}"),
        format!("GRANT CREATE ON SCHEMA {quoted} TO {role}"),
        format!("GRANT {operator} TO {role}"),
    ];
    assert_eq!(advice, due);
    for (done, grant) in advice.into_iter().enumerate() {
        assert_eq!(refused(newcomer.builder()).await.kind(), ErrorKind::Denied, "after {done}");
        newcomer.is_given(grant).await;
    }
    newcomer.runs().await;
    remove_role(&operator, &server()).await;
}

#[tokio::test]
async fn a_role_that_may_not_read_the_identity_of_the_cluster_is_told_so() {
    let newcomer = Newcomer::fresh().await;
    let Newcomer { schema, role, .. } = &newcomer;
    newcomer.is_given(format!("CREATE SCHEMA {} AUTHORIZATION {role}", schema.quoted())).await;
    newcomer.is_given("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
    let error = refused(newcomer.builder()).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    newcomer.is_given(advice(&error)).await;
    newcomer.runs().await;
}

async fn pool_with(settings: &[(&str, &str)]) -> PgPool {
    let options = PgConnectOptions::from_str(&server()).unwrap().options(settings.iter().copied());
    PgPoolOptions::new().max_connections(5).connect_with(options).await.unwrap()
}

#[tokio::test]
async fn a_pool_whose_connections_are_not_as_they_must_be_is_refused() {
    let schema = Schema::fresh();
    for (setting, value) in [
        ("synchronous_commit", "off"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
    ] {
        let pool = pool_with(&[(setting, value)]).await;
        let error = refused(PgBackend::with_pool(pool.clone()).schema(schema.name())).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{setting}");
        assert!(error.to_string().contains(&format!("ALTER ROLE im SET {setting} = ")), "{error}");
        assert!(!pool.is_closed(), "it is the host's");
        pool.close().await;
    }
    assert_eq!(schema.builder().check().await.unwrap().schema_version, None, "nothing was made");
}

/// In a schema that comes first there are tables of the same names.
#[tokio::test]
async fn the_search_path_of_a_pool_does_no_harm() {
    let (decoy, schema) = (Schema::fresh(), Schema::fresh());
    let mut tables = vec![format!("CREATE SCHEMA {}", decoy.quoted())];
    for table in ["messages", "conversations", "inbox", "inbox_records", "outbox", "meta", "schema_version"] {
        tables.push(format!("CREATE TABLE {}.{table} (nothing int)", decoy.quoted()));
    }
    run(&server(), &tables).await;
    let path = format!("{}, pg_catalog", decoy.quoted());
    let pool = pool_with(&[("search_path", &path)]).await;
    let shown: String = sqlx::query_scalar("SHOW search_path").fetch_one(&pool).await.unwrap();
    assert_eq!(shown, path);
    let pg = PgBackend::with_pool(pool).schema(schema.name()).open().await.unwrap();
    works(&pg).await;
    assert!(schema.builder().check().await.unwrap().is_migrated());
    pg.close().await;
}

/// A backup of the whole database is put back in its place, on the same cluster: nothing in it shows that.
#[tokio::test]
async fn what_was_restored_is_other_data_and_newer_cursors_start_afresh() {
    let database = Database::fresh("ENCODING 'UTF8'").await;
    let (backup, schema) = (fresh_name("backup"), Schema::fresh());
    let open = || builder(&database.url(None), &schema).expiry(Duration::from_secs(3600));
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());

    let pg = open().open().await.unwrap();
    let chat = Engine::builder(&pg).start().await.unwrap();
    let id = chat.open_single(&alice, &bob).await.unwrap().id;
    let start = pg.inbox().anchor(&bob).await.unwrap();
    chat.send(NewMessage::text(&alice, &id, "kept")).await.unwrap();
    let kept = delivered(&pg, &bob, &start, 1).await;
    let before = pg.store().info().await.unwrap().incarnation;
    chat.shutdown().await;
    pg.close().await;
    run(&server(), &[format!("CREATE DATABASE {backup} TEMPLATE {}", database.0)]).await;

    let pg = open().open().await.unwrap();
    assert_eq!(pg.store().info().await.unwrap().incarnation, before, "a start is no restore");
    let chat = Engine::builder(&pg).start().await.unwrap();
    chat.send(NewMessage::text(&alice, &id, "lost")).await.unwrap();
    let lost = delivered(&pg, &bob, &kept, 1).await;
    chat.shutdown().await;
    pg.close().await;
    run(
        &server(),
        &[
            format!("DROP DATABASE {} WITH (FORCE)", database.0),
            format!("ALTER DATABASE {backup} RENAME TO {}", database.0),
        ],
    )
    .await;

    let pg = open().restored(true).open().await.unwrap();
    let now = pg.store().info().await.unwrap().incarnation;
    assert_ne!(now, before);
    assert_eq!(
        (pg.log().info().await.unwrap().incarnation, pg.inbox().info().await.unwrap().incarnation),
        (now.clone(), now)
    );
    let chat = Engine::builder(&pg).start().await.unwrap();
    assert_eq!(pg.inbox().pull(&bob, &lost, 100).await.unwrap(), Pull::Resync);
    let ack = chat.send(NewMessage::text(&alice, &id, "later")).await.unwrap();
    assert!(ack.seq.0 > 1 << 20, "no place is given twice: {:?}", ack.seq);
    // It comes to stand where the lost one stood.
    let later = delivered(&pg, &bob, &kept, 1).await;
    assert_ne!(later, lost);
    assert_eq!(pg.inbox().pull(&bob, &lost, 100).await.unwrap(), Pull::Resync);
    let contents: Vec<_> = history(&chat, &bob, &id).await.into_iter().map(|(_, content)| content).collect();
    assert_eq!(contents, ["kept", "later"]);
    chat.shutdown().await;
    pg.close().await;
    database.remove().await;
}
