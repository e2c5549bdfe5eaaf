//! What the clauses share: ids, appends, and a log that is ready to append.

use std::{sync::Arc, time::Duration};

use im_core::{
    Append, AppendOutcome, ClientMsgId, ContentHash, ContentType, ConversationId, Epoch, Floor, LogInfo,
    LogRead, LogRecord, MessageLog, Partition, Parts, Position, Receipt, RecordKind, Result, StorePart,
    UserId,
};

use crate::{Violation, violation::ensure};

/// Texts that an id may be, and that a key, a subject, a pattern or a statement may choke on.
pub(crate) const HOSTILE: &[&str] = &[
    "o'brien",
    "\"quoted\"",
    "back\\slash",
    "a.b.*.>",
    "*",
    ">",
    "{tag}",
    "a}b{c",
    "two words ",
    " ",
    "%_%",
    "$1",
    ":a/b:c",
    "a:b",
    "😀🀄",
    "用户",
    "e\u{301}",
    "é",
    "'; DROP TABLE messages; --",
    "null",
    "0",
    "-1",
    "A",
    "a",
    "\u{feff}",
    "1234567890123456789012345678901234567890123456789012345678901234",
    "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀",
];

pub(crate) fn user(name: &str) -> Result<UserId, Violation> {
    Ok(UserId::new(name)?)
}

pub(crate) fn group(name: &str) -> Result<ConversationId, Violation> {
    Ok(ConversationId::group(name)?)
}

/// A text message.
pub(crate) fn message(
    conversation: &ConversationId,
    sender: &str,
    id: &str,
    text: &str,
) -> Result<Append, Violation> {
    of_kind(conversation, sender, id, text, RecordKind::Message)
}

/// A record of some kind.
pub(crate) fn of_kind(
    conversation: &ConversationId,
    sender: &str,
    id: &str,
    text: &str,
    kind: RecordKind,
) -> Result<Append, Violation> {
    Ok(Append {
        conversation: conversation.clone(),
        sender: user(sender)?,
        device: None,
        send_to: None,
        client_msg_id: ClientMsgId::new(id)?,
        kind,
        content_type: ContentType::Text,
        content: text.into(),
        hash: ContentHash::of(kind, ContentType::Text, text),
        floor: None,
    })
}

/// The floor of a conversation of which nobody knows anything, while there was no earlier epoch.
pub(crate) const NEW: Floor = Floor {
    mark: im_core::Mark { seq: im_core::Seq(0), ordinal: im_core::Ordinal(0) },
    created_at: im_core::Timestamp(0),
    direct: true,
};

pub(crate) fn store_of(parts: &Parts) -> Result<&StorePart, Violation> {
    parts.store.as_ref().ok_or_else(|| Violation::new("the store part is missing"))
}

/// A log with an open epoch, used as the engine uses it.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) log: Arc<dyn MessageLog>,
    pub(crate) epoch: Epoch,
    pub(crate) partitions: u16,
}

impl Log {
    /// Opens an epoch unless one is open for the present incarnation: the store's, where there is a store.
    pub(crate) async fn open(parts: &Parts) -> Result<Self, Violation> {
        let log = log_of(parts)?;
        let LogInfo { incarnation, partitions, epoch, .. } = log.info().await?;
        let epoch = match (epoch, &parts.store) {
            (Some((epoch, owner)), _) if owner == incarnation => epoch,
            (_, Some(store)) => store.messages.open_epoch(&incarnation).await?,
            (earlier, None) => Epoch(earlier.map_or(1, |(epoch, _)| epoch.0 + 1)),
        };
        log.open_epoch(epoch, &incarnation).await?;
        Ok(Self { log, epoch, partitions })
    }

    pub(crate) fn partition(&self, conversation: &ConversationId) -> Partition {
        Partition::of(conversation, self.partitions)
    }

    /// Appends to the partition of the first append, as it is.
    pub(crate) async fn append_bare(&self, batch: &[Append]) -> Result<Vec<Outcome>, Violation> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let outcomes = self.log.append(self.partition(&first.conversation), self.epoch, batch).await?;
        ensure!(outcomes.len() == batch.len(), "{} outcomes for {} appends", outcomes.len(), batch.len());
        outcomes.into_iter().map(Outcome::of).collect()
    }

    /// Appends to the partition of the first append; with a floor where the log asks for one.
    pub(crate) async fn append(&self, batch: &[Append]) -> Result<Vec<Outcome>, Violation> {
        let mut outcomes = self.append_bare(batch).await?;
        if outcomes.contains(&Outcome::Unseeded) {
            // In order: an append that follows an unseeded one of its conversation was unseeded too.
            for (append, outcome) in batch.iter().zip(&mut outcomes) {
                if *outcome == Outcome::Unseeded {
                    let seeded = Append { floor: Some(NEW), ..append.clone() };
                    *outcome = one(self.append_bare(&[seeded]).await?)?;
                }
            }
        }
        Ok(outcomes)
    }

    /// Appends one; it must be stored now.
    pub(crate) async fn store(&self, append: &Append) -> Result<Receipt, Violation> {
        appended(one(self.append(std::slice::from_ref(append)).await?)?)
    }

    /// Appends `count` messages to one conversation, one by one.
    pub(crate) async fn fill(
        &self,
        conversation: &ConversationId,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<Receipt>, Violation> {
        let mut receipts = Vec::new();
        for n in 0..count {
            receipts
                .push(self.store(&message(conversation, "filler", &format!("{prefix}{n}"), "text")?).await?);
        }
        Ok(receipts)
    }

    /// Everything after a position, in small pages; fails where something is trimmed.
    pub(crate) async fn after(
        &self,
        partition: Partition,
        position: Position,
    ) -> Result<Vec<LogRecord>, Violation> {
        let (mut all, mut at) = (Vec::new(), position);
        loop {
            let page = records(self.log.read(partition, at, 7, Duration::ZERO).await?)?;
            ensure!(page.len() <= 7, "a read of at most 7 brought {}", page.len());
            let Some(last) = page.last() else { return Ok(all) };
            ensure!(last.position > at, "a read after {at:?} brought {:?}", last.position);
            at = last.position;
            all.extend(page);
        }
    }

    /// Everything in a partition.
    pub(crate) async fn all(&self, partition: Partition) -> Result<Vec<LogRecord>, Violation> {
        self.after(partition, Position::START).await
    }

    /// Everything of one conversation.
    pub(crate) async fn timeline(&self, conversation: &ConversationId) -> Result<Vec<LogRecord>, Violation> {
        let mut all = self.all(self.partition(conversation)).await?;
        all.retain(|record| record.record.conversation == *conversation);
        Ok(all)
    }
}

pub(crate) fn log_of(parts: &Parts) -> Result<Arc<dyn MessageLog>, Violation> {
    parts.log.as_ref().map(|part| part.log.clone()).ok_or_else(|| Violation::new("the log part is missing"))
}

pub(crate) fn records(read: LogRead) -> Result<Vec<LogRecord>, Violation> {
    match read {
        LogRead::Records(records) => Ok(records),
        LogRead::Trimmed(to) => Err(Violation::new(format!("trimmed up to {to:?}, which nothing allowed"))),
    }
}

/// The one answer to one argument.
pub(crate) fn one<T>(answers: Vec<T>) -> Result<T, Violation> {
    let count = answers.len();
    answers
        .into_iter()
        .next()
        .filter(|_| count == 1)
        .ok_or_else(|| Violation::new(format!("{count} answers to one argument")))
}

/// An [`AppendOutcome`] that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Appended(Receipt),
    Duplicate(Receipt),
    Conflict,
    Unseeded,
}

impl Outcome {
    fn of(outcome: AppendOutcome) -> Result<Self, Violation> {
        match outcome {
            AppendOutcome::Appended(receipt) => Ok(Self::Appended(receipt)),
            AppendOutcome::Duplicate(receipt) => Ok(Self::Duplicate(receipt)),
            AppendOutcome::Conflict => Ok(Self::Conflict),
            AppendOutcome::Unseeded => Ok(Self::Unseeded),
            AppendOutcome::Failed(error) => Err(error.into()),
        }
    }
}

pub(crate) fn appended(outcome: Outcome) -> Result<Receipt, Violation> {
    match outcome {
        Outcome::Appended(receipt) => Ok(receipt),
        other => Err(Violation::new(format!("{other:?}, where an append was due"))),
    }
}

/// Runs all at once, on several threads; answers in their order.
pub(crate) async fn together<T, F>(works: impl IntoIterator<Item = F>) -> Result<Vec<T>, Violation>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Violation>> + Send + 'static,
{
    let running: Vec<_> = works.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for work in running {
        answers.push(work.await.map_err(|why| Violation::new(format!("a task died: {why}")))??);
    }
    Ok(answers)
}
