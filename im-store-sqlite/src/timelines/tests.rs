//! What is in memory, half moved, in the file, or made again after a crash is the same to everybody who asks.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use im_core::{
    Append, AppendOutcome, ClientMsgId, ContentHash, ContentType, ConversationStore, Epoch, ErrorKind,
    History, HistoryQuery, LogRead, Marked, MessageLog, MessageStore, NewConversation, Partition, Position,
    ReadMark, Record, RecordKind, SettingsChange, UserState,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Row as _};
use tempfile::TempDir;

use super::*;
use crate::{
    Sqlite,
    messages::{self, NewRow},
};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn message(conversation: &ConversationId, sender: &UserId, device: Option<&DeviceId>) -> Append {
    Append {
        conversation: conversation.clone(),
        sender: sender.clone(),
        device: device.cloned(),
        send_to: None,
        client_msg_id: ClientMsgId::fresh(),
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        content: "hello".into(),
        hash: ContentHash(1),
        floor: None,
    }
}

/// A file with the SINGLE conversations of all users, and what it must answer.
struct Chats {
    folder: TempDir,
    sqlite: Sqlite,
    conversations: Vec<(ConversationId, [UserId; 2])>,
    sent: BTreeMap<ConversationId, Vec<ClientMsgId>>,
    /// By user, device and conversation.
    marks: BTreeMap<(UserId, Option<DeviceId>, ConversationId), u64>,
    devices: Vec<(UserId, DeviceId)>,
}

impl Chats {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
        let incarnation = sqlite.log().info().await.unwrap().incarnation;
        sqlite.log().open_epoch(Epoch(1), &incarnation).await.unwrap();
        let mut conversations = Vec::new();
        for (at, one) in USERS.into_iter().enumerate() {
            for other in &USERS[at + 1..] {
                let new = NewConversation::Single(user(one), user(other));
                let created = ConversationStore::create(&sqlite.store(), &[new]).await.unwrap().remove(0);
                conversations.push((created.unwrap().id, [user(one), user(other)]));
            }
        }
        let (sent, marks, devices) = Default::default();
        Self { folder, sqlite, conversations, sent, marks, devices }
    }

    async fn append(&mut self, batch: Vec<Append>) {
        let outcomes = self.sqlite.log().append(Partition(0), Epoch(1), &batch).await.unwrap();
        for (append, outcome) in batch.into_iter().zip(outcomes) {
            let AppendOutcome::Appended(receipt) = outcome else { panic!("{outcome:?}") };
            let sent = self.sent.entry(append.conversation.clone()).or_default();
            sent.push(append.client_msg_id);
            assert_eq!(receipt.mark.seq, Seq(sent.len() as u64));
            self.marks.insert((append.sender, append.device, append.conversation), receipt.mark.seq.0);
        }
    }

    fn mark(&self, user: &UserId, device: Option<&DeviceId>, conversation: &ConversationId) -> u64 {
        self.marks.get(&(user.clone(), device.cloned(), conversation.clone())).copied().unwrap_or(0)
    }

    fn highest(&self, user: &UserId, conversation: &ConversationId) -> u64 {
        let of = self.marks.iter().filter(|((of, _, id), _)| of == user && id == conversation);
        of.map(|(_, mark)| *mark).max().unwrap_or(0)
    }

    /// One random thing that somebody does.
    async fn step(&mut self, random: &mut StdRng) {
        let (conversation, users) =
            self.conversations[random.random_range(0..self.conversations.len())].clone();
        let user = users[random.random_range(0..2)].clone();
        let device = [None, Some("phone"), Some("desk")][random.random_range(0..3)];
        let device = device.map(|name| DeviceId::new(name).unwrap());
        match random.random_range(0..10) {
            0..=5 => {
                let count = random.random_range(1..8);
                let batch = (0..count).map(|_| message(&conversation, &user, device.as_ref())).collect();
                self.append(batch).await;
            }
            6 | 7 => {
                let head = self.sent.get(&conversation).map_or(0, Vec::len) as u64;
                let wanted = random.random_range(0..head + 2);
                let mark = ReadMark {
                    user: user.clone(),
                    device: device.clone(),
                    conversation: conversation.clone(),
                    seq: Seq(wanted),
                };
                let held = self.mark(&user, device.as_ref(), &conversation);
                let marked = self.sqlite.store().mark_read(&[mark]).await.unwrap().remove(0);
                match marked {
                    Marked::Behind(at) => assert_eq!((at.seq.0, wanted), (head, head + 1)),
                    Marked::Unmoved(at) => {
                        assert!(wanted <= held && at.seq.0 == held, "{wanted} {held} {at:?}")
                    }
                    Marked::Moved(at, _) => {
                        assert!(held < wanted && wanted <= head);
                        // Without holes the ordinal is the sequence id.
                        assert_eq!((at.seq.0, at.ordinal.0), (wanted, wanted));
                        self.marks.insert((user, device, conversation), wanted);
                    }
                    Marked::NoMember => panic!("{user} is a member"),
                }
            }
            _ => {
                let Some(device) = device else { return };
                self.sqlite.store().state(&user, &Some(device.clone()), &None, 10).await.unwrap();
                if self.devices.contains(&(user.clone(), device.clone())) {
                    return;
                }
                self.devices.push((user.clone(), device.clone()));
                for (conversation, _) in self.conversations.clone() {
                    let highest = self.highest(&user, &conversation);
                    if highest > 0 {
                        self.marks.insert((user.clone(), Some(device.clone()), conversation), highest);
                    }
                }
            }
        }
    }

    /// Asks for everything.
    async fn check(&self, sqlite: &Sqlite, random: &mut StdRng) {
        let store = sqlite.store();
        for (conversation, users) in &self.conversations {
            let none = Vec::new();
            let sent = self.sent.get(conversation).unwrap_or(&none);
            for _ in 0..6 {
                self.check_page(sqlite, conversation, sent, random).await;
            }
            let places: Vec<_> =
                (0..=sent.len() as u64 + 1).map(|seq| (conversation.clone(), Seq(seq))).collect();
            let got = MessageStore::get(&store, &places).await.unwrap();
            let ids: Vec<_> = got.iter().flatten().map(|record| record.client_msg_id.clone()).collect();
            assert_eq!((&ids, got.len()), (sent, sent.len() + 2));
            let last = store.last(std::slice::from_ref(conversation)).await.unwrap().remove(0);
            assert_eq!(last.map(|record| record.client_msg_id.clone()).as_ref(), sent.last());
            for user in users {
                let devices = [None, Some("phone"), Some("desk")];
                for device in devices.map(|name| name.map(|name| DeviceId::new(name).unwrap())) {
                    let is_known = |device: &DeviceId| self.devices.contains(&(user.clone(), device.clone()));
                    let expected = match &device {
                        Some(device) if !is_known(device) => self.highest(user, conversation),
                        _ => self.mark(user, device.as_ref(), conversation),
                    };
                    let wanted = [(conversation.clone(), user.clone())];
                    let membership = store.memberships(&wanted, &device).await.unwrap().remove(0).unwrap();
                    assert_eq!(
                        membership.read,
                        Mark { seq: Seq(expected), ordinal: im_core::Ordinal(expected) }
                    );
                    let listed = ConversationStore::list(&store, user, &device, &None, 10).await.unwrap();
                    assert!(listed.contains(&membership));
                }
            }
        }
        self.check_views(sqlite).await;
    }

    async fn check_page(
        &self,
        sqlite: &Sqlite,
        conversation: &ConversationId,
        sent: &[ClientMsgId],
        random: &mut StdRng,
    ) {
        let head = sent.len() as u64;
        let direction = [Direction::Forward, Direction::Backward][random.random_range(0..2)];
        let from = Seq(random.random_range(0..=head + 1));
        let to = random.random_bool(0.7).then(|| Seq(random.random_range(0..=head)));
        let max = random.random_range(1..20);
        let query = HistoryQuery { conversation: conversation.clone(), from, to, direction, max };
        let page = sqlite.store().history(&query).await.unwrap();
        let History::Page { records, more, head: said } = page else { panic!("{query:?}: {page:?}") };
        let first = from.0.max(1);
        let all: Vec<u64> = (first..=to.map_or(head, |to| to.0)).collect();
        let rest = all.len().saturating_sub(max);
        let expected = match direction {
            Direction::Forward => &all[..all.len() - rest],
            Direction::Backward => &all[rest..],
        };
        let seqs: Vec<_> = records.iter().map(|record| record.seq.0).collect();
        assert_eq!((&seqs[..], more, said.seq.0), (expected, rest > 0, head), "{query:?}");
        let is_same = |record: &Arc<Record>| record.client_msg_id == sent[record.seq.0 as usize - 1];
        assert!(records.iter().all(is_same));
    }

    async fn check_views(&self, sqlite: &Sqlite) {
        let mut writer = sqlite.inner().writer("test").await.unwrap();
        let heads =
            sqlx::query("SELECT id, last_message_id FROM conversations").fetch_all(writer.conn()).await;
        let heads: BTreeMap<String, Option<i64>> =
            heads.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
        for (id, _) in &self.conversations {
            assert_eq!(heads[id.as_str()], self.sent.get(id).map(|sent| sent.len() as i64));
        }
        let marks = sqlx::query("SELECT main_user, device, conversation_id, sequence_id FROM read_marks")
            .fetch_all(writer.conn())
            .await;
        let marks: BTreeMap<[String; 3], i64> =
            marks.unwrap().iter().map(|row| ([row.get(0), row.get(1), row.get(2)], row.get(3))).collect();
        let expected = self.marks.iter().map(|((user, device, id), mark)| {
            let device = device.as_ref().map_or("", DeviceId::as_str);
            ([user.as_str(), device, id.as_str()].map(String::from), *mark as i64)
        });
        assert_eq!(marks, expected.collect());
    }

    /// Moves what is in memory, or begins to: then memory still has what the file has.
    async fn settle(&self) {
        let inner = self.sqlite.inner();
        inner.timelines.settle(&Arc::downgrade(inner)).await.unwrap();
    }

    async fn begin_to_move(&self) {
        let inner = self.sqlite.inner();
        if let Some(layer) = inner.timelines.to_move() {
            let rows: Vec<_> = layer.in_order().collect();
            let half = &rows[..rows.len() / 2];
            let statements = INSERT
                .transaction(half, MOST_ROWS)
                .map(|(sql, rows)| rows.iter().fold(sqlx::query(AssertSqlSafe(sql)), bind_row));
            let mut writer = inner.writer("test").await.unwrap();
            assert!(half.is_empty() || writer.run("test", Sync::Normal, statements).await.unwrap());
        }
    }

    /// The file as the death of the process would leave it.
    async fn crashed(&self) -> (TempDir, Sqlite) {
        let folder = tempfile::tempdir().unwrap();
        // Nobody writes, not even into the file from its log.
        let _writer = self.sqlite.inner().writer("test").await.unwrap();
        for name in ["chat.db", "chat.db-wal"] {
            fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
        }
        let sqlite = Sqlite::open(folder.path().join("chat.db")).await.unwrap();
        (folder, sqlite)
    }
}

#[tokio::test]
async fn everybody_is_told_the_same_wherever_the_newest_places_are() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut chats = Chats::new().await;
        for _ in 0..12 {
            for _ in 0..random.random_range(1..25) {
                chats.step(&mut random).await;
            }
            chats.check(&chats.sqlite, &mut random).await;
            match random.random_range(0..4) {
                0 => chats.begin_to_move().await,
                1 => chats.settle().await,
                _ => continue,
            }
            chats.check(&chats.sqlite, &mut random).await;
        }
        let (_folder, crashed) = chats.crashed().await;
        chats.check(&crashed, &mut random).await;
        crashed.close().await.unwrap();
        chats.sqlite.close().await.unwrap();
        let reopened = Sqlite::open(chats.folder.path().join("chat.db")).await.unwrap();
        assert!(reopened.inner().timelines.is_empty(), "closing leaves nothing to be made again");
        chats.check(&reopened, &mut random).await;
    }
}

async fn log_length(sqlite: &Sqlite) -> usize {
    match sqlite.log().read(Partition(0), Position::START, 100, Duration::ZERO).await.unwrap() {
        LogRead::Records(records) => records.len(),
        LogRead::Trimmed(_) => panic!("trimmed"),
    }
}

/// Chats with one message of alice to bob, and one of bob to alice that a commit left in the file which failed; that one.
async fn left_behind() -> (Chats, ConversationId, Append) {
    let mut chats = Chats::new().await;
    let (conversation, [alice, bob]) = chats.conversations[0].clone();
    chats.append(vec![message(&conversation, &alice, None)]).await;
    let left = message(&conversation, &bob, None);
    {
        let inner = chats.sqlite.inner();
        let mut writer = inner.writer("test").await.unwrap();
        let first = chats.sqlite.store().last(std::slice::from_ref(&conversation)).await.unwrap().remove(0);
        let record = Record {
            seq: Seq(2),
            ordinal: im_core::Ordinal(2),
            sender: bob.clone(),
            client_msg_id: left.client_msg_id.clone(),
            ..(*first.unwrap()).clone()
        };
        let rows = [NewRow { id: writer.next_id(), record: Arc::new(record), foreign: None }];
        assert!(writer.run("test", Sync::Full, messages::transaction(&rows)).await.unwrap());
        writer.forget();
    }
    chats.sent.get_mut(&conversation).unwrap().push(left.client_msg_id.clone());
    chats.marks.insert((bob, None, conversation.clone()), 2);
    (chats, conversation, left)
}

async fn head(chats: &Chats, conversation: &ConversationId) -> u64 {
    let last = chats.sqlite.store().last(std::slice::from_ref(conversation)).await.unwrap().remove(0);
    last.unwrap().seq.0
}

#[tokio::test]
async fn what_a_failed_commit_left_is_seen_by_nobody_or_by_all() {
    let (mut chats, conversation, left) = left_behind().await;
    let seen = (head(&chats, &conversation).await, log_length(&chats.sqlite).await);
    assert_eq!(seen, (1, 1), "a log shows what the store has");
    // The sender tries again, and is told that it is there: then it is, for all.
    let outcome = chats.sqlite.log().append(Partition(0), Epoch(1), &[left]).await.unwrap();
    assert!(
        matches!(&outcome[0], AppendOutcome::Duplicate(found) if found.mark.seq == Seq(2)),
        "{outcome:?}"
    );
    assert_eq!((head(&chats, &conversation).await, log_length(&chats.sqlite).await), (2, 2));
    let alice = chats.conversations[0].1[0].clone();
    chats.append(vec![message(&conversation, &alice, None)]).await;
    chats.check(&chats.sqlite, &mut StdRng::seed_from_u64(0)).await;
}

#[tokio::test]
async fn what_follows_what_a_failed_commit_left_has_the_next_place() {
    let (mut chats, conversation, _) = left_behind().await;
    let alice = chats.conversations[0].1[0].clone();
    chats.append(vec![message(&conversation, &alice, None)]).await;
    assert_eq!((head(&chats, &conversation).await, log_length(&chats.sqlite).await), (3, 3));
    chats.check(&chats.sqlite, &mut StdRng::seed_from_u64(0)).await;
    let inner = chats.sqlite.inner();
    inner.timelines.settle(&Arc::downgrade(inner)).await.unwrap();
    chats.check(&chats.sqlite, &mut StdRng::seed_from_u64(0)).await;
}

/// An append that panics between its commit and letting everybody know is told as failed; a retry finds it.
#[tokio::test]
async fn what_was_committed_and_not_published_is_published_by_the_next_who_writes() {
    let (mut chats, conversation, left) = left_behind().await;
    let alice = chats.conversations[0].1[0].clone();
    // With this the conversation's head, and the log's end, are remembered.
    chats.append(vec![message(&conversation, &alice, None)]).await;
    {
        // As if nothing had failed: only that something was begun is known.
        let mut writer = chats.sqlite.inner().writer("test").await.unwrap();
        let id = writer.next_id();
        writer.will_append();
        let first = chats.sqlite.store().last(std::slice::from_ref(&conversation)).await.unwrap().remove(0);
        let seq = first.as_ref().unwrap().seq.0 + 1;
        let record = Record {
            seq: Seq(seq),
            ordinal: im_core::Ordinal(seq),
            client_msg_id: ClientMsgId::fresh(),
            ..(*first.unwrap()).clone()
        };
        let rows = [NewRow { id, record: Arc::new(record), foreign: None }];
        assert!(writer.run("test", Sync::Full, messages::transaction(&rows)).await.unwrap());
    }
    assert_eq!(head(&chats, &conversation).await, 3);
    let AppendOutcome::Appended(next) = chats
        .sqlite
        .log()
        .append(Partition(0), Epoch(1), &[message(&conversation, &alice, None)])
        .await
        .unwrap()
        .remove(0)
    else {
        panic!("a new message")
    };
    assert_eq!(next.mark.seq, Seq(5), "behind what was not published");
    assert_eq!((head(&chats, &conversation).await, log_length(&chats.sqlite).await), (5, 5));
    let outcome = chats.sqlite.log().append(Partition(0), Epoch(1), &[left]).await.unwrap();
    assert!(matches!(&outcome[0], AppendOutcome::Duplicate(_)), "{outcome:?}");
    // Those who follow the log closely get it, too.
    let after = Position { epoch: Epoch(1), offset: 3 };
    let LogRead::Records(records) =
        chats.sqlite.log().read(Partition(0), after, 100, Duration::ZERO).await.unwrap()
    else {
        panic!("trimmed")
    };
    assert_eq!(records.iter().map(|record| record.record.seq.0).collect::<Vec<_>>(), [4, 5]);
}

#[tokio::test]
async fn a_place_of_another_message_is_not_taken() {
    let mut chats = Chats::new().await;
    let (conversation, [alice, _]) = chats.conversations[0].clone();
    chats.append(vec![message(&conversation, &alice, None); 1]).await;
    let inner = chats.sqlite.inner();
    {
        let mut writer = inner.writer("test").await.unwrap();
        let sql = "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
                   VALUES (?, 1, '', '', 1, 77)";
        sqlx::query(sql).bind(conversation.as_str()).execute(writer.conn()).await.unwrap();
    }
    let refused = inner.timelines.settle(&Arc::downgrade(inner)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert_eq!(placed(inner.writer("test").await.unwrap().conn()).await.unwrap(), 0);
    // What memory has is still served.
    assert_eq!(inner.timelines.head(&conversation).map(|place| place.message), Some(1));
}

#[tokio::test]
async fn a_place_to_clear_at_is_found_in_memory() {
    let mut chats = Chats::new().await;
    let (conversation, [alice, _]) = chats.conversations[0].clone();
    chats.append((0..3).map(|_| message(&conversation, &alice, None)).collect()).await;
    let clear = |seq| SettingsChange { cleared: Some(Seq(seq)), ..SettingsChange::default() };
    let store = chats.sqlite.store();
    let beyond = store.set(&alice, &conversation, &clear(4)).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Behind);
    store.set(&alice, &conversation, &clear(2)).await.unwrap().unwrap();
    let wanted = [(conversation.clone(), alice.clone())];
    let membership = store.memberships(&wanted, &None).await.unwrap().remove(0).unwrap();
    assert_eq!(membership.settings.cleared, Mark { seq: Seq(2), ordinal: im_core::Ordinal(2) });
}

/// A file of the version before has everything in its timelines already.
#[tokio::test]
async fn a_filled_file_of_the_version_before_is_brought_up_to_date() {
    let mut chats = Chats::new().await;
    let (conversation, [alice, _]) = chats.conversations[0].clone();
    chats.append((0..3).map(|_| message(&conversation, &alice, None)).collect()).await;
    chats.sqlite.close().await.unwrap();
    let path = chats.folder.path().join("chat.db");
    execute(
        &path,
        "DROP VIEW conversations; DROP VIEW read_marks; ALTER TABLE meta DROP COLUMN placed;
         CREATE VIEW conversations AS SELECT 1; CREATE VIEW read_marks AS SELECT 1; PRAGMA user_version = 3",
    )
    .await;
    let opened = Sqlite::open(&path).await.unwrap();
    assert_eq!(placed(opened.inner().writer("test").await.unwrap().conn()).await.unwrap(), 3);
    assert!(opened.inner().timelines.is_empty());
    chats.check(&opened, &mut StdRng::seed_from_u64(0)).await;
}

async fn execute(path: &Path, sql: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let mut conn = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}
