//! What opening a file, and a file gone bad, comes to: a clear error and nothing half written.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use im_core::{
    Append, AppendOutcome, ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Direction, Epoch,
    Error, ErrorKind, History, HistoryQuery, LogRead, LogRecord, MessageLog, MessageStore, Partition,
    Position, Record, RecordKind, Result, Seq, UserId,
};
use im_store_sqlite::Sqlite;
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("chat.db")
    }

    async fn open(&self) -> Result<Sqlite> {
        Sqlite::open(self.path()).await
    }

    /// A file with records, closed.
    async fn filled(records: usize) -> Self {
        let folder = Self::new();
        let sqlite = folder.open().await.unwrap();
        append(&sqlite, records, 100).await.unwrap();
        sqlite.close().await.unwrap();
        folder
    }

    async fn refused(&self) -> Error {
        self.open().await.expect_err("the file opens")
    }
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

async fn execute(path: &Path, sql: &'static str) {
    let mut conn = raw(path).await;
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Appends messages of a size to one conversation.
async fn append(sqlite: &Sqlite, count: usize, bytes: usize) -> Result<Vec<AppendOutcome>> {
    let log = sqlite.log();
    let incarnation = log.info().await?.incarnation;
    log.open_epoch(Epoch(1), &incarnation).await?;
    let one = |_| Append {
        conversation: ConversationId::group("g").unwrap(),
        sender: UserId::new("alice").unwrap(),
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "x".repeat(bytes).into(),
        hash: ContentHash(1),
        floor: None,
    };
    log.append(Partition(0), Epoch(1), &(0..count).map(one).collect::<Vec<_>>()).await
}

/// The sequence ids that are there.
async fn seqs(sqlite: &Sqlite) -> Vec<u64> {
    match sqlite.log().read(Partition(0), Position::START, 10_000, Duration::ZERO).await.unwrap() {
        LogRead::Records(records) => records.iter().map(|record| record.record.seq.0).collect(),
        LogRead::Trimmed(_) => panic!("trimmed"),
    }
}

#[tokio::test]
async fn a_file_that_is_open_is_in_use() {
    let folder = Folder::new();
    let sqlite = folder.open().await.unwrap();
    let error = folder.refused().await;
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("chat.db"), "{error}");
    append(&sqlite, 1, 10).await.unwrap();
    sqlite.close().await.unwrap();
    assert_eq!(append(&sqlite, 1, 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    folder.open().await.unwrap();
}

/// What a process closes of a file takes all its locks on that file with it. Another program that finds none, such as SQLite's
/// shell, takes itself for the last one and removes the write-ahead log.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn neither_an_end_nor_a_handle_of_before_takes_the_locks_of_others() {
    use std::os::unix::fs::MetadataExt;

    let folder = Folder::filled(1).await;
    let locks = || {
        let inode = format!(":{} ", folder.path().metadata().unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().filter(|lock| lock.contains("POSIX") && lock.contains(&inode)).count()
    };
    assert_eq!(locks(), 0);
    let before = folder.open().await.unwrap();
    append(&before, 1, 10).await.unwrap();
    // The host's own.
    let mut host = raw(&folder.path()).await;
    sqlx::raw_sql("SELECT count(*) FROM messages").execute(&mut host).await.unwrap();
    before.close().await.unwrap();
    assert_ne!(locks(), 0);
    let sqlite = folder.open().await.unwrap();
    append(&sqlite, 1, 10).await.unwrap();
    host.close().await.unwrap();
    drop(before);
    assert_ne!(locks(), 0);
    assert_eq!(seqs(&sqlite).await, [1, 2, 3]);
    sqlite.close().await.unwrap();
    assert_eq!(locks(), 0);
}

#[tokio::test]
async fn a_closed_file_is_one_whole_file() {
    let folder = Folder::filled(10).await;
    let names: Vec<_> =
        fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "besides the file and its lock there is something in {names:?}");
    assert_eq!(seqs(&folder.open().await.unwrap()).await.len(), 10);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_left_alone() {
    let folder = Folder::filled(1).await;
    execute(&folder.path(), "PRAGMA user_version = 99").await;
    let before = fs::read(folder.path()).unwrap();
    let error = folder.refused().await;
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    assert!(error.to_string().contains("99"), "{error}");
    assert_eq!(fs::read(folder.path()).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = Folder::new();
    execute(&folder.path(), "PRAGMA journal_mode = WAL; CREATE TABLE things (id INTEGER)").await;
    let before = fs::read(folder.path()).unwrap();
    assert_eq!(folder.refused().await.kind(), ErrorKind::Corrupt);
    assert_eq!(fs::read(folder.path()).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_another_program_keeps_its_journal() {
    let folder = Folder::new();
    execute(&folder.path(), "PRAGMA journal_mode = DELETE; CREATE TABLE things (id INTEGER)").await;
    let before = fs::read(folder.path()).unwrap();
    assert_eq!(folder.refused().await.kind(), ErrorKind::Corrupt);
    assert_eq!(fs::read(folder.path()).unwrap(), before);
}

#[cfg(unix)]
#[tokio::test]
async fn two_names_of_one_file_are_one_file() {
    let folder = Folder::filled(1).await;
    let link = folder.0.path().join("link.db");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let by_link = Sqlite::open(&link).await.unwrap();
    assert_eq!(folder.refused().await.kind(), ErrorKind::InUse);
    by_link.close().await.unwrap();
    let _by_name = folder.open().await.unwrap();
    assert_eq!(Sqlite::open(&link).await.unwrap_err().kind(), ErrorKind::InUse);
}

#[tokio::test]
async fn a_restored_file_beside_another_files_log_is_refused() {
    let folder = Folder::filled(20).await;
    let copy = fs::read(folder.path()).unwrap();
    let log = folder.0.path().join("chat.db-wal");
    let sqlite = folder.open().await.unwrap();
    append(&sqlite, 300, 500).await.unwrap();
    let left = fs::read(&log).unwrap();
    sqlite.close().await.unwrap();
    fs::write(folder.path(), &copy).unwrap();
    // What kill -9 leaves.
    fs::write(&log, left).unwrap();
    let restored = || Sqlite::builder(folder.path()).restored(true).open();
    let refused = restored().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("chat.db-wal"), "{refused}");
    assert_eq!(fs::read(folder.path()).unwrap(), copy);
    fs::remove_file(log).unwrap();
    assert_eq!(seqs(&restored().await.unwrap()).await.len(), 20);
}

/// A crash of the operating system is told by the name of its run, which the file keeps while acks do not wait for the disk.
#[tokio::test]
async fn what_did_not_wait_for_the_disk_is_other_data_after_a_crash_of_the_system() {
    let folder = Folder::new();
    let open = || Sqlite::builder(folder.path()).survives_power_failure(false).open();
    let incarnation = async |sqlite: &Sqlite| sqlite.log().info().await.unwrap().incarnation;
    let sqlite = open().await.unwrap();
    let first = incarnation(&sqlite).await;
    append(&sqlite, 3, 10).await.unwrap();
    let left = [fs::read(folder.path()).unwrap(), fs::read(folder.0.path().join("chat.db-wal")).unwrap()];
    sqlite.close().await.unwrap();
    drop(sqlite);
    let sqlite = open().await.unwrap();
    assert_eq!(incarnation(&sqlite).await, first, "closed in order");
    sqlite.close().await.unwrap();
    for (run, is_same) in [("", true), ("UPDATE meta SET buffered_boot = 'an earlier run'", false)] {
        fs::write(folder.path(), &left[0]).unwrap();
        fs::write(folder.0.path().join("chat.db-wal"), &left[1]).unwrap();
        execute(&folder.path(), run).await;
        let sqlite = open().await.unwrap();
        assert_eq!(incarnation(&sqlite).await == first, is_same, "not closed; {run}");
        sqlite.close().await.unwrap();
    }
}

/// What was begun is finished on the writer's own thread, however busy the host's runtime is.
#[test]
fn an_append_goes_on_while_the_hosts_runtime_stands_still() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = Folder::new();
    runtime().block_on(async {
        let sqlite = folder.open().await.unwrap();
        append(&sqlite, 1, 10).await.unwrap();
        let log = sqlite.log();
        let after = log.ends().await.unwrap()[0];
        let mut begun = std::pin::pin!(append(&sqlite, 3000, 10));
        assert!(futures::poll!(&mut begun).is_pending());
        let other = std::thread::spawn(move || {
            runtime().block_on(log.read(Partition(0), after, 10, Duration::from_secs(30)))
        });
        let LogRead::Records(records) = other.join().unwrap().unwrap() else { panic!("trimmed") };
        assert_eq!(records.len(), 10);
        assert_eq!(begun.await.unwrap().len(), 3000);
    });
}

/// A runtime that ends drops its tasks wherever they are.
#[test]
fn what_a_dropped_task_left_open_is_not_taken_for_written() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    };
    let main = runtime();
    for n in 0..20 {
        let folder = Folder::new();
        let sqlite = main.block_on(folder.open()).unwrap();
        main.block_on(append(&sqlite, 1, 10)).unwrap();
        let other = runtime();
        let handle = sqlite.clone();
        other.spawn(async move { append(&handle, 3000, 10).await });
        std::thread::sleep(Duration::from_millis(n * 5));
        other.shutdown_timeout(Duration::from_secs(5));
        main.block_on(append(&sqlite, 1, 10)).unwrap();
        let there = main.block_on(seqs(&sqlite));
        assert_eq!(there, (1..=there.len() as u64).collect::<Vec<_>>(), "dropped after {} ms", n * 5);
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    for content in ["hello".to_owned(), "no database at all. ".repeat(1000)] {
        let folder = Folder::new();
        fs::write(folder.path(), &content).unwrap();
        let error = folder.refused().await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(fs::read_to_string(folder.path()).unwrap(), content);
    }
}

#[tokio::test]
async fn a_record_is_read_from_the_file_as_it_was_written() {
    let folder = Folder::new();
    let sqlite = folder.open().await.unwrap();
    let log = sqlite.log();
    log.open_epoch(Epoch(1), &log.info().await.unwrap().incarnation).await.unwrap();
    let awkward = [
        "",
        "\0",
        "a\0b\u{1}\u{1f}\u{7f}",
        "\"'\\/[1,2]",
        "\r\n\t\u{2028}\u{feff}",
        "你好 😀 e\u{301}",
        "null",
    ];
    let id = |number| ConversationId::group(format!("g{number}")).unwrap();
    let appends = awkward.iter().zip(0_u16..).flat_map(|(content, number)| {
        let plain = Append {
            conversation: id(number),
            sender: UserId::new("阿丽丝 \"a\"").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::fresh(),
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: (*content).into(),
            hash: ContentHash((1 << 63) + 1),
            floor: None,
        };
        let full = Append {
            sender: UserId::sender("").unwrap(),
            device: Some(DeviceId::new("phone").unwrap()),
            send_to: Some(UserId::new("bob").unwrap()),
            client_msg_id: ClientMsgId::fresh(),
            kind: RecordKind::Other(65_535),
            content_type: ContentType::Custom,
            hash: ContentHash((1 << 53) + 1),
            ..plain.clone()
        };
        [plain, full]
    });
    let appends: Vec<_> = appends.collect();
    log.append(Partition(0), Epoch(1), &appends).await.unwrap();
    let read = async |sqlite: &Sqlite| match sqlite
        .log()
        .read(Partition(0), Position::START, 100, Duration::ZERO)
        .await
        .unwrap()
    {
        LogRead::Records(records) => records,
        LogRead::Trimmed(_) => panic!("trimmed"),
    };
    // Out of memory.
    let written = read(&sqlite).await;
    let same = |(written, append): (&LogRecord, &Append)| {
        let Append { conversation, sender, device, send_to, client_msg_id, .. } = append.clone();
        let Append { kind, content_type, content, hash, .. } = append.clone();
        let record = Record {
            conversation,
            sender,
            device,
            send_to,
            client_msg_id,
            kind,
            content_type,
            content,
            hash,
            ..(*written.record).clone()
        };
        record == *written.record
    };
    assert!(written.len() == appends.len() && written.iter().zip(&appends).all(same));
    sqlite.close().await.unwrap();

    let sqlite = folder.open().await.unwrap();
    assert_eq!(read(&sqlite).await, written);
    let store = sqlite.store();
    for (of_one, number) in written.chunks(2).zip(0..) {
        let records: Vec<_> = of_one.iter().map(|record| record.record.clone()).collect();
        let query = HistoryQuery {
            conversation: id(number),
            from: Seq(1),
            to: None,
            direction: Direction::Forward,
            max: 10,
        };
        let head = records[1].mark();
        let page = History::Page { records: records.clone(), more: false, head };
        assert_eq!(store.history(&query).await.unwrap(), page);
        assert_eq!(store.last(&[id(number)]).await.unwrap(), [Some(records[1].clone())]);
        assert_eq!(store.get(&[(id(number), Seq(1))]).await.unwrap(), [Some(records[0].clone())]);
    }
}

#[tokio::test]
async fn a_damaged_page_is_corrupt_and_nothing_is_written_over_it() {
    let folder = Folder::filled(3000).await;
    let mut bytes = fs::read(folder.path()).unwrap();
    let pages = bytes.len() / 4096;
    // Not the schema, the first page of each table and the newest records, which opening reads.
    for page in 40..pages / 2 {
        bytes[page * 4096..page * 4096 + 2048].fill(0xee);
    }
    fs::write(folder.path(), &bytes).unwrap();
    let sqlite = folder.open().await.unwrap();
    let read = sqlite.log().read(Partition(0), Position::START, 10_000, Duration::ZERO).await;
    let error = read.expect_err("a damaged file is read");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(!error.is_transient());
    sqlite.close().await.unwrap();
    assert_eq!(fs::read(folder.path()).unwrap(), bytes);
}

#[tokio::test]
async fn a_truncated_file_is_corrupt() {
    let folder = Folder::filled(500).await;
    let length = fs::metadata(folder.path()).unwrap().len();
    fs::File::options().write(true).open(folder.path()).unwrap().set_len(length / 2).unwrap();
    let error = match folder.open().await {
        Err(error) => error,
        Ok(sqlite) => sqlite
            .log()
            .read(Partition(0), Position::START, 10_000, Duration::ZERO)
            .await
            .expect_err("half a file is read as a whole"),
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_denied() {
    let folder = Folder::new();
    let missing = Sqlite::open(folder.0.path().join("no/such/folder/chat.db")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Denied, "{missing}");
    // Where not even the superuser may write.
    #[cfg(target_os = "linux")]
    {
        let denied = Sqlite::open("/sys/chat.db").await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
    }
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_file_is_denied() {
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    let error = folder.refused().await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_whole() {
    let folder = Folder::new();
    let sqlite = folder.open().await.unwrap();
    append(&sqlite, 1, 10).await.unwrap();
    for n in 0..30 {
        let abandoned = append(&sqlite, 300, 10);
        // Dropped at another point of its way each time.
        tokio::time::timeout(Duration::from_micros(n * 500), abandoned).await.ok();
    }
    append(&sqlite, 1, 10).await.unwrap();
    let there = seqs(&sqlite).await;
    assert_eq!(there, (1..=there.len() as u64).collect::<Vec<_>>());
    assert_eq!((there.len() - 2) % 300, 0, "{} records", there.len());
}
