//! The clauses of [`im_core::UserState`].

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use im_core::{
    ConversationId, DeviceId, Mark, Marked, Membership, ReadMark, RecordKind, Seq, SettingsChange,
    StateChanges, StateVersion, StorePart, Timestamp, UserId,
};

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{Script, group, make_group, membership, of_kind, one, store_of, together, user, version},
    violation::{ensure, ensure_eq},
};

/// A store in which `alice` and `bob` are members of groups `g0`, `g1` …, and `carol` has sent `records` records into each:
/// messages, but for every third one.
async fn prepared(data: &dyn Data, groups: usize, records: usize) -> Result<StorePart, Violation> {
    let parts = data.node().await?;
    let store = store_of(&parts)?;
    let mut script = Script::for_store(&parts, "log").await?;
    let mut batch = Vec::new();
    for n in 0..groups {
        let id = group(&format!("g{n}"))?;
        make_group(store, &id, &[&user("alice")?, &user("bob")?]).await?;
        for seq in 1..=records {
            let kind = if seq % 3 == 0 { RecordKind::Notice } else { RecordKind::Message };
            batch.push(script.record(&of_kind(&id, "carol", &seq.to_string(), "{}", kind)?));
        }
    }
    store.messages.apply(&script.batch(&batch)).await?;
    Ok(store.clone())
}

/// The mark at a place of a [`prepared`] group.
fn mark(seq: u64) -> Mark {
    Mark { seq: Seq(seq), ordinal: im_core::Ordinal(seq - seq / 3) }
}

fn read(user: &UserId, device: &Option<DeviceId>, conversation: &ConversationId, seq: u64) -> ReadMark {
    ReadMark { user: user.clone(), device: device.clone(), conversation: conversation.clone(), seq: Seq(seq) }
}

async fn mark_read(store: &StorePart, mark: ReadMark) -> Result<Marked, Violation> {
    one(store.states.mark_read(&[mark]).await?)
}

fn moved(marked: Marked) -> Result<Mark, Violation> {
    match marked {
        Marked::Moved(mark, _) => Ok(mark),
        other => Err(Violation::new(format!("{other:?}, where the mark should have moved"))),
    }
}

/// Clause 1: a mark never goes back, also when many move it at once; a stranger has none.
///
/// # Errors
/// The violation that was found.
pub async fn forward_only(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 2, 24).await?;
    let (alice, id) = (user("alice")?, group("g0")?);
    ensure_eq!(moved(mark_read(&store, read(&alice, &None, &id, 5)).await?)?, mark(5), "a first mark");
    for seq in [5, 3, 0] {
        let again = mark_read(&store, read(&alice, &None, &id, seq)).await?;
        ensure_eq!(again, Marked::Unmoved(mark(5)), "a mark at {seq} after one at 5");
    }
    let mut movers = Vec::new();
    for seq in [9, 24, 7, 11, 20, 8, 23, 10] {
        let (store, wanted) = (store_of(&data.node().await?)?.clone(), read(&alice, &None, &id, seq));
        movers.push(async move { mark_read(&store, wanted).await });
    }
    for marked in together(movers).await? {
        let (Marked::Moved(to, _) | Marked::Unmoved(to)) = marked else {
            return Err(Violation::new(format!("{marked:?} for a mark below the head")));
        };
        ensure!(to.seq >= Seq(7), "a mark stood at {to:?} after it was at 7");
    }
    ensure_eq!(membership(&store, &id, &alice, &None).await?.read, mark(24), "the mark after a race");
    let batch = [
        read(&alice, &None, &group("g1")?, 2),
        read(&user("eve")?, &None, &id, 1),
        read(&alice, &None, &id, 4),
    ];
    let answers = store.states.mark_read(&batch).await?;
    ensure!(matches!(answers[0], Marked::Moved(to, _) if to == mark(2)), "{:?} in another group", answers[0]);
    ensure_eq!(answers[1..], [Marked::NoMember, Marked::Unmoved(mark(24))], "the answers to a batch");
    Ok(())
}

/// Clause 2: a mark above the head moves nothing.
///
/// # Errors
/// The violation that was found.
pub async fn behind(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 1, 4).await?;
    let (alice, id, empty) = (user("alice")?, group("g0")?, group("empty")?);
    make_group(&store, &empty, &[&alice]).await?;
    moved(mark_read(&store, read(&alice, &None, &id, 2)).await?)?;
    let before = version(&store, &alice).await?;
    let ahead = mark_read(&store, read(&alice, &None, &id, 5)).await?;
    ensure_eq!(ahead, Marked::Behind(mark(4)), "a mark above the head");
    let nowhere = mark_read(&store, read(&alice, &None, &empty, 1)).await?;
    ensure_eq!(nowhere, Marked::Behind(Mark::default()), "a mark in an empty conversation");
    ensure_eq!(membership(&store, &id, &alice, &None).await?.read, mark(2), "the mark after that");
    ensure_eq!(version(&store, &alice).await?, before, "the version after that");
    Ok(())
}

/// Clause 3: a mark has the ordinal of the last record at or below it, also where that is not a message or stands before a hole.
///
/// # Errors
/// The violation that was found.
pub async fn with_its_ordinal(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let parts = data.node().await?;
    let (store, mut script) = (store_of(&parts)?, Script::for_store(&parts, "log").await?);
    let (alice, id) = (user("alice")?, group("g")?);
    make_group(store, &id, &[&alice]).await?;
    let mut records = Vec::new();
    for (n, kind) in
        [RecordKind::Notice, RecordKind::Message, RecordKind::Message, RecordKind::Notice].iter().enumerate()
    {
        records.push(script.record(&of_kind(&id, "bob", &n.to_string(), "{}", *kind)?));
    }
    records.push(script.record_after(&of_kind(&id, "bob", "far", "{}", RecordKind::Message)?, 1 << 20));
    store.messages.apply(&script.batch(&records)).await?;
    for (seq, ordinal) in [(1, 0), (2, 1), (3, 2), (4, 2), (1000, 2), (4 + (1 << 20), 3)] {
        let due = Mark { seq: Seq(seq), ordinal: im_core::Ordinal(ordinal) };
        ensure_eq!(moved(mark_read(store, read(&alice, &None, &id, seq)).await?)?, due, "a mark");
        let membership = membership(store, &id, &alice, &None).await?;
        ensure_eq!(membership.read, due, "the mark as kept");
        let head = records[4].record.mark();
        ensure_eq!(membership.unread(head), 3 - ordinal, "unread at {seq}");
    }
    Ok(())
}

/// Clause 4: each change raises the version, nothing else does, and the state since a version misses no change.
///
/// # Errors
/// The violation that was found.
pub async fn state_version(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 6, 12).await?;
    let (alice, id) = (user("alice")?, group("g0")?);
    only_changes_raise(&store, &alice, &id).await?;
    let before = version(&store, &user("bob")?).await?;
    let start = version(&store, &alice).await?;
    let mut writers = Vec::new();
    for n in 0..6 {
        let (store, alice, id) =
            (store_of(&data.node().await?)?.clone(), alice.clone(), group(&format!("g{n}"))?);
        writers.push(async move {
            for seq in 2..=12 {
                mark_read(&store, read(&alice, &None, &id, seq)).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        });
    }
    let done = AtomicBool::new(false);
    let work = async {
        let written = together(writers).await;
        done.store(true, Ordering::SeqCst);
        written
    };
    let (written, seen) = tokio::join!(work, follow(&store, &alice, start, &done));
    written?;
    let seen = seen?;
    let due: BTreeMap<_, _> =
        (0..6).map(|n| Ok((group(&format!("g{n}"))?, mark(12)))).collect::<Result<_, Violation>>()?;
    ensure_eq!(seen, due, "what a follower of the versions saw at last");
    ensure_eq!(version(&store, &user("bob")?).await?, before, "the version of another user");
    Ok(())
}

async fn only_changes_raise(store: &StorePart, user: &UserId, id: &ConversationId) -> Verdict {
    let change = |nickname: &str, hidden| SettingsChange {
        nickname: Some(nickname.into()),
        hidden: Some(hidden),
        ..SettingsChange::default()
    };
    let cleared = SettingsChange { cleared: Some(Seq(4)), ..SettingsChange::default() };
    let cleared_less = SettingsChange { cleared: Some(Seq(2)), ..SettingsChange::default() };
    let nothing = SettingsChange::default();
    let steps = [
        (change("n", true), true),
        (change("n", true), false),
        (change("n", false), true),
        (nothing, false),
        (cleared, true),
        (cleared_less, false),
        (change("", false), true),
        (change("", false), false),
    ];
    for (n, (change, raises)) in steps.into_iter().enumerate() {
        let before = version(store, user).await?;
        let after = store.states.set(user, id, &change).await?;
        ensure_eq!(after, Some(version(store, user).await?), "the version that step {n} answered");
        ensure_eq!(after != Some(before), raises, "whether step {n} raised the version");
    }
    let settings = membership(store, id, user, &None).await?.settings;
    ensure_eq!(
        (settings.nickname, settings.hidden, settings.cleared),
        (None, false, mark(4)),
        "the settings"
    );
    let stranger = store.states.set(&self::user("eve")?, id, &change("n", true)).await?;
    ensure_eq!(stranger, None, "the settings of a stranger");
    Ok(())
}

/// Follows a user's state from a version until nothing is to come any more; the marks seen last.
async fn follow(
    store: &StorePart,
    user: &UserId,
    mut since: StateVersion,
    done: &AtomicBool,
) -> Result<BTreeMap<ConversationId, Mark>, Violation> {
    let mut seen = BTreeMap::new();
    loop {
        let ended = done.load(Ordering::SeqCst);
        let state = store.states.state(user, &None, &Some(since), 100).await?;
        let StateChanges::Since(changed) = state.changes else {
            return Err(Violation::new("all may have changed, says the state since a version just given"));
        };
        for Membership { conversation, read, .. } in changed {
            let before = seen.insert(conversation.id, read);
            ensure!(before <= Some(read), "the state showed {before:?} before {read:?}");
        }
        since = state.version;
        if ended {
            return Ok(seen);
        }
        tokio::task::yield_now().await;
    }
}

/// Clause 5: marks, settings and versions are there after a restart.
///
/// # Errors
/// The violation that was found.
pub async fn durable(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 2, 6).await?;
    let (alice, id, phone) = (user("alice")?, group("g1")?, Some(DeviceId::new("phone")?));
    store.states.state(&alice, &phone, &None, 10).await?;
    moved(mark_read(&store, read(&alice, &None, &id, 4)).await?)?;
    moved(mark_read(&store, read(&alice, &phone, &id, 5)).await?)?;
    let change = SettingsChange {
        nickname: Some("o'al \"😀\" \\".into()),
        hidden: Some(true),
        undisturbed: Some(true),
        cleared: Some(Seq(2)),
    };
    store.states.set(&alice, &id, &change).await?;
    let before = version(&store, &alice).await?;
    let (plain, of_phone) =
        (membership(&store, &id, &alice, &None).await?, membership(&store, &id, &alice, &phone).await?);
    ensure_eq!((plain.read, of_phone.read), (mark(4), mark(5)), "the marks");
    ensure_eq!(plain.settings.nickname, change.nickname, "the nickname");
    ensure!(plain.settings.hidden && plain.settings.undisturbed, "{:?} are not what was set", plain.settings);
    let store = store_of(&data.reopen().await?)?.clone();
    ensure_eq!(version(&store, &alice).await?, before, "the version after a restart");
    ensure_eq!(membership(&store, &id, &alice, &None).await?, plain, "the membership after a restart");
    ensure_eq!(
        membership(&store, &id, &alice, &phone).await?,
        of_phone,
        "that of the device after a restart"
    );
    Ok(())
}

/// Clause 6: a version that cannot be vouched for means that all may have changed.
///
/// # Errors
/// The violation that was found.
pub async fn another_incarnation(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 4, 3).await?;
    let alice = user("alice")?;
    let start = version(&store, &alice).await?;
    let other = fixture.fresh().await?;
    let foreign = version(&prepared(&*other, 4, 3).await?, &alice).await?;
    ensure!(foreign != start, "two stores give the same version {foreign:?}");
    let long = "9".repeat(128);
    let odd = ["", "0", "x", "-1", "/", "999999", "😀", long.as_str()];
    let ahead = format!("{}9", start.as_str());
    let versions =
        odd.into_iter().chain([ahead.as_str(), foreign.as_str()]).map(|text| Some(StateVersion::new(text)));
    for since in versions.chain([None]) {
        let state = store.states.state(&alice, &None, &since, 100).await?;
        ensure_eq!(state.changes, StateChanges::All, "since {since:?}");
        ensure_eq!(state.version, start, "the version after {since:?}");
    }
    for n in 0..4 {
        moved(mark_read(&store, read(&alice, &None, &group(&format!("g{n}"))?, 2)).await?)?;
    }
    let since = Some(start);
    let state = store.states.state(&alice, &None, &since, 3).await?;
    ensure_eq!(state.changes, StateChanges::All, "more changes than asked for");
    match store.states.state(&alice, &None, &since, 4).await?.changes {
        StateChanges::Since(changed) => ensure_eq!(changed.len(), 4, "conversations that changed"),
        StateChanges::All => return Err(Violation::new("four changes of four asked for are All")),
    }
    Ok(())
}

/// Clause 7: a new device begins at the highest of the user's marks, and then moves alone.
///
/// # Errors
/// The violation that was found.
pub async fn device_begins_high(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 2, 9).await?;
    let (alice, id, other) = (user("alice")?, group("g0")?, group("g1")?);
    let device = |name: &str| DeviceId::new(name).map(Some);
    let (phone, tablet, watch) = (device("phone")?, device("tablet")?, device("watch")?);
    let marks = async |device: &Option<DeviceId>| -> Result<(Mark, Mark), Violation> {
        let here = membership(&store, &id, &alice, device).await?.read;
        Ok((here, membership(&store, &other, &alice, device).await?.read))
    };
    store.states.state(&alice, &phone, &None, 10).await?;
    moved(mark_read(&store, read(&alice, &phone, &id, 3)).await?)?;
    store.states.state(&alice, &tablet, &None, 10).await?;
    ensure_eq!(marks(&tablet).await?, (mark(3), Mark::default()), "the marks of a second device");
    moved(mark_read(&store, read(&alice, &tablet, &id, 7)).await?)?;
    moved(mark_read(&store, read(&alice, &phone, &other, 2)).await?)?;
    ensure_eq!(marks(&phone).await?, (mark(3), mark(2)), "the marks of the first device");
    ensure_eq!(marks(&tablet).await?, (mark(7), Mark::default()), "the marks of the second device");
    store.states.state(&alice, &watch, &None, 10).await?;
    ensure_eq!(marks(&watch).await?, (mark(7), mark(2)), "the marks of a third device");
    let listed = store.conversations.list(&alice, &phone, &None, 10).await?;
    let read: Vec<_> = listed.iter().map(|membership| membership.read).collect();
    ensure_eq!(read, [mark(3), mark(2)], "the first device's marks in a list");
    Ok(())
}

/// Devices that stayed away are forgotten with their marks, and begin anew when they come back; the others stay.
///
/// # Errors
/// The violation that was found.
pub async fn forget_devices(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = prepared(&*data, 1, 9).await?;
    let (alice, id) = (user("alice")?, group("g0")?);
    let (phone, tablet) = (Some(DeviceId::new("phone")?), Some(DeviceId::new("tablet")?));
    let seen = store.states.state(&alice, &phone, &None, 10).await?.version;
    moved(mark_read(&store, read(&alice, &phone, &id, 3)).await?)?;
    ensure_eq!(store.states.forget_devices(Timestamp(0)).await?, 0, "devices forgotten that are not old");
    let state = store.states.state(&alice, &phone, &Some(seen), 10).await?;
    ensure!(
        matches!(state.changes, StateChanges::Since(_)),
        "a device that is known gets {:?}",
        state.changes
    );
    ensure_eq!(store.states.forget_devices(Timestamp(i64::MAX)).await?, 1, "devices forgotten that are old");
    store.states.state(&alice, &tablet, &None, 10).await?;
    moved(mark_read(&store, read(&alice, &tablet, &id, 6)).await?)?;
    let back = store.states.state(&alice, &phone, &Some(state.version), 10).await?;
    ensure_eq!(back.changes, StateChanges::All, "the state of a device that comes back");
    ensure_eq!(membership(&store, &id, &alice, &phone).await?.read, mark(6), "its mark");
    Ok(())
}
