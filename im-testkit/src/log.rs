//! The clauses of [`im_core::MessageLog`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use im_core::{
    Append, ContentHash, ContentType, ConversationId, DeviceId, Epoch, ErrorKind, Floor, Incarnation,
    LogRead, Mark, MessageLog, Ordinal, Partition, Position, Receipt, Record, RecordKind, Seq,
};

use crate::{
    Data, Fixture, Part, Verdict, Violation,
    support::{
        HOSTILE, Log, NEW, Outcome, appended, fails, group, log_of, message, of_kind, one, together, user,
    },
    violation::{ensure, ensure_eq},
};

async fn open(data: &dyn Data) -> Result<Log, Violation> {
    Log::open(&data.node().await?).await
}

/// Clause 1: what was appended is read after a restart as it was sent, and its key is still known.
///
/// # Errors
/// The violation that was found.
pub async fn durable(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let mut sent = Vec::new();
    for n in 0..40 {
        let mut append =
            message(&group(&format!("g{}", n % 5))?, "alice", &format!("m{n}"), &format!("你好 {n}\n\"x\""))?;
        append.device = Some(DeviceId::new("phone")?);
        append.send_to = Some(user("bob")?);
        append.content_type = ContentType::Custom;
        append.hash = ContentHash(u64::MAX - n);
        sent.push((log.store(&append).await?, append));
    }
    let log = Log::open(&data.reopen().await?).await?;
    for (receipt, append) in sent {
        let timeline = log.timeline(&append.conversation).await?;
        let found = timeline.iter().find(|found| found.position == receipt.position);
        let Some(found) = found else { return Err(Violation::new(format!("{:?} is gone", append.key()))) };
        ensure_eq!(*found.record, append.at(receipt.mark, receipt.created_at, None), "a record changed");
        let known = one(log.log.find(&[append.key()]).await?)?;
        ensure_eq!(
            known.map(|found| (found.receipt, found.hash)),
            Some((receipt, append.hash)),
            "a key changed"
        );
    }
    Ok(())
}

/// Clause 2: 1, 2, 3 …, none missing and none twice, however many nodes append at once.
///
/// # Errors
/// The violation that was found.
pub async fn dense(fixture: &dyn Fixture) -> Verdict {
    const WRITERS: usize = 8;
    const BATCHES: usize = 12;
    let data = fixture.fresh().await?;
    let conversations = [group("hot")?, group("warm")?, group("cool")?];
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (log, conversations) = (open(&*data).await?, conversations.clone());
        writers.push(async move { write(&log, writer, BATCHES, &conversations).await });
    }
    let mut given: BTreeMap<ConversationId, BTreeMap<Seq, Position>> = BTreeMap::new();
    for (conversation, receipt) in together(writers).await?.into_iter().flatten() {
        let seqs = given.entry(conversation.clone()).or_default();
        let twin = seqs.insert(receipt.mark.seq, receipt.position);
        ensure!(twin.is_none(), "{:?} of {conversation} was given twice", receipt.mark.seq);
    }
    let log = open(&*data).await?;
    for conversation in &conversations {
        let timeline = log.timeline(conversation).await?;
        let seqs: Vec<_> = timeline.iter().map(|record| record.record.seq.0).collect();
        ensure_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{conversation} is not dense");
        let read: BTreeMap<_, _> =
            timeline.iter().map(|record| (record.record.seq, record.position)).collect();
        ensure_eq!(Some(&read), given.get(conversation), "receipts and log differ in {conversation}");
    }
    Ok(())
}

/// Appends batches of different sizes, most of them to the first conversation.
async fn write(
    log: &Log,
    writer: usize,
    batches: usize,
    conversations: &[ConversationId],
) -> Result<Vec<(ConversationId, Receipt)>, Violation> {
    let mut receipts = Vec::new();
    for batch in 0..batches {
        let conversation = &conversations[if batch % 3 == 0 { 1 + batch % 2 } else { 0 }];
        let appends = (0..1 + (writer + batch) % 4)
            .map(|n| message(conversation, &format!("writer-{writer}"), &format!("{batch}.{n}"), "text"))
            .collect::<Result<Vec<_>, _>>()?;
        for outcome in log.append(&appends).await? {
            receipts.push((conversation.clone(), appended(outcome)?));
        }
    }
    Ok(receipts)
}

/// Clause 3: messages raise the ordinal by one, nothing else does; conversations do not mix.
///
/// # Errors
/// The violation that was found.
pub async fn ordinal(fixture: &dyn Fixture) -> Verdict {
    use RecordKind::{Large, Members, Message, Notice};
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let kinds = [Members, Message, Message, Notice, Message, Large, Notice, Message];
    let due = [0, 1, 2, 2, 3, 3, 3, 4];
    for name in ["a", "b"] {
        let conversation = group(name)?;
        for (n, kind) in kinds.into_iter().enumerate() {
            let receipt = log.store(&of_kind(&conversation, "alice", &n.to_string(), "{}", kind)?).await?;
            ensure_eq!(receipt.mark.ordinal, Ordinal(due[n]), "the ordinal of a {kind:?}");
        }
        let read: Vec<_> = log.timeline(&conversation).await?.iter().map(|r| r.record.ordinal.0).collect();
        ensure_eq!(read, due, "the ordinals as read");
    }
    Ok(())
}

/// Clause 4: a reader that follows while many write misses nothing, and positions and sequence ids only rise.
///
/// # Errors
/// The violation that was found.
pub async fn never_passed(fixture: &dyn Fixture) -> Verdict {
    const WRITERS: usize = 6;
    let data = fixture.fresh().await?;
    let conversations = [group("hot")?, group("warm")?, group("cool")?];
    let partition = open(&*data).await?.partition(&conversations[0]);
    let end = message(&conversations[0], "the end", "end", "")?;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (log, end) = (open(&*data).await?, end.clone());
        readers.push(tokio::spawn(async move { follow(&log, partition, &end).await }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (log, conversations) = (open(&*data).await?, conversations.clone());
        writers.push(async move { write(&log, writer, 12, &conversations).await });
    }
    together(writers).await?;
    let log = open(&*data).await?;
    log.store(&end).await?;
    let due: Vec<_> = log.all(partition).await?.into_iter().map(|record| record.position).collect();
    for reader in readers {
        let seen = reader.await.map_err(|why| Violation::new(format!("a reader died: {why}")))??;
        ensure_eq!(seen, due, "a reader that followed did not see what is there");
    }
    Ok(())
}

/// Reads on until the given record comes; the positions read.
async fn follow(log: &Log, partition: Partition, end: &Append) -> Result<Vec<Position>, Violation> {
    let (mut seen, mut at) = (Vec::new(), Position::START);
    let mut heads: BTreeMap<ConversationId, Seq> = BTreeMap::new();
    loop {
        let page = log.log.read(partition, at, 5, Duration::from_secs(1)).await?;
        for record in crate::support::records(page)? {
            ensure!(record.position > at, "{:?} came after {at:?}", record.position);
            at = record.position;
            let Record { conversation, seq, .. } = &*record.record;
            let before = heads.insert(conversation.clone(), *seq);
            ensure!(before < Some(*seq), "{seq:?} of {conversation} came after {before:?}");
            seen.push(at);
            if record.record.key() == end.key() {
                return Ok(seen);
            }
        }
    }
}

/// Clause 5: times come from a clock that moves, are the same in receipt and record, and never fall within a conversation.
///
/// # Errors
/// The violation that was found.
pub async fn time(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let conversations = [group("hot")?, group("warm")?, group("cool")?];
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (log, conversations) = (open(&*data).await?, conversations.clone());
        writers.push(async move { write(&log, writer, 9, &conversations).await });
    }
    together(writers).await?;
    let log = open(&*data).await?;
    for conversation in &conversations {
        let times: Vec<_> = log.timeline(conversation).await?.iter().map(|r| r.record.created_at).collect();
        ensure!(times.is_sorted(), "time runs backwards in {conversation}: {times:?}");
    }
    let first = log.store(&message(&conversations[0], "late", "1", "")?).await?;
    data.pass(Duration::from_millis(40)).await;
    let second = log.store(&message(&conversations[0], "late", "2", "")?).await?;
    ensure!(
        second.created_at > first.created_at,
        "40 ms passed, and the log's time stands at {:?}",
        first.created_at
    );
    let known = one(log.log.find(&[message(&conversations[0], "late", "2", "")?.key()]).await?)?;
    ensure_eq!(known.map(|found| found.receipt), Some(second), "find and receipt");
    Ok(())
}

/// Clause 5: a clock that is turned back does not take the times of a conversation along.
///
/// # Errors
/// The violation that was found.
pub async fn time_turned_back(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let conversation = group("g")?;
    let before = log.store(&message(&conversation, "alice", "1", "")?).await?;
    data.turn_back(Duration::from_secs(60)).await?;
    let after = log.store(&message(&conversation, "alice", "2", "")?).await?;
    ensure!(after.created_at >= before.created_at, "{:?} after {:?}", after.created_at, before.created_at);
    Ok(())
}

/// Clause 6: one key, one record: in one batch, in later ones, from many nodes at once, with other content, after a restart.
///
/// # Errors
/// The violation that was found.
pub async fn idempotent(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let conversation = group("g")?;
    let first = message(&conversation, "alice", "m1", "hello")?;
    let receipt = log.store(&first).await?;
    let changed = message(&conversation, "alice", "m1", "hullo")?;
    let of_bob = message(&conversation, "bob", "m1", "hello")?;
    let outcomes = log.append(&[first.clone(), changed.clone(), of_bob.clone(), of_bob.clone()]).await?;
    ensure_eq!(outcomes[0], Outcome::Duplicate(receipt), "the same again");
    ensure_eq!(outcomes[1], Outcome::Conflict, "the same key with other content");
    let bobs = appended(outcomes[2])?;
    ensure_eq!(outcomes[3], Outcome::Duplicate(bobs), "twice in one batch");
    let elsewhere = log.store(&message(&group("h")?, "alice", "m1", "hello")?).await?;
    ensure_eq!(elsewhere.mark.seq, Seq(1), "the same name in another conversation");

    let racers = racing_sends(&*data, &conversation).await?;
    ensure!(racers.len() == 1, "one key got {} places: {racers:?}", racers.len());
    ensure_eq!(log.timeline(&conversation).await?.len(), 3, "records stored");

    let log = Log::open(&data.reopen().await?).await?;
    ensure_eq!(log.append(&[first]).await?, [Outcome::Duplicate(receipt)], "the same after a restart");
    ensure_eq!(log.append(&[changed]).await?, [Outcome::Conflict], "other content after a restart");
    Ok(())
}

/// One message sent by many nodes at once; the places that it got.
async fn racing_sends(
    data: &dyn Data,
    conversation: &ConversationId,
) -> Result<BTreeSet<(Seq, Position)>, Violation> {
    let mut racers = Vec::new();
    for _ in 0..16 {
        let (log, racer) = (open(data).await?, message(conversation, "racer", "m1", "hello")?);
        racers.push(async move { one(log.append(&[racer]).await?) });
    }
    let outcomes = together(racers).await?;
    let fresh = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Appended(_))).count();
    ensure!(fresh == 1, "{fresh} of 16 equal sends were stored");
    let place = |outcome: Outcome| match outcome {
        Outcome::Appended(receipt) | Outcome::Duplicate(receipt) => Ok((receipt.mark.seq, receipt.position)),
        other => Err(Violation::new(format!("{other:?} for an equal send"))),
    };
    outcomes.into_iter().map(place).collect()
}

/// Clause 6: a key is known for the whole dedupe window, and after it the log forgets it only together with the window's word.
///
/// # Errors
/// The violation that was found.
pub async fn dedupe_window(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let log = open(&*data).await?;
    let window = log.log.info().await?.dedupe_window;
    let Some(window) = window else {
        return Err(Violation::new(
            "a log without a window forgets nothing: declare it, `lacks { dedupe_window: \"why\" }`",
        ));
    };
    let send = message(&group("g")?, "alice", "m1", "hello")?;
    let receipt = log.store(&send).await?;
    data.pass(window / 4 * 3).await;
    log.log.trim().await?;
    ensure_eq!(
        log.append(std::slice::from_ref(&send)).await?,
        [Outcome::Duplicate(receipt)],
        "inside the window"
    );
    ensure!(one(log.log.find(&[send.key()]).await?)?.is_some(), "find forgot a key inside the window");
    data.pass(window * 2).await;
    log.log.trim().await?;
    let later = one(log.append(&[send]).await?)?;
    match later {
        Outcome::Duplicate(known) => ensure_eq!(known, receipt, "a key that was remembered longer"),
        other => ensure_eq!(appended(other)?.mark.seq, Seq(2), "a key that was forgotten"),
    }
    Ok(())
}

/// Clause 7: what the log cannot know it asks for; the first record of a conversation in a later epoch keeps its distance and
/// declares the hole.
///
/// # Errors
/// The violation that was found.
pub async fn unseeded(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    first_epoch(&log).await?;
    let epoch = Epoch(log.epoch.0 + 1);
    let incarnation = log.log.info().await?.incarnation;
    log.log.open_epoch(epoch, &incarnation).await?;
    let log = Log { epoch, ..log };
    next_epoch(&log, &group("direct")?, Seq(2), Ordinal(2)).await?;
    next_epoch(&log, &group("new")?, Seq(0), Ordinal(0)).await
}

async fn first_epoch(log: &Log) -> Verdict {
    let raw = async |append: Append| one(log.append_bare(&[append]).await?);
    let conversation = group("direct")?;
    let send = message(&conversation, "alice", "m1", "")?;
    let mut outcome = raw(send.clone()).await?;
    if outcome == Outcome::Unseeded {
        ensure!(log.timeline(&conversation).await?.is_empty(), "an unseeded append was stored");
        ensure!(one(log.log.find(&[send.key()]).await?)?.is_none(), "the key of an unseeded append is known");
        outcome = raw(Append { floor: Some(NEW), ..send }).await?;
    }
    ensure_eq!(appended(outcome)?.mark.seq, Seq(1), "the first record of all");
    let second = appended(raw(message(&conversation, "alice", "m2", "")?).await?)?;
    ensure_eq!(second.mark.seq, Seq(2), "the second record of all");
    let holes: Vec<_> = log.timeline(&conversation).await?.iter().map(|r| r.record.hole_after).collect();
    ensure_eq!(holes, [None, None], "holes in the first epoch");
    Ok(())
}

/// The first records of a conversation in an epoch that is not the first; before it its head was `own`.
async fn next_epoch(log: &Log, conversation: &ConversationId, own: Seq, ordinal: Ordinal) -> Verdict {
    let send = message(conversation, "alice", "in the next epoch", "")?;
    let mut floor = Floor { mark: Mark { seq: own, ordinal }, ..Floor::default() };
    let mut outcome = one(log.append_bare(std::slice::from_ref(&send)).await?)?;
    if outcome == Outcome::Unseeded {
        let created_at = log.log.info().await?.epoch_began.plus(Duration::from_secs(3600));
        // Direct is a word about the first epoch of all, which a log that had another knows better.
        floor = Floor { mark: Mark { seq: Seq(100), ordinal: Ordinal(40) }, created_at, direct: true };
        let seeded = Append { floor: Some(floor), ..send };
        outcome = one(log.append_bare(&[seeded]).await?)?;
    }
    let first = appended(outcome)?;
    ensure_eq!(first.mark.seq, log.epoch.first_seq(floor.mark.seq), "the distance from {:?}", floor.mark.seq);
    ensure_eq!(first.mark.ordinal, Ordinal(floor.mark.ordinal.0 + 1), "the ordinal after the floor's");
    ensure!(first.created_at >= floor.created_at, "{:?} is before its floor", first.created_at);
    let second = log.store(&message(conversation, "alice", "and one more", "")?).await?;
    ensure_eq!(second.mark.seq, Seq(first.mark.seq.0 + 1), "the second record of the epoch");
    ensure!(
        second.created_at >= first.created_at,
        "{:?} is before {:?}",
        second.created_at,
        first.created_at
    );
    let timeline = log.timeline(conversation).await?;
    let holes: Vec<_> = timeline.iter().rev().take(2).rev().map(|r| r.record.hole_after).collect();
    ensure_eq!(holes, [Some(floor.mark.seq), None], "the declared hole");
    Ok(())
}

/// Clause 8: only the open epoch takes appends; epochs only rise; positions rise with them.
///
/// # Errors
/// The violation that was found.
pub async fn epoch(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let early = log_of(&data.node().await?)?;
    let send = message(&group("g")?, "alice", "m1", "")?;
    let partition = Partition::of(&send.conversation, early.info().await?.partitions);
    refused(&*early, partition, Epoch(1), &send, &[ErrorKind::OtherIncarnation, ErrorKind::StaleEpoch])
        .await?;

    let old = open(&*data).await?;
    let incarnation = old.log.info().await?.incarnation;
    old.log.open_epoch(old.epoch, &incarnation).await?;
    let before = old.store(&send).await?;
    let foreign = Incarnation::new("of no log at all");
    let stray = old.log.open_epoch(Epoch(old.epoch.0 + 1), &foreign).await;
    fails(stray, &[ErrorKind::OtherIncarnation], "an epoch for another incarnation")?;

    let next = Epoch(old.epoch.0 + 1);
    let other = message(&group("g")?, "alice", "m2", "")?;
    refused(&*old.log, partition, next, &other, &[ErrorKind::StaleEpoch]).await?;
    old.log.open_epoch(next, &incarnation).await?;
    ensure_eq!(old.log.info().await?.epoch, Some((next, incarnation.clone())), "the open epoch");
    refused(&*old.log, partition, old.epoch, &other, &[ErrorKind::StaleEpoch]).await?;
    fails(
        old.log.open_epoch(old.epoch, &incarnation).await,
        &[ErrorKind::StaleEpoch],
        "an epoch that is over",
    )?;
    ensure_eq!(old.timeline(&other.conversation).await?.len(), 1, "records after refused appends");
    let after = open(&*data).await?.store(&other).await?;
    ensure_eq!(after.position.epoch, next, "the epoch of a position");
    ensure!(
        after.position > before.position,
        "{:?} does not lie after {:?}",
        after.position,
        before.position
    );
    Ok(())
}

async fn refused(
    log: &dyn MessageLog,
    partition: Partition,
    epoch: Epoch,
    append: &Append,
    kinds: &[ErrorKind],
) -> Verdict {
    let append = Append { floor: Some(NEW), ..append.clone() };
    fails(log.append(partition, epoch, &[append]).await, kinds, "an append to an epoch that is not open")
}

/// Clause 9: what is refused in a batch does not take the rest along, and answers stay at their places.
///
/// # Errors
/// The violation that was found.
pub async fn isolated(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let conversation = group("g")?;
    let first = message(&conversation, "alice", "m1", "hello")?;
    let receipt = log.store(&first).await?;
    let batch = [
        message(&conversation, "alice", "m2", "")?,
        message(&conversation, "alice", "m1", "other content")?,
        first,
        message(&conversation, "alice", "m3", "")?,
    ];
    let outcomes = log.append(&batch).await?;
    ensure_eq!(appended(outcomes[0])?.mark.seq, Seq(2), "before the refused one");
    ensure_eq!(outcomes[1], Outcome::Conflict, "the refused one");
    ensure_eq!(outcomes[2], Outcome::Duplicate(receipt), "the repeated one");
    ensure_eq!(appended(outcomes[3])?.mark.seq, Seq(3), "behind the refused one");
    ensure_eq!(log.timeline(&conversation).await?.len(), 3, "records stored");
    Ok(())
}

/// A conversation's records, of which everything may be trimmed as far as the dedupe window goes.
async fn old_records(
    data: &dyn Data,
    log: &Log,
    conversation: &ConversationId,
) -> Result<Vec<Receipt>, Violation> {
    let window = log.log.info().await?.dedupe_window;
    let Some(window) = window else {
        return Err(Violation::new(
            "a log that trims needs a dedupe window; if it never trims declare it, `lacks { trim: \"why\" }`",
        ));
    };
    let receipts = log.fill(conversation, "m", 10).await?;
    data.pass(window * 2).await;
    Ok(receipts)
}

/// Clause 10: a read from below what is kept says so, and names the place from which it can go on without a gap.
///
/// # Errors
/// The violation that was found.
pub async fn trimmed(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let log = open(&*data).await?;
    let conversation = group("g")?;
    let partition = log.partition(&conversation);
    let receipts = old_records(&*data, &log, &conversation).await?;
    log.log.hold("persist", &[(partition, receipts[5].position)]).await?;
    log.log.trim().await?;
    let read = log.log.read(partition, Position::START, 100, Duration::ZERO).await?;
    let LogRead::Trimmed(to) = read else {
        return Err(Violation::new(format!("nothing was trimmed: {read:?}")));
    };
    ensure!(to <= receipts[5].position, "trimmed to {to:?}, above the hold");
    let rest: Vec<_> = log.after(partition, to).await?.iter().map(|record| record.record.seq).collect();
    let due: Vec<_> = receipts.iter().filter(|r| r.position > to).map(|r| r.mark.seq).collect();
    ensure_eq!(rest, due, "what is kept above {to:?}");
    ensure_eq!(log.fill(&conversation, "later", 1).await?[0].mark.seq, Seq(11), "the numbering after a trim");
    Ok(())
}

/// Clause 11: the lowest hold is kept, holds only move forward, and the dedupe window is a hold too.
///
/// # Errors
/// The violation that was found.
pub async fn held(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let log = open(&*data).await?;
    let conversation = group("g")?;
    let partition = log.partition(&conversation);
    let receipts = old_records(&*data, &log, &conversation).await?;
    let young = log.fill(&conversation, "young", 3).await?;
    let hold = async |name: &str, at: Position| log.log.hold(name, &[(partition, at)]).await;
    let kept = async |from: Position, why: &str| -> Verdict {
        log.log.trim().await?;
        let there = log.after(partition, from).await?.len();
        let due = receipts.iter().chain(&young).filter(|receipt| receipt.position > from).count();
        ensure_eq!(there, due, "records kept {why}");
        Ok(())
    };
    hold("slow", receipts[2].position).await?;
    hold("fast", receipts[8].position).await?;
    kept(receipts[2].position, "above the lowest hold").await?;
    hold("slow", receipts[6].position).await?;
    hold("slow", receipts[4].position).await?;
    kept(receipts[6].position, "above the lowest hold after it moved").await?;
    hold("slow", young[2].position).await?;
    hold("fast", young[2].position).await?;
    kept(receipts[9].position, "inside the dedupe window").await
}

/// Clause 12: a read at the end wakes for the next record, and returns empty after its wait.
///
/// # Errors
/// The violation that was found.
pub async fn waits(fixture: &dyn Fixture) -> Verdict {
    const LONG: Duration = Duration::from_secs(30);
    let data = fixture.fresh().await?;
    let (log, writer) = (open(&*data).await?, open(&*data).await?);
    let conversation = group("g")?;
    let partition = log.partition(&conversation);
    let mut at = Position::START;
    for n in 0..20 {
        let (began, name) = (Instant::now(), format!("m{n}-"));
        let (read, written) =
            tokio::join!(log.log.read(partition, at, 10, LONG), writer.fill(&conversation, &name, 1));
        let records = crate::support::records(read?)?;
        ensure!(began.elapsed() < LONG / 2, "a waiting read took {:?} to see a record", began.elapsed());
        ensure_eq!(records.len(), 1, "records that a waiting read brought");
        at = written?[0].position;
        ensure_eq!(records[0].position, at, "the record that a waiting read brought");
    }
    let began = Instant::now();
    let nothing = log.log.read(partition, at, 10, Duration::from_millis(200)).await?;
    ensure_eq!(nothing, LogRead::Records(Vec::new()), "a read at the end");
    let waited = began.elapsed();
    ensure!(waited >= Duration::from_millis(150), "a read did not wait: {waited:?}");
    ensure!(waited < LONG / 2, "a read waited {waited:?}, not 200 ms");
    Ok(())
}

/// Ids are bytes to a log: none is unescaped, folded, split or mixed up with another.
///
/// # Errors
/// The violation that was found.
pub async fn hostile_ids(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let log = open(&*data).await?;
    let mut sent: BTreeMap<ConversationId, Vec<Append>> = BTreeMap::new();
    for conversation in HOSTILE {
        for sender in ["a", "a:b", "a.b", "a\\"] {
            for id in HOSTILE.iter().take(8).chain(&["b:c", "c", "b.c"]) {
                let conversation = group(conversation)?;
                let append = message(&conversation, sender, id, "x")?;
                sent.entry(conversation).or_default().push(append);
            }
        }
    }
    for (conversation, appends) in &sent {
        for (n, outcome) in log.append(appends).await?.into_iter().enumerate() {
            ensure_eq!(appended(outcome)?.mark.seq, Seq(n as u64 + 1), "{:?}", appends[n].key());
        }
        let read: Vec<_> = log.timeline(conversation).await?.iter().map(|r| r.record.key()).collect();
        ensure_eq!(read, appends.iter().map(Append::key).collect::<Vec<_>>(), "the keys in {conversation:?}");
    }
    Ok(())
}

/// A log that has lost its newest records says so by another incarnation, refuses appends until a new epoch is open, and
/// gives nothing again: no sequence id, no position, no key.
///
/// # Errors
/// The violation that was found.
pub async fn lost_tail(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let old = open(&*data).await?;
    let conversation = group("g")?;
    let before = old.log.info().await?.incarnation;
    let kept = old.fill(&conversation, "kept", 5).await?;
    data.save().await?;
    let lost = old.fill(&conversation, "lost", 4).await?;
    data.lose_tail(Part::Log, 4).await?;

    let log = log_of(&data.node().await?)?;
    let after = log.info().await?.incarnation;
    ensure!(after != before, "the incarnation is still {before:?}");
    let partition = old.partition(&conversation);
    let zombie = message(&conversation, "zombie", "z", "")?;
    let due = [ErrorKind::OtherIncarnation, ErrorKind::StaleEpoch];
    refused(&*log, partition, old.epoch, &zombie, &due).await?;

    let new = open(&*data).await?;
    ensure!(new.epoch > old.epoch, "the epoch is still {:?}", new.epoch);
    let places: Vec<_> = new.timeline(&conversation).await?.iter().map(|record| record.position).collect();
    ensure_eq!(places, kept.iter().map(|receipt| receipt.position).collect::<Vec<_>>(), "what is left");
    let again = message(&conversation, "filler", "lost0", "text")?;
    let (outcome, floor) = reseeded(&new, again, kept[4], lost[3]).await?;
    let receipt = appended(outcome)?;
    ensure_eq!(receipt.mark.seq, new.epoch.first_seq(floor.mark.seq), "a record after the loss");
    ensure!(receipt.position > lost[3].position, "{:?} is not above the lost ones", receipt.position);
    let known = message(&conversation, "filler", "kept0", "text")?;
    ensure_eq!(new.append(&[known]).await?, [Outcome::Duplicate(kept[0])], "a key that was not lost");
    Ok(())
}

/// Appends after a loss, and where it then stands above: what the log still has, if it knows that nobody else can have more, or
/// the floor that store and members would give.
async fn reseeded(
    log: &Log,
    append: Append,
    kept: Receipt,
    last: Receipt,
) -> Result<(Outcome, Receipt), Violation> {
    let floor = Floor { mark: last.mark, created_at: last.created_at, direct: false };
    match one(log.append_bare(std::slice::from_ref(&append)).await?)? {
        Outcome::Unseeded => {
            let seeded = Append { floor: Some(floor), ..append };
            Ok((one(log.append_bare(&[seeded]).await?)?, last))
        }
        outcome => Ok((outcome, kept)),
    }
}
