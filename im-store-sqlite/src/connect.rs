//! Opening a file, and what all parts on it share.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use im_core::{
    Clock, Durability, Error, ErrorKind, Incarnation, NodeId, Partition, Parts, Result, Timestamp,
    memory::{Memory, MemoryNotifier, MemoryPresence},
};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::{
    sync::{MappedMutexGuard, MutexGuard, watch},
    task::JoinHandle,
};

use crate::{
    SqliteBuilder, SqliteInbox, SqliteLog, SqliteStore,
    checkpoints::{self, Of},
    deliver::Standing,
    disk::Disk,
    entries::Entries,
    epochs::Epochs,
    error::{BACKEND, failed, io_failed},
    expire::Pass,
    fresh::{self, Fresh, closed},
    incarnation,
    readers::Readers,
    rows::number,
    schema,
    tail::Tail,
    thread::WriterThread,
    timelines::{self, Timelines},
    wal,
    writer::{Sync, Writer},
};

const OPERATION: &str = "open";

/// How many conversations' heads are kept in memory.
const HEADS: usize = 100_000;

/// All five parts on one file. Cheap to clone; the file is closed when all handles are gone.
#[derive(Debug, Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
    presence: MemoryPresence,
    notifier: MemoryNotifier,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Inner {
    writer: tokio::sync::Mutex<Option<Writer>>,
    /// Where everything runs that writes.
    pub(crate) thread: WriterThread,
    /// What reads borrow.
    pub(crate) readers: Readers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) expiry: Duration,
    pub(crate) durability: Durability,
    /// What an acked write waits for.
    pub(crate) acked: Sync,
    pub(crate) incarnation: Incarnation,
    epochs: RwLock<Arc<Epochs>>,
    /// The log's newest records.
    pub(crate) tail: Arc<Mutex<Tail>>,
    /// The id of the log's last record.
    pub(crate) end: watch::Sender<i64>,
    pub(crate) leases: Mutex<HashMap<String, (NodeId, Timestamp)>>,
    pub(crate) pass: tokio::sync::Mutex<Pass>,
    /// The newest inbox entries.
    pub(crate) entries: Arc<Fresh<Entries>>,
    /// The newest places in the timelines.
    pub(crate) timelines: Arc<Fresh<Timelines>>,
    pub(crate) standing: tokio::sync::Mutex<Standing>,
    /// The last message whose entries the fan-out has to deliver, perhaps again, if it had not come so far when the file was
    /// opened: whoever had it open before may have ended without closing it.
    pub(crate) undelivered: Option<i64>,
    checkpointer: Mutex<Option<JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens a file with the defaults of [`SqliteBuilder`], or creates it.
    ///
    /// # Errors
    /// See [`SqliteBuilder::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open().await
    }

    /// A file to be opened. Beside it lie `-wal` and `-shm` files while it is open, and an empty `.lock` file.
    #[must_use]
    pub fn builder(path: impl AsRef<Path>) -> SqliteBuilder {
        SqliteBuilder::new(path.as_ref())
    }

    pub(crate) async fn connect(config: SqliteBuilder) -> Result<Self> {
        let memory = Memory::builder().presence_ttl(config.presence_ttl).clock(config.clock.clone()).build();
        let inner = Inner::open(config).await?;
        Ok(Self { inner, presence: memory.presence(), notifier: memory.notifier() })
    }

    /// The log with its leases.
    #[must_use]
    pub fn log(&self) -> SqliteLog {
        SqliteLog(self.inner.clone())
    }

    /// The store with conversations and user state.
    #[must_use]
    pub fn store(&self) -> SqliteStore {
        SqliteStore(self.inner.clone())
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> SqliteInbox {
        SqliteInbox(self.inner.clone())
    }

    /// The presence, in memory.
    #[must_use]
    pub fn presence(&self) -> MemoryPresence {
        self.presence.clone()
    }

    /// The notifier, in memory.
    #[must_use]
    pub fn notifier(&self) -> MemoryNotifier {
        self.notifier.clone()
    }

    /// Closes the file for all handles; then a copy of it is whole. Whatever is asked of it later is
    /// [`Unavailable`](ErrorKind::Unavailable).
    ///
    /// # Errors
    /// When the file could not be closed in order; the next opening mends that.
    pub async fn close(&self) -> Result<()> {
        self.inner.entries.close();
        let file = Arc::downgrade(&self.inner);
        let settled = self.inner.entries.settle(&file).await;
        let placed = self.inner.timelines.settle(&file).await;
        if self.inner.acked == Sync::Normal
            && let Ok(mut writer) = self.inner.writer("close").await
        {
            writer.begin("close", Sync::Full).await?;
            let noted = incarnation::close(writer.conn()).await.map_err(failed("close"));
            writer.end("close", noted).await?;
        }
        self.inner.readers.close().await;
        let Some(writer) = self.inner.writer.lock().await.take() else { return Ok(()) };
        // Nobody appends any more. What came behind the last move is made again when the file is opened.
        self.inner.timelines.close();
        let (conn, lock) = writer.stop();
        let checkpointer = self.inner.checkpointer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(checkpointer) = checkpointer {
            // It ends with the writer; that it was cancelled with its runtime is as good.
            checkpointer.await.ok();
        }
        // The last connection moves the write-ahead log into the file and removes it.
        let closed = conn.close().await.map_err(failed("close"));
        drop(lock);
        settled.and(placed).and(closed)
    }
}

#[cfg(test)]
impl Sqlite {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    async fn open(config: SqliteBuilder) -> Result<Arc<Self>> {
        let path = resolve(&config.path).map_err(|error| io_failed(OPERATION, error))?;
        let lock = lock(&path)?;
        if config.restored {
            check_no_other_log(&path)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(false)
            .busy_timeout(Duration::from_secs(5))
            .row_buffer_size(1024);
        if path.is_file() {
            // Before anything is written to what may not be ours.
            let mut conn = options.clone().read_only(true).connect().await.map_err(failed(OPERATION))?;
            schema::check(&mut conn).await?;
            conn.close().await.map_err(failed(OPERATION))?;
        }
        let mut conn = connect_writer(&options, config.cache_bytes).await?;
        let checkpointer =
            options.clone().busy_timeout(wal::PATIENCE).connect().await.map_err(failed(OPERATION))?;
        schema::migrate(&mut conn).await?;
        let incarnation =
            incarnation::load(&mut conn, config.restored, !config.survives_power_failure).await?;
        let epochs = Epochs::load(&mut conn).await?;
        let own_end = epochs.end(&mut conn).await?;
        let delivered = checkpoints::load(&mut conn, Of::Inbox, Partition(0), OPERATION).await?;
        let readers = Readers::new(
            options.pragma("query_only", "ON").pragma("cache_size", cache_size(config.cache_bytes / 16)),
            config.readers,
        );
        let (durability, acked) = if config.survives_power_failure {
            (Durability::Synced, Sync::Full)
        } else {
            (Durability::Buffered, Sync::Normal)
        };
        let placed = timelines::placed(&mut conn).await?;
        let mut writer = Writer::new(conn, lock, HEADS, placed, own_end);
        // What the process that had the file open before may not have moved.
        writer.catch_up(OPERATION).await?;
        let commits = writer.commits.subscribe();
        let (tail, timelines, end) = (writer.tail.clone(), writer.timelines.clone(), writer.end.clone());
        let disk = Disk::open(&path).map_err(|error| io_failed(OPERATION, error))?;
        let inner = Arc::new(Self {
            writer: tokio::sync::Mutex::new(Some(writer)),
            thread: WriterThread::start().map_err(|error| io_failed(OPERATION, error))?,
            readers,
            clock: config.clock,
            expiry: config.expiry,
            durability,
            acked,
            incarnation,
            epochs: RwLock::new(Arc::new(epochs)),
            tail,
            end,
            leases: Mutex::default(),
            pass: tokio::sync::Mutex::default(),
            entries: Arc::new(Fresh::new()),
            timelines,
            standing: tokio::sync::Mutex::new(Standing::new()),
            undelivered: delivered.filter(|at| number(at.position.offset) < own_end).map(|_| own_end),
            checkpointer: Mutex::default(),
        });
        let task = inner.thread.spawn(wal::run(checkpointer, disk, Arc::downgrade(&inner), commits));
        inner.thread.spawn(fresh::run(inner.entries.clone(), Arc::downgrade(&inner)));
        inner.thread.spawn(fresh::run(inner.timelines.clone(), Arc::downgrade(&inner)));
        *inner.checkpointer.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(inner)
    }

    /// The writer, when it is our turn.
    pub(crate) async fn writer(&self, operation: &'static str) -> Result<MappedMutexGuard<'_, Writer>> {
        let mut writer =
            MutexGuard::try_map(self.writer.lock().await, Option::as_mut).map_err(|_| closed(operation))?;
        writer.check(operation)?;
        writer.mend().await;
        // Before anybody numbers or places anything.
        writer.catch_up(operation).await?;
        Ok(writer)
    }

    /// Takes note of why the file could not be written beside the writer.
    pub(crate) async fn note(&self, operation: &'static str, error: sqlx::Error) {
        if let Some(writer) = self.writer.lock().await.as_mut() {
            writer.noted(operation, error);
        }
    }

    /// The epochs of the own log.
    pub(crate) fn epochs(&self) -> Arc<Epochs> {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_epochs(&self, epochs: Epochs) {
        *self.epochs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(epochs);
    }
}

/// The name of a file that lies beside.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(path, ".lock"))
        .map_err(|error| io_failed(OPERATION, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another process, or this one already, has {} open", path.display());
            Err(Error::new(ErrorKind::InUse, BACKEND, OPERATION, message))
        }
        Err(TryLockError::Error(error)) => Err(io_failed(OPERATION, error)),
    }
}

/// The path without links, so that two names of one file have one lock.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if path.symlink_metadata().is_ok() {
        return path.canonicalize();
    }
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(folder.canonicalize()?.join(name)),
        _ => Err(std::io::ErrorKind::IsADirectory.into()),
    }
}

/// Beside a file that was put back the write-ahead log of the one before it would be taken for its own.
fn check_no_other_log(path: &Path) -> Result<()> {
    let log = beside(path, "-wal");
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        let message = format!(
            "{} may belong to the file that was there before: restore it together with the file, open that once \
             without `restored`, or delete it",
            log.display()
        );
        return Err(Error::new(ErrorKind::Invalid, BACKEND, OPERATION, message));
    }
    Ok(())
}

/// A negative number is kibibytes: <https://www.sqlite.org/pragma.html#pragma_cache_size>
fn cache_size(bytes: usize) -> String {
    format!("-{}", (bytes >> 10).max(1024))
}

async fn connect_writer(options: &SqliteConnectOptions, cache_bytes: usize) -> Result<SqliteConnection> {
    let mut conn = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("cache_size", cache_size(cache_bytes))
        .pragma("wal_autocheckpoint", wal::TOO_LONG)
        .pragma("journal_size_limit", wal::KEPT_BYTES)
        // A statement's undo journal goes to memory, not to a temporary file.
        // Where a plain sync leaves data in the disk's own cache (macOS); nothing elsewhere.
        .pragma("fullfsync", "ON")
        .pragma("temp_store", "MEMORY")
        .connect()
        .await
        .map_err(failed(OPERATION))?;
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut conn).await.map_err(failed(OPERATION))?;
    if mode == "wal" {
        return Ok(conn);
    }
    let message = format!("the file cannot have a write-ahead log here, only journal mode {mode}");
    Err(Error::new(ErrorKind::Invalid, BACKEND, OPERATION, message))
}

impl From<&Sqlite> for Parts {
    fn from(sqlite: &Sqlite) -> Self {
        Self {
            log: Some(sqlite.log().into()),
            store: Some(sqlite.store().into()),
            inbox: Some(Arc::new(sqlite.inbox())),
            presence: Some(Arc::new(sqlite.presence())),
            notifier: Some(Arc::new(sqlite.notifier())),
        }
    }
}

impl From<Sqlite> for Parts {
    fn from(sqlite: Sqlite) -> Self {
        Self::from(&sqlite)
    }
}
