//! The log: a stream for each partition, whose ids are positions, beside hashes of what it is and where conversations end.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use fred::{
    clients::Client,
    interfaces::HashesInterface,
    types::{Key, Value, scripts::Script},
};
use futures::future::try_join_all;
use im_core::{
    Append, AppendOutcome, ContentHash, EPOCH_GAP, Epoch, Error, ErrorKind, Floor, Found, Incarnation,
    LogInfo, LogRead, LogRecord, Mark, MessageLog, Ordinal, Partition, Position, Receipt, Result, SendKey,
    Seq, Timestamp, codec,
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    answer::{bytes, list, number, position, take, text, word},
    connect::Inner,
    error::{BACKEND, corrupt, failed, invalid, other_incarnation},
    keys::Keys,
};

static APPEND: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/append.lua")));
static OPEN_EPOCH: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/open_epoch.lua")));
static READ: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/read.lua")));
static HOLD: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/hold.lua")));
static TRIM: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/trim.lua")));

/// The most records of one read.
const MOST_RECORDS: usize = 10_000;
/// How many records one step of a trim looks at: the server does nothing else meanwhile.
const MOST_TRIMMED: i64 = 100;
/// How long a reader that waits trusts in being told: a word to another node may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The log part: [`MessageLog`] and [`Leases`](im_core::Leases).
#[derive(Debug, Clone)]
pub struct RedisLog(pub(crate) Arc<Inner>);

/// How many partitions the log has that is there; none where there is none yet.
///
/// # Errors
/// When the server cannot be asked.
pub(crate) async fn partitions(client: &Client, keys: &Keys) -> Result<Option<u16>> {
    let operation = "open";
    let key = keys.log(Partition(0));
    let there: Value = client.hget(key, "partitions").await.map_err(failed(operation))?;
    if matches!(there, Value::Null) {
        return Ok(None);
    }
    let there = u16::try_from(number(operation, &there)?).ok().filter(|partitions| *partitions > 0);
    there.map(Some).ok_or_else(|| corrupt(operation, "the number of partitions is out of range"))
}

fn no_partition(partition: Partition, operation: &'static str) -> Error {
    invalid(operation, format!("no partition {}", partition.0))
}

fn stale(operation: &'static str, given: Epoch, open: &str) -> Error {
    let message = format!("epoch {} given, {open} is open", given.0);
    Error::new(ErrorKind::StaleEpoch, BACKEND, operation, message)
}

impl RedisLog {
    fn check(&self, partition: Partition, operation: &'static str) -> Result<()> {
        if partition.0 < self.0.partitions { Ok(()) } else { Err(no_partition(partition, operation)) }
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.0.partitions).map(Partition)
    }

    /// What the log's hash of a partition says of some fields.
    async fn fields<const N: usize>(
        &self,
        operation: &'static str,
        partition: Partition,
        names: [&'static str; N],
    ) -> Result<[Value; N]> {
        let key = self.0.keys.log(partition);
        let values = self.0.command(operation, "HMGET", key, names.map(Value::from).to_vec()).await?;
        list(operation, values)?
            .try_into()
            .map_err(|_| corrupt(operation, "a hash answers with too few values"))
    }

    /// The identity of the data now: that of the servers, and what each partition was called when it began. Servers that were emptied
    /// are the same, and their data are not.
    async fn incarnation(&self, operation: &'static str) -> Result<Incarnation> {
        let names = self.partitions().map(async |partition| {
            let [name] = self.fields(operation, partition, ["id"]).await?;
            if !matches!(name, Value::Null) {
                return bytes(operation, &name);
            }
            let new = Value::from(format!("{:016x}", rand::random::<u64>()));
            self.0.command(operation, "HSETNX", self.0.keys.log(partition), vec!["id".into(), new]).await?;
            // Another node may have been first.
            let [name] = self.fields(operation, partition, ["id"]).await?;
            bytes(operation, &name)
        });
        let (servers, names) = futures::try_join!(self.0.incarnation(operation), try_join_all(names))?;
        let mut hash = Sha256::new();
        names.iter().for_each(|name| hash.update(name));
        let hash: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Incarnation::new(format!("{}/{hash}", servers.as_str())))
    }

    /// What an open epoch or append says of it, other than that it is done.
    fn refusal(operation: &'static str, epoch: Epoch, answer: &[Value]) -> Result<Error> {
        let (word, rest) = word(operation, answer)?;
        let why = || rest.first().map(|value| text(operation, value)).transpose();
        Ok(match word {
            "none" => Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, "no epoch is open"),
            "stale" => stale(operation, epoch, why()?.unwrap_or_default()),
            "partitions" => {
                let there = why()?.unwrap_or_default();
                invalid(
                    operation,
                    format!(
                        "the log has {there} partitions, which this node did not find when it was opened"
                    ),
                )
            }
            "other" => {
                let message = format!("the epoch is of another server than {}", why()?.unwrap_or_default());
                Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, message)
            }
            other => corrupt(operation, format!("an answer begins with {other:?}")),
        })
    }

    async fn page(&self, partition: Partition, after: Position, max: usize) -> Result<LogRead> {
        let operation = "log.read";
        let keys = vec![self.0.keys.log(partition), self.0.keys.records(partition)];
        let max = max.clamp(1, MOST_RECORDS) as i64;
        let args = vec![i64::from(after.epoch.0).into(), after.offset.to_string().into(), max.into()];
        let answer = list(operation, self.0.run(operation, &READ, keys, args).await?)?;
        match word(operation, &answer)? {
            ("trimmed", [epoch, offset]) => {
                let (epoch, offset) = (number(operation, epoch)?, number(operation, offset)?);
                let epoch =
                    u32::try_from(epoch).map_err(|_| corrupt(operation, "an epoch is out of range"))?;
                Ok(LogRead::Trimmed(Position { epoch: Epoch(epoch), offset }))
            }
            ("ok", records) => {
                let records = records.chunks(2).map(|record| match record {
                    [id, value] => stored(operation, position(operation, id)?, bytes(operation, value)?),
                    _ => Err(corrupt(operation, "an id without a record")),
                });
                Ok(LogRead::Records(records.collect::<Result<_>>()?))
            }
            (other, _) => Err(corrupt(operation, format!("an answer begins with {other:?}"))),
        }
    }
}

/// A record as the script stored it: behind its place, sequence id, ordinal, time, and the hole plus one.
fn stored(operation: &'static str, position: Position, mut value: Bytes) -> Result<LogRecord> {
    let [seq, ordinal, created_at, hole] = [(); 4].map(|()| take::<8>(&mut value).map(u64::from_be_bytes));
    let (Some(seq), Some(ordinal), Some(created_at), Some(hole)) = (seq, ordinal, created_at, hole) else {
        return Err(corrupt(operation, format!("the record at {position:?} is cut off")));
    };
    let mut record = codec::decode(&value)
        .map_err(|error| corrupt(operation, format!("the record at {position:?}: {error}")))?;
    (record.seq, record.ordinal) = (Seq(seq), Ordinal(ordinal));
    record.created_at = Timestamp(created_at.cast_signed());
    record.hole_after = hole.checked_sub(1).map(Seq);
    Ok(LogRecord { position, record: Arc::new(record) })
}

/// What a script packs of a place: sequence id, ordinal, time, epoch, offset.
fn receipt(operation: &'static str, packed: &mut Bytes) -> Result<Receipt> {
    let mut long = || take::<8>(packed).map(u64::from_be_bytes);
    let (seq, ordinal, created_at) = (long(), long(), long());
    let epoch = take::<4>(packed).map(u32::from_be_bytes);
    let offset = take::<8>(packed).map(u64::from_be_bytes);
    let receipt = || {
        Some(Receipt {
            mark: Mark { seq: Seq(seq?), ordinal: Ordinal(ordinal?) },
            created_at: Timestamp(created_at?.cast_signed()),
            position: Position { epoch: Epoch(epoch?), offset: offset? },
        })
    };
    receipt().ok_or_else(|| corrupt(operation, "a place is cut off"))
}

fn outcome(operation: &'static str, value: &Value) -> Result<AppendOutcome> {
    let mut packed = bytes(operation, value)?;
    match take::<1>(&mut packed).as_ref() {
        Some(b"A") => Ok(AppendOutcome::Appended(receipt(operation, &mut packed)?)),
        Some(b"D") => Ok(AppendOutcome::Duplicate(receipt(operation, &mut packed)?)),
        Some(b"C") => Ok(AppendOutcome::Conflict),
        Some(b"U") => Ok(AppendOutcome::Unseeded),
        _ => Err(corrupt(operation, "an outcome that is none")),
    }
}

fn floor(floor: Option<Floor>) -> Bytes {
    let Some(Floor { mark, created_at, direct }) = floor else { return Bytes::new() };
    let mut packed = BytesMut::with_capacity(25);
    packed.put_u64(mark.seq.0);
    packed.put_u64(mark.ordinal.0);
    packed.put_u64(u64::try_from(created_at.0).unwrap_or_default());
    packed.put_u8(direct.into());
    packed.freeze()
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[async_trait]
impl MessageLog for RedisLog {
    async fn info(&self) -> Result<LogInfo> {
        let operation = "log.info";
        let fields = self
            .partitions()
            .map(|partition| self.fields(operation, partition, ["epoch", "incarnation", "began"]));
        let (incarnation, all) = futures::try_join!(self.incarnation(operation), try_join_all(fields))?;
        let mut open: Option<(Epoch, Incarnation)> = None;
        let (mut began, mut is_one) = (0, true);
        for (at, [epoch, owner, since]) in all.iter().enumerate() {
            if matches!(epoch, Value::Null) {
                is_one = is_one && open.is_none();
                continue;
            }
            let epoch = u32::try_from(number(operation, epoch)?)
                .map_err(|_| corrupt(operation, "an epoch is out of range"))?;
            let its = (Epoch(epoch), Incarnation::new(text(operation, owner)?));
            is_one = is_one && (at == 0 || open.as_ref() == Some(&its));
            began = began.max(number(operation, since)?);
            open = open.max(Some(its));
        }
        // Who opened the epoch died half-way: it is nobody's, and the next one is opened.
        let nobodys = |(epoch, _): (Epoch, Incarnation)| (epoch, Incarnation::new("redis/half open"));
        Ok(LogInfo {
            backend: BACKEND,
            durability: self.0.report.durability,
            incarnation,
            loss_window: self.0.report.loss_window,
            partitions: self.0.partitions,
            epoch: if is_one { open } else { open.map(nobodys) },
            epoch_began: Timestamp(began.cast_signed()),
            dedupe_window: Some(self.0.dedupe_window),
        })
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        let operation = "log.ends";
        let end = async |partition| {
            let [epoch, offset] = self.fields(operation, partition, ["last", "offset"]).await?;
            if matches!(epoch, Value::Null) {
                return Ok(Position::START);
            }
            let epoch = u32::try_from(number(operation, &epoch)?)
                .map_err(|_| corrupt(operation, "an epoch is out of range"))?;
            Ok(Position { epoch: Epoch(epoch), offset: number(operation, &offset)? })
        };
        try_join_all(self.partitions().map(end)).await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        let operation = "log.open_epoch";
        let present = self.incarnation(operation).await?;
        if present != *incarnation {
            return Err(other_incarnation(operation, incarnation, present.as_str()));
        }
        for partition in self.partitions() {
            let args = vec![
                i64::from(epoch.0).into(),
                incarnation.as_str().into(),
                i64::from(self.0.partitions).into(),
            ];
            let key = self.0.keys.log(partition);
            let answer = list(operation, self.0.run(operation, &OPEN_EPOCH, key, args).await?)?;
            if word(operation, &answer)?.0 != "ok" {
                return Err(Self::refusal(operation, epoch, &answer)?);
            }
        }
        Ok(())
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        let operation = "log.append";
        self.check(partition, operation)?;
        let keys = &self.0.keys;
        let mut names: Vec<Key> =
            vec![keys.log(partition).into(), keys.records(partition).into(), keys.heads(partition).into()];
        let mut args: Vec<Value> = Vec::with_capacity(3 + 5 * batch.len());
        args.extend([
            i64::from(epoch.0).into(),
            millis(self.0.dedupe_window).into(),
            (EPOCH_GAP as i64).into(),
        ]);
        for append in batch {
            if Partition::of(&append.conversation, self.0.partitions) != partition {
                let message = format!("{} does not belong to partition {}", append.conversation, partition.0);
                return Err(invalid(operation, message));
            }
            names.push(keys.send(partition, &append.key()).as_slice().into());
            let record = append.at(Mark::default(), Timestamp::default(), None);
            args.extend([
                append.conversation.as_str().into(),
                Value::Bytes(floor(append.floor)),
                i64::from(append.kind.counts()).into(),
                Value::Bytes(Bytes::copy_from_slice(&append.hash.0.to_be_bytes())),
                Value::Bytes(codec::encode(&record)),
            ]);
        }
        let answer = list(operation, self.0.run(operation, &APPEND, names, args).await?)?;
        let outcomes = match word(operation, &answer)? {
            ("ok", outcomes) if outcomes.len() == batch.len() => outcomes,
            ("ok", outcomes) => {
                let message = format!("{} outcomes for {} appends", outcomes.len(), batch.len());
                return Err(corrupt(operation, message).with_outcome(im_core::Outcome::Unknown));
            }
            _ => return Err(Self::refusal(operation, epoch, &answer)?),
        };
        let outcomes = outcomes.iter().map(|value| outcome(operation, value)).collect::<Result<Vec<_>>>()?;
        self.0.appended(partition);
        Ok(outcomes)
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let operation = "log.find";
        let found = keys.iter().map(async |key| {
            let partition = Partition::of(&key.conversation, self.0.partitions);
            let name = self.0.keys.send(partition, key);
            let value = self.0.command(operation, "GET", name, vec![]).await?;
            if matches!(value, Value::Null) {
                return Ok(None);
            }
            let mut packed = bytes(operation, &value)?;
            let receipt = receipt(operation, &mut packed)?;
            let hash = take::<8>(&mut packed).map(u64::from_be_bytes).map(ContentHash);
            Ok(Some(Found {
                receipt,
                hash: hash.ok_or_else(|| corrupt(operation, "a send without its hash"))?,
            }))
        });
        try_join_all(found).await
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        let readers = self.0.wake.of(partition).ok_or_else(|| no_partition(partition, "log.read"))?;
        let deadline = Instant::now() + wait;
        loop {
            let mut woken = std::pin::pin!(readers.notified());
            // Whoever appends from here on is heard.
            woken.as_mut().enable();
            let read = self.page(partition, after, max).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !matches!(&read, LogRead::Records(records) if records.is_empty()) {
                return Ok(read);
            }
            // Woken or not, it looks.
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), woken).await;
        }
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        let operation = "log.hold";
        for (partition, _) in positions {
            self.check(*partition, operation)?;
        }
        let holds = positions.iter().map(|(partition, position)| {
            let args = vec![
                projection.into(),
                i64::from(position.epoch.0).into(),
                position.offset.to_string().into(),
            ];
            self.0.run(operation, &HOLD, self.0.keys.holds(*partition), args)
        });
        try_join_all(holds).await.map(drop)
    }

    async fn trim(&self) -> Result<()> {
        let operation = "log.trim";
        for partition in self.partitions() {
            let keys = &self.0.keys;
            let names = vec![keys.log(partition), keys.records(partition), keys.holds(partition)];
            let args = vec![millis(self.0.dedupe_window).into(), MOST_TRIMMED.into()];
            while number(operation, &self.0.run(operation, &TRIM, names.clone(), args.clone()).await?)? > 0 {}
        }
        Ok(())
    }
}
