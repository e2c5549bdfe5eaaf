//! Logs that lose, double, misnumber and mislead.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{
    Append, AppendOutcome, ClientMsgId, EPOCH_GAP, Epoch, Error, ErrorKind, Found, Incarnation, LogInfo,
    LogPart, LogRead, LogRecord, Mark, MessageLog, Ordinal, Partition, Parts, Position, Receipt, Record,
    Result, SendKey, Seq, Timestamp, UserId,
};

use super::{Broken, Shared, interleave, with_log};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("log::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "durable" NotWritten "a restart loses the newest record"
    "dense" LeavesOut "every tenth number is left out"
    "dense" Doubles "every tenth number is given twice"
    "ordinal" EverythingCounts "notices count too"
    "never_passed" VisibleLate "a follower is shown a record before the one that stands before it"
    "time" Backwards "the newest is the oldest"
    "time_turned_back" RawClock "times are the clock's, wherever it is turned"
    "idempotent" NoDedupe "every send is stored"
    "idempotent" RacyDedupe "look up, then append: not in one step"
    "dedupe_window" ForgetsAtTrim "a trim forgets all keys"
    "unseeded" NoGap "a new epoch goes on where the last one ended"
    "epoch" AnyEpoch "the epoch of an append is not looked at"
    "isolated" StopsAtConflict "what stands behind a conflict is refused too"
    "trimmed" SkipsTrimmed "a read from below starts later, in silence"
    "held" OneHold "all projections share one hold"
    "waits" NeverWaits "a read at the end returns at once"
    "hostile_ids" Folds "colons are taken for dots"
    "lost_tail" SameIncarnation "the incarnation is a constant"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let shared = shared.clone();
    with_log(parts, |part| LogPart {
        log: Arc::new(Wrapped { right: part.log.clone(), defect, shared }),
        ..part
    })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn MessageLog>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    fn mark(&self, Mark { seq: Seq(seq), ordinal }: Mark) -> Mark {
        let seq = match self.defect {
            Defect::LeavesOut => seq + seq / 10,
            Defect::Doubles => seq - seq / 10,
            Defect::NoGap if seq >= EPOCH_GAP => seq - EPOCH_GAP + 1,
            _ => seq,
        };
        let ordinal = if self.defect == Defect::EverythingCounts { Ordinal(seq) } else { ordinal };
        Mark { seq: Seq(seq), ordinal }
    }

    fn time(&self, time: Timestamp, seq: Seq) -> Timestamp {
        match self.defect {
            Defect::Backwards => time.minus(Duration::from_millis(seq.0)),
            Defect::RawClock => {
                let turned = self.shared.turned_back.load(std::sync::atomic::Ordering::SeqCst);
                time.minus(Duration::from_millis(turned))
            }
            _ => time,
        }
    }

    fn receipt(&self, receipt: Receipt) -> Receipt {
        let created_at = self.time(receipt.created_at, receipt.mark.seq);
        Receipt { mark: self.mark(receipt.mark), created_at, ..receipt }
    }

    fn outcome(&self, outcome: AppendOutcome) -> AppendOutcome {
        match outcome {
            AppendOutcome::Appended(receipt) => AppendOutcome::Appended(self.receipt(receipt)),
            AppendOutcome::Duplicate(receipt) => AppendOutcome::Duplicate(self.receipt(receipt)),
            other => other,
        }
    }

    fn record(&self, LogRecord { position, record }: LogRecord) -> LogRecord {
        let mark = self.mark(record.mark());
        let created_at = self.time(record.created_at, record.seq);
        let record = Record { seq: mark.seq, ordinal: mark.ordinal, created_at, ..Record::clone(&record) };
        LogRecord { position, record: Arc::new(record) }
    }

    /// The append as it is passed on.
    fn rename(&self, append: &Append) -> Result<Append> {
        let suffix = match self.defect {
            Defect::NoDedupe | Defect::RacyDedupe => format!("-{}", self.shared.next()),
            Defect::ForgetsAtTrim => format!("-{}", self.shared.count()),
            _ => String::new(),
        };
        let mut append = append.clone();
        append.client_msg_id =
            ClientMsgId::new(format!("{}{suffix}", append.client_msg_id)).map_err(bad_id)?;
        if self.defect == Defect::Folds {
            append.sender = UserId::new(append.sender.as_str().replace(':', ".")).map_err(bad_id)?;
        }
        Ok(append)
    }

    /// Appends one by one, until a conflict.
    async fn until_conflict(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        let mut outcomes = Vec::new();
        for append in batch {
            if matches!(outcomes.last(), Some(AppendOutcome::Conflict)) {
                outcomes.push(AppendOutcome::Conflict);
            } else {
                outcomes.extend(self.right.append(partition, epoch, std::slice::from_ref(append)).await?);
            }
        }
        Ok(outcomes)
    }

    async fn look_then_append(
        &self,
        partition: Partition,
        epoch: Epoch,
        append: &Append,
    ) -> Result<Vec<AppendOutcome>> {
        let known = self.shared.notes().receipts.get(&append.key()).copied();
        interleave().await;
        if let Some((receipt, hash)) = known {
            let same = hash == append.hash;
            return Ok(vec![if same { AppendOutcome::Duplicate(receipt) } else { AppendOutcome::Conflict }]);
        }
        let outcomes = self.right.append(partition, epoch, &[self.rename(append)?]).await?;
        if let [AppendOutcome::Appended(receipt)] = outcomes[..] {
            self.shared.notes().receipts.insert(append.key(), (receipt, append.hash));
        }
        Ok(outcomes)
    }
}

fn bad_id(why: im_core::InvalidId) -> Error {
    Error::new(ErrorKind::Invalid, "broken", "log.append", why.to_string())
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MessageLog for Wrapped {
    async fn info(&self) -> Result<LogInfo> {
        let mut info = self.right.info().await?;
        if self.defect == Defect::SameIncarnation {
            info.incarnation = self.shared.first(info.incarnation);
        }
        Ok(info)
    }

    async fn ends(&self) -> Result<Vec<Position>> {
        self.right.ends().await
    }

    async fn open_epoch(&self, epoch: Epoch, incarnation: &Incarnation) -> Result<()> {
        self.right.open_epoch(epoch, incarnation).await
    }

    async fn append(
        &self,
        partition: Partition,
        epoch: Epoch,
        batch: &[Append],
    ) -> Result<Vec<AppendOutcome>> {
        if self.defect == Defect::RacyDedupe {
            let mut outcomes = Vec::new();
            for append in batch {
                outcomes.extend(self.look_then_append(partition, epoch, append).await?);
            }
            return Ok(outcomes);
        }
        let open = self.right.info().await?.epoch.map(|(epoch, _)| epoch);
        let epoch = open.filter(|_| self.defect == Defect::AnyEpoch).unwrap_or(epoch);
        let batch = batch.iter().map(|append| self.rename(append)).collect::<Result<Vec<_>>>()?;
        let outcomes = match self.defect {
            Defect::StopsAtConflict => self.until_conflict(partition, epoch, &batch).await?,
            _ => self.right.append(partition, epoch, &batch).await?,
        };
        Ok(outcomes.into_iter().map(|outcome| self.outcome(outcome)).collect())
    }

    async fn find(&self, keys: &[SendKey]) -> Result<Vec<Option<Found>>> {
        let found = self.right.find(keys).await?.into_iter();
        let found = found.map(|found| Some(Found { receipt: self.receipt(found?.receipt), ..found? }));
        Ok(found.collect())
    }

    async fn read(
        &self,
        partition: Partition,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<LogRead> {
        let patience = if self.defect == Defect::NeverWaits { Duration::ZERO } else { wait };
        let mut read = self.right.read(partition, after, max, patience).await?;
        if let LogRead::Trimmed(to) = read
            && self.defect == Defect::SkipsTrimmed
        {
            read = self.right.read(partition, to, max, patience).await?;
        }
        let LogRead::Records(mut records) = read else { return Ok(read) };
        match self.defect {
            Defect::NotWritten if self.shared.reopened() && records.len() < max => drop(records.pop()),
            Defect::VisibleLate if !wait.is_zero() && records.len() > 1 => {
                drop(records.remove(records.len() - 2))
            }
            _ => {}
        }
        Ok(LogRead::Records(records.into_iter().map(|record| self.record(record)).collect()))
    }

    async fn hold(&self, projection: &str, positions: &[(Partition, Position)]) -> Result<()> {
        let name = if self.defect == Defect::OneHold { "everybody" } else { projection };
        self.right.hold(name, positions).await
    }

    async fn trim(&self) -> Result<()> {
        if self.defect == Defect::ForgetsAtTrim {
            self.shared.next();
        }
        self.right.trim().await
    }
}
