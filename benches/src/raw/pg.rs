//! The raw limit of Postgres: one `INSERT … SELECT FROM unnest` for each batch, prepared once, one connection for each partition.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use im_engine::{ClientMsgId, ContentHash, ContentType, ConversationId, Partition, RecordKind, UserId};
use sqlx::{PgConnection, postgres::PgArguments, query::Query};
use tokio::task::JoinSet;

use super::{Raw, Rows, Singles};
use crate::{Outcome, backend::content, schema::Schema, watch::Write};

/// As the inbox's own tables, of one span.
const INBOX: &str = "CREATE TABLE raw_inbox (LIKE inbox INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE); \
    CREATE TABLE raw_records (LIKE inbox_records INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE)";

macro_rules! messages {
    () => {
        "SELECT * FROM unnest($1::smallint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], \
         $8::text[], $9::text[], $10::bigint[], $11::int[], $12::text[], $13::text[], $14::bigint[], $15::bool[], $16::int[], \
         $17::bigint[], $18::bigint[]) AS new (part, conversation_id, sequence_id, ordinal, created_at, send_from, device, \
         send_to, client_msg_id, hole_after, kind, content_type, content, content_hash, own, log_partition, log_epoch, log_offset)"
    };
}

const MESSAGES: &str = concat!("INSERT INTO messages ", messages!());

const MESSAGES_AND_INBOX: &str = concat!(
    "WITH new AS MATERIALIZED (",
    messages!(),
    "), inserted AS (INSERT INTO messages SELECT * FROM new), \
     records AS (INSERT INTO raw_records SELECT created_at, log_offset * 64 + part, convert_to(content, 'UTF8') FROM new) \
     INSERT INTO raw_inbox SELECT created_at, user_id, log_offset * 64 + part, 1, 1, log_offset * 64 + part \
     FROM new, LATERAL (VALUES (send_from), (send_to)) AS users (user_id) ORDER BY user_id COLLATE \"C\", log_offset"
);

const ENTRIES: &str = "INSERT INTO raw_inbox SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], \
    $6::bigint[])";

/// A schema with the engine's tables, and the connections that fill them.
#[derive(Debug)]
pub(super) struct Tables {
    rows: Rows,
    lanes: BTreeMap<Partition, Lane>,
    partitions: u16,
    content: Arc<str>,
    /// Goes after the connections.
    _schema: Schema,
}

/// One writer.
#[derive(Debug)]
struct Lane {
    conn: PgConnection,
    /// How many rows it has written.
    written: u64,
}

impl Tables {
    pub(super) async fn open(schema: Schema, rows: Rows) -> Outcome<Self> {
        let pg = schema.open().await?;
        let partitions = im_engine::MessageLog::info(&pg.log()).await?.partitions;
        pg.close().await;
        sqlx::raw_sql(INBOX).execute(&mut schema.connect().await?).await?;
        let mut lanes = BTreeMap::new();
        for partition in Partition::all(partitions) {
            lanes.insert(partition, Lane { conn: schema.connect().await?, written: 0 });
        }
        Ok(Self { rows, lanes, partitions, content: content(), _schema: schema })
    }

    /// Runs all writers side by side; how long that took.
    async fn run<B: Insert>(
        &mut self,
        sql: &'static str,
        batches: BTreeMap<Partition, Vec<B>>,
    ) -> Outcome<Duration> {
        let mut writers = JoinSet::new();
        let begun = Instant::now();
        for (partition, batches) in batches {
            let mut lane = self.lanes.remove(&partition).ok_or("no such partition")?;
            writers.spawn(async move {
                for batch in batches {
                    batch.bind(sqlx::query(sql)).execute(&mut lane.conn).await?;
                }
                Ok::<_, sqlx::Error>((partition, lane))
            });
        }
        let lanes = writers.join_all().await;
        let took = begun.elapsed();
        for lane in lanes {
            let (partition, lane) = lane?;
            self.lanes.insert(partition, lane);
        }
        Ok(took)
    }
}

#[async_trait]
impl Raw for Tables {
    async fn messages(&mut self, batches: &[(Partition, usize)], singles: &Singles) -> Outcome<Duration> {
        let mut own: BTreeMap<Partition, Vec<_>> = BTreeMap::new();
        for single in singles {
            own.entry(Partition::of(&single.0, self.partitions)).or_default().push(single);
        }
        let mut made: BTreeMap<Partition, Vec<Messages>> = BTreeMap::new();
        for (partition, size) in batches {
            let singles = own.get(partition).ok_or("a batch without conversations")?;
            let lane = self.lanes.get_mut(partition).ok_or("no such partition")?;
            let rows =
                (lane.written..lane.written + *size as u64).map(|row| Message::new(*partition, row, singles));
            made.entry(*partition)
                .or_default()
                .push(Messages { rows: rows.collect(), content: self.content.clone() });
            lane.written += *size as u64;
        }
        let sql = if self.rows == Rows::Messages { MESSAGES } else { MESSAGES_AND_INBOX };
        self.run(sql, made).await
    }

    async fn inbox(&mut self, writes: &[Write]) -> Outcome<(u64, Duration)> {
        let mut made: BTreeMap<Partition, Vec<Entries>> = BTreeMap::new();
        let mut rows = 0;
        for write in writes {
            let lane = self.lanes.get_mut(&write.partition).ok_or("no such partition")?;
            let entries = Entries::new(write, lane.written);
            lane.written += write.messages.len() as u64;
            rows += entries.users.len() as u64;
            made.entry(write.partition).or_default().push(entries);
        }
        Ok((rows, self.run(ENTRIES, made).await?))
    }
}

/// A batch that one statement inserts.
trait Insert: Send + 'static {
    fn bind<'q>(
        &'q self,
        query: Query<'q, sqlx::Postgres, PgArguments>,
    ) -> Query<'q, sqlx::Postgres, PgArguments>;
}

struct Message {
    conversation: ConversationId,
    users: [UserId; 2],
    client_msg_id: ClientMsgId,
    partition: Partition,
    seq: i64,
    offset: i64,
}

impl Message {
    fn new(partition: Partition, row: u64, singles: &[&(ConversationId, [UserId; 2])]) -> Self {
        let count = singles.len() as u64;
        let (conversation, [low, high]) = singles[(row % count) as usize];
        let round = row / count;
        let users =
            if round.is_multiple_of(2) { [low.clone(), high.clone()] } else { [high.clone(), low.clone()] };
        Self {
            conversation: conversation.clone(),
            users,
            client_msg_id: ClientMsgId::fresh(),
            partition,
            seq: round.cast_signed() + 1,
            offset: row.cast_signed() + 1,
        }
    }
}

struct Messages {
    rows: Vec<Message>,
    content: Arc<str>,
}

impl Insert for Messages {
    fn bind<'q>(
        &'q self,
        query: Query<'q, sqlx::Postgres, PgArguments>,
    ) -> Query<'q, sqlx::Postgres, PgArguments> {
        let each = || self.rows.iter();
        let count = self.rows.len();
        let hash = ContentHash::of(RecordKind::Message, ContentType::Text, &self.content).0.cast_signed();
        query
            .bind(each().map(|row| row.partition.0.cast_signed()).collect::<Vec<_>>())
            .bind(each().map(|row| row.conversation.as_str()).collect::<Vec<_>>())
            .bind(each().map(|row| row.seq).collect::<Vec<_>>())
            .bind(each().map(|row| row.seq).collect::<Vec<_>>())
            .bind(vec![1_795_400_000_000_i64; count])
            .bind(each().map(|row| row.users[0].as_str()).collect::<Vec<_>>())
            .bind(vec![None::<&str>; count])
            .bind(each().map(|row| row.users[1].as_str()).collect::<Vec<_>>())
            .bind(each().map(|row| row.client_msg_id.as_str()).collect::<Vec<_>>())
            .bind(vec![None::<i64>; count])
            .bind(vec![1_i32; count])
            .bind(vec!["text"; count])
            .bind(vec![&*self.content; count])
            .bind(vec![hash; count])
            .bind(vec![true; count])
            .bind(each().map(|row| i32::from(row.partition.0)).collect::<Vec<_>>())
            .bind(vec![1_i64; count])
            .bind(each().map(|row| row.offset).collect::<Vec<_>>())
    }
}

/// The rows of a delivery, in the order of the table.
struct Entries {
    users: Vec<UserId>,
    places: Vec<i64>,
    records: Vec<i64>,
}

impl Entries {
    fn new(write: &Write, written: u64) -> Self {
        let mut entries = Self { users: Vec::new(), places: Vec::new(), records: Vec::new() };
        // Recipients come in the order of their ids.
        for recipient in &write.recipients {
            for index in &*recipient.records {
                entries.users.push(recipient.user.clone());
                entries
                    .places
                    .push((written + u64::from(*index)).cast_signed() * 64 + i64::from(write.partition.0));
                entries.records.push(write.messages[*index as usize].cast_signed());
            }
        }
        entries
    }
}

impl Insert for Entries {
    fn bind<'q>(
        &'q self,
        query: Query<'q, sqlx::Postgres, PgArguments>,
    ) -> Query<'q, sqlx::Postgres, PgArguments> {
        let nonces = || vec![47_i64; self.users.len()];
        query
            .bind(1_795_400_000_000_i64)
            .bind(self.users.iter().map(UserId::as_str).collect::<Vec<_>>())
            .bind(&self.places)
            .bind(nonces())
            .bind(nonces())
            .bind(&self.records)
    }
}
