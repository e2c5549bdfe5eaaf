//! The clauses of [`im_core::MessageStore`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use im_core::{
    Batch, Clock, ConversationId, DeviceId, Direction, Epoch, ErrorKind, Found, History, HistoryQuery,
    Incarnation, LogRecord, Mark, MessageStore, Partition, Parts, Position, Receipt, Record, RecordKind, Seq,
    StorePart, SystemClock, UserId,
};

use crate::{
    Data, Fixture, Part, Verdict, Violation,
    support::{
        HOSTILE, Script, fails, group, make_group, membership, message, of_kind, one, store_of, together,
        user, version, watched,
    },
    violation::{ensure, ensure_eq},
};

async fn open(data: &dyn Data) -> Result<(Parts, StorePart), Violation> {
    let parts = data.node().await?;
    let store = store_of(&parts)?.clone();
    Ok((parts, store))
}

fn query(
    conversation: &ConversationId,
    from: u64,
    to: Option<u64>,
    direction: Direction,
    max: usize,
) -> HistoryQuery {
    HistoryQuery { conversation: conversation.clone(), from: Seq(from), to: to.map(Seq), direction, max }
}

/// A whole timeline.
async fn timeline(
    store: &dyn MessageStore,
    conversation: &ConversationId,
) -> Result<Vec<Arc<Record>>, Violation> {
    match store.history(&query(conversation, 0, None, Direction::Forward, 10_000)).await? {
        History::Page { records, more: false, .. } => Ok(records),
        other => Err(Violation::new(format!("{other:?}, where a whole timeline was due"))),
    }
}

fn plain(records: &[LogRecord]) -> Vec<Arc<Record>> {
    records.iter().map(|record| record.record.clone()).collect()
}

/// Clause 1: rows, senders' marks and checkpoint are there together or not at all, also for who reads meanwhile, and stay.
///
/// # Errors
/// The violation that was found.
pub async fn with_checkpoint(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let (conversation, alice) = (group("g")?, user("alice")?);
    make_group(&store, &conversation, &[&alice]).await?;
    let mut batches = Vec::new();
    for _ in 0..30 {
        let records = script.messages(&conversation, "alice", 20)?;
        batches.push(script.batch(&records));
    }
    let work = async {
        for batch in &batches {
            store.messages.apply(batch).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    watched(work, |done| {
        let (store, conversation) = (store.clone(), conversation.clone());
        async move { watch(&store, &conversation, &done).await }
    })
    .await?;
    let reopened = data.reopen().await?;
    let store = store_of(&reopened)?;
    let records: Vec<_> = batches.iter().flat_map(|batch| plain(&batch.records)).collect();
    ensure_eq!(timeline(&*store.messages, &conversation).await?, records, "the timeline after a restart");
    let last = batches.last().map(|batch| batch.checkpoint.clone());
    ensure_eq!(store.messages.checkpoint(script.partition).await?, last, "the checkpoint after a restart");
    ensure_eq!(
        store.messages.checkpoint(Partition(1)).await?,
        None,
        "the checkpoint of a partition that has none"
    );
    Ok(())
}

/// While batches come in: what the checkpoint says is there, the last row's checkpoint is there, and its sender's mark.
async fn watch(store: &StorePart, conversation: &ConversationId, done: &AtomicBool) -> Verdict {
    let alice = user("alice")?;
    let head = async || -> Result<u64, Violation> {
        let last = one(store.messages.last(std::slice::from_ref(conversation)).await?)?;
        Ok(last.map_or(0, |last| last.seq.0))
    };
    let checkpoint = async || -> Result<u64, Violation> {
        Ok(store.messages.checkpoint(Partition(0)).await?.map_or(0, |checkpoint| checkpoint.position.offset))
    };
    loop {
        let ended = done.load(Ordering::SeqCst);
        let (before, rows) = (checkpoint().await?, head().await?);
        ensure!(rows >= before, "the checkpoint says {before}, the rows end at {rows}");
        let after = checkpoint().await?;
        ensure!(after >= rows, "the rows end at {rows}, the checkpoint says {after}");
        ensure!(rows.is_multiple_of(20), "half a batch is there: {rows} rows");
        let mark = membership(store, conversation, &alice, &None).await?.read.seq.0;
        ensure!(mark >= after, "the checkpoint says {after}, the sender's mark {mark}");
        if ended {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// Clause 2: a record that is there is passed over; another one at its place, or with its key, is loud and brings nothing.
///
/// # Errors
/// The violation that was found.
pub async fn once(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let (conversation, elsewhere) = (group("g")?, group("h")?);
    let records = script.messages(&conversation, "alice", 12)?;
    let mut workers = Vec::new();
    for n in 0..6 {
        let (store, batch) = (open(&*data).await?.1, script.batch(&records[n..6 + n]));
        let whole = script.batch(&records);
        workers.push(async move {
            store.messages.apply(&batch).await?;
            Ok(store.messages.apply(&whole).await?)
        });
    }
    together(workers).await?;
    ensure_eq!(
        timeline(&*store.messages, &conversation).await?,
        plain(&records),
        "after replays by six workers"
    );

    let stranger = script.message(&elsewhere, "bob")?;
    let changed = |change: &dyn Fn(&mut Record)| {
        let mut record = Record::clone(&records[3].record);
        change(&mut record);
        LogRecord { position: stranger.position, record: Arc::new(record) }
    };
    let other = message(&conversation, "alice", "other", "other")?;
    let at_its_place = changed(&|record| {
        (record.client_msg_id, record.content, record.hash) =
            (other.client_msg_id.clone(), other.content.clone(), other.hash);
    });
    let with_its_key = changed(&|record| {
        (record.seq, record.content, record.hash) = (Seq(40), other.content.clone(), other.hash);
    });
    let with_other_content = changed(&|record| {
        (record.content, record.hash) = (other.content.clone(), other.hash);
    });
    for bad in [at_its_place, with_its_key, with_other_content] {
        let batch = script.batch(&[stranger.clone(), bad]);
        fails(store.messages.apply(&batch).await, &[ErrorKind::Diverged], "another record for the same")?;
        ensure_eq!(timeline(&*store.messages, &elsewhere).await?.len(), 0, "rows of a batch that diverged");
        let checkpoint =
            store.messages.checkpoint(script.partition).await?.map(|checkpoint| checkpoint.position);
        ensure_eq!(checkpoint, Some(records[11].position), "the checkpoint after a batch that diverged");
    }
    ensure_eq!(timeline(&*store.messages, &conversation).await?, plain(&records), "after diverging batches");
    Ok(())
}

/// Clause 3: an older batch brings what is missing and leaves the checkpoint; another lineage may go back.
///
/// # Errors
/// The violation that was found.
pub async fn forward_only(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let conversation = group("g")?;
    let records = script.messages(&conversation, "alice", 10)?;
    let newer = script.batch(&records[5..]);
    store.messages.apply(&newer).await?;
    store.messages.apply(&script.batch(&records[..5])).await?;
    let kept = store.messages.checkpoint(script.partition).await?;
    ensure_eq!(kept.as_ref(), Some(&newer.checkpoint), "the checkpoint after an older batch");
    ensure_eq!(
        timeline(&*store.messages, &conversation).await?,
        plain(&records),
        "the rows of an older batch"
    );

    let empty = Batch { records: Vec::new(), ..script.batch(&records[..7]) };
    store.messages.apply(&empty).await?;
    ensure_eq!(
        store.messages.checkpoint(script.partition).await?,
        kept,
        "the checkpoint after an older empty batch"
    );
    script.lineage.inbox = Incarnation::new("another inbox");
    let back = Batch { records: Vec::new(), ..script.batch(&records[..2]) };
    store.messages.apply(&back).await?;
    let there = store.messages.checkpoint(script.partition).await?;
    ensure_eq!(there, Some(back.checkpoint), "the checkpoint of another lineage");
    Ok(())
}

/// Clause 4: who works for another store, or for a log that another has followed, changes nothing.
///
/// # Errors
/// The violation that was found.
pub async fn fenced(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut zombie = Script::for_store(&parts, "first log").await?;
    let (conversation, alice) = (group("g")?, user("alice")?);
    make_group(&store, &conversation, &[&alice]).await?;
    let records = zombie.messages(&conversation, "alice", 4)?;
    let first = zombie.batch(&records[..2]);
    store.messages.apply(&first).await?;
    let late = zombie.batch(&records);
    let mut foreign = late.clone();
    foreign.checkpoint.lineage.store = Incarnation::new("another store");
    let mut unknown = late.clone();
    unknown.checkpoint.lineage.log = Incarnation::new("a log without an epoch");
    let newest = Script::for_store(&parts, "second log").await?;
    for (batch, whose) in [(&foreign, "another store"), (&unknown, "an unknown log"), (&late, "an older log")]
    {
        fails(store.messages.apply(batch).await, &[ErrorKind::OtherIncarnation], whose)?;
        ensure_eq!(
            timeline(&*store.messages, &conversation).await?,
            plain(&records[..2]),
            "rows after {whose}"
        );
        let kept = store.messages.checkpoint(zombie.partition).await?;
        ensure_eq!(kept.as_ref(), Some(&first.checkpoint), "the checkpoint after {whose}");
        let mark = membership(&store, &conversation, &alice, &None).await?.read;
        ensure_eq!(mark, records[1].record.mark(), "the sender's mark after {whose}");
    }
    let mut repeated = late;
    repeated.checkpoint.lineage = newest.lineage;
    store.messages.apply(&repeated).await?;
    ensure_eq!(
        timeline(&*store.messages, &conversation).await?,
        plain(&records),
        "rows by the present worker"
    );
    Ok(())
}

/// Clause 5: every page of every range, from either end, holds what it should, also across a hole and while more comes in.
///
/// # Errors
/// The violation that was found.
pub async fn exact_pages(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let (conversation, other) = (group("g")?, group("g2")?);
    let mut records = script.messages(&conversation, "alice", 9)?;
    records.push(script.record_after(&message(&conversation, "alice", "behind the hole", "x")?, 1 << 20));
    records.extend(script.messages(&conversation, "alice", 10)?);
    let strangers = script.messages(&other, "alice", 5)?;
    store.messages.apply(&script.batch(&[records.clone(), strangers].concat())).await?;
    let growing = script.messages(&conversation, "alice", 60)?;
    let writer = async {
        for chunk in growing.chunks(3) {
            store.messages.apply(&script.batch(chunk)).await?;
        }
        Ok::<_, Violation>(())
    };
    let timeline = plain(&records);
    let (written, read) = tokio::join!(writer, pages(&*store.messages, &conversation, &timeline));
    written.and(read)
}

/// Asks for pages of many ranges and compares each with the timeline.
async fn pages(store: &dyn MessageStore, conversation: &ConversationId, timeline: &[Arc<Record>]) -> Verdict {
    let end = timeline.last().map_or(0, |last| last.seq.0);
    for (from, to) in [(0, end), (1, end), (3, 7), (9, end - 5), (10, 1000), (5, 5), (end, end), (8, 2)] {
        for max in [1, 4, 5, 100] {
            for direction in [Direction::Forward, Direction::Backward] {
                let range = timeline.iter().filter(|record| (from..=to).contains(&record.seq.0));
                let all: Vec<_> = range.cloned().collect();
                let cut = max.min(all.len());
                let due = match direction {
                    Direction::Forward => all[..cut].to_vec(),
                    Direction::Backward => all[all.len() - cut..].to_vec(),
                };
                let query = query(conversation, from, Some(to), direction, max);
                let History::Page { records, more, .. } = store.history(&query).await? else {
                    return Err(Violation::new(format!("no page, where one was due: {query:?}")));
                };
                ensure_eq!((records, more), (due, all.len() > max), "{query:?}");
            }
        }
    }
    Ok(())
}

/// Clause 6: a range that ends above the head is answered with the head, never with a short page; a page names the head too.
///
/// # Errors
/// The violation that was found.
pub async fn behind(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let conversation = group("g")?;
    let ask = async |to: Option<u64>, direction: Direction| {
        store.messages.history(&query(&conversation, 1, to, direction, 10)).await
    };
    for direction in [Direction::Forward, Direction::Backward] {
        let nothing = History::Behind { head: Mark::default() };
        ensure_eq!(ask(Some(1), direction).await?, nothing, "a range of an unknown conversation");
        let empty = History::Page { records: Vec::new(), more: false, head: Mark::default() };
        ensure_eq!(ask(None, direction).await?, empty, "all of an unknown conversation");
    }
    let notice = script.record(&of_kind(&conversation, "alice", "n", "{}", RecordKind::Notice)?);
    let records = [vec![notice], script.messages(&conversation, "alice", 3)?].concat();
    store.messages.apply(&script.batch(&records)).await?;
    let head = records[3].record.mark();
    for direction in [Direction::Forward, Direction::Backward] {
        ensure_eq!(
            ask(Some(5), direction).await?,
            History::Behind { head },
            "a range that ends above the head"
        );
        let below = History::Page { records: plain(&records[..3]), more: false, head };
        ensure_eq!(ask(Some(3), direction).await?, below, "a range that ends below the head");
        let page = History::Page { records: plain(&records), more: false, head };
        ensure_eq!(ask(Some(4), direction).await?, page, "a range that ends at the head");
        ensure_eq!(ask(None, direction).await?, page, "a range that ends nowhere");
    }
    Ok(())
}

/// Clause 7: what a user sent is read by it, on that device where devices are named, and no state version tells.
///
/// # Errors
/// The violation that was found.
pub async fn own_sends_are_read(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let (conversation, alice, bob) = (group("g")?, user("alice")?, user("bob")?);
    let (phone, tablet) = (Some(DeviceId::new("phone")?), Some(DeviceId::new("tablet")?));
    make_group(&store, &conversation, &[&alice, &bob]).await?;
    for device in [&phone, &tablet] {
        store.states.state(&alice, device, &None, 10).await?;
    }
    let before = (version(&store, &alice).await?, version(&store, &bob).await?);
    let notice = script.record(&of_kind(&conversation, "bob", "n", "{}", RecordKind::Notice)?);
    let mut append = message(&conversation, "alice", "from the phone", "x")?;
    append.device.clone_from(&phone);
    let first = script.messages(&conversation, "alice", 2)?;
    let of_phone = script.record(&append);
    let of_bob = script.message(&conversation, "bob")?;
    let late = [notice, first[0].clone()];
    store.messages.apply(&script.batch(&[first[1].clone(), of_phone.clone(), of_bob.clone()])).await?;
    store.messages.apply(&script.batch(&late)).await?;
    let read = async |user: &UserId, device: &Option<DeviceId>| -> Result<Mark, Violation> {
        Ok(membership(&store, &conversation, user, device).await?.read)
    };
    ensure_eq!(read(&alice, &None).await?, first[1].record.mark(), "the mark of a sender");
    ensure_eq!(read(&bob, &None).await?, of_bob.record.mark(), "the mark of another sender");
    ensure_eq!(read(&alice, &phone).await?, of_phone.record.mark(), "the mark of the sending device");
    ensure_eq!(read(&alice, &tablet).await?, Mark::default(), "the mark of a device that did not send");
    let after = (version(&store, &alice).await?, version(&store, &bob).await?);
    ensure_eq!(after, before, "state versions after sends");
    Ok(())
}

/// Clause 8: the same log, the same epoch; another log a higher one, from the minute's number on; an older log none.
///
/// # Errors
/// The violation that was found.
pub async fn epochs_increase(fixture: &dyn Fixture) -> Verdict {
    const YEAR_2026_IN_MINUTES: i64 = 1_767_225_600 / 60;
    let data = fixture.fresh().await?;
    let (_, store) = open(&*data).await?;
    ensure_eq!(store.messages.info().await?.first_epoch, None, "the first epoch before any");
    let minutes = SystemClock.now().0 / 60_000 - YEAR_2026_IN_MINUTES;
    let mut last = Epoch(0);
    for name in ["first", "second", "third"] {
        let log = Incarnation::new(name);
        let mut openers = Vec::new();
        for _ in 0..6 {
            let (store, log) = (open(&*data).await?.1, log.clone());
            openers.push(async move { Ok(store.messages.open_epoch(&log).await?) });
        }
        let epochs = together(openers).await?;
        ensure!(epochs.iter().all(|epoch| *epoch == epochs[0]), "one log has the epochs {epochs:?}");
        ensure!(epochs[0] > last, "the epoch {:?} follows {last:?}", epochs[0]);
        ensure!(i64::from(epochs[0].0) >= minutes, "the epoch {:?} is below the minute {minutes}", epochs[0]);
        last = epochs[0];
    }
    let reopened = data.reopen().await?;
    let store = &store_of(&reopened)?.messages;
    ensure_eq!(store.open_epoch(&Incarnation::new("third")).await?, last, "the epoch after a restart");
    let over = store.open_epoch(&Incarnation::new("first")).await;
    fails(over, &[ErrorKind::StaleEpoch], "an epoch for a log that others have followed")?;
    let first = store.info().await?.first_epoch;
    ensure!(first.is_some_and(|first| first < last), "the first epoch is {first:?}, the last {last:?}");
    Ok(())
}

/// Clause 9: what was applied of a partition comes back in log order, page by page, once.
///
/// # Errors
/// The violation that was found.
pub async fn above(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "first log").await?;
    let (a, b) = (group("a")?, group("b")?);
    let mut records = Vec::new();
    for _ in 0..6 {
        records.push(script.message(&b, "alice")?);
        records.push(script.message(&a, "alice")?);
    }
    store.messages.apply(&script.batch(&records[6..])).await?;
    store.messages.apply(&script.batch(&records)).await?;
    let mut elsewhere = script.clone();
    elsewhere.partition = Partition(1);
    store.messages.apply(&elsewhere.batch(&elsewhere.clone().messages(&group("c")?, "alice", 3)?)).await?;
    let next = Script::for_store(&parts, "second log").await?;
    (script.lineage, script.epoch) = (next.lineage, next.epoch);
    records.extend(script.messages(&a, "alice", 2)?);
    store.messages.apply(&script.batch(&records[12..])).await?;

    let (mut read, mut at) = (Vec::new(), Position::START);
    loop {
        let page = store.messages.above(Partition(0), at, 5).await?;
        ensure!(page.len() <= 5, "a page of at most 5 has {}", page.len());
        let Some(last) = page.last() else { break };
        ensure!(last.position > at, "a page after {at:?} ends at {:?}", last.position);
        at = last.position;
        read.extend(page);
    }
    ensure_eq!(read, records, "what was applied of a partition");
    Ok(())
}

/// Answer *i* belongs to argument *i*: also for what is not there, for repeated arguments and for hostile ids.
///
/// # Errors
/// The violation that was found.
pub async fn answers(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let mut records = Vec::new();
    for conversation in HOSTILE {
        for (id, sender) in HOSTILE.iter().zip(HOSTILE.iter().rev()).step_by(3) {
            records.push(script.record(&message(&group(conversation)?, sender, id, "' \" \\ 😀")?));
        }
    }
    store.messages.apply(&script.batch(&records)).await?;
    let mut keys: Vec<_> = records.iter().rev().map(|record| record.record.key()).collect();
    keys.insert(1, message(&group("nowhere")?, "nobody", "nothing", "")?.key());
    keys.push(keys[0].clone());
    let found = store.messages.find(&keys).await?;
    ensure_eq!(found.len(), keys.len(), "answers");
    for (key, found) in keys.iter().zip(found) {
        let record = records.iter().find(|record| record.record.key() == *key);
        ensure_eq!(found, record.map(found_of), "the place of {key:?}");
    }
    let mut places: Vec<_> = records.iter().map(|r| (r.record.conversation.clone(), r.record.seq)).collect();
    places.insert(0, (group("nowhere")?, Seq(1)));
    let got = store.messages.get(&places).await?;
    ensure_eq!(got.len(), places.len(), "answers");
    ensure_eq!(got[0], None, "a record of an unknown conversation");
    ensure_eq!(
        got[1..],
        records.iter().map(|r| Some(r.record.clone())).collect::<Vec<_>>(),
        "records by place"
    );
    let conversations = HOSTILE.iter().map(|name| group(name)).collect::<Result<Vec<_>, _>>()?;
    for (conversation, last) in conversations.iter().zip(store.messages.last(&conversations).await?) {
        let due = records.iter().rev().find(|record| record.record.conversation == *conversation);
        ensure_eq!(last, due.map(|due| due.record.clone()), "the last record of {conversation:?}");
    }
    Ok(())
}

fn found_of(record: &LogRecord) -> Found {
    let Record { created_at, hash, .. } = *record.record;
    Found { receipt: Receipt { mark: record.record.mark(), position: record.position, created_at }, hash }
}

/// A store that has lost its newest records says so by another incarnation, refuses the workers of before, and takes the same
/// records again.
///
/// # Errors
/// The violation that was found.
pub async fn lost_tail(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (parts, store) = open(&*data).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let (conversation, alice) = (group("g")?, user("alice")?);
    make_group(&store, &conversation, &[&alice]).await?;
    let records = script.messages(&conversation, "alice", 9)?;
    let kept = script.batch(&records[..5]);
    store.messages.apply(&kept).await?;
    data.save().await?;
    let lost = script.batch(&records[5..]);
    store.messages.apply(&lost).await?;
    data.lose_tail(Part::Store, 4).await?;

    let (parts, store) = open(&*data).await?;
    fails(store.messages.apply(&lost).await, &[ErrorKind::OtherIncarnation], "a worker of before the loss")?;
    ensure_eq!(timeline(&*store.messages, &conversation).await?, plain(&records[..5]), "what is left");
    ensure_eq!(store.messages.checkpoint(script.partition).await?, Some(kept.checkpoint), "the checkpoint");
    let gone = one(store.messages.find(&[records[6].record.key()]).await?)?;
    ensure_eq!(gone, None, "the key of a lost record");
    let mark = membership(&store, &conversation, &alice, &None).await?.read;
    ensure_eq!(mark, records[4].record.mark(), "the sender's mark");
    script.lineage.store = store_of(&parts)?.messages.info().await?.incarnation;
    store.messages.apply(&script.batch(&records[3..])).await?;
    ensure_eq!(timeline(&*store.messages, &conversation).await?, plain(&records), "after the replay");
    Ok(())
}
