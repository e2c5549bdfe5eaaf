//! The newest part of the timelines, a [`Layer`] in memory: the places of records, and the read marks that their senders got by
//! them.
//!
//! All of it is made again from `messages`: `meta.placed` says up to which message the file's `timelines` have everything. Within a
//! conversation places come and are moved in order; so the file has all below the first one that is here.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Weak},
};

use im_core::{ConversationId, DeviceId, Direction, Mark, Result, Seq, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    connect::Inner,
    error::{corrupt, failed},
    fresh::{Fresh, Layer, Pace, Slices, opened},
    rows::{Columns, MARKS, Statement, limit, number},
    values::{MOST_ROWS, Steps},
    writer::Sync,
};

const OPERATION: &str = "timelines.settle";

/// How many messages are read at once to make places again.
const AT_ONCE: usize = 10_000;

/// Rows of `timelines`: places, and marks that only rise. What is there already from an earlier try stays as it is; a place that
/// another message has would be set to NULL, which the table refuses.
static INSERT: Steps = Steps::new(
    "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message, mark) SELECT * FROM",
    7,
    "WHERE column1 IS NOT NULL ON CONFLICT DO UPDATE SET mark = excluded.mark, \
     ordinal = CASE WHEN message IS excluded.message THEN excluded.ordinal END \
     WHERE excluded.mark > mark OR message IS NOT excluded.message",
);

/// Places and read marks.
#[derive(Debug, Default)]
pub(crate) struct Timelines {
    /// Ascending.
    places: HashMap<ConversationId, Vec<Place>>,
    reads: HashMap<UserId, HashMap<ConversationId, Devices>>,
    rows: usize,
    /// The last message that was added.
    last: i64,
}

/// A user's marks in a conversation, by device: there are few.
type Devices = Vec<(Option<DeviceId>, Mark)>;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mark: Mark,
    /// Its id in `messages`.
    pub(crate) message: i64,
}

/// The newest places of a conversation, seen at one moment.
#[derive(Debug)]
pub(crate) struct Page {
    /// The first of all that are here; the file has what lies below.
    pub(crate) first: Seq,
    /// The last of all.
    pub(crate) head: Mark,
    /// Those that were asked for.
    pub(crate) places: Vec<Place>,
}

/// What a message in the file adds.
#[derive(Debug)]
pub(crate) struct MadeAgain {
    pub(crate) conversation: ConversationId,
    pub(crate) place: Place,
    /// Who has read up to it, by sending it.
    pub(crate) reader: Option<(UserId, Option<DeviceId>)>,
    /// Whether it is of the file's own log.
    pub(crate) is_own: bool,
}

/// A user's newest read marks in a conversation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reads {
    /// On the device that was asked for.
    pub(crate) own: Mark,
    /// On any.
    pub(crate) highest: Mark,
}

impl Fresh<Timelines> {
    /// The last place of a conversation.
    pub(crate) fn head(&self, conversation: &ConversationId) -> Option<Place> {
        self.below(conversation, Seq(u64::MAX))
    }

    /// The last place at or below a sequence id.
    pub(crate) fn below(&self, conversation: &ConversationId, seq: Seq) -> Option<Place> {
        self.look(|layers| {
            let last = |layer: &&Timelines| layer.places(conversation, Seq(0)..=seq).last().copied();
            layers.iter().filter_map(last).max_by_key(|place| place.mark.seq)
        })
    }

    /// The place of a record.
    pub(crate) fn at(&self, conversation: &ConversationId, seq: Seq) -> Option<Place> {
        self.below(conversation, seq).filter(|place| place.mark.seq == seq)
    }

    /// The first places of a conversation in a range and direction, at most `max`; none where nothing of it is here.
    pub(crate) fn page(
        &self,
        conversation: &ConversationId,
        range: RangeInclusive<Seq>,
        direction: Direction,
        max: usize,
    ) -> Option<Page> {
        self.look(|layers| {
            let all = || layers.iter().filter_map(|layer| layer.places.get(conversation)).flatten();
            let (first, head) = (all().next()?.mark.seq, all().next_back()?.mark);
            let places = layers.iter().flat_map(|layer| layer.places(conversation, range.clone()));
            let places = match direction {
                Direction::Forward => places.take(max).copied().collect(),
                Direction::Backward => places.rev().take(max).copied().collect(),
            };
            Some(Page { first, head, places })
        })
    }

    /// A user's marks in a conversation.
    pub(crate) fn reads(
        &self,
        conversation: &ConversationId,
        user: &UserId,
        device: Option<&DeviceId>,
    ) -> Reads {
        self.look(|layers| {
            let marks = layers.iter().filter_map(|layer| layer.reads.get(user)?.get(conversation)).flatten();
            marks.fold(Reads::default(), |reads, (on, mark)| Reads {
                own: if on.as_ref() == device { reads.own.max(*mark) } else { reads.own },
                highest: reads.highest.max(*mark),
            })
        })
    }

    /// A user's highest mark in each conversation.
    pub(crate) fn all_reads(&self, user: &UserId) -> HashMap<ConversationId, Mark> {
        self.look(|layers| {
            let mut all = HashMap::new();
            for (conversation, marks) in layers.iter().filter_map(|layer| layer.reads.get(user)).flatten() {
                let highest = all.entry(conversation.clone()).or_insert_with(Mark::default);
                *highest = marks.iter().map(|(_, mark)| *mark).fold(*highest, Mark::max);
            }
            all
        })
    }
}

impl Timelines {
    /// Adds the place of a message, which is the newest of all; with who has read up to it by sending it, and where.
    pub(crate) fn push(
        &mut self,
        conversation: &ConversationId,
        place: Place,
        reader: Option<(&UserId, Option<&DeviceId>)>,
    ) {
        match self.places.get_mut(conversation) {
            Some(places) => places.push(place),
            None => drop(self.places.insert(conversation.clone(), vec![place])),
        }
        self.rows += 1;
        self.last = place.message;
        let Some((user, device)) = reader else { return };
        let reads = match self.reads.get_mut(user) {
            Some(reads) => reads,
            None => self.reads.entry(user.clone()).or_default(),
        };
        let reads = match reads.get_mut(conversation) {
            Some(reads) => reads,
            None => reads.entry(conversation.clone()).or_default(),
        };
        if let Some((_, mark)) = reads.iter_mut().find(|(on, _)| on.as_ref() == device) {
            *mark = place.mark.max(*mark);
        } else {
            reads.push((device.cloned(), place.mark));
            self.rows += 1;
        }
    }

    fn places(&self, conversation: &ConversationId, range: RangeInclusive<Seq>) -> &[Place] {
        let places = self.places.get(conversation).map_or(&[][..], Vec::as_slice);
        let from = places.partition_point(|place| place.mark.seq < *range.start());
        let to = places.partition_point(|place| place.mark.seq <= *range.end());
        &places[from..to.max(from)]
    }

    /// All rows in the order of the table.
    fn in_order(&self) -> impl Iterator<Item = Row<'_>> {
        let mut conversations: Vec<_> = self.places.iter().collect();
        conversations.sort_unstable_by_key(|(conversation, _)| *conversation);
        let marks = self.reads.iter().flat_map(|(user, reads)| {
            let of_user = move |(conversation, marks)| (conversation, user, marks);
            reads.iter().map(of_user)
        });
        let mut marks: Vec<_> = marks.collect();
        marks.sort_unstable_by_key(|(conversation, user, _)| (*conversation, *user));
        conversations.into_iter().flat_map(move |(conversation, places)| {
            let first = marks.partition_point(|(of, ..)| *of < conversation);
            let marks = marks[first..].iter().take_while(|(of, ..)| *of == conversation);
            let marks = marks.flat_map(|(_, user, marks)| {
                marks.iter().map(|(device, mark)| Of::Reader(user, device.as_ref(), mark))
            });
            let marks: Vec<_> = marks.collect();
            let rows = places.iter().map(Of::Record).chain(marks);
            rows.map(move |of| Row { conversation, of })
        })
    }
}

/// What the messages after one add, in order; not all where they are many.
pub(crate) async fn made_again(
    conn: &mut SqliteConnection,
    after: i64,
    operation: &'static str,
) -> Result<Vec<MadeAgain>> {
    let rows = sqlx::query(
        "SELECT id, conversation_id, sequence_id, ordinal, CASE WHEN kind = 1 THEN nullif(send_from, '') END, device, \
         log_partition IS NULL FROM messages WHERE id > ? ORDER BY id LIMIT ?",
    )
    .bind(after)
    .bind(limit(AT_ONCE))
    .fetch_all(conn)
    .await
    .map_err(failed(operation))?;
    let read = |columns: Columns<'_>| {
        let device = columns.parse_optional(5, DeviceId::new)?;
        Ok(MadeAgain {
            conversation: columns.parse(1, ConversationId::new)?,
            place: Place { mark: columns.mark(2)?, message: columns.int(0)? },
            reader: columns.parse_optional(4, UserId::new)?.map(|user| (user, device)),
            is_own: columns.int(6)? != 0,
        })
    };
    rows.iter().map(|row| read(Columns::new(row, 0, operation))).collect()
}

/// A row of `timelines`.
#[derive(Debug, Clone, Copy)]
struct Row<'r> {
    conversation: &'r ConversationId,
    of: Of<'r>,
}

#[derive(Debug, Clone, Copy)]
enum Of<'r> {
    Record(&'r Place),
    Reader(&'r UserId, Option<&'r DeviceId>, &'r Mark),
}

fn bind_row(query: Statement<'static>, row: &Row<'_>) -> Statement<'static> {
    let query = query.bind(Arc::<str>::from(row.conversation.clone()));
    match row.of {
        Of::Record(Place { mark, message }) => query
            .bind(number(mark.seq.0))
            .bind("")
            .bind("")
            .bind(number(mark.ordinal.0))
            .bind(*message)
            .bind(None::<i64>),
        Of::Reader(user, device, mark) => query
            .bind(MARKS)
            .bind(Arc::<str>::from(user.clone()))
            .bind(device.cloned().map_or_else(|| "".into(), Arc::<str>::from))
            .bind(number(mark.ordinal.0))
            .bind(None::<i64>)
            .bind(number(mark.seq.0)),
    }
}

impl Layer for Timelines {
    const NAME: &'static str = "places of messages";

    fn rows(&self) -> usize {
        self.rows
    }

    fn is_empty(&self) -> bool {
        self.rows == 0
    }

    async fn write(&self, file: &Weak<Inner>, pace: &mut Pace) -> Result<()> {
        let is_near = |before: &Row<'_>, row: &Row<'_>| before.conversation == row.conversation;
        let mut slices = Slices::new(self.in_order());
        while !slices.is_over() {
            pace.turn().await;
            let slice = slices.next(pace.slice(), is_near);
            let inner = opened(file, OPERATION)?;
            let mut writer = inner.writer(OPERATION).await?;
            let statements = INSERT
                .transaction(&slice, MOST_ROWS)
                .map(|(sql, rows)| rows.iter().fold(sqlx::query(AssertSqlSafe(sql)), bind_row));
            if !writer.run(OPERATION, Sync::Normal, statements).await? {
                return Err(corrupt(OPERATION, "a place was taken"));
            }
            pace.add(slice.len());
        }
        let inner = opened(file, OPERATION)?;
        // Behind them all: from here on nobody makes them again.
        let mut writer = inner.writer(OPERATION).await?;
        writer.begin(OPERATION, Sync::Normal).await?;
        let noted = note(writer.conn(), self.last).await.map_err(failed(OPERATION));
        writer.end(OPERATION, noted).await
    }
}

/// Notes, within a transaction, that the file's `timelines` have everything up to a message.
pub(crate) async fn note(conn: &mut SqliteConnection, placed: i64) -> sqlx::Result<()> {
    let sql = "UPDATE meta SET placed = max(placed, ?)";
    sqlx::query(sql).bind(placed).execute(conn).await.map(drop)
}

/// Up to which message the file's `timelines` have everything.
pub(crate) async fn placed(conn: &mut SqliteConnection) -> Result<i64> {
    sqlx::query_scalar("SELECT placed FROM meta").fetch_one(conn).await.map_err(failed("open"))
}

#[cfg(test)]
mod tests;
