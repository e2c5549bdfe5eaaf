//! The clauses of [`im_core::Projection`], for the projections that hosts write themselves.
//!
//! They are not part of [`conformance!`](crate::conformance): what a projection does is known to its owner alone, who therefore
//! supplies a picture of it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use im_core::{Batch, Incarnation, Lineage, LogRecord, Partition, Projection, RecordKind};

use crate::{
    Verdict, Violation,
    support::{Script, group, of_kind, together},
    violation::{ensure, ensure_eq},
};

/// A projection to be tested, on fresh data for each clause.
#[async_trait]
pub trait ProjectionFixture: fmt::Debug + Send + Sync {
    /// The projection on the fixture's data; called again it is opened again, as after a restart.
    ///
    /// # Errors
    /// When it cannot be opened.
    async fn open(&self) -> Result<Arc<dyn Projection>, Violation>;

    /// Everything that the projection has done, as a text that is the same if and only if that is the same.
    ///
    /// # Errors
    /// When it cannot be seen.
    async fn picture(&self) -> Result<String, Violation>;
}

/// A log for projections: two conversations, with records of every known kind.
fn log() -> Result<(Script, Vec<LogRecord>), Violation> {
    let incarnation = Incarnation::new;
    let lineage =
        Lineage { log: incarnation("log"), store: incarnation("store"), inbox: incarnation("inbox") };
    let mut script = Script::on_paper(lineage, Partition(0));
    let mut records = Vec::new();
    for (n, kind) in
        [RecordKind::Members, RecordKind::Message, RecordKind::Notice, RecordKind::Large].iter().enumerate()
    {
        for name in ["g", "h"] {
            records.push(script.record(&of_kind(&group(name)?, "alice", &n.to_string(), "{}", *kind)?));
            records.push(script.message(&group(name)?, "bob")?);
        }
    }
    Ok((script, records))
}

/// Clause 1: a batch that comes again, by itself, with others, or from many workers at once, changes nothing.
///
/// # Errors
/// The violation that was found.
pub async fn idempotent(fixture: &dyn ProjectionFixture) -> Verdict {
    let projection = fixture.open().await?;
    let (script, records) = log()?;
    for batch in records.chunks(5) {
        projection.apply(&script.batch(batch)).await?;
    }
    let due = fixture.picture().await?;
    let mut workers = Vec::new();
    for first in 0..6 {
        let (projection, batch) = (fixture.open().await?, script.batch(&records[first..]));
        workers.push(async move { Ok(projection.apply(&batch).await?) });
    }
    together(workers).await?;
    ensure_eq!(fixture.picture().await?, due, "the picture after repeated batches");
    Ok(())
}

/// Clause 2: the checkpoint is that of the last batch, for its partition, and is there after a restart with what it stands for.
///
/// # Errors
/// The violation that was found.
pub async fn checkpoint_last(fixture: &dyn ProjectionFixture) -> Verdict {
    let projection = fixture.open().await?;
    let name = projection.name().len();
    ensure!((1..=64).contains(&name), "a name of {name} bytes");
    let (script, records) = log()?;
    ensure_eq!(projection.checkpoint(script.partition).await?, None, "the checkpoint before any batch");
    for batch in records.chunks(5) {
        let batch = script.batch(batch);
        projection.apply(&batch).await?;
        let kept = projection.checkpoint(script.partition).await?;
        ensure_eq!(kept.as_ref(), Some(&batch.checkpoint), "the checkpoint after a batch");
        let picture = fixture.picture().await?;
        let opened = fixture.open().await?;
        ensure_eq!(opened.checkpoint(script.partition).await?, kept, "the checkpoint after a restart");
        ensure_eq!(fixture.picture().await?, picture, "the picture after a restart");
    }
    ensure_eq!(projection.checkpoint(Partition(1)).await?, None, "the checkpoint of another partition");
    Ok(())
}

/// Clause 3: an older batch leaves the checkpoint; an empty one moves it; another lineage may go back.
///
/// # Errors
/// The violation that was found.
pub async fn forward_only(fixture: &dyn ProjectionFixture) -> Verdict {
    let projection = fixture.open().await?;
    let (mut script, records) = log()?;
    let checkpoint = async || projection.checkpoint(Partition(0)).await;
    projection.apply(&script.batch(&records[..9])).await?;
    let empty = Batch { records: Vec::new(), ..script.batch(&records[..12]) };
    projection.apply(&empty).await?;
    ensure_eq!(checkpoint().await?.as_ref(), Some(&empty.checkpoint), "the checkpoint after an empty batch");
    projection.apply(&script.batch(&records[..6])).await?;
    ensure_eq!(checkpoint().await?, Some(empty.checkpoint), "the checkpoint after an older batch");
    script.lineage.store = Incarnation::new("another store");
    let back = script.batch(&records[..3]);
    projection.apply(&back).await?;
    ensure_eq!(checkpoint().await?, Some(back.checkpoint), "the checkpoint of another lineage");
    Ok(())
}
