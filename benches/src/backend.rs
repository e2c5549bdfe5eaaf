//! The engine under measurement.

use std::{path::PathBuf, sync::Arc};

use im_engine::{
    ConversationId, Engine, NewConversation, Parts, StorePart, SyncInbox, UserId, memory::Memory,
};
use im_store_sqlite::Sqlite;
use tempfile::TempDir;

use crate::{
    Outcome,
    args::Backend,
    watch::{Watch, WatchedInbox, WatchedLog},
};

/// The length of every content, in bytes.
pub(crate) const CONTENT_BYTES: usize = 200;

/// An engine with everything in defaults, and the folder that it works in.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) watch: Arc<Watch>,
    /// The parts as they are, unwatched.
    pub(crate) parts: Parts,
    store: StorePart,
    sqlite: Option<Sqlite>,
    folder: TempDir,
}

impl Bed {
    /// A new engine on a new folder, which lies where temporary files do (`TMPDIR`).
    pub(crate) async fn open(backend: Backend) -> Outcome<Self> {
        Self::open_in(backend, tempfile::tempdir()?).await
    }

    /// An engine on a folder that may have been used before.
    pub(crate) async fn open_in(backend: Backend, folder: TempDir) -> Outcome<Self> {
        let sqlite = match backend {
            Backend::Memory => None,
            Backend::Sqlite => Some(Sqlite::open(folder.path().join("chat.db")).await?),
        };
        let parts = sqlite.as_ref().map_or_else(|| Parts::from(Memory::new()), Parts::from);
        let mut log = parts.log.clone().ok_or("no log")?;
        let store = parts.store.clone().ok_or("no store")?;
        let inbox: Arc<dyn SyncInbox> = parts.inbox.clone().ok_or("no inbox")?;
        let watch = Watch::new();
        log.log = Arc::new(WatchedLog { log: log.log, watch: watch.clone() });
        let inbox = Arc::new(WatchedInbox { inbox, watch: watch.clone() });
        let engine = Engine::builder(parts.clone()).log(log).inbox(inbox).start().await?;
        Ok(Self { engine, watch, parts, store, sqlite, folder })
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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

    /// Ends the engine and closes the file; the folder stays for who takes it.
    pub(crate) async fn close(self) -> Outcome<TempDir> {
        self.engine.shutdown().await;
        if let Some(sqlite) = self.sqlite {
            sqlite.close().await?;
        }
        Ok(self.folder)
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
