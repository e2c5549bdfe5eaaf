//! Stores that are half written, forgetful, or too willing.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{
    Batch, Checkpoint, ConversationId, Epoch, ErrorKind, Found, History, HistoryQuery, Incarnation, Lineage,
    LogRecord, MessageStore, Partition, Parts, Position, Record, Result, SendKey, Seq, StoreInfo, StorePart,
};

use super::{Broken, Shared, interleave, with_store};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: $clause,
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "store::with_checkpoint" RowByRow "a batch comes in row by row"
    "store::with_checkpoint" CheckpointFirst "the checkpoint is there before the rows"
    "store::with_checkpoint" CheckpointLost "a restart loses the checkpoint"
    "store::once" SilentDivergence "another record for the same place is passed over"
    "store::forward_only" LastCheckpoint "the checkpoint is the last one given"
    "store::fenced" NotFenced "every worker is taken for the present one"
    "store::exact_pages" NeverMore "a page never says that there is more"
    "store::behind" ShortPage "a range above the head is cut off there"
    "store::behind" EndOfPage "the head is the last record of the page"
    "store::own_sends_are_read" NoDevices "the sending device is not looked at"
    "store::epochs_increase" EachTimeANewOne "every opener gets an epoch of its own"
    "store::above" ByConversation "records come by conversation, not in log order"
    "store::answers" Sorted "answers come in the order of the keys"
    "store::lost_tail" SameIncarnation "the incarnation is a constant"
    "same_data::written_once" KeyLate "a send key is found a look later than its record"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let shared = shared.clone();
    with_store(parts, |part| StorePart {
        messages: Arc::new(Wrapped { right: part.messages.clone(), defect, shared }),
        ..part
    })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn MessageStore>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    /// The batch, as if its worker were the present one.
    async fn unfenced(&self, batch: &Batch) -> Result<Batch> {
        let mut batch = batch.clone();
        let present = self.right.info().await?.incarnation;
        let log = self.shared.notes().log.clone();
        let Lineage { log: given, store, .. } = &mut batch.checkpoint.lineage;
        match (self.defect, log) {
            (Defect::NotFenced, Some(log)) => (*given, *store) = (log, present),
            (Defect::SameIncarnation, _) => *store = present,
            _ => {}
        }
        Ok(batch)
    }

    async fn row_by_row(&self, batch: &Batch) -> Result<()> {
        for record in &batch.records {
            let mut step = Batch { records: vec![record.clone()], ..batch.clone() };
            step.checkpoint.position = record.position;
            self.right.apply(&step).await?;
            interleave().await;
        }
        self.right.apply(batch).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MessageStore for Wrapped {
    async fn info(&self) -> Result<StoreInfo> {
        let mut info = self.right.info().await?;
        if self.defect == Defect::SameIncarnation {
            info.incarnation = self.shared.first(info.incarnation);
        }
        Ok(info)
    }

    async fn open_epoch(&self, log: &Incarnation) -> Result<Epoch> {
        let epoch = self.right.open_epoch(log).await?;
        self.shared.notes().log = Some(log.clone());
        let extra = if self.defect == Defect::EachTimeANewOne { self.shared.next() } else { 0 };
        Ok(Epoch(epoch.0 + extra as u32))
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        let kept = self.right.checkpoint(partition).await?;
        Ok(match self.defect {
            Defect::LastCheckpoint => self.shared.notes().checkpoints.get(&partition).cloned(),
            Defect::CheckpointLost if self.shared.reopened() => None,
            _ => kept,
        })
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        self.shared.notes().checkpoints.insert(batch.partition, batch.checkpoint.clone());
        let mut batch = self.unfenced(batch).await?;
        match self.defect {
            Defect::RowByRow => return self.row_by_row(&batch).await,
            Defect::CheckpointFirst => {
                self.right.apply(&Batch { records: Vec::new(), ..batch.clone() }).await?;
                interleave().await;
            }
            Defect::NoDevices => {
                for record in &mut batch.records {
                    record.record = Arc::new(Record { device: None, ..Record::clone(&record.record) });
                }
            }
            _ => {}
        }
        match self.right.apply(&batch).await {
            Err(error) if error.kind() == ErrorKind::Diverged && self.defect == Defect::SilentDivergence => {
                Ok(())
            }
            answer => answer,
        }
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History> {
        match (self.defect, self.right.history(query).await?) {
            (Defect::NeverMore, History::Page { records, head, .. }) => {
                Ok(History::Page { records, more: false, head })
            }
            (Defect::EndOfPage, History::Page { records, more, .. }) => {
                let head = records.last().map(|last| last.mark()).unwrap_or_default();
                Ok(History::Page { records, more, head })
            }
            (Defect::ShortPage, History::Behind { .. }) => {
                self.right.history(&HistoryQuery { to: None, ..query.clone() }).await
            }
            (_, history) => Ok(history),
        }
    }

    async fn get(&self, places: &[(ConversationId, Seq)]) -> Result<Vec<Option<Arc<Record>>>> {
        self.right.get(places).await
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let mut keys = keys.to_vec();
        if self.defect == Defect::Sorted {
            keys.sort();
        }
        let found = self.right.find(&keys).await?;
        let late = self.defect == Defect::KeyLate && self.shared.next().is_multiple_of(2);
        Ok(if late { vec![None; keys.len()] } else { found })
    }

    async fn last(&self, conversations: &[ConversationId]) -> Result<Vec<Option<Arc<Record>>>> {
        self.right.last(conversations).await
    }

    async fn above(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<LogRecord>> {
        let mut above = self.right.above(partition, after, max).await?;
        if self.defect == Defect::ByConversation {
            above.sort_by(|a, b| a.record.conversation.cmp(&b.record.conversation));
        }
        Ok(above)
    }
}
