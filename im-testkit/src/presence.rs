//! The clauses of [`im_core::Presence`].

use std::{collections::BTreeSet, sync::Arc};

use im_core::{
    Connect, Connected, DeviceId, Gone, NodeId, Platform, Presence, SessionId, SessionRef, UserId, WhenFull,
};

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{HOSTILE, one, together, user},
    violation::{ensure, ensure_eq},
};

async fn open(data: &dyn Data) -> Result<Arc<dyn Presence>, Violation> {
    data.node().await?.presence.ok_or_else(|| Violation::new("the presence part is missing"))
}

/// A connect of alice, who may have one session in the slot.
fn connect(session: &str, node: &str) -> Result<Connect, Violation> {
    Ok(Connect {
        user: user("alice")?,
        session: SessionRef {
            id: SessionId::new(session)?,
            node: NodeId::new(node)?,
            device: DeviceId::new("device")?,
            platform: Platform::new("web")?,
        },
        slot: "slot".into(),
        max: 1,
        when_full: WhenFull::KickOld,
    })
}

/// The sessions of a user, by name.
async fn sessions(presence: &dyn Presence, user: &UserId) -> Result<BTreeSet<String>, Violation> {
    let sessions = one(presence.sessions(std::slice::from_ref(user)).await?)?;
    Ok(sessions.into_iter().map(|session| session.id.to_string()).collect())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(ToOwned::to_owned).collect()
}

fn key(connect: &Connect) -> (UserId, SessionId) {
    (connect.user.clone(), connect.session.id.clone())
}

async fn accepted(presence: &dyn Presence, request: &Connect) -> Result<Vec<SessionRef>, Violation> {
    match presence.connect(request).await? {
        Connected::Accepted(displaced) => Ok(displaced),
        Connected::Refused => Err(Violation::new(format!("{:?} was refused", request.session))),
    }
}

/// Clause 1: however many connect at once, a slot holds its maximum, and each displaced session is named once.
///
/// # Errors
/// The violation that was found.
pub async fn atomic_connect(fixture: &dyn Fixture) -> Verdict {
    const RACERS: usize = 16;
    let data = fixture.fresh().await?;
    for (slot, when_full) in [("kick", WhenFull::KickOld), ("reject", WhenFull::RejectNew)] {
        let mut racers = Vec::new();
        for n in 0..RACERS {
            let presence = open(&*data).await?;
            let base = connect(&format!("{slot}-{n}"), &format!("node-{}", n % 3))?;
            let request = Connect { slot: slot.into(), max: 3, when_full, ..base };
            racers.push(async move { Ok((presence.connect(&request).await?, request.session)) });
        }
        let answers = together(racers).await?;
        let (mut inside, mut displaced) = (BTreeSet::new(), Vec::new());
        for (answer, session) in answers {
            if let Connected::Accepted(gone) = answer {
                inside.insert(session.id.to_string());
                displaced.extend(gone.into_iter().map(|gone| gone.id.to_string()));
            }
        }
        for gone in &displaced {
            ensure!(inside.remove(gone), "{gone} was displaced twice, or was never in");
        }
        let there: BTreeSet<_> = sessions(&*open(&*data).await?, &user("alice")?).await?;
        let there: BTreeSet<_> = there.into_iter().filter(|name| name.starts_with(slot)).collect();
        ensure_eq!(there.len(), 3, "sessions in a slot of three");
        ensure_eq!(there, inside, "who is in, and who was told so");
        let due = if when_full == WhenFull::KickOld { RACERS - 3 } else { 0 };
        ensure_eq!(displaced.len(), due, "displaced sessions");
    }
    Ok(())
}

/// Clause 2: a full slot displaces its oldest or refuses the newest; other slots and other users do not count.
///
/// # Errors
/// The violation that was found.
pub async fn kick_or_reject(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let presence = open(&*data).await?;
    let of_two = |name: &str| Ok::<_, Violation>(Connect { max: 2, ..connect(name, "node")? });
    for name in ["one", "two"] {
        ensure_eq!(accepted(&*presence, &of_two(name)?).await?, [], "displaced by {name}");
    }
    let reject = Connect { when_full: WhenFull::RejectNew, ..of_two("refused")? };
    ensure_eq!(presence.connect(&reject).await?, Connected::Refused, "the answer of a full slot");
    let elsewhere =
        Connect { slot: "another".into(), when_full: WhenFull::RejectNew, ..of_two("elsewhere")? };
    ensure_eq!(accepted(&*presence, &elsewhere).await?, [], "displaced from another slot");
    let bob = Connect { user: user("bob")?, when_full: WhenFull::RejectNew, ..of_two("of bob")? };
    ensure_eq!(accepted(&*presence, &bob).await?, [], "displaced by another user");
    let three = of_two("three")?;
    ensure_eq!(accepted(&*presence, &three).await?, [of_two("one")?.session], "displaced by a third");
    let due = names(["two", "three", "elsewhere"]);
    ensure_eq!(sessions(&*presence, &three.user).await?, due, "who is in");
    let narrower = connect("four", "node")?;
    let gone: BTreeSet<_> =
        accepted(&*presence, &narrower).await?.into_iter().map(|gone| gone.id.to_string()).collect();
    ensure_eq!(gone, names(["two", "three"]), "displaced where the maximum became one");
    let asked = [bob.user.clone(), user("nobody")?, bob.user];
    let counts: Vec<_> = presence.sessions(&asked).await?.iter().map(Vec::len).collect();
    ensure_eq!(counts, [1, 0, 1], "sessions of many users");
    Ok(())
}

/// Clause 3: the sessions of a node that is silent for the TTL are gone, and take no place in a slot; the others stay.
///
/// # Errors
/// The violation that was found.
pub async fn dead_nodes_vanish(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let presence = open(&*data).await?;
    let ttl = presence.ttl();
    let (dead, living) =
        (connect("dead", "dead node")?, Connect { slot: "2".into(), ..connect("living", "living node")? });
    accepted(&*presence, &dead).await?;
    accepted(&*presence, &living).await?;
    data.pass(ttl / 5 * 3).await;
    ensure_eq!(
        presence.beat(&living.session.node, &[key(&living)]).await?,
        [],
        "the answer to a beat in time"
    );
    ensure_eq!(sessions(&*presence, &dead.user).await?, names(["dead", "living"]), "sessions within the TTL");
    data.pass(ttl / 5 * 3).await;
    ensure_eq!(sessions(&*presence, &dead.user).await?, names(["living"]), "sessions after the TTL");
    let heir = Connect { when_full: WhenFull::RejectNew, ..connect("heir", "living node")? };
    ensure_eq!(accepted(&*presence, &heir).await?, [], "displaced from the place of a dead node");
    let back = presence.beat(&dead.session.node, &[key(&dead)]).await?;
    ensure_eq!(back, [(dead.session.id, Gone::Forgotten)], "the answer to a node that was taken for dead");
    Ok(())
}

/// Clause 4: a node learns at each beat which of its sessions are not its own any more, and why, until it lets go of them.
///
/// # Errors
/// The violation that was found.
pub async fn told_at_next_beat(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let presence = open(&*data).await?;
    let (old, new) = (connect("old", "first")?, connect("new", "second")?);
    let other = Connect { slot: "2".into(), ..connect("other", "first")? };
    for request in [&old, &other, &new] {
        accepted(&*presence, request).await?;
    }
    let unknown = (user("alice")?, SessionId::new("unknown")?);
    let beat = async |held: &[(UserId, SessionId)]| -> Result<Vec<(SessionId, Gone)>, Violation> {
        let mut gone = presence.beat(&old.session.node, held).await?;
        gone.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(gone)
    };
    let held = [key(&old), key(&other), unknown.clone()];
    let displaced = (old.session.id.clone(), Gone::Displaced);
    let forgotten = (unknown.1.clone(), Gone::Forgotten);
    for _ in 0..2 {
        ensure_eq!(beat(&held).await?, [displaced.clone(), forgotten.clone()], "the answer to a beat");
    }
    ensure_eq!(presence.beat(&new.session.node, &[key(&new)]).await?, [], "the answer to the other node");
    presence.disconnect(&[key(&new)]).await?;
    let lone = (old.session.id.clone(), Gone::Forgotten);
    ensure_eq!(beat(&held).await?, [lone, forgotten], "the answer when nobody is in the slot any more");
    ensure_eq!(sessions(&*presence, &old.user).await?, names(["other"]), "who is in");
    ensure_eq!(beat(&[]).await?, [], "the answer to a beat without sessions");
    ensure_eq!(sessions(&*presence, &old.user).await?, names([]), "who is in after a beat without it");
    Ok(())
}

/// Clause 5: nodes are listed from their first sign of life until their TTL ends.
///
/// # Errors
/// The violation that was found.
pub async fn live_nodes(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.short_lived().await?;
    let presence = open(&*data).await?;
    let ttl = presence.ttl();
    let nodes = async || -> Result<BTreeSet<String>, Violation> {
        let nodes = presence.nodes().await?;
        let names: BTreeSet<_> = nodes.iter().map(ToString::to_string).collect();
        ensure!(names.len() == nodes.len(), "a node is listed twice: {nodes:?}");
        Ok(names)
    };
    ensure_eq!(nodes().await?, names([]), "nodes before any");
    presence.beat(&NodeId::new("beats")?, &[]).await?;
    accepted(&*presence, &connect("s", "connects")?).await?;
    ensure_eq!(nodes().await?, names(["beats", "connects"]), "nodes");
    data.pass(ttl / 5 * 3).await;
    presence.beat(&NodeId::new("beats")?, &[]).await?;
    ensure_eq!(nodes().await?, names(["beats", "connects"]), "nodes within the TTL");
    data.pass(ttl / 5 * 3).await;
    ensure_eq!(nodes().await?, names(["beats"]), "nodes after the TTL of one");
    data.pass(ttl).await;
    ensure_eq!(nodes().await?, names([]), "nodes after the TTL of all");
    Ok(())
}

/// Clause 6: a disconnect removes the session it names, of the user it names.
///
/// # Errors
/// The violation that was found.
pub async fn own_disconnect_only(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let presence = open(&*data).await?;
    let (old, new) = (connect("old", "node")?, connect("new", "node")?);
    let bob = Connect { user: user("bob")?, ..connect("new", "node")? };
    let neighbour = Connect { slot: "2".into(), ..connect("neighbour", "node")? };
    for request in [&old, &new, &bob, &neighbour] {
        accepted(&*presence, request).await?;
    }
    presence.disconnect(&[key(&old), (user("nobody")?, SessionId::new("new")?)]).await?;
    let due = names(["new", "neighbour"]);
    ensure_eq!(sessions(&*presence, &new.user).await?, due, "sessions after the disconnect of an older one");
    presence.disconnect(&[key(&new)]).await?;
    ensure_eq!(
        sessions(&*presence, &new.user).await?,
        names(["neighbour"]),
        "sessions after its own disconnect"
    );
    ensure_eq!(sessions(&*presence, &bob.user).await?, names(["new"]), "the session of another user");
    Ok(())
}

/// Ids are bytes to a presence: none is unescaped, folded, split or mixed up with another.
///
/// # Errors
/// The violation that was found.
pub async fn hostile_ids(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let presence = open(&*data).await?;
    let mut due = Vec::new();
    for name in HOSTILE {
        let session = SessionRef {
            id: SessionId::new(*name)?,
            node: NodeId::new(*name)?,
            device: DeviceId::new(*name)?,
            platform: Platform::new(*name)?,
        };
        for slot in HOSTILE.iter().take(6) {
            let id = SessionId::new(format!("{}{}", name.chars().take(9).collect::<String>(), slot))?;
            let session = SessionRef { id, ..session.clone() };
            let request = Connect { user: user(name)?, session, slot: (*slot).into(), ..connect("x", "x")? };
            ensure_eq!(
                accepted(&*presence, &request).await?,
                [],
                "displaced from the slot {slot:?} of {name:?}"
            );
            due.push(request.session);
        }
    }
    let users = HOSTILE.iter().map(|name| user(name)).collect::<Result<Vec<_>, _>>()?;
    for (n, sessions) in presence.sessions(&users).await?.into_iter().enumerate() {
        let (there, due): (BTreeSet<_>, BTreeSet<_>) = (
            sessions.iter().map(|s| s.id.clone()).collect(),
            due[n * 6..n * 6 + 6].iter().map(|s| s.id.clone()).collect(),
        );
        ensure_eq!(there, due, "the sessions of {:?}", users[n]);
        ensure!(
            sessions.iter().all(|s| s.device.as_str() == HOSTILE[n]),
            "the devices of {:?}: {sessions:?}",
            users[n]
        );
        let held: Vec<_> = sessions.iter().map(|session| (users[n].clone(), session.id.clone())).collect();
        let gone = presence.beat(&NodeId::new(HOSTILE[n])?, &held).await?;
        ensure_eq!(gone, [], "the answer to the beat of {:?}", HOSTILE[n]);
    }
    ensure_eq!(presence.nodes().await?.len(), HOSTILE.len(), "nodes");
    Ok(())
}
