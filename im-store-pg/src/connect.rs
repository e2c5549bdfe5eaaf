//! Opening a database, and what all parts on it share.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use im_core::{ConversationId, Error, ErrorKind, Incarnation, LogPart, Partition, Parts, Result};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, postgres::PgConnectOptions};

use crate::{
    PgBuilder, PgInbox, PgLog, PgNotifier, PgPresence, PgStore,
    config::Source,
    ear::Ear,
    error::{BACKEND, failed, invalid},
    pool::{self, Pool, Signs},
    schema,
    spans::Spans,
    wake::{self, Wake},
};

const OPERATION: &str = "open";

/// How long a transaction may stand idle at most. Of a node that is cut off one transaction after the other gets the lock that they
/// wait for: less than a statement may take, or that goes on for twice the time.
const IDLE: Duration = Duration::from_secs(2);

/// All five parts on one Postgres database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PgBackend {
    pub(crate) inner: Arc<Inner>,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) pool: Pool,
    /// The schema, quoted.
    schema: String,
    /// Statements with the schema's name in them.
    texts: RwLock<HashMap<&'static str, Arc<str>>>,
    /// Of the log.
    pub(crate) partitions: u16,
    pub(crate) expiry: Duration,
    pub(crate) spans: Spans,
    pub(crate) presence_ttl: Duration,
    /// What the data in the schema are called.
    pub(crate) name: String,
    pub(crate) wake: Wake,
    pub(crate) ear: Ear,
}

/// A text of SQL that is safe: made of this crate's own and of the quoted name of the schema.
pub(crate) type Sql = AssertSqlSafe<Arc<str>>;

/// The server's time in milliseconds.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
pub(crate) use now;

/// The incarnation of the data: their name, the identity of the cluster and its timeline, which a failover changes.
macro_rules! incarnation {
    () => {
        "(SELECT meta.name || '-' || control.system_identifier || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8) \
         FROM {im}.meta, pg_control_system() control)"
    };
}
pub(crate) use incarnation;

impl PgBackend {
    /// Connects to a database with the defaults of [`PgBuilder`].
    ///
    /// # Errors
    /// See [`PgBuilder::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url)?.open().await
    }

    /// A database to be opened, by its URL: `postgres://user:password@host/database?sslmode=verify-full`.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn builder(url: &str) -> Result<PgBuilder> {
        PgBuilder::of_url(url)
    }

    /// A database to be opened through the host's own pool. Its connections must have `synchronous_commit=on` and
    /// `default_transaction_isolation='read committed'`. One that falls silent while it lies idle is found by the pool's own test
    /// only: give it a short `acquire_timeout`. One more connection, beside the pool, listens.
    #[must_use]
    pub fn with_pool(pool: PgPool) -> PgBuilder {
        PgBuilder::new(Source::Pool(pool))
    }

    pub(crate) async fn open(config: PgBuilder) -> Result<Self> {
        let schema = quoted(&config.schema)?;
        let signs = Signs::new();
        let pool = match &config.source {
            Source::Pool(pool) => pool.clone(),
            Source::Options(options) => connect(&config, options, signs.clone()).await?,
        };
        let mut conn = pool.acquire().await.map_err(failed(OPERATION))?;
        check_server(&mut conn).await?;
        schema::migrate(&mut conn, &config.schema, &schema, config.partitions).await?;
        if config.restored {
            schema::rename(&mut conn, &schema).await?;
        }
        drop(conn);
        let sql = format!("SELECT name, partitions FROM {schema}.meta");
        let (name, partitions): (String, i16) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&pool).await.map_err(failed(OPERATION))?;
        let partitions = partitions.unsigned_abs();
        let (ear, listening) = Ear::new();
        let inner = Inner {
            pool: Pool::new(pool, config.statement_timeout, signs),
            schema,
            texts: RwLock::default(),
            partitions,
            expiry: config.expiry,
            spans: Spans::new(config.expiry),
            presence_ttl: config.presence_ttl,
            name,
            wake: Wake::new(partitions),
            ear,
        };
        let inner = Arc::new(inner);
        let (weak, pool, log) = (Arc::downgrade(&inner), inner.pool.clone(), wake::channel(&inner.name));
        tokio::spawn(listening.run(weak, pool, log));
        Ok(Self { inner })
    }

    /// The log with its leases.
    #[must_use]
    pub fn log(&self) -> PgLog {
        PgLog(self.inner.clone())
    }

    /// The store with conversations and user state.
    #[must_use]
    pub fn store(&self) -> PgStore {
        PgStore(self.inner.clone())
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> PgInbox {
        PgInbox(self.inner.clone())
    }

    /// The presence.
    #[must_use]
    pub fn presence(&self) -> PgPresence {
        PgPresence(self.inner.clone())
    }

    /// The notifier.
    #[must_use]
    pub fn notifier(&self) -> PgNotifier {
        PgNotifier(self.inner.clone())
    }

    /// Closes the connections, also those of a pool that was the host's. Whatever is asked later is
    /// [`Unavailable`](ErrorKind::Unavailable).
    pub async fn close(&self) {
        self.inner.pool.connections().close().await;
    }
}

/// A schema's name as SQL has it.
fn quoted(schema: &str) -> Result<String> {
    if schema.is_empty() || schema.len() > 63 || schema.chars().any(char::is_control) {
        return Err(invalid(OPERATION, format!("{schema:?} cannot be the name of a schema")));
    }
    Ok(format!("\"{}\"", schema.replace('"', "\"\"")))
}

async fn connect(config: &PgBuilder, options: &PgConnectOptions, signs: Arc<Signs>) -> Result<PgPool> {
    let timeout = config.statement_timeout.as_millis().to_string();
    let idle = config.statement_timeout.min(IDLE).as_millis().to_string();
    let options = options.clone().options([
        ("statement_timeout", timeout.as_str()),
        ("lock_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", idle.as_str()),
        ("default_transaction_isolation", "read committed"),
    ]);
    pool::connect(config.connections, options, signs).await.map_err(failed(OPERATION))
}

async fn check_server(conn: &mut PgConnection) -> Result<()> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), \
         current_setting('synchronous_commit'), current_setting('fsync'), \
         current_setting('default_transaction_isolation')",
    )
    .fetch_one(conn)
    .await
    .map_err(failed(OPERATION))?;
    let version: i32 = row.try_get(0).map_err(failed(OPERATION))?;
    let text = |column| row.try_get::<String, _>(column).map_err(failed(OPERATION));
    if version < 140_000 {
        return Err(invalid(OPERATION, format!("the server is version {}; 14 is needed", version / 10_000)));
    }
    let encoding = text(1)?;
    if encoding != "UTF8" {
        let why = format!("the database is encoded in {encoding}; create one with ENCODING 'UTF8'");
        return Err(invalid(OPERATION, why));
    }
    let isolation = text(4)?;
    if isolation != "read committed" {
        // Everything would stay right; but whoever works beside others would fail again and again.
        let why =
            format!("transactions are {isolation} by default; give the pool's connections 'read committed'");
        return Err(invalid(OPERATION, why));
    }
    if text(2)? == "off" || text(3)? == "off" {
        tracing::warn!("commits do not wait for the disk: a crash of the server loses what was acked");
    }
    Ok(())
}

impl Inner {
    /// A statement, in which `{im}` stands for the schema.
    pub(crate) fn sql(&self, text: &'static str) -> Sql {
        if let Some(known) = self.texts.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return AssertSqlSafe(known.clone());
        }
        let sql: Arc<str> = text.replace("{im}", &self.schema).into();
        self.texts.write().unwrap_or_else(PoisonError::into_inner).insert(text, sql.clone());
        AssertSqlSafe(sql)
    }

    /// The schema's name, quoted.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Which table of `messages` a conversation lies in, and which partition of the own log.
    pub(crate) fn part(&self, conversation: &ConversationId) -> i16 {
        Partition::of(conversation, self.partitions).0.cast_signed()
    }

    /// The incarnation of the data now.
    pub(crate) async fn incarnation(&self, operation: &'static str) -> Result<Incarnation> {
        let text: String = sqlx::query_scalar(self.sql(concat!("SELECT ", incarnation!())))
            .fetch_one(&self.pool)
            .await
            .map_err(failed(operation))?;
        Ok(Incarnation::new(text))
    }
}

/// Runs what must not stop half-way in a task of its own: a transaction whose future is dropped stays open in the pool's
/// connection until that is used again.
pub(crate) async fn detached<T: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unavailable, BACKEND, operation, "the runtime is shutting down")
            .with_source(error))
    })
}

impl From<&PgBackend> for Parts {
    fn from(pg: &PgBackend) -> Self {
        let log = Arc::new(pg.log());
        Self {
            log: Some(LogPart { log: log.clone(), leases: log }),
            store: Some(pg.store().into()),
            inbox: Some(Arc::new(pg.inbox())),
            presence: Some(Arc::new(pg.presence())),
            notifier: Some(Arc::new(pg.notifier())),
        }
    }
}
