//! The clauses of projections pass a right one and catch wrong ones.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use im_core::{Batch, Checkpoint, Partition, Position, Projection, Result};
use im_testkit::{
    Verdict, Violation,
    projection::{self, ProjectionFixture},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    CountsAgain,
    LastCheckpoint,
    NoCheckpoint,
}

/// Counts the messages of each conversation: a bot that greets at the thousandth.
#[derive(Debug)]
struct Counter {
    defect: Defect,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<String, u64>,
    counted: Position,
    checkpoints: BTreeMap<Partition, Checkpoint>,
}

impl Counter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Projection for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        Ok(self.state().checkpoints.get(&partition).cloned())
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state();
        for record in &batch.records {
            if record.position > state.counted || self.defect == Defect::CountsAgain {
                *state.counts.entry(record.record.conversation.to_string()).or_default() += 1;
                state.counted = record.position;
            }
        }
        let older = state.checkpoints.get(&batch.partition).is_some_and(|kept| {
            kept.lineage == batch.checkpoint.lineage && kept.position > batch.checkpoint.position
        });
        if self.defect != Defect::NoCheckpoint && (!older || self.defect == Defect::LastCheckpoint) {
            state.checkpoints.insert(batch.partition, batch.checkpoint.clone());
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Fixture(Arc<Counter>);

#[async_trait]
impl ProjectionFixture for Fixture {
    async fn open(&self) -> std::result::Result<Arc<dyn Projection>, Violation> {
        Ok(self.0.clone())
    }

    async fn picture(&self) -> std::result::Result<String, Violation> {
        Ok(format!("{:?}", self.0.state().counts))
    }
}

fn with(defect: Defect) -> Fixture {
    Fixture(Arc::new(Counter { defect, state: Mutex::default() }))
}

#[tokio::test]
async fn a_right_projection_passes() -> Verdict {
    projection::idempotent(&with(Defect::None)).await?;
    projection::checkpoint_last(&with(Defect::None)).await?;
    projection::forward_only(&with(Defect::None)).await
}

#[tokio::test]
async fn wrong_projections_are_caught() {
    assert!(projection::idempotent(&with(Defect::CountsAgain)).await.is_err());
    assert!(projection::checkpoint_last(&with(Defect::NoCheckpoint)).await.is_err());
    assert!(projection::forward_only(&with(Defect::LastCheckpoint)).await.is_err());
}
