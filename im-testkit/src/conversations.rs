//! The clauses of [`im_core::ConversationStore`].

use im_core::{
    Conversation, ConversationChange, ConversationId, ConversationKind, ConversationStore, Effect, ErrorKind,
    Incarnation, Interval, Mark, Member, MembersChange, Membership, NewConversation, Ordinal, ReadMark,
    RecordKind, Role, Seq, SettingsChange, StateVersion, StorePart, UserId,
};

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{
        HOSTILE, Script, changes, create, fails, group, join, leave, make_group, membership, of_kind, one,
        store_of, together, user, version,
    },
    violation::{ensure, ensure_eq},
};

async fn open(data: &dyn Data) -> Result<StorePart, Violation> {
    Ok(store_of(&data.node().await?)?.clone())
}

/// Applies changes under the store's present incarnation.
async fn apply(store: &StorePart, changes: &[ConversationChange]) -> Verdict {
    let incarnation = store.messages.info().await?.incarnation;
    Ok(store.conversations.apply_members(&incarnation, changes).await?)
}

/// Everybody who was a member at a sequence id, in small pages.
async fn members(
    store: &dyn ConversationStore,
    conversation: &ConversationId,
    at: u64,
) -> Result<Vec<Member>, Violation> {
    let (mut all, mut after) = (Vec::<Member>::new(), None);
    loop {
        let page = store.members(conversation, Seq(at), &after, 2).await?;
        ensure!(page.len() <= 2, "a page of at most 2 has {}", page.len());
        let Some(last) = page.last() else { return Ok(all) };
        ensure!(after.as_ref().is_none_or(|after| last.user > *after), "pages do not move on from {after:?}");
        after = Some(last.user.clone());
        all.extend(page);
    }
}

async fn names_at(
    store: &StorePart,
    conversation: &ConversationId,
    at: u64,
) -> Result<Vec<String>, Violation> {
    let members = members(&*store.conversations, conversation, at).await?;
    Ok(members.into_iter().map(|member| member.user.to_string()).collect())
}

/// Clause 1: creating again answers the first, from either side and from many nodes at once; another name is none.
///
/// # Errors
/// The violation that was found.
pub async fn create_once(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (alice, bob, id) = (user("alice")?, user("bob")?, group("g")?);
    let single = [NewConversation::Single(bob.clone(), alice.clone())];
    let named = |name: Option<&str>| [NewConversation::Group { id: id.clone(), name: name.map(Into::into) }];
    let mut racers = Vec::new();
    for n in 0..8 {
        let (store, named) = (open(&*data).await?, named(Some("name")));
        let pair = if n % 2 == 0 { (alice.clone(), bob.clone()) } else { (bob.clone(), alice.clone()) };
        let wanted = [NewConversation::Single(pair.0, pair.1), named[0].clone()];
        racers.push(async move { Ok(store.conversations.create(&wanted).await?) });
    }
    let created = together(racers).await?;
    ensure!(created.iter().all(|one| *one == created[0]), "one conversation was created as {created:?}");
    let [Some(of_two), Some(of_many)] = &created[0][..] else {
        return Err(Violation::new(format!("{:?}, where two conversations were due", created[0])));
    };
    ensure_eq!(of_two.id, ConversationId::single(&alice, &bob)?, "the id of a single");
    ensure_eq!(of_two.kind, ConversationKind::Single, "the kind of a single");
    ensure_eq!(of_two.users, Some((alice.clone(), bob.clone())), "the users of a single");
    ensure_eq!((of_many.kind, of_many.name.as_deref()), (ConversationKind::Group, Some("name")), "the group");
    for who in [&alice, &bob] {
        let membership = membership(&open(&*data).await?, &of_two.id, who, &None).await?;
        let first = Interval { joined: Mark { seq: Seq(1), ordinal: Ordinal(0) }, left: None };
        ensure_eq!(membership.intervals, [first], "the interval of one of the two");
    }
    data.pass(std::time::Duration::from_millis(20)).await;
    let store = store_of(&data.reopen().await?)?.clone();
    ensure_eq!(store.conversations.create(&single).await?, [Some(of_two.clone())], "created again");
    for other in [Some("another name"), None] {
        ensure_eq!(
            store.conversations.create(&named(other)).await?,
            [None],
            "created with the name {other:?}"
        );
    }
    let ids = [group("nowhere")?, id, of_two.id.clone()];
    let due = [None, Some(of_many.clone()), Some(of_two.clone())];
    ensure_eq!(store.conversations.get(&ids).await?, due, "conversations by id");
    Ok(())
}

/// Clause 2: changes take effect in order, once, however often and by however many workers they come.
///
/// # Errors
/// The violation that was found.
pub async fn in_record_order(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (a, b, c, id) = (user("a")?, user("b")?, user("c")?, group("g")?);
    let role = Effect::Members(MembersChange {
        join: vec![(a.clone(), Role::Owner)],
        role: vec![(b.clone(), Role::Admin), (c.clone(), Role::Admin)],
        ..MembersChange::default()
    });
    let takeover = create("taken over", &[&c]);
    let mut changes = changes(
        &id,
        vec![create("first", &[&a, &b]), leave(&[&a]), join(&[&a]), role, takeover, join(&[&c])],
    );
    for change in &mut changes {
        // Two messages before each of the changes.
        change.at = Mark { seq: Seq(change.at.seq.0 * 3), ordinal: Ordinal(change.at.seq.0 * 2) };
        change.ordinal_before = change.at.ordinal;
    }
    let mut workers = Vec::new();
    for n in 0..6 {
        let (store, changes) = (open(&*data).await?, changes.clone());
        workers.push(async move {
            for end in 1..=changes.len() {
                let from = end.saturating_sub(1 + n % 3);
                apply(&store, &changes[from * (n % 2)..end]).await?;
            }
            Ok(())
        });
    }
    together(workers).await?;
    let store = store_of(&data.reopen().await?)?.clone();
    apply(&store, &changes[1..4]).await?;
    let (another, place) = (open(&*data).await?, [group("another")?]);
    for (n, seq) in [(0, 0), (1, 1), (1, 2)] {
        // By one node, and asked of another that was asked before.
        let at = Mark { seq: Seq(seq), ordinal: Ordinal(0) };
        let change = ConversationChange { conversation: place[0].clone(), at, ..changes[n].clone() };
        if seq > 0 {
            apply(&store, std::slice::from_ref(&change)).await?;
        }
        ensure_eq!(
            another.conversations.applied(&place).await?,
            [at],
            "applied, after another node's change"
        );
    }
    let mark = |seq: u64| changes[seq as usize - 1].at;
    let spans = async |who: &UserId| -> Result<_, Violation> {
        let found = membership(&store, &id, who, &None).await?;
        Ok((found.role, found.intervals))
    };
    let since = |joined: u64| Interval { joined: mark(joined), left: None };
    let left = Interval { joined: mark(1), left: Some(mark(2)) };
    ensure_eq!(spans(&a).await?, (Role::Member, vec![left, since(3)]), "who left and came back");
    ensure_eq!(spans(&b).await?, (Role::Admin, vec![since(1)]), "whose role changed");
    ensure_eq!(spans(&c).await?, (Role::Member, vec![since(6)]), "who joined last");
    ensure_eq!(
        store.conversations.applied(&[group("h")?, id.clone()]).await?,
        [Mark::default(), mark(6)],
        "applied"
    );
    let group = one(store.conversations.get(&[id]).await?)?.map(|group| group.name);
    ensure_eq!(group, Some(Some("first".into())), "the name after a second creation");
    Ok(())
}

/// Clause 3: the members at a record stay what they were, both ends included, whatever happens later.
///
/// # Errors
/// The violation that was found.
pub async fn members_at_a_record(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = open(&*data).await?;
    let (a, b, c, id) = (user("a")?, user("b")?, user("c")?, group("g")?);
    let changes = changes(
        &id,
        vec![create("g", &[&b]), join(&[&c, &a]), leave(&[&b]), leave(&[&a]), join(&[&b]), leave(&[&b, &c])],
    );
    let due: [&[&str]; 8] =
        [&[], &["b"], &["a", "b", "c"], &["a", "b", "c"], &["a", "c"], &["b", "c"], &["b", "c"], &[]];
    for applied in 1..=changes.len() {
        apply(&store, &changes[..applied]).await?;
        for (at, due) in due.iter().enumerate().take(applied + 1) {
            let there = names_at(&store, &id, at as u64).await?;
            ensure_eq!(there, *due, "the members at {at}, with {applied} changes applied");
        }
    }
    ensure_eq!(names_at(&store, &id, 7).await?, due[7], "the members after everybody left");
    ensure_eq!(store.conversations.count_members(&id).await?, 0, "how many are left");
    apply(&store, &self::changes(&group("h")?, vec![create("h", &[&a, &b, &c]), leave(&[&b])])).await?;
    ensure_eq!(store.conversations.count_members(&group("h")?).await?, 2, "how many are left of three");
    ensure_eq!(store.conversations.count_members(&group("nowhere")?).await?, 0, "members of nothing");
    Ok(())
}

/// Clause 4: who leaves and comes back finds everything as it was.
///
/// # Errors
/// The violation that was found.
pub async fn settings_stay(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let parts = data.node().await?;
    let store = store_of(&parts)?;
    let (a, id) = (user("a")?, group("g")?);
    let changes = changes(&id, vec![create("g", &[&a]), leave(&[&a]), join(&[&a])]);
    apply(store, &changes[..1]).await?;
    let mut script = Script::for_store(&parts, "log").await?;
    let records = script.messages(&id, "b", 3)?;
    store.messages.apply(&script.batch(&records)).await?;
    let change = SettingsChange {
        nickname: Some("al".into()),
        hidden: Some(true),
        undisturbed: Some(true),
        cleared: Some(Seq(1)),
    };
    store.states.set(&a, &id, &change).await?;
    store
        .states
        .mark_read(&[ReadMark { user: a.clone(), device: None, conversation: id.clone(), seq: Seq(2) }])
        .await?;
    let before = membership(store, &id, &a, &None).await?;
    ensure_eq!(before.settings.nickname.as_deref(), Some("al"), "a nickname that was set");
    ensure_eq!(before.read, records[1].record.mark(), "a mark that was set");
    apply(store, &changes).await?;
    let after = membership(store, &id, &a, &None).await?;
    ensure_eq!(after.intervals.len(), 2, "intervals of who came back");
    ensure_eq!(
        (after.settings, after.read),
        (before.settings, before.read),
        "settings and mark of who came back"
    );
    let nickname = members(&*store.conversations, &id, 3).await?.pop().and_then(|member| member.nickname);
    ensure_eq!(nickname.as_deref(), Some("al"), "the nickname as others see it");
    Ok(())
}

/// Clause 5: a change raises the versions of those whom it concerns, of nobody else, and only if it changes something.
///
/// # Errors
/// The violation that was found.
pub async fn state_version(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = open(&*data).await?;
    let (a, b, c, id) = (user("a")?, user("b")?, user("c")?, group("g")?);
    let users = [a.clone(), b.clone(), c.clone()];
    let role =
        |role| Effect::Members(MembersChange { role: vec![(b.clone(), role)], ..MembersChange::default() });
    let steps: [(Effect, &[usize]); 8] = [
        (create("g", &[&a, &b]), &[0, 1]),
        (join(&[&a, &c]), &[2]),
        (role(Role::Admin), &[1]),
        (role(Role::Admin), &[]),
        (leave(&[&b]), &[1]),
        (leave(&[&b]), &[]),
        (join(&[&a]), &[]),
        (join(&[&b]), &[1]),
    ];
    let changes = changes(&id, steps.iter().map(|(effect, _)| effect.clone()).collect());
    for (n, (effect, concerned)) in steps.iter().enumerate() {
        let before = store.states.versions(&users).await?;
        apply(&store, &changes[n..=n]).await?;
        let after = store.states.versions(&users).await?;
        apply(&store, &changes[..=n]).await?;
        ensure_eq!(store.states.versions(&users).await?, after, "the versions after a replay");
        let raised: Vec<_> = (0..3).filter(|user| before[*user] != after[*user]).collect();
        ensure_eq!(raised, *concerned, "whose version {effect:?} raised");
    }
    Ok(())
}

/// Clause 6: who works for another store changes nothing.
///
/// # Errors
/// The violation that was found.
pub async fn fenced(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = open(&*data).await?;
    let (a, b, id) = (user("a")?, user("b")?, group("g")?);
    let changes = changes(&id, vec![create("g", &[&a]), join(&[&b]), leave(&[&a])]);
    apply(&store, &changes[..1]).await?;
    let before: StateVersion = version(&store, &a).await?;
    let foreign = Incarnation::new("another store");
    let refused = store.conversations.apply_members(&foreign, &changes).await;
    fails(refused, &[ErrorKind::OtherIncarnation], "changes for another store")?;
    ensure_eq!(names_at(&store, &id, 2).await?, ["a"], "members after refused changes");
    ensure_eq!(store.conversations.applied(std::slice::from_ref(&id)).await?, [changes[0].at], "applied");
    ensure_eq!(version(&store, &a).await?, before, "the version after refused changes");
    Ok(())
}

/// Clause 7: a membership names the first record that changes members and is stored, but not applied.
///
/// # Errors
/// The violation that was found.
pub async fn unapplied(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let parts = data.node().await?;
    let (store, mut script) = (store_of(&parts)?, Script::for_store(&parts, "log").await?);
    let (a, id, other) = (user("a")?, group("g")?, group("h")?);
    let kinds = [
        RecordKind::Members,
        RecordKind::Message,
        RecordKind::Members,
        RecordKind::Large,
        RecordKind::Members,
    ];
    let mut records = Vec::new();
    for (n, kind) in kinds.into_iter().enumerate() {
        records.push(script.record(&of_kind(&id, "a", &n.to_string(), "{}", kind)?));
        records.push(script.record(&of_kind(&other, "a", &n.to_string(), "{}", RecordKind::Message)?));
    }
    let mut changes =
        changes(&id, vec![create("g", &[&a]), Effect::Large, join(&[&a]), join(&[&a]), join(&[&a])]);
    let seen =
        async || -> Result<Option<Seq>, Violation> { Ok(membership(store, &id, &a, &None).await?.unapplied) };
    changes.remove(1);
    apply(store, &changes[..1]).await?;
    make_group(store, &other, &[&a]).await?;
    ensure_eq!(seen().await?, None, "unapplied, while nothing is stored");
    store.messages.apply(&script.batch(&records)).await?;
    for (change, due) in changes.iter().zip([Some(Seq(3)), Some(Seq(5)), Some(Seq(5)), None]) {
        apply(store, std::slice::from_ref(change)).await?;
        ensure_eq!(seen().await?, due, "unapplied above {:?}", change.at.seq);
        let listed = one(store.conversations.list(&a, &None, &None, 1).await?)?.unapplied;
        ensure_eq!(listed, due, "unapplied in a list, above {:?}", change.at.seq);
    }
    ensure_eq!(membership(store, &other, &a, &None).await?.unapplied, None, "unapplied in another group");
    Ok(())
}

/// Clause 8: pages by id hold everything that was there when the first was asked for, whatever else comes in between.
///
/// # Errors
/// The violation that was found.
pub async fn exact_pages(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (store, writer) = (open(&*data).await?, open(&*data).await?);
    let alice = user("alice")?;
    let mut ids = HOSTILE.iter().map(|name| group(name)).collect::<Result<Vec<_>, _>>()?;
    for id in &ids {
        make_group(&store, id, &[&alice]).await?;
    }
    apply(&store, &changes(&ids[3], vec![create("", &[]), leave(&[&alice])])).await?;
    ids.sort();
    let write = async {
        for n in 0..60 {
            make_group(&writer, &group(&format!("{n} came later"))?, &[&alice]).await?;
        }
        Ok::<_, Violation>(())
    };
    let (written, read) = tokio::join!(write, list(&store, &alice, 4));
    written?;
    let read = read?;
    let listed: Vec<_> = read.iter().map(|membership| membership.conversation.id.clone()).collect();
    ensure!(listed.is_sorted(), "a list is not in the order of ids: {listed:?}");
    for id in &ids {
        let times = listed.iter().filter(|listed| *listed == id).count();
        ensure!(times == 1, "{id:?} is {times} times in a list");
    }
    ensure_eq!(list(&store, &alice, 200).await?.len(), ids.len() + 60, "a list in one page");
    ensure_eq!(list(&store, &user("nobody")?, 5).await?.len(), 0, "the list of a stranger");
    Ok(())
}

async fn list(store: &StorePart, user: &UserId, max: usize) -> Result<Vec<Membership>, Violation> {
    let (mut all, mut after) = (Vec::<Membership>::new(), None);
    loop {
        let page = store.conversations.list(user, &None, &after, max).await?;
        ensure!(page.len() <= max, "a page of at most {max} has {}", page.len());
        let Some(last) = page.last() else { return Ok(all) };
        let id = Some(last.conversation.id.clone());
        ensure!(id > after, "pages do not move on from {after:?}");
        after = id;
        all.extend(page);
    }
}

/// A group becomes large once, for good; the large groups of a user are those it is in now.
///
/// # Errors
/// The violation that was found.
pub async fn large_groups(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = open(&*data).await?;
    let (a, b) = (user("a")?, user("b")?);
    let mut large = Vec::new();
    for n in 0..7 {
        let id = group(&format!("large {n}"))?;
        apply(&store, &changes(&id, vec![create("", &[&a, &b]), Effect::Large, Effect::Large, join(&[&a])]))
            .await?;
        large.push(id);
    }
    make_group(&store, &group("large, but not so")?, &[&a]).await?;
    apply(&store, &changes(&large[4], [vec![Effect::Large; 4], vec![leave(&[&a])]].concat())).await?;
    let group: Option<Conversation> = one(store.conversations.get(&large[..1]).await?)?;
    ensure_eq!(group.and_then(|group| group.large_since), Some(Seq(2)), "since when a group is large");
    let left = large.remove(4);
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.conversations.large_groups(&a, &after, 2).await?;
        ensure!(page.len() <= 2, "a page of at most 2 has {}", page.len());
        let Some(last) = page.last().cloned() else { break };
        ensure!(Some(&last) > after.as_ref(), "pages do not move on from {after:?}");
        after = Some(last);
        listed.extend(page);
    }
    ensure_eq!(listed, large, "large groups of a user who left {left}");
    Ok(())
}

/// Ids are bytes to a store: none is unescaped, folded, split or mixed up with another.
///
/// # Errors
/// The violation that was found.
pub async fn hostile_ids(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let store = open(&*data).await?;
    let users = HOSTILE.iter().map(|name| user(name)).collect::<Result<Vec<_>, _>>()?;
    for (n, name) in HOSTILE.iter().enumerate() {
        // Each group has another user, and the next one.
        make_group(&store, &group(name)?, &[&users[n], &users[(n + 1) % users.len()]]).await?;
    }
    for (n, name) in HOSTILE.iter().enumerate() {
        let mut due = [users[n].to_string(), users[(n + 1) % users.len()].to_string()];
        due.sort();
        ensure_eq!(names_at(&store, &group(name)?, 1).await?, due, "the members of {name:?}");
        ensure_eq!(list(&store, &users[n], 1).await?.len(), 2, "how many groups {:?} is in", users[n]);
    }
    let wanted: Vec<_> =
        HOSTILE.iter().map(|name| Ok((group(name)?, users[0].clone()))).collect::<Result<_, Violation>>()?;
    let found = store.conversations.memberships(&wanted, &None).await?;
    let there: Vec<_> = found.iter().map(Option::is_some).collect();
    let due: Vec<_> = (0..users.len()).map(|n| n == 0 || n + 1 == users.len()).collect();
    ensure_eq!(there, due, "where {:?} is a member", users[0]);
    Ok(())
}
