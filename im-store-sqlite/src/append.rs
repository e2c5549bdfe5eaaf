//! The append: look up the keys, number, insert, all under the writer's lock.

use std::{collections::HashMap, sync::Arc};

use im_core::{
    Append, AppendOutcome, ConversationId, Epoch, Error, ErrorKind, Found, LogRecord, RecordKind, Result,
    SendKey,
    numbering::{self, Numbering},
};

use crate::{
    connect::Inner,
    epochs::Epochs,
    error::{BACKEND, corrupt, other_incarnation},
    messages::{self, NewRow},
    tail,
    timelines::Place,
    writer::{Head, Sync, Writer},
};

const OPERATION: &str = "log.append";

/// Appends a batch to the open epoch.
pub(crate) async fn append(
    inner: Arc<Inner>,
    epoch: Epoch,
    batch: Vec<Append>,
) -> Result<Vec<AppendOutcome>> {
    inner.timelines.room(OPERATION).await?;
    let mut writer = inner.writer(OPERATION).await?;
    let epochs = inner.epochs();
    check_epoch(&inner, &epochs, epoch)?;
    let keys: Vec<SendKey> = batch.iter().map(Append::key).collect();
    // Almost all keys are new, and the insert looks each of them up anyway: only when it finds one we ask which.
    let mut numbered = number(&mut writer, &inner, &batch, &keys, vec![None; keys.len()]).await?;
    if !insert(&mut writer, inner.acked, &numbered.rows).await? {
        let known = messages::find(writer.conn(), &keys, &epochs, OPERATION).await?;
        numbered = number(&mut writer, &inner, &batch, &keys, known).await?;
        if !insert(&mut writer, inner.acked, &numbered.rows).await? {
            writer.forget();
            return Err(corrupt(OPERATION, "the file does not agree with what was read from it"));
        }
    }
    if !numbered.rows.is_empty() {
        numbered.publish(&mut writer, &inner)?;
    }
    Ok(numbered.outcomes)
}

fn no_epoch() -> Error {
    Error::new(ErrorKind::OtherIncarnation, BACKEND, OPERATION, "no epoch is open")
}

fn check_epoch(inner: &Inner, epochs: &Epochs, epoch: Epoch) -> Result<()> {
    let Some(open) = epochs.open() else { return Err(no_epoch()) };
    if open.epoch != epoch {
        let message = format!("epoch {} given, {} is open", epoch.0, open.epoch.0);
        return Err(Error::new(ErrorKind::StaleEpoch, BACKEND, OPERATION, message));
    }
    if open.incarnation != inner.incarnation {
        return Err(other_incarnation(OPERATION, &open.incarnation, &inner.incarnation));
    }
    Ok(())
}

/// The heads of the batch's conversations, from memory where it has them.
async fn heads(
    writer: &mut Writer,
    inner: &Inner,
    batch: &[Append],
) -> Result<HashMap<ConversationId, Head>> {
    let mut heads = HashMap::with_capacity(batch.len());
    let mut missing = Vec::new();
    // Sends to one conversation often come in a row.
    for append in batch.chunk_by(|a, b| a.conversation == b.conversation).filter_map(<[_]>::first) {
        if heads.contains_key(&append.conversation) {
            continue;
        }
        match writer.heads.get(&append.conversation) {
            Some(head) => drop(heads.insert(append.conversation.clone(), head)),
            None => missing.push(append.conversation.clone()),
        }
    }
    missing.sort_unstable();
    missing.dedup();
    let found = messages::heads(writer.conn(), &inner.timelines, &missing, OPERATION).await?;
    heads.extend(missing.into_iter().zip(found).filter_map(|(id, head)| Some((id, head?))));
    Ok(heads)
}

/// Inserts the rows in one transaction; false, and nothing is done, where a key is taken.
async fn insert(writer: &mut Writer, sync: Sync, rows: &[NewRow]) -> Result<bool> {
    if rows.is_empty() {
        return Ok(true);
    }
    writer.will_append();
    writer.run(OPERATION, sync, messages::transaction(rows)).await
}

/// Gives a batch its places, knowing what became of some of its keys.
async fn number(
    writer: &mut Writer,
    inner: &Inner,
    batch: &[Append],
    keys: &[SendKey],
    known: Vec<Option<Found>>,
) -> Result<Numbered> {
    let epochs = inner.epochs();
    let Some(open) = epochs.open() else { return Err(no_epoch()) };
    let heads = heads(writer, inner, batch).await?;
    let first = |(id, head): (ConversationId, Head)| {
        let is_of_epoch = open.first_id <= head.id;
        (id, numbering::Head { mark: head.mark, created_at: head.created_at, is_of_epoch })
    };
    let heads = heads.into_iter().map(first).collect();
    let mut numbering = Numbering::new(open.epoch, epochs.is_first(open.epoch), inner.clock.now(), heads);
    let mut next_id = writer.next_id();
    let (mut outcomes, mut rows) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for ((append, key), known) in batch.iter().zip(keys).zip(known) {
        let (outcome, record) = numbering.take(append, key, known, epochs.position(next_id));
        outcomes.push(outcome);
        if let Some(record) = record {
            rows.push(NewRow { id: next_id, record, foreign: None });
            next_id += 1;
        }
    }
    Ok(Numbered { outcomes, rows, next_id })
}

/// A batch with its places.
struct Numbered {
    outcomes: Vec<AppendOutcome>,
    rows: Vec<NewRow>,
    next_id: i64,
}

impl Numbered {
    /// Lets everybody know what is in the file now.
    fn publish(&mut self, writer: &mut Writer, inner: &Inner) -> Result<()> {
        inner.timelines.add(OPERATION, |open| {
            for NewRow { id, record, .. } in &self.rows {
                let is_read = record.kind == RecordKind::Message && !record.sender.is_system();
                let reader = is_read.then_some((&record.sender, record.device.as_ref()));
                open.push(&record.conversation, Place { mark: record.mark(), message: *id }, reader);
            }
        })?;
        writer.publish(self.next_id - 1);
        let epochs = inner.epochs();
        let is_same = |a: &NewRow, b: &NewRow| a.record.conversation == b.record.conversation;
        for NewRow { id, record, .. } in self.rows.chunk_by(is_same).filter_map(<[_]>::last) {
            let head = Head { id: *id, mark: record.mark(), created_at: record.created_at };
            writer.heads.insert(record.conversation.clone(), head);
        }
        let mut tail = tail::lock(&inner.tail);
        for NewRow { id, record, .. } in self.rows.drain(..) {
            tail.push(id, LogRecord { position: epochs.position(id), record });
        }
        drop(tail);
        inner.end.send_replace(self.next_id - 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use im_core::{
        ClientMsgId, ContentHash, ContentType, LogRead, MessageLog, Outcome, Partition, Position, RecordKind,
        UserId,
    };
    use sqlx::Row;

    use super::*;
    use crate::Sqlite;

    fn batch(count: usize, bytes: usize) -> Vec<Append> {
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
        (0..count).map(one).collect()
    }

    async fn append(sqlite: &Sqlite, batch: Vec<Append>) -> Result<usize> {
        let outcomes = sqlite.log().append(Partition(0), Epoch(1), &batch).await?;
        let is_appended = |outcome: &&AppendOutcome| matches!(outcome, AppendOutcome::Appended(_));
        Ok(outcomes.iter().filter(is_appended).count())
    }

    async fn seqs(sqlite: &Sqlite) -> Vec<u64> {
        match sqlite.log().read(Partition(0), Position::START, 10_000, Duration::ZERO).await.unwrap() {
            LogRead::Records(records) => records.iter().map(|record| record.record.seq.0).collect(),
            LogRead::Trimmed(_) => panic!("trimmed"),
        }
    }

    async fn limit_pages(sqlite: &Sqlite, pragma: &'static str) {
        let mut writer = sqlite.inner().writer("test").await.unwrap();
        sqlx::query(pragma).persistent(false).execute(writer.conn()).await.unwrap();
    }

    /// SQLite answers a full disk (ENOSPC at a write) with the code that a file gives which may not grow: so the file's pages
    /// are limited here.
    #[tokio::test]
    async fn a_full_disk_stores_all_of_a_batch_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let sqlite = Sqlite::open(&path).await.unwrap();
        let incarnation = sqlite.log().info().await.unwrap().incarnation;
        sqlite.log().open_epoch(Epoch(1), &incarnation).await.unwrap();
        limit_pages(&sqlite, "PRAGMA max_page_count = 60").await;
        let mut stored = 0;
        // Batches of one statement and of several.
        for size in [10, 600] {
            let error = loop {
                match append(&sqlite, batch(size, 2000)).await {
                    Ok(count) => stored += count as u64,
                    Err(error) => break error,
                }
                assert!(stored < 10_000, "the file grows beyond its limit");
            };
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone), "{error}");
            assert!(error.is_transient());
            assert_eq!(seqs(&sqlite).await, (1..=stored).collect::<Vec<_>>());
        }
        limit_pages(&sqlite, "PRAGMA max_page_count = 100000").await;
        append(&sqlite, batch(600, 2000)).await.unwrap();
        assert_eq!(seqs(&sqlite).await, (1..=stored + 600).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_file_that_was_let_go_is_not_kept_open_by_what_is_yet_to_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.db");
        let sqlite = Sqlite::open(&path).await.unwrap();
        let incarnation = sqlite.log().info().await.unwrap().incarnation;
        sqlite.log().open_epoch(Epoch(1), &incarnation).await.unwrap();
        append(&sqlite, batch(2000, 10)).await.unwrap();
        let (timelines, file) = (sqlite.inner().timelines.clone(), Arc::downgrade(sqlite.inner()));
        let moving = tokio::spawn({
            let file = file.clone();
            async move { timelines.settle_gently(&file).await }
        });
        let moved = async || {
            let count = sqlx::query("SELECT count(*) FROM timelines");
            sqlite.inner().readers.one(count, "test").await.unwrap().get::<i64, _>(0)
        };
        // Some are, and the others wait for their turn.
        while moved().await == 0 || file.strong_count() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(moved().await < 2000);
        drop(sqlite);
        let again = Sqlite::open(&path).await.unwrap();
        assert_eq!(moving.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(seqs(&again).await, (1..=2000).collect::<Vec<_>>());
        again.close().await.unwrap();
    }
}
