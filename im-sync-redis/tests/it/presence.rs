//! What is left of connects that were given up, and of nodes that died.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{TTL, shared};
use im_core::{
    Connect, Connected, DeviceId, Gone, NodeId, Platform, Presence, SessionId, SessionRef, UserId, WhenFull,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn connect(user: &str, session: &str, node: &str) -> Connect {
    Connect {
        user: UserId::new(user).unwrap(),
        session: SessionRef {
            id: SessionId::new(session).unwrap(),
            node: NodeId::new(node).unwrap(),
            device: DeviceId::new("device").unwrap(),
            platform: Platform::new("web").unwrap(),
        },
        slot: "slot".into(),
        max: 1,
        when_full: WhenFull::KickOld,
    }
}

fn key(connect: &Connect) -> (UserId, SessionId) {
    (connect.user.clone(), connect.session.id.clone())
}

#[tokio::test]
async fn a_connect_that_is_given_up_is_gone_after_beats_without_it() {
    let presence = shared().open().await.presence();
    let held = connect("bob", "held", "node");
    presence.connect(&held).await.unwrap();
    for n in 0..200 {
        let request = connect("alice", &format!("{n}"), "node");
        // At another place each time.
        let _ = tokio::time::timeout(Duration::from_micros(n * 10), presence.connect(&request)).await;
    }
    // Whatever was under way is done when something later is answered.
    presence.nodes().await.unwrap();
    for _ in 0..2 {
        assert_eq!(presence.beat(&held.session.node, &[key(&held)]).await.unwrap(), []);
    }
    let users = [held.user.clone(), UserId::new("alice").unwrap()];
    assert_eq!(presence.sessions(&users).await.unwrap(), [vec![held.session], Vec::new()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_and_connects_at_once_leave_nothing_unknown() {
    let presence = shared().open().await.presence();
    let node = NodeId::new("node").unwrap();
    let (done, beats) = (tokio::sync::watch::Sender::new(Vec::new()), presence.clone());
    let mut held = done.subscribe();
    let (beating, stop) = (node.clone(), tokio::sync::watch::Sender::new(false));
    let stopped = stop.subscribe();
    let beating = tokio::spawn(async move {
        while !*stopped.borrow() {
            let held: Vec<_> = held.borrow_and_update().clone();
            beats.beat(&beating, &held).await.unwrap();
        }
    });
    // Each is held before it connects, as by a node that knows what it is doing.
    let (mut all, mut requests) = (Vec::new(), Vec::new());
    for n in 0..300 {
        let request = connect(&format!("user-{n}"), &format!("session-{n}"), "node");
        all.push(key(&request));
        done.send_replace(all.clone());
        assert_eq!(presence.connect(&request).await.unwrap(), Connected::Accepted(Vec::new()));
        requests.push(request);
    }
    stop.send_replace(true);
    tokio::time::timeout(PATIENCE, beating).await.unwrap().unwrap();
    // A beat that began between a connect's beginning and its end does not know it.
    let gone: BTreeSet<_> =
        presence.beat(&node, &all).await.unwrap().into_iter().map(|gone| gone.0).collect();
    for request in requests.iter().filter(|request| gone.contains(&request.session.id)) {
        presence.connect(request).await.unwrap();
    }
    assert_eq!(presence.beat(&node, &all).await.unwrap(), []);
    let users: Vec<_> = all.iter().map(|(user, _)| user.clone()).collect();
    assert!(presence.sessions(&users).await.unwrap().iter().all(|sessions| sessions.len() == 1));
    // None is left in the node's set that would keep one.
    assert_eq!(presence.beat(&node, &[]).await.unwrap(), []);
    assert!(presence.sessions(&users).await.unwrap().iter().all(Vec::is_empty));
}

#[tokio::test]
async fn another_life_of_a_node_does_not_bring_its_sessions_back() {
    let presence = shared().short_lived().open().await.presence();
    let (one, two) = (connect("alice", "one", "node"), connect("bob", "two", "node"));
    for request in [&one, &two] {
        presence.connect(request).await.unwrap();
    }
    tokio::time::sleep(TTL + TTL / 10).await;
    presence.connect(&one).await.unwrap();
    let users = [one.user.clone(), two.user.clone()];
    assert_eq!(presence.sessions(&users).await.unwrap(), [vec![one.session.clone()], Vec::new()]);
    let gone = presence.beat(&one.session.node, &[key(&one), key(&two)]).await.unwrap();
    assert_eq!(gone, [(two.session.id.clone(), Gone::Forgotten)]);
    presence.connect(&two).await.unwrap();
    assert_eq!(presence.beat(&one.session.node, &[key(&one), key(&two)]).await.unwrap(), []);
}

#[tokio::test]
async fn a_displaced_session_is_called_so_while_it_is_held_and_may_connect_again() {
    let presence = shared().open().await.presence();
    let (old, new) = (connect("alice", "old", "first"), connect("alice", "new", "second"));
    presence.connect(&old).await.unwrap();
    assert_eq!(presence.connect(&new).await.unwrap(), Connected::Accepted(vec![old.session.clone()]));
    // Not taken for one that was never there.
    presence.disconnect(&[key(&old)]).await.unwrap();
    let displaced = [(old.session.id.clone(), Gone::Displaced)];
    assert_eq!(presence.beat(&old.session.node, &[key(&old)]).await.unwrap(), displaced);
    assert_eq!(presence.connect(&old).await.unwrap(), Connected::Accepted(vec![new.session.clone()]));
    assert_eq!(presence.beat(&old.session.node, &[key(&old)]).await.unwrap(), []);
    let displaced = [(new.session.id.clone(), Gone::Displaced)];
    assert_eq!(presence.beat(&new.session.node, &[key(&new)]).await.unwrap(), displaced);
    let again = Connect { when_full: WhenFull::RejectNew, ..new.clone() };
    assert_eq!(presence.connect(&again).await.unwrap(), Connected::Refused);
    assert_eq!(presence.beat(&new.session.node, &[]).await.unwrap(), []);
    assert_eq!(presence.sessions(std::slice::from_ref(&old.user)).await.unwrap(), [vec![old.session]]);
}
