//! Inboxes that gap, reorder, and hand out what they do not have.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use im_core::{
    Checkpoint, Cursor, Delivered, Delivery, InboxInfo, Partition, Parts, Pull, Recipient, Result, SyncInbox,
    UserId,
};

use super::{Broken, Shared, interleave};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("inbox::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "in_order" Reverses "the records of a delivery come in the opposite order"
    "never_passed" VisibleLate "an entry is shown before the one that stands before it"
    "no_silent_gap" ServesAny "a cursor that proves nothing is answered with an empty page"
    "expired_cursors" ServesExpired "a cursor that expired is answered with an empty page"
    "one_write" OneByOne "the records of a delivery come one by one"
    "checkpoint_last" EveryChunk "the first chunk of a batch moves the checkpoint"
    "checkpoint_last" CheckpointFirst "the checkpoint is there before the entries"
    "forward_only" LastCheckpoint "the checkpoint is the last one given"
    "fenced" NotFenced "every worker is taken for the present one"
    "replay" KeepsTheLast "of a record that came twice the last entry stays"
    "an_end_for_everyone" NoAnchor "the end of an empty inbox is made up"
    "expiry" TakesYounger "an expiry takes one entry too many"
    "many_recipients" OneThousand "only the first thousand recipients get anything"
    "hostile_ids" FoldsCase "users that differ in case only are one"
    "reopened" CheckpointLost "a restart loses the checkpoint"
    "lost_tail" SameIncarnation "the incarnation is a constant"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let wrap = |right| -> Arc<dyn SyncInbox> { Arc::new(Wrapped { right, defect, shared: shared.clone() }) };
    Parts { inbox: parts.inbox.map(wrap), ..parts }
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn SyncInbox>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    fn fold(&self, user: &UserId) -> UserId {
        let folded = UserId::new(user.as_str().to_lowercase());
        folded.ok().filter(|_| self.defect == Defect::FoldsCase).unwrap_or_else(|| user.clone())
    }

    /// The delivery as it is passed on.
    async fn spoiled(&self, delivery: &Delivery) -> Result<Delivery> {
        let mut delivery = delivery.clone();
        if matches!(self.defect, Defect::NotFenced | Defect::SameIncarnation) {
            delivery.inbox = self.right.info().await?.incarnation;
            if let Some(checkpoint) = &mut delivery.checkpoint {
                checkpoint.lineage.inbox = delivery.inbox.clone();
            }
        }
        if self.defect == Defect::EveryChunk
            && delivery.checkpoint.is_none()
            && let (Some(last), Some(mut checkpoint)) =
                (delivery.records.last(), self.right.checkpoint(delivery.partition).await?)
        {
            checkpoint.position = last.position;
            delivery.checkpoint = Some(checkpoint);
        }
        for recipient in &mut delivery.recipients {
            recipient.user = self.fold(&recipient.user);
            if self.defect == Defect::Reverses {
                recipient.records = recipient.records.iter().rev().copied().collect();
            }
        }
        Ok(delivery)
    }

    async fn one_by_one(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let mut all: Vec<Delivered> = Vec::new();
        for n in 0..delivery.records.len() as u32 {
            let only =
                |recipient: &Recipient| Recipient { records: [n].into(), user: recipient.user.clone() };
            let recipients = delivery.recipients.iter().map(only).collect();
            let delivered = self.right.deliver(&Delivery { recipients, ..delivery.clone() }).await?;
            for (at, delivered) in delivered.into_iter().enumerate() {
                match all.get_mut(at) {
                    Some(sum) => sum.cursors = [&sum.cursors[..], &delivered?.cursors[..]].concat().into(),
                    None => all.push(delivered?),
                }
            }
            interleave().await;
        }
        Ok(all.into_iter().map(Ok).collect())
    }

    async fn first_thousand(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        let recipients = delivery.recipients.iter().take(1000).cloned().collect();
        let mut delivered = self.right.deliver(&Delivery { recipients, ..delivery.clone() }).await?;
        for missing in delivery.recipients.iter().skip(1000) {
            let cursors = missing.records.iter().map(|_| Cursor::new("nowhere")).collect();
            delivered.push(Ok(Delivered { previous: None, cursors }));
        }
        Ok(delivered)
    }

    /// A page that has each record once, where it came last.
    async fn last_appearances(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        let Pull::Page { mut entries, .. } = self.right.pull(user, after, 100_000).await? else {
            return Ok(Pull::Resync);
        };
        let last: BTreeMap<_, _> =
            entries.iter().map(|entry| (entry.record.key(), entry.cursor.clone())).collect();
        entries.retain(|entry| last.get(&entry.record.key()) == Some(&entry.cursor));
        let more = entries.len() > max;
        entries.truncate(max);
        Ok(Pull::Page { entries, more })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SyncInbox for Wrapped {
    async fn info(&self) -> Result<InboxInfo> {
        let mut info = self.right.info().await?;
        if self.defect == Defect::SameIncarnation {
            info.incarnation = self.shared.first(info.incarnation);
        }
        Ok(info)
    }

    async fn checkpoint(&self, partition: Partition) -> Result<Option<Checkpoint>> {
        let kept = self.right.checkpoint(partition).await?;
        Ok(match self.defect {
            Defect::LastCheckpoint => self.shared.notes().checkpoints.get(&partition).cloned(),
            Defect::CheckpointLost if self.shared.reopened() => None,
            _ => kept,
        })
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Vec<Result<Delivered>>> {
        if let Some(checkpoint) = &delivery.checkpoint {
            self.shared.notes().checkpoints.insert(delivery.partition, checkpoint.clone());
        }
        let delivery = self.spoiled(delivery).await?;
        match self.defect {
            Defect::OneByOne => self.one_by_one(&delivery).await,
            Defect::OneThousand => self.first_thousand(&delivery).await,
            Defect::CheckpointFirst => {
                self.right.deliver(&Delivery { recipients: Vec::new(), ..delivery.clone() }).await?;
                interleave().await;
                self.right.deliver(&delivery).await
            }
            _ => self.right.deliver(&delivery).await,
        }
    }

    async fn pull(&self, user: &UserId, after: &Cursor, max: usize) -> Result<Pull> {
        if self.defect == Defect::KeepsTheLast {
            return self.last_appearances(user, after, max).await;
        }
        let mut pull = self.right.pull(&self.fold(user), after, max).await?;
        match (&mut pull, self.defect) {
            (Pull::Page { entries, .. }, Defect::VisibleLate) if entries.len() > 1 => {
                entries.remove(entries.len() - 2);
            }
            (Pull::Page { entries, .. }, Defect::TakesYounger)
                if self.shared.count() > 0 && !entries.is_empty() =>
            {
                entries.remove(0);
            }
            (Pull::Resync, Defect::ServesAny | Defect::ServesExpired) => {
                pull = Pull::Page { entries: Vec::new(), more: false };
            }
            _ => {}
        }
        Ok(pull)
    }

    async fn ends(&self, users: &[UserId]) -> Result<Vec<Option<Cursor>>> {
        let users: Vec<_> = users.iter().map(|user| self.fold(user)).collect();
        self.right.ends(&users).await
    }

    async fn anchor(&self, user: &UserId) -> Result<Cursor> {
        let user = self.fold(user);
        let end = self.right.ends(std::slice::from_ref(&user)).await?.pop().flatten();
        match end {
            None if self.defect == Defect::NoAnchor => Ok(Cursor::new("0")),
            _ => self.right.anchor(&user).await,
        }
    }

    async fn expire(&self, max: usize) -> Result<bool> {
        self.shared.next();
        self.right.expire(max).await
    }
}
