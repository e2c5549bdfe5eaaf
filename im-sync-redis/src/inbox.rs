//! The inbox: a list for each user, of entries that name records by their positions; the records lie on shelves, once for all
//! recipients.
//!
//! An entry carries the server's time and a nonce. A cursor is these two, and is served if an entry has the very same: whatever was
//! lost and written again has another time or nonce, an inbox that is gone has none, and entries go from the front only. Times do not
//! fall along an inbox, so that an entry is found by halving. Each delivery to an inbox is one script, or a part of one that writes to
//! others, too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use fred::types::{Value, scripts::Script};
use futures::future::{join_all, try_join_all};
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, Entry, Epoch, InboxInfo, Incarnation, LogRecord, Partition,
    Position, Pull, Recipient, Record, Result, SyncInbox, UserId, codec,
};

use crate::{
    answer::{bytes, list, number, take, text, word},
    connect::Inner,
    error::{BACKEND, corrupt, invalid, other_incarnation},
    log::millis,
};

static DELIVER: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/deliver.lua")));
static ANCHOR: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/anchor.lua")));
static PULL: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/pull.lua")));
static SHELVE: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/shelve.lua")));
static CHECKPOINT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("lua/checkpoint.lua")));

const MAX_RECIPIENTS: usize = 10_000;
/// How many recipients are written to at once.
const AT_ONCE: usize = 500;
/// The most entries of one pull.
const MOST_ENTRIES: usize = 1000;
/// How many records share a shelf. A hash of few values costs less than as many keys.
const SHELF: u64 = 64;
/// How much longer than its entries a record is kept, for a worker that stands still between the two.
const LONGER: Duration = Duration::from_secs(600);

/// The inbox part.
#[derive(Debug, Clone)]
pub struct RedisInbox(pub(crate) Arc<Inner>);

/// How an entry begins, and what a cursor says: the time in ms, six bytes, and the nonce.
type Head = [u8; 10];

/// 10 bytes are so many characters.
const CURSOR: usize = 14;

fn cursor(head: &Head) -> Cursor {
    Cursor::new(BASE64_URL_SAFE_NO_PAD.encode(head))
}

fn head(cursor: &Cursor) -> Option<Head> {
    // What is longer is not ours, and need not be read.
    let text = Some(cursor.as_str()).filter(|text| text.len() == CURSOR)?;
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn stamped(time: u64, nonce: u32) -> Head {
    let mut head = [0; 10];
    head[..6].copy_from_slice(&time.to_be_bytes()[2..]);
    head[6..].copy_from_slice(&nonce.to_be_bytes());
    head
}

/// Where a record lies: partition, epoch, offset, in 2, 4 and 6 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    partition: Partition,
    position: Position,
}

impl Place {
    fn pack(self, packed: &mut BytesMut) {
        packed.put_u16(self.partition.0);
        packed.put_u32(self.position.epoch.0);
        packed.put_uint(self.position.offset, 6);
    }

    fn unpack(packed: [u8; 12]) -> Self {
        let [p0, p1, e0, e1, e2, e3, offset @ ..] = packed;
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(&offset);
        Self {
            partition: Partition(u16::from_be_bytes([p0, p1])),
            position: Position {
                epoch: Epoch(u32::from_be_bytes([e0, e1, e2, e3])),
                offset: u64::from_be_bytes(wide),
            },
        }
    }

    /// The shelf, and the place on it.
    fn shelf(self) -> ((Partition, u32, u64), u64) {
        let Position { epoch, offset } = self.position;
        ((self.partition, epoch.0, offset / SHELF), offset % SHELF)
    }
}

impl RedisInbox {
    fn check(&self, delivery: &Delivery) -> Result<()> {
        let operation = "inbox.deliver";
        if delivery.recipients.len() > MAX_RECIPIENTS {
            return Err(invalid(operation, format!("more than {MAX_RECIPIENTS} recipients")));
        }
        let mut indices = delivery.recipients.iter().flat_map(|recipient| &*recipient.records);
        if indices.any(|index| *index as usize >= delivery.records.len()) {
            return Err(invalid(operation, "a recipient of a record that is not there"));
        }
        if delivery.records.iter().any(|record| record.position.offset >> 48 > 0) {
            return Err(invalid(operation, "a position's offset has more than 48 bits"));
        }
        Ok(())
    }

    async fn fence(&self, operation: &'static str, given: &Incarnation) -> Result<()> {
        let present = self.0.incarnation(operation).await?;
        if present == *given { Ok(()) } else { Err(other_incarnation(operation, given, present.as_str())) }
    }

    /// Puts records on their shelves, where they are found as long as an entry of now refers to them.
    async fn shelve(&self, partition: Partition, records: &[LogRecord]) -> Result<()> {
        let keep = millis(self.0.expiry + LONGER);
        let mut shelves: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        for LogRecord { position, record } in records {
            let (shelf, at) = Place { partition, position: *position }.shelf();
            let args = shelves.entry(shelf).or_insert_with(|| vec![keep.into()]);
            args.extend([(at as i64).into(), Value::Bytes(codec::encode(record))]);
        }
        let puts = shelves.into_iter().map(|((partition, epoch, shelf), args)| {
            self.0.run("inbox.deliver", &SHELVE, self.0.keys.shelf(partition, epoch, shelf), args)
        });
        try_join_all(puts).await.map(drop)
    }

    /// Writes to the inboxes of some recipients, in one script.
    async fn write(&self, delivery: &Delivery, recipients: &[Recipient]) -> Result<Vec<Delivered>> {
        let operation = "inbox.deliver";
        let mut args = Vec::with_capacity(2 + recipients.len());
        args.extend([millis(self.0.expiry).into(), i64::from(self.0.inbox_entries).into()]);
        let first: u32 = rand::random();
        let nonces = |recipient: &Recipient| {
            // Those that are written together have one time: each has a nonce of its own.
            (0..recipient.records.len() as u32).map(move |at| first.wrapping_add(at))
        };
        for recipient in recipients {
            let mut entries = BytesMut::with_capacity(16 * recipient.records.len());
            for (index, nonce) in recipient.records.iter().zip(nonces(recipient)) {
                let position = delivery.records[*index as usize].position;
                entries.put_u32(nonce);
                Place { partition: delivery.partition, position }.pack(&mut entries);
            }
            args.push(Value::Bytes(entries.freeze()));
        }
        let inboxes: Vec<_> = recipients.iter().map(|recipient| self.0.keys.inbox(&recipient.user)).collect();
        let answer = list(operation, self.0.run(operation, &DELIVER, inboxes, args).await?)?;
        let (pairs, rest) = answer.as_chunks::<2>();
        if pairs.len() != recipients.len() || !rest.is_empty() {
            return Err(corrupt(operation, "an answer of another length"));
        }
        let one = |([previous, time], recipient): (&[Value; 2], &Recipient)| {
            let time = number(operation, time)?;
            let previous = take(&mut bytes(operation, previous)?);
            let cursors = nonces(recipient).map(|nonce| cursor(&stamped(time, nonce))).collect();
            Ok(Delivered { previous: previous.as_ref().map(cursor), cursors })
        };
        pairs.iter().zip(recipients).map(one).collect()
    }

    /// Writes to the inboxes of some recipients. Where one of them is no inbox, the others get theirs all the same.
    async fn write_to_each(&self, delivery: &Delivery, recipients: &[Recipient]) -> Vec<Result<Delivered>> {
        match self.write(delivery, recipients).await {
            Ok(delivered) => delivered.into_iter().map(Ok).collect(),
            Err(error) if recipients.len() > 1 && !error.is_transient() => {
                // Those before it have their entries already, and get them again.
                let each = recipients.iter().map(async |recipient| {
                    let mut one = self.write(delivery, std::slice::from_ref(recipient)).await?;
                    one.pop().ok_or_else(|| corrupt("inbox.deliver", "an empty answer"))
                });
                join_all(each).await
            }
            Err(error) => vec![Err(error); recipients.len()],
        }
    }

    async fn move_checkpoint(&self, delivery: &Delivery, checkpoint: &Checkpoint) -> Result<()> {
        let operation = "inbox.deliver";
        let json =
            |value: serde_json::Result<String>| value.map_err(|error| invalid(operation, error.to_string()));
        let args = vec![
            i64::from(checkpoint.position.epoch.0).into(),
            checkpoint.position.offset.to_string().into(),
            json(serde_json::to_string(&checkpoint.lineage))?.into(),
            json(serde_json::to_string(checkpoint))?.into(),
            delivery.inbox.as_str().into(),
        ];
        let key = self.0.keys.checkpoint(delivery.partition);
        let answer = list(operation, self.0.run(operation, &CHECKPOINT, key, args).await?)?;
        match word(operation, &answer)? {
            ("ok", _) => Ok(()),
            (_, why) => {
                let run = why.first().map(|run| text(operation, run)).transpose()?.unwrap_or_default();
                Err(other_incarnation(operation, &delivery.inbox, run))
            }
        }
    }

    /// The records at these places; none where one of them is gone.
    async fn records(&self, places: &[Place]) -> Result<Option<HashMap<Place, Arc<Record>>>> {
        let operation = "inbox.pull";
        let mut shelves: BTreeMap<_, Vec<Place>> = BTreeMap::new();
        for place in places {
            shelves.entry(place.shelf().0).or_default().push(*place);
        }
        let looks = shelves.into_iter().map(async |((partition, epoch, shelf), places)| {
            let fields = places.iter().map(|place| (place.shelf().1 as i64).into()).collect();
            let key = self.0.keys.shelf(partition, epoch, shelf);
            Ok((places, list(operation, self.0.command(operation, "HMGET", key, fields).await?)?))
        });
        let mut records = HashMap::with_capacity(places.len());
        for (places, values) in try_join_all(looks).await? {
            for (place, value) in places.into_iter().zip(&values) {
                if matches!(value, Value::Null) {
                    return Ok(None);
                }
                let record = codec::decode(&bytes(operation, value)?)
                    .map_err(|error| corrupt(operation, format!("the record at {place:?}: {error}")))?;
                records.insert(place, Arc::new(record));
            }
        }
        Ok(Some(records))
    }
}

/// An entry's cursor, and what it refers to; an anchor refers to nothing.
fn entry(operation: &'static str, value: &Value) -> Result<(Cursor, Option<Place>)> {
    let mut packed = bytes(operation, value)?;
    let head = take(&mut packed).ok_or_else(|| corrupt(operation, "an entry is cut off"))?;
    Ok((cursor(&head), take::<12>(&mut packed).map(Place::unpack)))
}

#[async_trait]
impl SyncInbox for RedisInbox {
    async fn info(&self) -> Result<InboxInfo> {
        Ok(InboxInfo {
            backend: BACKEND,
            durability: self.0.report.durability,
            incarnation: self.0.incarnation("inbox.info").await?,
            loss_window: self.0.report.loss_window,
            expiry: self.0.expiry,
            max_recipients: MAX_RECIPIENTS,
            only_log: None,
        })
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        let operation = "inbox.checkpoint";
        let key = self.0.keys.checkpoint(partition);
        match self.0.command(operation, "HGET", key, vec!["checkpoint".into()]).await? {
            Value::Null => Ok(None),
            kept => serde_json::from_str(text(operation, &kept)?)
                .map(Some)
                .map_err(|error| corrupt(operation, error.to_string())),
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let operation = "inbox.deliver";
        self.check(delivery)?;
        self.fence(operation, &delivery.inbox).await?;
        self.shelve(delivery.partition, &delivery.records).await?;
        let mut delivered = Vec::with_capacity(delivery.recipients.len());
        for recipients in delivery.recipients.chunks(AT_ONCE) {
            let scripts = recipients.chunks(self.0.together()).map(|some| self.write_to_each(delivery, some));
            delivered.extend(join_all(scripts).await.into_iter().flatten());
        }
        if let Some(checkpoint) = &delivery.checkpoint
            && delivered.iter().all(Result::is_ok)
        {
            // A master that was replaced meanwhile may lack what was written to the one before.
            self.fence(operation, &delivery.inbox).await?;
            self.move_checkpoint(delivery, checkpoint).await?;
        }
        Ok(delivered)
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let operation = "inbox.pull";
        let Some(head) = head(after) else { return Ok(Pull::Resync) };
        let args =
            vec![Value::Bytes(Bytes::copy_from_slice(&head)), (max.clamp(1, MOST_ENTRIES) as i64).into()];
        let answer = self.0.run(operation, &PULL, self.0.keys.inbox(user), args).await?;
        let Value::Array(answer) = answer else { return Ok(Pull::Resync) };
        let (more, entries) =
            answer.split_first().ok_or_else(|| corrupt(operation, "an answer without a beginning"))?;
        let entries = entries.iter().map(|value| entry(operation, value)).collect::<Result<Vec<_>>>()?;
        let places: Vec<_> = entries.iter().filter_map(|(_, place)| *place).collect();
        // A record that is gone was older than the expiry, or was lost with its server.
        let Some(records) = self.records(&places).await? else { return Ok(Pull::Resync) };
        let filled = |(cursor, place): (Cursor, Option<Place>)| {
            Some(Entry { cursor, record: records.get(&place?)?.clone() })
        };
        let entries = entries.into_iter().filter_map(filled).collect();
        Ok(Pull::Page { entries, more: number(operation, more)? > 0 })
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let operation = "inbox.ends";
        let ends = users.iter().map(async |user| {
            let last =
                self.0.command(operation, "LINDEX", self.0.keys.inbox(user), vec![(-1).into()]).await?;
            match last {
                Value::Null => Ok(None),
                last => Ok(Some(entry(operation, &last)?.0)),
            }
        });
        try_join_all(ends).await
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let operation = "inbox.anchor";
        let nonce: [u8; 4] = rand::random();
        let args = vec![millis(self.0.expiry).into(), Value::Bytes(Bytes::copy_from_slice(&nonce))];
        let answer = self.0.run(operation, &ANCHOR, self.0.keys.inbox(user), args).await?;
        Ok(entry(operation, &answer)?.0)
    }

    /// Nothing to do: each delivery removes what is too old in its inbox, and an inbox that gets none goes as a whole.
    async fn expire(&self, _max: usize) -> Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_its_entrys_head() {
        let head_of = stamped((1 << 48) - 1, 0x0102_0304);
        let text = cursor(&head_of);
        assert_eq!((head(&text), text.as_str().len()), (Some(head_of), CURSOR));
        for bad in ["", "AAAA", "AAAAAAAAAAAAAAA", "!!!!!!!!!!!!!!", "AAAAAAAAAAAAA="] {
            assert_eq!(head(&Cursor::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_place_is_packed_in_twelve_bytes() {
        let place = Place {
            partition: Partition(1023),
            position: Position { epoch: Epoch(u32::MAX), offset: (1 << 48) - 1 },
        };
        let mut packed = BytesMut::new();
        place.pack(&mut packed);
        assert_eq!(Place::unpack((*packed).try_into().unwrap()), place);
    }
}
