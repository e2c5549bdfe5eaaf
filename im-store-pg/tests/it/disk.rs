//! The disk is full: nothing is half written, reads go on, and so do writes when there is room again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::bed::{Bed, append, conversation};
use crate::support::own::Own;
use im_core::{
    Append, AppendOutcome, Cursor, Delivery, Direction, Epoch, Error, ErrorKind, History, HistoryQuery,
    LogRead, LogRecord, MessageLog, MessageStore, Outcome, Partition, Position, Pull, Recipient, Seq,
    SyncInbox, UserId,
};
use im_store_pg::PgBackend;
use sqlx::AssertSqlSafe;

/// Room for the tables, and what takes most of the rest until it is removed.
const DISK: &str = "32m";
const FILLER: usize = 16 << 20;
/// Far more than there is room for.
const MANY: usize = 1000;

/// A node all of whose tables lie on a disk of little room.
async fn small(own: &mut Own) -> (PgBackend, PathBuf) {
    let disk = own.small_disk(DISK);
    let pool = sqlx::PgPool::connect(&own.url()).await.unwrap();
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.display());
    sqlx::raw_sql(AssertSqlSafe(tablespace)).execute(&pool).await.unwrap();
    let url = format!("{}?options[default_tablespace]=small", own.url());
    let pg = PgBackend::builder(&url).unwrap().partitions(1).open().await.unwrap();
    (pg, disk)
}

fn fill(disk: &Path) -> PathBuf {
    let filler = disk.join("filler");
    fs::write(&filler, vec![1; FILLER]).unwrap();
    filler
}

/// A message of 60 KB that cannot be packed.
fn large(name: String) -> Append {
    let content: String = (0..60 << 10).map(|_| char::from(rand::random_range(b'!'..=b'~'))).collect();
    Append { content: content.into(), ..append(name) }
}

fn is_full(error: &Error) {
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone), "{error:?}");
    assert!(error.is_transient());
}

struct Small {
    pg: PgBackend,
    partition: Partition,
    epoch: Epoch,
    bob: UserId,
}

impl Small {
    async fn append(&self, batch: &[Append]) -> Result<Vec<AppendOutcome>, Error> {
        self.pg.log().append(self.partition, self.epoch, batch).await
    }

    async fn records(&self) -> Vec<LogRecord> {
        let read = self.pg.log().read(self.partition, Position::START, 10_000, Duration::ZERO).await.unwrap();
        let LogRead::Records(records) = read else { panic!("trimmed") };
        records
    }

    /// Delivers the last record.
    async fn deliver(&self) -> Result<(), Error> {
        let delivery = Delivery {
            partition: self.partition,
            inbox: self.pg.inbox().info().await.unwrap().incarnation,
            records: self.records().await.pop().into_iter().collect(),
            recipients: vec![Recipient { user: self.bob.clone(), records: [0].into() }],
            checkpoint: None,
        };
        self.pg.inbox().deliver(&delivery).await.map(drop)
    }

    async fn pulled(&self, after: &Cursor) -> usize {
        let Pull::Page { entries, .. } = self.pg.inbox().pull(&self.bob, after, 10_000).await.unwrap() else {
            panic!("the cursor is not served")
        };
        entries.len()
    }

    async fn history(&self) -> usize {
        let query = HistoryQuery {
            conversation: conversation(),
            from: Seq(1),
            to: None,
            direction: Direction::Forward,
            max: 10_000,
        };
        let History::Page { records, .. } = self.pg.store().history(&query).await.unwrap() else {
            panic!("behind")
        };
        records.len()
    }
}

#[tokio::test]
async fn a_full_disk_takes_nothing_in_part_and_goes_on_when_there_is_room() {
    let mut own = Own::start();
    let (pg, disk) = small(&mut own).await;
    let filler = fill(&disk);
    let (partition, epoch) = Bed::begin(&pg).await;
    let small = Small { pg, partition, epoch, bob: UserId::new("bob").unwrap() };
    let anchor = small.pg.inbox().anchor(&small.bob).await.unwrap();
    small.append(&[append("first")]).await.unwrap();
    small.deliver().await.unwrap();
    let (mut acked, mut delivered) = (1, 1);
    // Batches of two, so that one could be there by half.
    let full = 'full: {
        for n in 0..MANY {
            let batch = [large(format!("{n}-a")), large(format!("{n}-b"))];
            match small.append(&batch).await {
                Ok(_) => acked += 2,
                Err(error) => break 'full (batch, error),
            }
        }
        panic!("there is room for everything");
    };
    let (batch, error) = full;
    is_full(&error);
    // What is left takes small things for a while.
    loop {
        match small.deliver().await {
            Ok(()) => delivered += 1,
            Err(error) => break is_full(&error),
        }
        assert!(delivered < MANY, "there is room for everything");
    }
    for _ in 0..3 {
        is_full(&small.append(&batch).await.unwrap_err());
        is_full(&small.deliver().await.unwrap_err());
        assert_eq!(small.records().await.len(), acked);
        assert_eq!(small.history().await, acked);
        assert_eq!(small.pulled(&anchor).await, delivered);
    }
    fs::remove_file(filler).unwrap();
    let outcomes = small.append(&batch).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Appended(_))), "{outcomes:?}");
    small.deliver().await.unwrap();
    let records = small.records().await;
    let seqs: Vec<_> = records.iter().map(|record| record.record.seq.0).collect();
    assert_eq!(seqs, (1..=acked as u64 + 2).collect::<Vec<_>>(), "dense");
    assert_eq!(small.pulled(&anchor).await, delivered + 1);
    small.pg.close().await;
}
