//! The raw limit: the rows of the engine's own tables, inserted and nothing else, in the batches that the engine made of them.

mod pg;
mod redis;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use im_engine::{ConversationId, Partition, UserId};

use crate::{Outcome, backend::Place, watch::Write};

pub(crate) type Singles = [(ConversationId, [UserId; 2])];

/// What a transaction inserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Messages, with their places in the timeline where those are rows.
    Messages,
    /// And the inbox entries of their two users.
    MessagesAndInbox,
    /// Inbox entries alone.
    Inbox,
}

/// Tables like the engine's, and the bare loop that fills them: as many writers as the log has partitions.
#[async_trait]
pub(crate) trait Raw: Send {
    /// Inserts messages in batches of these sizes, spread over the conversations; how long the inserts took, without the making
    /// of the rows.
    async fn messages(&mut self, batches: &[(Partition, usize)], singles: &Singles) -> Outcome<Duration>;

    /// Writes again what an inbox wrote, in the same transactions; how many rows, and how long it took.
    async fn inbox(&mut self, writes: &[Write]) -> Outcome<(u64, Duration)>;
}

/// What presence costs at least where it lies on a server beside: Redis.
pub(crate) async fn presence(place: &Place) -> Outcome<Option<redis::Hashes>> {
    Ok(match place {
        Place::Keyspace(keyspace) => Some(redis::Hashes::open(keyspace.another()).await?),
        Place::Memory | Place::Folder(_) | Place::Schema(_) => None,
    })
}

/// A bare loop that inserts such rows on what the engine runs on; memory has none.
pub(crate) async fn open(place: &Place, rows: Rows) -> Outcome<Option<Box<dyn Raw>>> {
    Ok(match place {
        Place::Memory => None,
        Place::Folder(folder) => {
            Some(Box::new(sqlite::File::open(&folder.path().join(format!("{rows:?}.db")), rows).await?))
        }
        Place::Keyspace(keyspace) => Some(Box::new(redis::Streams::open(keyspace.another(), rows).await?)),
        Place::Schema(schema) => Some(Box::new(pg::Tables::open(schema.another(), rows).await?)),
    })
}
