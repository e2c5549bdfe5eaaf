//! The clauses of [`im_core::SyncInbox`].

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use im_core::{
    ConversationId, Cursor, Delivered, Delivery, Entry, ErrorKind, Incarnation, LogRecord, Partition, Pull,
    Recipient, Record, Seq, SyncInbox, UserId,
};

use crate::{
    Data, Fixture, Part, Verdict, Violation,
    support::{Feed, HOSTILE, fails, one, together, user, watched},
    violation::{ensure, ensure_eq},
};

async fn open(data: &dyn Data) -> Result<Arc<dyn SyncInbox>, Violation> {
    data.node().await?.inbox.ok_or_else(|| Violation::new("the inbox part is missing"))
}

/// Delivers; every recipient must have got its entries, each with a cursor.
async fn deliver(inbox: &dyn SyncInbox, delivery: &Delivery) -> Result<Vec<Delivered>, Violation> {
    let answers = inbox.deliver(delivery).await?;
    let count = delivery.recipients.len();
    ensure!(answers.len() == count, "{} answers for {count} recipients", answers.len());
    let delivered = answers.into_iter().collect::<im_core::Result<Vec<_>>>()?;
    for (recipient, delivered) in delivery.recipients.iter().zip(&delivered) {
        let (cursors, records) = (delivered.cursors.len(), recipient.records.len());
        ensure!(cursors == records, "{cursors} cursors for {records} records of {}", recipient.user);
        for cursor in &*delivered.cursors {
            ensure!(cursor.as_str().len() <= Cursor::MAX_BYTES, "{cursor:?} is too long for a cursor");
        }
    }
    Ok(delivered)
}

/// One page; none where the cursor is not served.
async fn page(
    inbox: &dyn SyncInbox,
    user: &UserId,
    after: &Cursor,
    max: usize,
) -> Result<Option<(Vec<Entry>, bool)>, Violation> {
    match inbox.pull(user, after, max).await? {
        Pull::Page { entries, more } => {
            ensure!(entries.len() <= max, "a page of at most {max} has {}", entries.len());
            ensure!(!more || !entries.is_empty(), "an empty page says that there is more");
            Ok(Some((entries, more)))
        }
        Pull::Resync => Ok(None),
    }
}

/// Everything after a cursor, in pages; none where it is not served.
async fn rest(
    inbox: &dyn SyncInbox,
    user: &UserId,
    after: &Cursor,
    max: usize,
) -> Result<Option<Vec<Entry>>, Violation> {
    let (mut all, mut at) = (Vec::<Entry>::new(), after.clone());
    loop {
        let Some((entries, more)) = page(inbox, user, &at, max).await? else {
            ensure!(all.is_empty(), "a cursor that a pull gave out is not served");
            return Ok(None);
        };
        all.extend(entries);
        let Some(last) = all.last().filter(|_| more) else { return Ok(Some(all)) };
        at = last.cursor.clone();
    }
}

/// Everything after a cursor that must be served.
async fn pull(inbox: &dyn SyncInbox, user: &UserId, after: &Cursor) -> Result<Vec<Entry>, Violation> {
    let rest = rest(inbox, user, after, 7).await?;
    rest.ok_or_else(|| Violation::new(format!("{after:?} of {user} is not served")))
}

fn records(entries: &[Entry]) -> Vec<Arc<Record>> {
    entries.iter().map(|entry| entry.record.clone()).collect()
}

fn plain(records: &[LogRecord]) -> Vec<Arc<Record>> {
    records.iter().map(|record| record.record.clone()).collect()
}

/// The first appearance of each record of a conversation, as places.
fn first_appearances(entries: &[Entry], conversation: &ConversationId) -> Vec<Seq> {
    let mut seen = BTreeSet::new();
    let of = entries.iter().filter(|entry| entry.record.conversation == *conversation);
    of.map(|entry| entry.record.seq).filter(|seq| seen.insert(*seq)).collect()
}

fn seqs(records: &[LogRecord]) -> Vec<Seq> {
    records.iter().map(|record| record.record.seq).collect()
}

/// Clause 1: whatever repeats, first appearances come in the order of delivery, for each partition.
///
/// # Errors
/// The violation that was found.
pub async fn in_order(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?, user("bob")?];
    let start = [inbox.anchor(&users[0]).await?, inbox.anchor(&users[1]).await?];
    let mut workers = Vec::new();
    for mut feed in Feed::several(&*data, 3).await? {
        let (inbox, users) = (open(&*data).await?, users.clone());
        workers.push(async move {
            let id = feed.group(&format!("g{}", feed.script.partition.0))?;
            let all = feed.messages(&id, "carol", 30).await?;
            for (end, batch) in all.chunks(3).enumerate() {
                deliver(&*inbox, &feed.delivery(batch, &users)).await?;
                // A zombie comes late with what another has delivered.
                let old = end.saturating_sub(2) * 3;
                deliver(&*inbox, &feed.delivery(&all[old..old + 3], &users)).await?;
            }
            Ok((id, seqs(&all)))
        });
    }
    let delivered = together(workers).await?;
    for (user, start) in users.iter().zip(&start) {
        let entries = pull(&*inbox, user, start).await?;
        for (id, due) in &delivered {
            ensure_eq!(first_appearances(&entries, id), *due, "first appearances in {id} for {user}");
        }
    }
    Ok(())
}

/// Clause 2: who follows while many deliver sees everything; nothing appears behind a cursor that was handed out.
///
/// # Errors
/// The violation that was found.
pub async fn never_passed(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let alice = user("alice")?;
    let start = inbox.anchor(&alice).await?;
    let done = Arc::new(AtomicBool::new(false));
    let mut followers = Vec::new();
    for max in [1, 5] {
        let (inbox, alice, start, done) = (open(&*data).await?, alice.clone(), start.clone(), done.clone());
        followers.push(tokio::spawn(async move { follow(&*inbox, &alice, start, max, &done).await }));
    }
    let mut workers = Vec::new();
    let feeds = Feed::several(&*data, 4).await?;
    let entries = feeds.len() * 18;
    for mut feed in feeds {
        let (inbox, alice) = (open(&*data).await?, alice.clone());
        workers.push(async move {
            let id = feed.group(&format!("g{}", feed.script.partition.0))?;
            for count in [1, 2, 1, 3, 1, 1, 2, 4, 1, 2] {
                let batch = feed.messages(&id, "carol", count).await?;
                let delivered =
                    one(deliver(&*inbox, &feed.delivery(&batch, std::slice::from_ref(&alice))).await?)?;
                ends_there(&*inbox, &alice, &delivered).await?;
            }
            Ok(())
        });
    }
    together(workers).await?;
    done.store(true, Ordering::SeqCst);
    let due = pull(&*inbox, &alice, &start).await?;
    for follower in followers {
        let seen = follower.await.map_err(|why| Violation::new(format!("a follower died: {why}")))??;
        ensure_eq!(records(&seen), records(&due), "a follower did not see what is there");
    }
    ensure_eq!(due.len(), entries, "entries");
    Ok(())
}

/// The cursors of a delivery and the one before it are served, and lead to its records.
async fn ends_there(inbox: &dyn SyncInbox, user: &UserId, delivered: &Delivered) -> Verdict {
    if let Some(previous) = &delivered.previous {
        let after = pull(inbox, user, previous).await?;
        let cursors: Vec<_> = after.iter().take(delivered.cursors.len()).map(|entry| &entry.cursor).collect();
        ensure_eq!(cursors, delivered.cursors.iter().collect::<Vec<_>>(), "the cursors after {previous:?}");
    }
    for cursor in &*delivered.cursors {
        pull(inbox, user, cursor).await?;
    }
    Ok(())
}

/// Pulls on until nothing is to come any more.
async fn follow(
    inbox: &dyn SyncInbox,
    user: &UserId,
    mut at: Cursor,
    max: usize,
    done: &AtomicBool,
) -> Result<Vec<Entry>, Violation> {
    let mut seen = Vec::new();
    loop {
        let ended = done.load(Ordering::SeqCst);
        let Some((entries, _)) = page(inbox, user, &at, max).await? else {
            return Err(Violation::new(format!("{at:?} is not served any more")));
        };
        match entries.last() {
            Some(last) => at = last.cursor.clone(),
            None if ended => return Ok(seen),
            None => tokio::task::yield_now().await,
        }
        seen.extend(entries);
    }
}

/// Clause 3: a cursor that proves nothing is not served, and no text that a client may send is an error.
///
/// # Errors
/// The violation that was found.
pub async fn no_silent_gap(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let (alice, bob) = (user("alice")?, user("bob")?);
    let mut feed = Feed::open(&*data).await?;
    let id = feed.group("g")?;
    let batch = feed.messages(&id, "carol", 5).await?;
    let delivered = deliver(&*inbox, &feed.delivery(&batch, &[alice.clone(), bob.clone()])).await?;
    let of_bob = feed.messages(&id, "carol", 5).await?;
    let only_bobs = deliver(&*inbox, &feed.delivery(&of_bob, std::slice::from_ref(&bob))).await?;
    let other = fixture.fresh().await?;
    let foreign = open(&*other).await?;
    let mut elsewhere = Feed::open(&*other).await?;
    let twice = elsewhere.messages(&elsewhere.group("g")?, "carol", 9).await?;
    let foreign = deliver(&*foreign, &elsewhere.delivery(&twice, &[alice.clone(), bob])).await?;

    // Another's cursor proves something only if it stands on an entry that the user has too, and then nothing else.
    for (n, cursor) in delivered[1].cursors.iter().enumerate() {
        if let Some(rest) = rest(&*inbox, &alice, cursor, 2).await? {
            ensure_eq!(records(&rest), plain(&batch[n + 1..]), "after another's entry {n}");
        }
    }
    let mut bad: Vec<Cursor> =
        only_bobs.into_iter().flat_map(|delivered| delivered.cursors.to_vec()).collect();
    bad.extend(foreign.into_iter().flat_map(|delivered| delivered.cursors.to_vec()));
    let (first, long) = (delivered[0].cursors[0].as_str(), "7".repeat(Cursor::MAX_BYTES));
    let huge = "/".repeat(100_000);
    let odd = [
        "",
        "0",
        "-1",
        "1",
        "+1",
        "18446744073709551616",
        "$",
        "(",
        "0-0",
        "1-1",
        "😀",
        "' OR 1=1",
        "\0",
        &long,
        &huge,
    ];
    bad.extend(odd.into_iter().chain(HOSTILE.iter().copied()).map(Cursor::new));
    bad.push(Cursor::new(format!("{first}0")));
    for cursor in bad {
        let answer = inbox.pull(&alice, &cursor, 10).await?;
        let shown: String = cursor.as_str().chars().take(80).collect();
        ensure_eq!(answer, Pull::Resync, "the answer to the cursor {shown:?}");
    }
    for (n, cursor) in delivered[0].cursors.iter().enumerate() {
        let after = records(&pull(&*inbox, &alice, cursor).await?);
        ensure_eq!(after, plain(&batch[n + 1..]), "after entry {n}");
    }
    let stranger = inbox.pull(&user("stranger")?, &delivered[0].cursors[0], 10).await?;
    ensure_eq!(stranger, Pull::Resync, "the answer to one who has no inbox");
    Ok(())
}

/// Clause 3: after an expiry a cursor is served in full or not at all.
///
/// # Errors
/// The violation that was found.
pub async fn expired_cursors(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let inbox = open(&*data).await?;
    let expiry = inbox.info().await?.expiry;
    let users = [user("alice")?];
    let start = inbox.anchor(&users[0]).await?;
    let mut feed = Feed::open(&*data).await?;
    let mut all = Vec::new();
    let mut cursors = vec![start];
    for _ in 0..6 {
        let batch = feed.messages(&feed.group("g")?, "carol", 2).await?;
        cursors.extend_from_slice(&one(deliver(&*inbox, &feed.delivery(&batch, &users)).await?)?.cursors);
        all.extend(batch);
        data.pass(expiry / 4).await;
        expire(&*inbox, 1).await?;
        for (n, cursor) in cursors.iter().enumerate() {
            if let Some(rest) = rest(&*inbox, &users[0], cursor, 3).await? {
                ensure_eq!(records(&rest), plain(&all[n..]), "after {cursor:?}, which is still served");
            }
        }
    }
    Ok(())
}

/// Expires until there is no more to do.
async fn expire(inbox: &dyn SyncInbox, max: usize) -> Verdict {
    for _ in 0..10_000 {
        if !inbox.expire(max).await? {
            return Ok(());
        }
    }
    Err(Violation::new("there is always more to expire"))
}

/// Clause 4: of one delivery a user's entries are there together.
///
/// # Errors
/// The violation that was found.
pub async fn one_write(fixture: &dyn Fixture) -> Verdict {
    const TOGETHER: usize = 5;
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = (0..20).map(|n| user(&format!("user {n}"))).collect::<Result<Vec<_>, _>>()?;
    let last = users[19].clone();
    let start = inbox.anchor(&last).await?;
    let mut feed = Feed::open(&*data).await?;
    let work = async {
        for _ in 0..30 {
            let batch = feed.messages(&feed.group("g")?, "carol", TOGETHER).await?;
            deliver(&*inbox, &feed.delivery(&batch, &users)).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    watched(work, |done| {
        let (inbox, last, start) = (inbox.clone(), last.clone(), start.clone());
        async move {
            while !done.load(Ordering::SeqCst) {
                let Some((entries, _)) = page(&*inbox, &last, &start, 1000).await? else {
                    return Err(Violation::new("the anchor is not served any more"));
                };
                let there = entries.len();
                ensure!(there.is_multiple_of(TOGETHER), "{there} entries of deliveries of {TOGETHER}");
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    })
    .await?;
    ensure_eq!(pull(&*inbox, &last, &start).await?.len(), 30 * TOGETHER, "entries at last");
    Ok(())
}

/// Clause 5: what the checkpoint says is there, in every inbox; a delivery without a checkpoint moves none.
///
/// # Errors
/// The violation that was found.
pub async fn checkpoint_last(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = (0..12).map(|n| user(&format!("user {n}"))).collect::<Result<Vec<_>, _>>()?;
    let mut starts = Vec::new();
    for user in &users {
        starts.push((user.clone(), inbox.anchor(user).await?));
    }
    let mut feed = Feed::open(&*data).await?;
    let id = feed.group("g")?;
    let all = feed.messages(&id, "carol", 60).await?;
    let partition = feed.script.partition;
    let work = async {
        let mut due = None;
        for batch in all.chunks(3) {
            let whole = feed.delivery(batch, &users);
            let (front, back) = whole.recipients.split_at(7);
            let first = Delivery { recipients: front.to_vec(), checkpoint: None, ..whole.clone() };
            deliver(&*inbox, &first).await?;
            ensure_eq!(
                inbox.checkpoint(partition).await?,
                due,
                "the checkpoint after the first of two deliveries"
            );
            deliver(&*inbox, &Delivery { recipients: back.to_vec(), ..whole.clone() }).await?;
            due = whole.checkpoint;
            ensure_eq!(
                inbox.checkpoint(partition).await?,
                due,
                "the checkpoint after the second of two deliveries"
            );
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    watched(work, |done| {
        let (inbox, starts, all) = (inbox.clone(), starts.clone(), all.clone());
        async move {
            while !done.load(Ordering::SeqCst) {
                let position = inbox.checkpoint(partition).await?.map(|checkpoint| checkpoint.position);
                let said = all.iter().filter(|record| Some(record.position) <= position).count();
                for (user, start) in &starts {
                    let there = pull(&*inbox, user, start).await?.len();
                    ensure!(there >= said, "the checkpoint speaks of {said} entries, {user} has {there}");
                }
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    })
    .await?;
    let last = feed.messages(&id, "carol", 1).await?;
    let nobody = feed.delivery(&last, &[]);
    deliver(&*inbox, &nobody).await?;
    ensure_eq!(
        inbox.checkpoint(partition).await?,
        nobody.checkpoint,
        "the checkpoint of a delivery to nobody"
    );
    let other = inbox.checkpoint(Partition(partition.0 + 1)).await?;
    ensure_eq!(other, None, "the checkpoint of another partition");
    Ok(())
}

/// Clause 6: an older delivery leaves the checkpoint; another lineage may go back.
///
/// # Errors
/// The violation that was found.
pub async fn forward_only(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?];
    let mut feed = Feed::open(&*data).await?;
    let all = feed.messages(&feed.group("g")?, "carol", 6).await?;
    let newer = feed.delivery(&all, &users);
    deliver(&*inbox, &newer).await?;
    for older in [1, 3, 5] {
        deliver(&*inbox, &feed.delivery(&all[..older], &users)).await?;
        ensure_eq!(
            inbox.checkpoint(feed.script.partition).await?,
            newer.checkpoint,
            "the checkpoint after an older delivery"
        );
    }
    feed.script.lineage.store = Incarnation::new("another store");
    let back = feed.delivery(&all[..2], &users);
    deliver(&*inbox, &back).await?;
    ensure_eq!(
        inbox.checkpoint(feed.script.partition).await?,
        back.checkpoint,
        "the checkpoint of another lineage"
    );
    Ok(())
}

/// Clause 7: a delivery for another inbox writes nothing.
///
/// # Errors
/// The violation that was found.
pub async fn fenced(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?];
    let start = inbox.anchor(&users[0]).await?;
    let mut feed = Feed::open(&*data).await?;
    let mut stale = feed.clone();
    stale.script.lineage.inbox = Incarnation::new("another inbox");
    let batch = stale.messages(&stale.group("g")?, "carol", 2).await?;
    let whole = stale.delivery(&batch, &users);
    let chunk = Delivery { checkpoint: None, ..whole.clone() };
    for delivery in [&whole, &chunk] {
        match inbox
            .deliver(delivery)
            .await
            .map(|answers| answers.into_iter().collect::<im_core::Result<Vec<_>>>())
        {
            Ok(each) => fails(each, &[ErrorKind::OtherIncarnation], "a delivery for another inbox")?,
            whole => fails(whole, &[ErrorKind::OtherIncarnation], "a delivery for another inbox")?,
        }
        ensure_eq!(
            inbox.checkpoint(feed.script.partition).await?,
            None,
            "the checkpoint after a refused delivery"
        );
        ensure_eq!(pull(&*inbox, &users[0], &start).await?.len(), 0, "entries after a refused delivery");
    }
    let batch = feed.messages(&feed.group("g")?, "carol", 2).await?;
    deliver(&*inbox, &feed.delivery(&batch, &users)).await?;
    ensure_eq!(pull(&*inbox, &users[0], &start).await?.len(), 2, "entries after one that was not refused");
    Ok(())
}

/// Clause 8: a delivery that comes again, in part or from many workers at once, loses nothing and keeps the order.
///
/// # Errors
/// The violation that was found.
pub async fn replay(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?, user("bob")?];
    let start = inbox.anchor(&users[0]).await?;
    let mut feed = Feed::open(&*data).await?;
    let id = feed.group("g")?;
    let all = feed.messages(&id, "carol", 24).await?;
    let first = deliver(&*inbox, &feed.delivery(&all[..8], &users)).await?;
    let mut zombies = Vec::new();
    for n in 0..6 {
        let (inbox, feed, users, all) = (open(&*data).await?, feed.clone(), users.clone(), all.clone());
        zombies.push(async move {
            for batch in all[..16 + n].chunks(8) {
                deliver(&*inbox, &feed.delivery(batch, &users)).await?;
            }
            Ok(())
        });
    }
    together(zombies).await?;
    deliver(&*inbox, &feed.delivery(&all, &users)).await?;
    deliver(&*inbox, &feed.delivery(&all[..8], &users)).await?;
    let entries = pull(&*inbox, &users[0], &start).await?;
    let due = seqs(&all);
    ensure_eq!(first_appearances(&entries, &id), due, "first appearances after replays");
    for (n, cursor) in first[0].cursors.iter().enumerate() {
        let after = pull(&*inbox, &users[0], cursor).await?;
        let missing = due[n + 1..].iter().find(|seq| !after.iter().any(|entry| entry.record.seq == **seq));
        ensure_eq!(missing, None, "what is lost after the first {n} entries");
    }
    Ok(())
}

/// Clause 9: everybody can have an end, which the next pull accepts.
///
/// # Errors
/// The violation that was found.
pub async fn an_end_for_everyone(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let inbox = open(&*data).await?;
    let (alice, bob, eve) = (user("alice")?, user("bob")?, user("eve")?);
    let asked = [alice.clone(), eve.clone(), bob.clone(), alice.clone()];
    ensure_eq!(inbox.ends(&asked).await?, [None, None, None, None], "the ends of empty inboxes");
    let mut racers = Vec::new();
    for _ in 0..6 {
        let (inbox, alice) = (open(&*data).await?, alice.clone());
        racers.push(async move { Ok(inbox.anchor(&alice).await?) });
    }
    for anchor in together(racers).await? {
        ensure_eq!(pull(&*inbox, &alice, &anchor).await?.len(), 0, "entries after an anchor");
    }
    let anchor = inbox.anchor(&alice).await?;
    ensure_eq!(
        inbox.ends(&asked).await?,
        [Some(anchor.clone()), None, None, Some(anchor.clone())],
        "the ends"
    );
    let mut feed = Feed::open(&*data).await?;
    let batch = feed.messages(&feed.group("g")?, "carol", 3).await?;
    let delivered = deliver(&*inbox, &feed.delivery(&batch, &[alice.clone(), bob.clone()])).await?;
    let last: Vec<_> = delivered.iter().map(|delivered| delivered.cursors.last().cloned()).collect();
    let due = [last[0].clone(), None, last[1].clone(), last[0].clone()];
    ensure_eq!(inbox.ends(&asked).await?, due, "the ends after a delivery");
    for (user, last) in [(&alice, &last[0]), (&bob, &last[1])] {
        let end = inbox.anchor(user).await?;
        ensure_eq!(Some(&end), last.as_ref(), "an anchor where there is an entry");
        ensure_eq!(pull(&*inbox, user, &end).await?.len(), 0, "entries after the end");
    }
    ensure_eq!(records(&pull(&*inbox, &alice, &anchor).await?), plain(&batch), "entries after the anchor");

    let expiry = inbox.info().await?.expiry;
    data.pass(expiry + expiry / 2).await;
    expire(&*inbox, 100).await?;
    let end = inbox.anchor(&alice).await?;
    ensure_eq!(pull(&*inbox, &alice, &end).await?.len(), 0, "entries after the end of an expired inbox");
    let later = feed.messages(&feed.group("g")?, "carol", 2).await?;
    deliver(&*inbox, &feed.delivery(&later, std::slice::from_ref(&alice))).await?;
    ensure_eq!(records(&pull(&*inbox, &alice, &end).await?), plain(&later), "entries after that end");
    Ok(())
}

/// Clause 10: nothing younger than the expiry goes, counted from the delivery, not from the record's own time.
///
/// # Errors
/// The violation that was found.
pub async fn expiry(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let inbox = open(&*data).await?;
    let expiry = inbox.info().await?.expiry;
    let (alice, bob) = (user("alice")?, user("bob")?);
    let mut feed = Feed::open(&*data).await?;
    let old = feed.messages(&feed.group("g")?, "carol", 3).await?;
    deliver(&*inbox, &feed.delivery(&old, std::slice::from_ref(&alice))).await?;
    data.pass(expiry / 5 * 3).await;
    let young = feed.messages(&feed.group("g")?, "carol", 4).await?;
    // Old records that are delivered late are young entries.
    let late = [old, young].concat();
    let cursors = deliver(&*inbox, &feed.delivery(&late, &[alice.clone(), bob.clone()])).await?;
    data.pass(expiry / 5 * 3).await;
    expire(&*inbox, 2).await?;
    for (user, delivered) in [&alice, &bob].into_iter().zip(cursors) {
        let after = pull(&*inbox, user, &delivered.cursors[0]).await?;
        ensure_eq!(records(&after), plain(&late[1..]), "young entries of {user} after an expiry");
        let end = one(inbox.ends(std::slice::from_ref(user)).await?)?;
        ensure_eq!(end.as_ref(), delivered.cursors.last(), "the end of {user} after an expiry");
    }
    ensure!(inbox.checkpoint(feed.script.partition).await?.is_some(), "the checkpoint expired");
    Ok(())
}

/// Clause 11: as many recipients as the inbox says, each with its own records and its own answer, at its own place.
///
/// # Errors
/// The violation that was found.
pub async fn many_recipients(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let count = inbox.info().await?.max_recipients.min(10_000);
    ensure!(count >= 100, "at most {count} recipients are too few");
    let mut feed = Feed::open(&*data).await?;
    let first = feed.messages(&feed.group("g")?, "carol", 1).await?;
    let some = (0..count)
        .step_by(1 + count / 7)
        .map(|n| user(&format!("user {n}")))
        .collect::<Result<Vec<_>, _>>()?;
    deliver(&*inbox, &feed.delivery(&first, &some)).await?;
    let ends = inbox.ends(&some).await?;

    let batch = feed.messages(&feed.group("g")?, "carol", 3).await?;
    let mine = |n: usize| -> Arc<[u32]> {
        [0, 1, 2].into_iter().filter(|bit| (n % 7 + 1) & (1 << bit) != 0).collect()
    };
    let recipient = |n: usize| Ok(Recipient { user: user(&format!("user {n}"))?, records: mine(n) });
    let recipients = (0..count).map(recipient).collect::<Result<Vec<_>, Violation>>()?;
    let delivery = Delivery { recipients, ..feed.delivery(&batch, &[]) };
    let delivered = deliver(&*inbox, &delivery).await?;
    ensure_eq!(inbox.checkpoint(feed.script.partition).await?, delivery.checkpoint, "the checkpoint");
    for (n, end) in (0..count).step_by(1 + count / 7).zip(ends) {
        let (user, answer) = (&delivery.recipients[n].user, &delivered[n]);
        let Some(end) = end else {
            return Err(Violation::new(format!("{user} has no end after a delivery")));
        };
        ensure!(
            answer.previous.as_ref().is_none_or(|previous| *previous == end),
            "{user} was at {end:?}, not {answer:?}"
        );
        let after = pull(&*inbox, user, &end).await?;
        let due: Vec<_> = mine(n).iter().map(|index| batch[*index as usize].record.clone()).collect();
        ensure_eq!(records(&after), due, "the entries of {user}");
        let cursors: Arc<[Cursor]> = after.into_iter().map(|entry| entry.cursor).collect();
        ensure_eq!(cursors, answer.cursors, "the cursors of {user}");
    }
    let users: Vec<_> = delivery.recipients.iter().map(|recipient| recipient.user.clone()).collect();
    let ends = inbox.ends(&users).await?;
    let due: Vec<_> = delivered.iter().map(|delivered| delivered.cursors.last().cloned()).collect();
    ensure!(ends == due, "the ends of {count} users are not the last cursors of their deliveries");
    Ok(())
}

/// Ids are bytes to an inbox: none is unescaped, folded, split or mixed up with another.
///
/// # Errors
/// The violation that was found.
pub async fn hostile_ids(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = HOSTILE.iter().map(|name| user(name)).collect::<Result<Vec<_>, _>>()?;
    let mut starts = Vec::new();
    for user in &users {
        starts.push(inbox.anchor(user).await?);
    }
    let mut feed = Feed::open(&*data).await?;
    let mut due = Vec::new();
    for name in HOSTILE {
        due.extend(feed.messages(&feed.group("g")?, name, 1).await?);
    }
    let indices = |n: usize| -> Arc<[u32]> { (0..=n as u32).collect() };
    let recipient = |(n, user): (usize, &UserId)| Recipient { user: user.clone(), records: indices(n) };
    let recipients = users.iter().enumerate().map(recipient).collect();
    deliver(&*inbox, &Delivery { recipients, ..feed.delivery(&due, &[]) }).await?;
    for (n, user) in users.iter().enumerate() {
        let after = pull(&*inbox, user, &starts[n]).await?;
        ensure_eq!(records(&after), plain(&due[..=n]), "the entries of {user:?}");
        if let Some(rest) = rest(&*inbox, user, &starts[(n + 1) % users.len()], 10).await? {
            ensure_eq!(records(&rest), plain(&due[..=n]), "after another's anchor, given by {user:?}");
        }
    }
    Ok(())
}

/// What was delivered is there after a restart, and a cursor of before is served in full or not at all.
///
/// # Errors
/// The violation that was found.
pub async fn reopened(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?];
    let start = inbox.anchor(&users[0]).await?;
    let mut feed = Feed::open(&*data).await?;
    let batch = feed.messages(&feed.group("g")?, "carol", 9).await?;
    let delivery = feed.delivery(&batch, &users);
    let cursors = one(deliver(&*inbox, &delivery).await?)?.cursors;
    drop(inbox);
    let inbox = data.reopen().await?.inbox.ok_or_else(|| Violation::new("the inbox part is missing"))?;
    let position = inbox.checkpoint(feed.script.partition).await?.map(|checkpoint| checkpoint.position);
    ensure_eq!(position, delivery.checkpoint.map(|checkpoint| checkpoint.position), "the checkpoint");
    ensure!(one(inbox.ends(&users).await?)?.is_some(), "the inbox is empty after a restart");
    for (n, cursor) in [start].iter().chain(&*cursors).enumerate() {
        if let Some(rest) = rest(&*inbox, &users[0], cursor, 4).await? {
            ensure_eq!(records(&rest), plain(&batch[n..]), "the entries after cursor {n}");
        }
    }
    Ok(())
}

/// An inbox that has lost its newest entries says so by another incarnation, refuses the workers of before, never serves a lost
/// cursor again, and takes the same records again.
///
/// # Errors
/// The violation that was found.
pub async fn lost_tail(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let inbox = open(&*data).await?;
    let users = [user("alice")?];
    let start = inbox.anchor(&users[0]).await?;
    let mut feeds = Feed::several(&*data, 2).await?;
    let mut feed = feeds.remove(0);
    let id = feed.group("g")?;
    let all = feed.messages(&id, "carol", 9).await?;
    let kept = feed.delivery(&all[..5], &users);
    let kept_cursors = one(deliver(&*inbox, &kept).await?)?.cursors;
    data.save().await?;
    let lost = feed.delivery(&all[5..], &users);
    let lost_cursors = one(deliver(&*inbox, &lost).await?)?.cursors;
    data.lose_tail(Part::Inbox, 4).await?;

    let inbox = open(&*data).await?;
    let before = feed.script.lineage.inbox.clone();
    feed.renew(&*data).await?;
    ensure!(feed.script.lineage.inbox != before, "the incarnation is still {before:?}");
    let late = inbox.deliver(&lost).await;
    let late = late.and_then(|answers| answers.into_iter().collect::<im_core::Result<Vec<_>>>());
    fails(late, &[ErrorKind::OtherIncarnation], "a worker of before the loss")?;
    let position = inbox.checkpoint(feed.script.partition).await?.map(|checkpoint| checkpoint.position);
    ensure!(position <= Some(all[4].position), "the checkpoint {position:?} is above what is left");
    // Another partition's records first: they take the place of the lost entries.
    let mut strangers = Vec::new();
    for mut stranger in feeds {
        stranger.renew(&*data).await?;
        let id = stranger.group("of another partition")?;
        strangers = stranger.messages(&id, "carol", 2).await?;
        deliver(&*inbox, &stranger.delivery(&strangers, &users)).await?;
    }
    deliver(&*inbox, &feed.delivery(&all[5..], &users)).await?;
    for (n, cursor) in [start].iter().chain(&*kept_cursors).chain(&*lost_cursors).enumerate() {
        if let Some(rest) = rest(&*inbox, &users[0], cursor, 4).await? {
            ensure_eq!(first_appearances(&rest, &id), seqs(&all[n..]), "the entries after cursor {n}");
            let others =
                strangers.iter().filter(|stranger| !rest.iter().any(|e| e.record == stranger.record));
            ensure_eq!(others.count(), 0, "what came after the loss and is not after cursor {n}");
        }
    }
    Ok(())
}
