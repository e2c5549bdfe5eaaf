//! Opening a database, and what all parts on it share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use im_core::{ConversationId, Durability, Error, ErrorKind, Incarnation, LogPart, Partition, Parts, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgConnectOptions};

use crate::{
    PgBuilder, PgInbox, PgLog, PgNotifier, PgOutbox, PgPresence, PgReport, PgStore,
    config::Source,
    ear::Ear,
    error::{BACKEND, failed, invalid},
    outbox::{Floor, PassedOver},
    pool::{self, Pool, Signs},
    report, schema,
    spans::Spans,
    tail::Tails,
    wake::{self, Wake},
};

const OPERATION: &str = "open";

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
    /// What a commit survives.
    pub(crate) durability: Durability,
    /// The longest content of [`PgBackend::send_in`].
    pub(crate) content_bytes: usize,
    pub(crate) outbox_floor: Mutex<Floor>,
    pub(crate) tails: Tails,
    pub(crate) outbox_passed: Mutex<PassedOver>,
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

    /// A database to be opened through the host's own pool. One connection is looked at, and all must be like it: commits wait
    /// (`synchronous_commit` is not off), and transactions are `read committed` and may write by default. The search path is as the host
    /// likes it. A connection that falls silent while it lies idle is found by the pool's own test only: give it a short
    /// `acquire_timeout`. One more connection, beside the pool, listens.
    #[must_use]
    pub fn with_pool(pool: PgPool) -> PgBuilder {
        PgBuilder::new(Source::Pool(pool))
    }

    pub(crate) async fn open(config: PgBuilder) -> Result<Self> {
        let schema = quoted(&config.schema)?;
        let signs = Signs::new();
        let (pool, ready) = match &config.source {
            Source::Pool(pool) => (pool.clone(), 0),
            // The others are for what the pool gives out by itself.
            Source::Options(options) => {
                (connect(&config, options, signs.clone()).await?, config.connections as usize / 2)
            }
        };
        let mut conn = pool.acquire().await.map_err(failed(OPERATION))?;
        let report = report::of(&mut conn, &config.schema, &schema).await?;
        report.refuse()?;
        if report.durability < Durability::Synced {
            tracing::warn!("commits do not reach the disk: {}", report.durability);
        }
        if !report.is_migrated() {
            schema::migrate(&mut conn, &config.schema, &schema, config.partitions).await?;
        }
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
            pool: Pool::new(pool, ready, config.statement_timeout, signs),
            schema,
            texts: RwLock::default(),
            partitions,
            expiry: config.expiry,
            spans: Spans::new(config.expiry),
            presence_ttl: config.presence_ttl,
            name,
            wake: Wake::new(partitions),
            ear,
            durability: report.durability,
            content_bytes: config.content_bytes,
            outbox_floor: Mutex::default(),
            tails: Tails::new(partitions),
            outbox_passed: Mutex::default(),
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

    /// What hosts [send inside their own transactions](Self::send_in); [`PgBackend::store`] brings it along.
    #[must_use]
    pub fn outbox(&self) -> PgOutbox {
        PgOutbox(self.inner.clone())
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
        self.inner.pool.close().await;
    }
}

/// Looks at a database, and brings its schema up to date if that is wanted; a pool that is not the host's is closed again.
pub(crate) async fn inspect(config: PgBuilder, migrate: bool) -> Result<PgReport> {
    let schema = quoted(&config.schema)?;
    let pool = match &config.source {
        Source::Pool(pool) => pool.clone(),
        Source::Options(options) => connect(&config, options, Signs::new()).await?,
    };
    let mut conn = pool.acquire().await.map_err(failed(OPERATION))?;
    let mut report = report::of(&mut conn, &config.schema, &schema).await?;
    if migrate {
        report.refuse()?;
        schema::migrate(&mut conn, &config.schema, &schema, config.partitions).await?;
        report = report::of(&mut conn, &config.schema, &schema).await?;
    }
    drop(conn);
    if matches!(config.source, Source::Options(_)) {
        pool.close().await;
    }
    Ok(report)
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
    let options = options.clone().options([
        ("statement_timeout", timeout.as_str()),
        ("lock_timeout", timeout.as_str()),
        ("default_transaction_isolation", "read committed"),
    ]);
    match pool::connect(config.connections, options.clone(), signs).await {
        Err(sqlx::Error::PoolTimedOut) => Err(unreachable(&options).await),
        pool => pool.map_err(failed(OPERATION)),
    }
}

/// Why there is no connection: the pool says only that there was none in time.
async fn unreachable(options: &PgConnectOptions) -> Error {
    match tokio::time::timeout(pool::ACQUIRE, PgConnection::connect_with(options)).await {
        Ok(Err(error)) => failed(OPERATION)(error),
        _ => Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, "the server does not answer in time"),
    }
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

impl From<PgBackend> for Parts {
    fn from(pg: PgBackend) -> Self {
        Self::from(&pg)
    }
}
