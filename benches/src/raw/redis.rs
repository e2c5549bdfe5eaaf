//! The raw limit of Redis: an XADD for each message, a script of RPUSH and PEXPIRE for each recipient, all of a batch in one pipeline,
//! as many batches at once as the log has partitions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    interfaces::{ClientLike, HashesInterface},
    types::{ClusterHash, CustomCommand, Value, scripts::Script},
};
use futures::future::try_join_all;
use im_engine::{
    ClientMsgId, ContentHash, ContentType, Mark, MessageLog, Ordinal, Partition, Record, RecordKind, Seq,
    Timestamp, UserId, codec,
};

use super::{Raw, Rows, Singles};
use crate::{Outcome, backend::content, keyspace::Keyspace, watch::Write};

/// What an inbox takes, and nothing else.
const PUSH: &str = "redis.call('RPUSH', KEYS[1], unpack(ARGV)) redis.call('PEXPIRE', KEYS[1], 604800000)";
/// What a session takes that connects: it is written, and its user's key lives on.
const ENTER: &str = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('PEXPIRE', KEYS[1], 3600000)";
/// What a session takes that is kept alive.
const TOUCH: &str = "redis.call('PEXPIRE', KEYS[1], 3600000)";
/// About as long as what the engine keeps of a session.
const SESSION: [u8; 90] = [b's'; 90];
/// How long an entry of the engine is.
const ENTRY: [u8; 22] = [b'e'; 22];

/// The streams and lists that are filled.
#[derive(Debug)]
pub(super) struct Streams {
    client: Client,
    rows: Rows,
    push: Script,
    partitions: u16,
    written: u64,
    keyspace: Keyspace,
}

/// The commands of a batch, which go together.
type Batch = Vec<Command>;

#[derive(Debug)]
enum Command {
    Add { stream: String, record: Value },
    Keep { hash: String, field: u64, record: Value },
    Push { list: String, entries: usize },
}

impl Streams {
    pub(super) async fn open(keyspace: Keyspace, rows: Rows) -> Outcome<Self> {
        let redis = keyspace.open().await?;
        let partitions = redis.log().info().await?.partitions;
        redis.close().await;
        let (client, push) = (keyspace.connect().await?, Script::from_lua(PUSH));
        push.load(&client).await?;
        Ok(Self { client, rows, push, partitions, written: 0, keyspace })
    }

    fn list_of(&self, user: &UserId) -> String {
        self.keyspace.key(format_args!("raw-inbox:{user}"))
    }

    fn message(&mut self, partition: Partition, single: &(im_engine::ConversationId, [UserId; 2])) -> Batch {
        let (conversation, [low, high]) = single;
        let text = content();
        self.written += 1;
        let record = Record {
            conversation: conversation.clone(),
            seq: Seq(self.written),
            ordinal: Ordinal(Mark::default().ordinal.0 + self.written),
            created_at: Timestamp(1_795_400_000_000),
            sender: low.clone(),
            device: None,
            send_to: Some(high.clone()),
            client_msg_id: ClientMsgId::fresh(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            hash: ContentHash::of(RecordKind::Message, ContentType::Text, &text),
            content: text,
        };
        let record = Value::Bytes(codec::encode(&record));
        let stream = self.keyspace.key(format_args!("raw-records:{{{}}}", partition.0));
        let mut commands = vec![Command::Add { stream, record: record.clone() }];
        if self.rows == Rows::MessagesAndInbox {
            let hash = self.keyspace.key(format_args!("raw-shelf:{}", self.written / 64));
            commands.push(Command::Keep { hash, field: self.written % 64, record });
            commands.extend([low, high].map(|user| Command::Push { list: self.list_of(user), entries: 1 }));
        }
        commands
    }

    async fn send(&self, command: Command) -> Outcome {
        let plain = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        match command {
            Command::Add { stream, record } => {
                let args = vec![stream.into(), "*".into(), "r".into(), record];
                self.client.custom::<Value, Value>(plain("XADD"), args).await?;
            }
            Command::Keep { hash, field, record } => {
                let args = vec![hash.into(), field.to_string().into(), record];
                self.client.custom::<Value, Value>(plain("HSET"), args).await?;
            }
            Command::Push { list, entries } => {
                let entries: Vec<Value> = vec![ENTRY.as_slice().into(); entries];
                self.push.evalsha::<Value, _, _, _>(&self.client, list, entries).await?;
            }
        }
        Ok(())
    }

    /// The batches of a partition one after the other, all partitions at once; how long that took.
    async fn run(&self, batches: BTreeMap<Partition, Vec<Batch>>) -> Outcome<Duration> {
        let begun = Instant::now();
        let lanes = batches.into_values().map(async |batches| {
            for batch in batches {
                try_join_all(batch.into_iter().map(|command| self.send(command))).await?;
            }
            Outcome::Ok(())
        });
        try_join_all(lanes).await?;
        Ok(begun.elapsed())
    }
}

#[async_trait]
impl Raw for Streams {
    async fn messages(&mut self, batches: &[(Partition, usize)], singles: &Singles) -> Outcome<Duration> {
        let mut own: BTreeMap<Partition, Vec<_>> = BTreeMap::new();
        for single in singles {
            own.entry(Partition::of(&single.0, self.partitions)).or_default().push(single);
        }
        let mut made: BTreeMap<Partition, Vec<Batch>> = BTreeMap::new();
        for (partition, size) in batches {
            let singles = own.get(partition).ok_or("a batch without conversations")?;
            let batch =
                (0..*size).flat_map(|at| self.message(*partition, singles[at % singles.len()])).collect();
            made.entry(*partition).or_default().push(batch);
        }
        self.run(made).await
    }

    async fn inbox(&mut self, writes: &[Write]) -> Outcome<(u64, Duration)> {
        let mut made: BTreeMap<Partition, Vec<Batch>> = BTreeMap::new();
        let mut rows = 0;
        for write in writes {
            let push = |recipient: &im_engine::Recipient| Command::Push {
                list: self.list_of(&recipient.user),
                entries: recipient.records.len(),
            };
            rows += write.recipients.iter().map(|recipient| recipient.records.len() as u64).sum::<u64>();
            made.entry(write.partition).or_default().push(write.recipients.iter().map(push).collect());
        }
        Ok((rows, self.run(made).await?))
    }
}

/// A hash of sessions for each user, asked by one script or read for each, all of a request in one pipeline.
#[derive(Debug)]
pub(crate) struct Hashes {
    client: Client,
    enter: Script,
    touch: Script,
    keyspace: Keyspace,
}

impl Hashes {
    pub(super) async fn open(keyspace: Keyspace) -> Outcome<Self> {
        let client = keyspace.connect().await?;
        let (enter, touch) = (Script::from_lua(ENTER), Script::from_lua(TOUCH));
        enter.load(&client).await?;
        touch.load(&client).await?;
        Ok(Self { client, enter, touch, keyspace })
    }

    /// What presence does for these users, and nothing else.
    pub(crate) async fn ask(&self, case: &str, users: &[UserId]) -> Outcome {
        try_join_all(users.iter().map(async |user| {
            let key = self.keyspace.key(format_args!("raw-sessions:{user}"));
            let answer = match case {
                "connect" => {
                    let args: Vec<Value> = vec!["session".into(), SESSION.as_slice().into()];
                    self.enter.evalsha::<Value, _, _, _>(&self.client, key, args).await
                }
                "look-up" => self.client.hgetall::<Value, _>(key).await,
                _ => self.touch.evalsha::<Value, _, _, _>(&self.client, key, ()).await,
            };
            answer.map(drop)
        }))
        .await?;
        Ok(())
    }
}
