//! A node with an epoch open, and a connection beside it.

use std::time::{Duration, Instant};

use im_core::{
    Append, AppendOutcome, ClientMsgId, ContentHash, ContentType, ConversationId, Epoch, Error, LogRead,
    MessageLog, Partition, Position, RecordKind, Result, Seq, UserId,
};
use im_store_pg::{PgBackend, PgBuilder};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::support::{self, Schema};

/// More than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn conversation() -> ConversationId {
    ConversationId::group("g").unwrap()
}

pub(crate) fn append(name: impl Into<String>) -> Append {
    Append {
        conversation: conversation(),
        sender: UserId::new("alice").unwrap(),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new(name.into()).unwrap(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "x".into(),
        hash: ContentHash(1),
        floor: None,
    }
}

/// A node whose connections have a name.
pub(crate) struct Bed {
    pub(crate) pg: PgBackend,
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
    pub(crate) beside: PgPool,
    pub(crate) name: String,
    pub(crate) schema: Schema,
}

/// How many connections of a name wait for a lock.
async fn waiting(beside: &PgPool, name: &str) -> i64 {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
    sqlx::query_scalar(sql).bind(name).fetch_one(beside).await.unwrap()
}

/// Returns when so many do.
pub(crate) async fn wait(beside: &PgPool, name: &str, count: i64) {
    let wait = async {
        while waiting(beside, name).await != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("they wait");
}

impl Bed {
    pub(crate) async fn open(change: impl FnOnce(PgBuilder) -> PgBuilder) -> Self {
        Self::at(&support::server(), change).await
    }

    /// Whose node takes another way to the server than what is beside it.
    pub(crate) async fn at(url: &str, change: impl FnOnce(PgBuilder) -> PgBuilder) -> Self {
        let schema = Schema::fresh();
        let name = format!("faults-{}", uuid::Uuid::new_v4().simple());
        let builder = schema.builder_at(&format!("{url}?application_name={name}"));
        let pg = change(builder).open().await.unwrap();
        let (partition, epoch) = Self::begin(&pg).await;
        let beside = PgPoolOptions::new().max_connections(2).connect(&support::server()).await.unwrap();
        Self { pg, partition, epoch, beside, name, schema }
    }

    /// Opens the epoch.
    pub(crate) async fn begin(pg: &PgBackend) -> (Partition, Epoch) {
        let info = pg.log().info().await.unwrap();
        pg.log().open_epoch(Epoch(1), &info.incarnation).await.unwrap();
        (Partition::of(&conversation(), info.partitions), Epoch(1))
    }

    /// A statement in the schema.
    pub(crate) fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{im}", &self.schema.quoted()))
    }

    pub(crate) async fn append(&self, names: &[String]) -> Result<Vec<AppendOutcome>> {
        let batch: Vec<_> = names.iter().map(append).collect();
        self.pg.log().append(self.partition, self.epoch, &batch).await
    }

    pub(crate) async fn append_one(&self, name: &str) -> Result<AppendOutcome> {
        self.append(&[name.to_owned()]).await.map(|mut outcomes| outcomes.remove(0))
    }

    /// The error of an append, and how long it took.
    pub(crate) async fn fails(&self, name: &str) -> (Error, Duration) {
        let begun = Instant::now();
        let failed = tokio::time::timeout(PATIENCE, self.append_one(name)).await.expect("no end");
        (failed.unwrap_err(), begun.elapsed())
    }

    /// Returns when so many of the node's connections wait for a lock.
    pub(crate) async fn wait(&self, waiting: i64) {
        wait(&self.beside, &self.name, waiting).await;
    }

    pub(crate) async fn records(&self) -> Vec<(Seq, String)> {
        let read = self.pg.log().read(self.partition, Position::START, 10_000, Duration::ZERO).await.unwrap();
        let LogRead::Records(records) = read else { panic!("trimmed") };
        records.iter().map(|record| (record.record.seq, record.record.client_msg_id.to_string())).collect()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.records().await.into_iter().map(|(_, name)| name).collect()
    }
}
