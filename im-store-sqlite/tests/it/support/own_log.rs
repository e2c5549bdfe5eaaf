//! An inbox that takes the records of any log, because it puts them into the file's own log first.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Batch, Checkpoint, Cursor, Delivered, Delivery, Epoch, Error, ErrorKind, InboxInfo, Incarnation, Lineage,
    LogRecord, MessageLog, MessageStore, Partition, Parts, Position, Pull, Result, SyncInbox, UserId,
};
use im_store_sqlite::Sqlite;
use im_testkit::{Data, Fixture, Part, Violation};
use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
use tokio::sync::Mutex;

use super::{File, wrong};

/// Only the inbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnLogFixture;

#[derive(Debug)]
struct OwnLog {
    file: File,
    inbox: std::sync::Mutex<Arc<Adapted>>,
}

#[async_trait]
impl Fixture for OwnLogFixture {
    async fn fresh(&self) -> Result<Box<dyn Data>, Violation> {
        let file = File::fresh().await?;
        let inbox = Adapted::new(&file, 1).await.map_err(wrong)?;
        Ok(Box::new(OwnLog { file, inbox: std::sync::Mutex::new(inbox) }))
    }
}

impl OwnLog {
    fn parts(&self) -> Parts {
        Parts { inbox: Some(self.inbox.lock().unwrap().clone()), ..Parts::default() }
    }

    async fn adapt(&self, epoch: u32) -> Result<(), Violation> {
        let adapted = Adapted::new(&self.file, epoch).await.map_err(wrong)?;
        *self.inbox.lock().unwrap() = adapted;
        Ok(())
    }
}

#[async_trait]
impl Data for OwnLog {
    async fn node(&self) -> Result<Parts, Violation> {
        Ok(self.parts())
    }

    async fn reopen(&self) -> Result<Parts, Violation> {
        self.file.reopen().await?;
        self.adapt(1).await?;
        Ok(self.parts())
    }

    async fn pass(&self, time: Duration) {
        self.file.pass(time).await;
    }

    async fn turn_back(&self, time: Duration) -> Result<(), Violation> {
        self.file.turn_back(time).await
    }

    async fn save(&self) -> Result<(), Violation> {
        self.file.save().await
    }

    async fn lose_tail(&self, part: Part, n: usize) -> Result<(), Violation> {
        self.file.lose_tail(part, n).await?;
        self.adapt(2).await
    }
}

#[derive(Debug)]
struct Adapted {
    sqlite: Sqlite,
    path: PathBuf,
    lineage: Lineage,
    /// Where the records of the paper logs stand in the own one. Held while new ones are delivered: one log delivers in order.
    places: Mutex<BTreeMap<(Partition, Position), Position>>,
}

impl Adapted {
    async fn new(file: &File, epoch: u32) -> Result<Arc<Self>> {
        let (sqlite, path) = (file.open(), file.path("chat.db"));
        let own = sqlite.log().info().await?.incarnation;
        sqlite.log().open_epoch(Epoch(epoch), &own).await?;
        let log = Incarnation::new(format!("paper {epoch}"));
        sqlite.store().open_epoch(&log).await?;
        let lineage = Lineage { log, store: own.clone(), inbox: own };
        Ok(Arc::new(Self { sqlite, path, lineage, places: Mutex::default() }))
    }

    /// Puts a record into the store as one of another log, and then makes it the own log's.
    async fn place(&self, record: &LogRecord, number: u64) -> Result<Position> {
        let position = Position { epoch: Epoch(1), offset: number };
        let checkpoint = Checkpoint { position, rewind: position, lineage: self.lineage.clone() };
        let records = vec![LogRecord { position, record: record.record.clone() }];
        self.sqlite.store().apply(&Batch { partition: Partition(0), records, checkpoint }).await?;
        let sql = "UPDATE messages SET log_partition = NULL, log_epoch = NULL, log_offset = NULL \
                   WHERE conversation_id = ? AND client_msg_id = ? RETURNING id";
        let options = SqliteConnectOptions::new().filename(&self.path);
        let id: i64 = async {
            let mut conn = options.connect().await?;
            let (conversation, key) =
                (record.record.conversation.as_str(), record.record.client_msg_id.as_str());
            sqlx::query_scalar(sql).bind(conversation).bind(key).fetch_one(&mut conn).await
        }
        .await
        .map_err(|error| Error::new(ErrorKind::Other, "test", "place", error.to_string()))?;
        let (epoch, _) = self.sqlite.log().info().await?.epoch.unwrap();
        Ok(Position { epoch, offset: id.unsigned_abs() })
    }
}

#[async_trait]
impl SyncInbox for Adapted {
    async fn info(&self) -> Result<InboxInfo> {
        Ok(InboxInfo { only_log: None, ..self.sqlite.inbox().info().await? })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        self.sqlite.inbox().checkpoint(partition).await
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let mut places = self.places.lock().await;
        let mut delivery = delivery.clone();
        for record in &mut delivery.records {
            let key = (delivery.partition, record.position);
            record.position = match places.get(&key) {
                Some(place) => *place,
                None => {
                    let place = self.place(record, places.len() as u64 + 1).await?;
                    places.insert(key, place);
                    place
                }
            };
        }
        self.sqlite.inbox().deliver(&delivery).await
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        self.sqlite.inbox().pull(user, after, max).await
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        self.sqlite.inbox().ends(users).await
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        self.sqlite.inbox().anchor(user).await
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        self.sqlite.inbox().expire(max).await
    }
}
