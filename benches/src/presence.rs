//! Presence: sessions that connect, are looked up, and are kept alive.
//!
//! Everybody has one session, and whoever connects again displaces the one before, as a client does that comes back. A look-up names a
//! hundred users, as fan-out does for a group; a beat names all sessions of the node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use im_engine::{
    Connect, Connected, DeviceId, NodeId, Platform, Presence, SessionId, SessionRef, UserId, WhenFull,
};

use crate::{
    Outcome,
    args::Plan,
    backend::{Bed, user},
    pace::{Round, closed_loop},
    process::rss_kb,
    raw,
    report::{self, Line},
    stats::{Latencies, median},
};

/// How many rounds of each kind alternate.
const ROUNDS: u32 = 5;
/// How many users there are. A debug build has only to work.
const USERS: usize = if cfg!(debug_assertions) { 300 } else { 10_000 };
/// How many connects are under way at once.
const CONNECTING: usize = if cfg!(debug_assertions) { 20 } else { 500 };
/// How many look-ups are.
const LOOKING: usize = 8;
/// How many users a look-up names.
const NAMED: usize = 100;

/// What is measured, and how many sessions one request is about.
const CASES: [(&str, &str, usize, usize); 3] = [
    ("connect", "connects/s", CONNECTING, 1),
    ("look-up", "users/s", LOOKING, NAMED),
    ("beat", "sessions/s", 1, USERS),
];

/// The sessions of one node.
#[derive(Debug)]
struct Node {
    id: NodeId,
    presence: Arc<dyn Presence>,
    users: Vec<UserId>,
    /// How often each user has connected: his session is named by it.
    connected: Vec<AtomicU64>,
    next: AtomicUsize,
}

impl Node {
    fn session(&self, number: usize, time: u64) -> Outcome<SessionId> {
        Ok(SessionId::new(format!("{number}-{time}"))?)
    }

    async fn connect(&self) -> Outcome {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.users.len();
        let time = self.connected[number].load(Ordering::Relaxed) + 1;
        let request = Connect {
            user: self.users[number].clone(),
            session: SessionRef {
                id: self.session(number, time)?,
                node: self.id.clone(),
                device: DeviceId::new("device")?,
                platform: Platform::new("bench")?,
            },
            slot: "device".into(),
            max: 1,
            when_full: WhenFull::default(),
        };
        match self.presence.connect(&request).await? {
            Connected::Accepted(_) => self.connected[number].store(time, Ordering::Relaxed),
            Connected::Refused => return Err("a connect was refused".into()),
        }
        Ok(())
    }

    /// The next so many users.
    fn some(&self, many: usize) -> &[UserId] {
        let from = self.next.fetch_add(many, Ordering::Relaxed) % self.users.len();
        &self.users[from..(from + many).min(self.users.len())]
    }

    async fn look_up(&self) -> Outcome {
        let found = self.presence.sessions(self.some(NAMED)).await?;
        if found.iter().any(|sessions| sessions.len() != 1) {
            return Err("a session is missing".into());
        }
        Ok(())
    }

    async fn beat(&self) -> Outcome {
        let held = (0..self.users.len())
            .map(|number| {
                let time = self.connected[number].load(Ordering::Relaxed);
                Ok((self.users[number].clone(), self.session(number, time)?))
            })
            .collect::<Outcome<Vec<_>>>()?;
        if !self.presence.beat(&self.id, &held).await?.is_empty() {
            return Err("a session is gone".into());
        }
        Ok(())
    }

    async fn ask(&self, case: &str) -> Outcome {
        match case {
            "connect" => self.connect().await,
            "look-up" => self.look_up().await,
            _ => self.beat().await,
        }
    }
}

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let bed = Bed::open(plan.place()?).await?;
    let node = Arc::new(Node {
        id: NodeId::new("im-bench")?,
        presence: bed.parts.presence.clone().ok_or("no presence")?,
        users: (0..USERS).map(user).collect::<Outcome<_>>()?,
        connected: (0..USERS).map(|_| AtomicU64::default()).collect(),
        next: AtomicUsize::default(),
    });
    for _ in 0..USERS {
        node.connect().await?;
    }
    let bare = raw::presence(&bed.place).await?.map(Arc::new);
    let rss = rss_kb()?;
    for (case, unit, at_once, sessions) in CASES {
        let own = async |length| own(&node, case, at_once, length).await;
        own(plan.part(2 * ROUNDS)).await?;
        let (mut rates, mut limits, mut latencies) = (vec![], vec![], Latencies::new()?);
        for _ in 0..ROUNDS {
            let round = own(plan.part(ROUNDS)).await?;
            rates.push(round.rate() * sessions as f64);
            latencies.add(&round.latencies)?;
            if let Some(bare) = &bare {
                let (bare, node) = (bare.clone(), node.clone());
                let round = closed_loop(at_once, plan.part(ROUNDS), move |_| {
                    let (bare, node) = (bare.clone(), node.clone());
                    async move { bare.ask(case, node.some(sessions)).await }
                })
                .await?;
                limits.push(round.rate() * sessions as f64);
            }
        }
        Line::new(plan, "presence", case, unit)
            .rate(median(rates), median(limits))
            .latencies(&latencies)
            .rss_kb(rss)
            .print(plan);
    }
    drop(node);
    bed.close().await?;
    Ok(())
}

async fn own(node: &Arc<Node>, case: &'static str, at_once: usize, length: Duration) -> Outcome<Round> {
    let node = node.clone();
    closed_loop(at_once, length, move |_| {
        let node = node.clone();
        async move { node.ask(case).await }
    })
    .await
}
