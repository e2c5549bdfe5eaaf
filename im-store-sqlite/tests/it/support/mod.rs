//! A file per test, with a clock that the test sets.

mod own_log;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use im_core::{Parts, Timestamp};
use im_store_sqlite::{Sqlite, SqliteBuilder};
use im_testkit::{Data, Fixture, ManualClock, Part, Violation};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

pub(crate) use own_log::OwnLogFixture;

#[derive(Debug, Clone, Copy)]
pub(crate) struct SqliteFixture;

#[derive(Debug)]
pub(crate) struct File {
    folder: TempDir,
    clock: ManualClock,
    open: Mutex<Sqlite>,
}

#[async_trait]
impl Fixture for SqliteFixture {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        Ok(Box::new(File::fresh().await?))
    }
}

fn builder(path: PathBuf, clock: &ManualClock) -> SqliteBuilder {
    Sqlite::builder(path).expiry(Duration::from_secs(3600)).clock(Arc::new(clock.clone()))
}

pub(crate) fn wrong(why: impl std::fmt::Display) -> Violation {
    Violation::new(why.to_string())
}

impl File {
    pub(crate) async fn fresh() -> Result<Self, Violation> {
        let folder = tempfile::tempdir().map_err(wrong)?;
        let clock = ManualClock::starting_at(Timestamp(1_800_000_000_000));
        let open = builder(folder.path().join("chat.db"), &clock).open().await.map_err(wrong)?;
        Ok(Self { folder, clock, open: Mutex::new(open) })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn open(&self) -> Sqlite {
        self.open.lock().unwrap().clone()
    }

    async fn open_again(&self, restored: bool) -> Result<(), Violation> {
        self.close().await?;
        let open =
            builder(self.path("chat.db"), &self.clock).restored(restored).open().await.map_err(wrong)?;
        *self.open.lock().unwrap() = open;
        Ok(())
    }

    /// Opens what the death of the process leaves at this moment.
    pub(crate) async fn killed(&self) -> Sqlite {
        for ending in ["", "-wal"] {
            let left = self.path(&format!("chat.db{ending}"));
            std::fs::copy(left, self.path(&format!("left.db{ending}"))).unwrap();
        }
        builder(self.path("left.db"), &self.clock).open().await.unwrap()
    }

    async fn close(&self) -> Result<(), Violation> {
        self.open().close().await.map_err(wrong)
    }
}

#[async_trait]
impl Data for File {
    async fn node(&self) -> Result<Parts, Violation> {
        // The suite's inbox clauses deliver the records of another log.
        Ok(Parts { inbox: None, ..Parts::from(self.open()) })
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.open_again(false).await?;
        self.node().await
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        self.clock.turn_back(time);
        Ok(())
    }

    async fn save(&self) -> Result<(), Violation> {
        let copy = self.path("copy.db");
        std::fs::remove_file(&copy).ok();
        let options = SqliteConnectOptions::new().filename(self.path("chat.db"));
        let mut conn = options.connect().await.map_err(wrong)?;
        sqlx::query("VACUUM INTO ?").bind(copy.to_str()).execute(&mut conn).await.map_err(wrong)?;
        conn.close().await.map_err(wrong)
    }

    async fn lose_tail(&self, _: Part, _: usize) -> Result<(), Violation> {
        self.close().await?;
        std::fs::copy(self.path("copy.db"), self.path("chat.db")).map_err(wrong)?;
        self.open_again(true).await
    }
}
