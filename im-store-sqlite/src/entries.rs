//! The newest part of the inbox, a [`Layer`] in memory.
//!
//! A checkpoint goes into the file behind its entries: so the fan-out delivers again what a crash takes, and at the same places,
//! because an entry's place is that of its message in the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use im_core::{Checkpoint, Delivery, Partition, Result, UserId};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{
    checkpoints::{self, Of},
    connect::Inner,
    deliver::messages,
    error::{corrupt, failed},
    expire::{Note, Span, note_delivery},
    fresh::{Fresh, Layer, Pace, Slices, opened},
    pack::Pack,
    rows::{Columns, Statement},
    values::{MOST_ROWS, Steps},
    writer::Sync,
};

const OPERATION: &str = "inbox.settle";

/// How many users' rows are read and written anew in one transaction.
const USERS: usize = 32;

static INSERT: Steps = Steps::new(
    "INSERT OR IGNORE INTO inbox (user_id, message, earlier) SELECT * FROM",
    3,
    "WHERE column1 IS NOT NULL",
);

/// The end of the rows that entries from one to another may touch: those between, and the one that they end in.
macro_rules! touched {
    () => {
        " FROM inbox WHERE user_id = ?1 AND message >= ?2 AND message <= \
         coalesce((SELECT min(message) FROM inbox WHERE user_id = ?1 AND message >= ?3), 9223372036854775807)"
    };
}
const TOUCHED: &str = concat!("SELECT message, earlier", touched!(), " ORDER BY message");
const REMOVE: &str = concat!("DELETE", touched!());

/// Entries with what belongs to them.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    users: HashMap<UserId, OfUser>,
    entries: usize,
    /// When they were delivered.
    notes: BTreeMap<Span, Note>,
    /// Where the fan-out stands once they are in the file.
    checkpoints: BTreeMap<Partition, Checkpoint>,
}

#[derive(Debug, Default)]
struct OfUser {
    /// Ascending.
    places: Vec<i64>,
    /// Some may be in the file already, or lie between those that are.
    has_repeats: bool,
}

impl Fresh<Entries> {
    /// The first of a user's entries from one on, ascending; at least `max`, where there are so many.
    pub(crate) fn from(&self, user: &UserId, from: i64, max: usize) -> Vec<i64> {
        let mut entries: Vec<i64> = self.look(|layers| {
            layers.iter().flat_map(|layer| layer.from(user, from).iter().take(max)).copied().collect()
        });
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The newest entry of each user.
    pub(crate) fn ends(&self, users: &[UserId]) -> Vec<Option<i64>> {
        self.look(|layers| {
            let end =
                |user| layers.iter().filter_map(|layer| layer.users.get(user)?.places.last().copied()).max();
            users.iter().map(end).collect()
        })
    }
}

impl Entries {
    /// Takes a delivery; `before` is the newest place of each recipient before it, `checkpoint` where the fan-out stands with it.
    pub(crate) fn take(
        &mut self,
        delivery: &Delivery,
        before: &[i64],
        note: Option<(Span, Note)>,
        checkpoint: Option<Checkpoint>,
    ) {
        for (recipient, before) in delivery.recipients.iter().zip(before) {
            self.add(&recipient.user, *before, messages(delivery, recipient));
        }
        if let Some((span, note)) = note {
            self.notes.entry(span).and_modify(|known| *known = known.joined(note)).or_insert(note);
        }
        self.checkpoints.extend(checkpoint.map(|checkpoint| (delivery.partition, checkpoint)));
    }

    fn add(&mut self, user: &UserId, before: i64, messages: impl Iterator<Item = i64>) {
        let known = match self.users.get_mut(user) {
            Some(known) => known,
            None => self.users.entry(user.clone()).or_default(),
        };
        let places = &mut known.places;
        for message in messages {
            known.has_repeats |= message <= before;
            // Only a repeat is not above them all.
            let place = match places.last() {
                Some(last) if *last >= message => places.binary_search(&message).err(),
                _ => Some(places.len()),
            };
            if let Some(place) = place {
                places.insert(place, message);
                self.entries += 1;
            }
        }
    }

    fn from(&self, user: &UserId, from: i64) -> &[i64] {
        let places = self.users.get(user).map_or(&[][..], |entries| &entries.places);
        &places[places.partition_point(|entry| *entry < from)..]
    }

    /// The entries of those users, in the order of the table, that are all new to the file, or of those of whom some may not be.
    fn users(&self, with_repeats: bool) -> Vec<(&UserId, &[i64])> {
        let users = self.users.iter().filter(|(_, entries)| entries.has_repeats == with_repeats);
        let mut users: Vec<_> = users.map(|(user, entries)| (user, entries.places.as_slice())).collect();
        // Neighbours go to one page.
        users.sort_unstable_by_key(|(user, _)| *user);
        users
    }

    /// The rows of those who have no repeats, in the order of the table.
    fn rows_that_are_new<'l>(&'l self, breaks: &'l [i64]) -> impl Iterator<Item = (&'l UserId, Pack)> {
        self.users(false)
            .into_iter()
            .flat_map(|(user, entries)| Pack::all(entries, breaks).into_iter().map(move |row| (user, row)))
    }

    /// Places at which a span of time begins, ascending: what expires first does not share a row with what expires later.
    fn breaks(&self) -> Vec<i64> {
        let mut breaks: Vec<i64> = self.notes.values().map(Note::lowest).collect();
        breaks.sort_unstable();
        breaks
    }

    async fn write_rest(&self, conn: &mut SqliteConnection) -> sqlx::Result<()> {
        for (span, note) in &self.notes {
            note.bind(*span, sqlx::query(note_delivery!())).execute(&mut *conn).await?;
        }
        for (partition, checkpoint) in &self.checkpoints {
            checkpoints::store(conn, Of::Inbox, *partition, checkpoint).await?;
        }
        Ok(())
    }
}

impl Layer for Entries {
    const NAME: &'static str = "inbox entries";

    fn rows(&self) -> usize {
        self.entries
    }

    fn is_empty(&self) -> bool {
        self.entries == 0 && self.checkpoints.is_empty()
    }

    async fn write(&self, file: &Weak<Inner>, pace: &mut Pace) -> Result<()> {
        let breaks = self.breaks();
        let mut slices = Slices::new(self.rows_that_are_new(&breaks));
        while !slices.is_over() {
            pace.turn().await;
            // Each has so many entries that it is a good part of a page.
            let slice = slices.next(pace.slice(), |_, _| false);
            let inner = opened(file, OPERATION)?;
            let mut writer = inner.writer(OPERATION).await?;
            if !writer.run(OPERATION, Sync::Normal, transaction(&slice)).await? {
                // Then the checkpoint must not go in: the statement passes over keys that are there.
                return Err(corrupt(OPERATION, "a key of the inbox was taken"));
            }
            pace.add(slice.iter().map(|(_, row)| row.entries().len()).sum());
        }
        for users in self.users(true).chunks(USERS) {
            pace.turn().await;
            let inner = opened(file, OPERATION)?;
            let mut writer = inner.writer(OPERATION).await?;
            writer.begin(OPERATION, Sync::Normal).await?;
            let written = merge(writer.conn(), users, &breaks).await;
            writer.end(OPERATION, written).await?;
            pace.add(users.iter().map(|(_, entries)| entries.len()).sum());
        }
        let inner = opened(file, OPERATION)?;
        // Behind all entries: from here on nobody delivers them again.
        let mut writer = inner.writer(OPERATION).await?;
        writer.begin(OPERATION, Sync::Normal).await?;
        let written = self.write_rest(writer.conn()).await.map_err(failed(OPERATION));
        writer.end(OPERATION, written).await
    }
}

fn transaction(rows: &[(&UserId, Pack)]) -> impl Iterator<Item = Statement<'static>> {
    INSERT
        .transaction(rows, MOST_ROWS)
        .map(|(sql, rows)| bind_all(sql, rows.iter().map(|(user, row)| (*user, row))))
}

fn bind_all<'r>(sql: Arc<str>, rows: impl Iterator<Item = (&'r UserId, &'r Pack)>) -> Statement<'static> {
    rows.fold(sqlx::query(AssertSqlSafe(sql)), |query, (user, row)| {
        query.bind(Arc::<str>::from(UserId::clone(user))).bind(row.newest()).bind(row.earlier())
    })
}

/// Brings entries into the rows that are there.
async fn merge(conn: &mut SqliteConnection, users: &[(&UserId, &[i64])], breaks: &[i64]) -> Result<()> {
    for (user, entries) in users {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { continue };
        let bind = |sql| sqlx::query(sql).bind(user.as_str()).bind(first).bind(last);
        let found = bind(TOUCHED).fetch_all(&mut *conn).await.map_err(failed(OPERATION))?;
        let row = |row| {
            let columns = Columns::new(row, 0, OPERATION);
            Pack::read(columns.int(0)?, columns.optional_text(1)?, OPERATION)
        };
        let known: Vec<Pack> = found.iter().map(row).collect::<Result<_>>()?;
        let merged = Pack::merge(known.clone(), entries, breaks);
        if merged == known {
            continue;
        }
        bind(REMOVE).execute(&mut *conn).await.map_err(failed(OPERATION))?;
        for rows in merged.chunks(MOST_ROWS) {
            let query = bind_all(INSERT.sql(rows.len()), rows.iter().map(|row| (*user, row)));
            query.execute(&mut *conn).await.map_err(failed(OPERATION))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn entries_are_in_order_and_once_whatever_is_repeated() {
        let mut layer = Entries::default();
        layer.add(&user("b"), 4, [5, 7].into_iter());
        layer.add(&user("a"), 5, [6].into_iter());
        let (a, b) = (user("a"), user("b"));
        assert_eq!(layer.users(false), [(&a, &[6][..]), (&b, &[5, 7])]);
        layer.add(&user("b"), 7, [3, 5, 6, 9].into_iter());
        assert_eq!(layer.users(false), [(&a, &[6][..])]);
        assert_eq!(layer.users(true), [(&b, &[3, 5, 6, 7, 9][..])]);
        assert_eq!(layer.entries, 6);
        assert_eq!(layer.from(&b, 6), [6, 7, 9]);
        assert!(layer.from(&user("c"), 0).is_empty());
    }
}
