//! The way to the server: connections on which nobody waits for ever.
//!
//! sqlx waits for an answer without end. A server that is cut off without a word would keep its callers, and keep the connections
//! that they give back.

use std::{
    error, fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use im_core::ErrorKind;
use sqlx::{
    Connection, Either, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::{
    error::{is_broken, kind_of},
    ready::{Ready, Rested},
};

/// How long a free connection is waited for.
pub(crate) const ACQUIRE: Duration = Duration::from_secs(3);
/// How long a connection that lay idle may take to show that it is one, before another is opened.
const PING: Duration = Duration::from_secs(1);
/// The same for one that lay idle while another one fell silent.
const PING_SUSPECT: Duration = Duration::from_millis(100);
/// How much longer than the server allows itself an answer is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// A connection that lay idle for less is not asked whether it still is one where the question itself may be asked again. Whoever
/// gives it back sees that it is one.
const FRESH: Duration = Duration::from_secs(1);
/// A server that has answered so lately is there: where nothing else is asked, [`ear`](crate::ear) asks more often.
const LATELY: Duration = Duration::from_secs(2);

tokio::task_local! {
    /// Whoever acquires now may ask again on another connection: the pool's own test is told nothing else of it.
    static TRUSTING: ();
}

/// A pool of connections.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    connections: PgPool,
    ready: Arc<Ready>,
    /// How long an answer is waited for.
    limit: Duration,
    signs: Arc<Signs>,
}

/// When the server last answered, and when it last did not; in milliseconds from the beginning.
#[derive(Debug)]
pub(crate) struct Signs {
    beginning: Instant,
    answered: AtomicU64,
    silent: AtomicU64,
}

impl Signs {
    pub(crate) fn new() -> Arc<Self> {
        let (answered, silent) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { beginning: Instant::now(), answered, silent })
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.beginning.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn has_answered(&self) {
        self.answered.store(self.millis(), Ordering::Relaxed);
    }

    fn is_silent(&self) {
        self.silent.store(self.millis(), Ordering::Relaxed);
    }

    fn answered_lately(&self) -> bool {
        let ago = self.millis().saturating_sub(self.answered.load(Ordering::Relaxed));
        u128::from(ago) < LATELY.as_millis()
    }

    /// Whether silence was met since so long ago.
    fn were_silent_for(&self, idle: Duration) -> bool {
        u128::from(self.silent.load(Ordering::Relaxed)) + idle.as_millis() > u128::from(self.millis())
    }

    /// Fails unless a connection that lay idle still is one.
    async fn ping(&self, conn: &mut PgConnection, idle: Duration) -> sqlx::Result<()> {
        if TRUSTING.try_with(|()| ()).is_ok() && idle < FRESH && !self.were_silent_for(idle) {
            return Ok(());
        }
        let limit = if self.were_silent_for(idle) { PING_SUSPECT } else { PING };
        tokio::time::timeout(limit, conn.ping()).await.unwrap_or_else(|_| {
            self.is_silent();
            Err(silent())
        })
    }
}

/// A statement that was not sent.
#[derive(Debug)]
pub(crate) struct NotSent {
    pub(crate) kind: ErrorKind,
    pub(crate) cause: sqlx::Error,
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.kind) {
            (sqlx::Error::PoolTimedOut, ErrorKind::Full) => write!(f, "all connections are in use"),
            (sqlx::Error::PoolTimedOut, _) => write!(f, "the server cannot be reached"),
            (cause, _) => cause.fmt(f),
        }
    }
}

impl error::Error for NotSent {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Opens a pool of this crate's own.
pub(crate) async fn connect(
    connections: u32,
    options: PgConnectOptions,
    signs: Arc<Signs>,
) -> sqlx::Result<PgPool> {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        // In place of sqlx's own test, which has no end on a connection that is dead without a word.
        .test_before_acquire(false)
        .before_acquire(move |conn, meta| {
            let signs = signs.clone();
            Box::pin(async move { signs.ping(conn, meta.idle_for).await.map(|()| true) })
        })
        .connect_with(options)
        .await
}

fn silent() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer").into()
}

impl Pool {
    /// `ready`: how many connections are kept at hand. Of a host's pool none: they are the host's too.
    pub(crate) fn new(
        connections: PgPool,
        ready: usize,
        statement_timeout: Duration,
        signs: Arc<Signs>,
    ) -> Self {
        let limit = statement_timeout.saturating_add(GRACE);
        Self { connections, ready: Ready::new(ready), limit, signs }
    }

    /// Closes the pool when all connections have come back.
    pub(crate) async fn close(&self) {
        self.ready.close();
        self.connections.close().await;
    }

    /// The pool itself, for what needs no answer from it.
    pub(crate) fn connections(&self) -> &PgPool {
        &self.connections
    }

    /// Notes that the server has answered.
    pub(crate) fn has_answered(&self) {
        self.signs.has_answered();
    }

    /// A connection, when one is free.
    pub(crate) async fn acquire(&self) -> sqlx::Result<Conn> {
        loop {
            match self.ready.take() {
                Ok(Rested { conn, times, since }) => {
                    let mut conn = self.conn(conn, times + 1);
                    conn.is_asked = true;
                    match self.signs.ping(&mut conn, since.elapsed()).await {
                        Ok(()) => {
                            conn.is_asked = false;
                            return Ok(conn);
                        }
                        Err(_) => conn.ends = true,
                    }
                }
                Err(_waiting) => {
                    let conn = self.connections.acquire().await.map_err(|cause| self.not_sent(cause))?;
                    return Ok(self.conn(conn, 1));
                }
            }
        }
    }

    fn conn(&self, conn: PoolConnection<Postgres>, times: u32) -> Conn {
        let (limit, signs, ready) = (self.limit, self.signs.clone(), self.ready.clone());
        Conn { conn: Some(conn), times, limit, signs, ready, is_asked: false, ends: false }
    }

    /// The rows of a statement that only reads: it may be asked again, so nothing is asked before it to see whether the connection
    /// still is one, and a broken one is replaced once.
    pub(crate) async fn read(&self, mut query: impl Execute<'_, Postgres>) -> sqlx::Result<Vec<PgRow>> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?.unwrap_or_default();
        let sql = query.sql();
        let mut conn = TRUSTING.scope((), self.acquire()).await?;
        match sqlx::query_with(sql.clone(), arguments.clone()).fetch_all(&mut conn).await {
            Err(error) if is_broken(&error) => drop(conn),
            answer => return answer,
        }
        sqlx::query_with(sql, arguments).fetch_all(&mut self.acquire().await?).await
    }

    fn not_sent(&self, cause: sqlx::Error) -> sqlx::Error {
        let kind = match &cause {
            // sqlx says the same of connections that are all in use and of a server that takes none.
            sqlx::Error::PoolTimedOut if self.signs.answered_lately() => ErrorKind::Full,
            sqlx::Error::PoolTimedOut => ErrorKind::Unavailable,
            cause => kind_of(cause),
        };
        sqlx::Error::Configuration(Box::new(NotSent { kind, cause }))
    }

    /// A transaction on a connection of its own.
    pub(crate) async fn begin(&self) -> sqlx::Result<Transaction> {
        self.acquire().await?.begin().await
    }
}

/// A node that is cut off without a word keeps its locks for 2 s and no longer, on a host's connections too. Of such a node one
/// transaction after the other gets the lock that they wait for: less than a statement may take, or that goes on for twice the time.
pub(crate) const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = 2000";

const GIVEN_BACK: &str = "a connection is given back when it is dropped";

/// A connection of the pool.
#[derive(Debug)]
pub(crate) struct Conn {
    /// There until it is given back.
    conn: Option<PoolConnection<Postgres>>,
    /// How often it was given out.
    times: u32,
    limit: Duration,
    signs: Arc<Signs>,
    ready: Arc<Ready>,
    /// What it was asked is not answered yet.
    is_asked: bool,
    /// It is not to be used again: it does not answer, or stands in a transaction.
    ends: bool,
}

impl Conn {
    /// Begins a transaction in which each statement sees what is committed when it begins, whatever is the default: numbering and
    /// guards look again when they have their locks.
    pub(crate) async fn begin(mut self) -> sqlx::Result<Transaction> {
        // Closed instead of given back, unless the transaction is ended.
        self.ends = true;
        self.say(BEGIN).await?;
        Ok(Transaction(self))
    }

    async fn say(&mut self, command: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(command).execute(self).await.map(drop)
    }

    /// Asks, and waits for the answer, but not for ever.
    async fn ask<'c, T>(
        &'c mut self,
        ask: impl FnOnce(&'c mut PgConnection) -> BoxFuture<'c, sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let Self { conn, limit, signs, is_asked, ends, .. } = self;
        let conn = conn.as_mut().expect(GIVEN_BACK);
        *is_asked = true;
        let answer = tokio::time::timeout(*limit, ask(conn)).await;
        // After an error its own pool sees how it is.
        *is_asked = !matches!(answer, Ok(Ok(_)));
        match &answer {
            Ok(Ok(_)) => signs.has_answered(),
            Ok(Err(_)) => {}
            Err(_) => {
                signs.is_silent();
                *ends = true;
            }
        }
        answer.unwrap_or_else(|_| Err(silent()))
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        if self.ends {
            conn.close_on_drop();
            return;
        }
        let rest = if self.is_asked { Some(conn) } else { self.ready.keep(conn, self.times) };
        // As its own drop does; but what does not answer is closed.
        if let (Some(mut conn), Ok(runtime)) = (rest, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(self.limit, conn.return_to_pool()));
        }
    }
}

impl Deref for Conn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect(GIVEN_BACK)
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect(GIVEN_BACK)
    }
}

/// What a statement answers, one after the other.
type Answers = Vec<Either<PgQueryResult, PgRow>>;

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<PgQueryResult>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.ask(|conn| conn.execute(query)))
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // Nothing is so large that it would have to be read bit by bit.
        let all = self.ask(|conn| Box::pin(conn.fetch_many(query).try_collect::<Answers>()));
        stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Vec<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.ask(|conn| conn.fetch_all(query)))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.ask(|conn| conn.fetch_optional(query)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(self.ask(|conn| conn.prepare_with(sql, parameters)))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(self.ask(|conn| conn.describe(sql)))
    }
}

/// Each statement on some connection of the pool.
impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<PgQueryResult>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async { self.acquire().await?.execute(query).await })
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all = async { self.acquire().await?.fetch_many(query).try_collect::<Answers>().await };
        stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Vec<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async { self.acquire().await?.fetch_all(query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async { self.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        Box::pin(async { self.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'p: 'e,
    {
        Box::pin(async { self.acquire().await?.describe(sql).await })
    }
}

/// A transaction. Where it is not ended the connection is closed, and the server rolls it back.
#[derive(Debug)]
pub(crate) struct Transaction(Conn);

impl Transaction {
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, command: &'static str) -> sqlx::Result<()> {
        self.0.say(command).await?;
        self.0.ends = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}
