//! The engine under measurement.

use std::sync::Arc;

use im_engine::{
    ConversationId, Engine, NewConversation, Parts, StorePart, SyncInbox, UserId, memory::Memory,
};
use im_store_pg::PgBackend;
use im_store_sqlite::Sqlite;
use im_sync_redis::RedisBackend;
use tempfile::TempDir;

use crate::{
    Outcome,
    args::Backend,
    keyspace::Keyspace,
    schema::Schema,
    watch::{Watch, WatchedInbox, WatchedLog},
};

/// The length of every content, in bytes.
pub(crate) const CONTENT_BYTES: usize = 200;

/// Where the data lie. They go with it.
#[derive(Debug)]
pub(crate) enum Place {
    Memory,
    /// A folder of its own, where temporary files lie (`TMPDIR`).
    Folder(TempDir),
    /// A schema of its own on a Postgres server.
    Schema(Schema),
    /// Keys of its own on a Redis server.
    Keyspace(Keyspace),
}

impl Place {
    pub(crate) fn new(backend: Backend, server: Option<&str>) -> Outcome<Self> {
        Ok(match backend {
            Backend::Memory => Self::Memory,
            Backend::Sqlite => Self::Folder(tempfile::tempdir()?),
            Backend::Redis => Self::Keyspace(Keyspace::new(server.ok_or("which server? --redis URL")?)),
            Backend::Pg => Self::Schema(Schema::new(server.ok_or("which server? --postgres URL")?)),
        })
    }
}

/// What is open there.
#[derive(Debug)]
enum Data {
    Memory(Memory),
    Sqlite(Sqlite),
    Pg(PgBackend),
    Redis(RedisBackend, Memory),
}

impl Data {
    async fn open(place: &Place) -> Outcome<Self> {
        Ok(match place {
            Place::Memory => Self::Memory(Memory::new()),
            Place::Folder(folder) => Self::Sqlite(Sqlite::open(folder.path().join("chat.db")).await?),
            Place::Schema(schema) => Self::Pg(schema.open().await?),
            Place::Keyspace(keyspace) => Self::Redis(keyspace.open().await?, Memory::new()),
        })
    }

    fn parts(&self) -> Parts {
        match self {
            Self::Memory(memory) => memory.into(),
            Self::Sqlite(sqlite) => sqlite.into(),
            Self::Pg(pg) => pg.into(),
            Self::Redis(redis, memory) => Parts { store: Parts::from(memory).store, ..redis.into() },
        }
    }

    async fn close(self) -> Outcome {
        match self {
            Self::Memory(_) => {}
            Self::Sqlite(sqlite) => sqlite.close().await?,
            Self::Pg(pg) => pg.close().await,
            Self::Redis(redis, _) => redis.close().await,
        }
        Ok(())
    }
}

/// An engine with everything in defaults, and the place that it works in.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) watch: Arc<Watch>,
    /// The parts as they are, unwatched.
    pub(crate) parts: Parts,
    pub(crate) place: Place,
    store: StorePart,
    data: Data,
}

impl Bed {
    /// An engine on a place that may have been used before.
    pub(crate) async fn open(place: Place) -> Outcome<Self> {
        let data = Data::open(&place).await?;
        let parts = data.parts();
        let mut log = parts.log.clone().ok_or("no log")?;
        let store = parts.store.clone().ok_or("no store")?;
        let inbox: Arc<dyn SyncInbox> = parts.inbox.clone().ok_or("no inbox")?;
        let watch = Watch::new();
        log.log = Arc::new(WatchedLog { log: log.log, watch: watch.clone() });
        let inbox = Arc::new(WatchedInbox { inbox, watch: watch.clone() });
        let engine = Engine::builder(parts.clone()).log(log).inbox(inbox).start().await?;
        Ok(Self { engine, watch, parts, place, store, data })
    }

    /// SINGLE conversations of two users each.
    pub(crate) async fn singles(&self, count: usize) -> Outcome<Vec<(ConversationId, [UserId; 2])>> {
        let mut singles = Vec::with_capacity(count);
        let mut new = Vec::with_capacity(count);
        for number in 0..count {
            let (low, high) = (user(2 * number)?, user(2 * number + 1)?);
            singles.push((ConversationId::single(&low, &high)?, [low.clone(), high.clone()]));
            new.push(NewConversation::Single(low, high));
        }
        for some in new.chunks(1000) {
            self.store.conversations.create(some).await?;
        }
        Ok(singles)
    }

    /// Ends the engine and closes the data; the place stays for who takes it.
    pub(crate) async fn close(self) -> Outcome<Place> {
        self.engine.shutdown().await;
        self.data.close().await?;
        Ok(self.place)
    }
}

/// A user by number.
pub(crate) fn user(number: usize) -> Outcome<UserId> {
    Ok(UserId::new(format!("user-{number:06}"))?)
}

/// What every message says.
pub(crate) fn content() -> Arc<str> {
    "An ordinary message of the length that people write. "
        .chars()
        .cycle()
        .take(CONTENT_BYTES)
        .collect::<String>()
        .into()
}
