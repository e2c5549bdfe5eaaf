//! What others cost: pairs of users write to each other at a steady pace, far below the maximum, and time counts from when a message was
//! due until the peer's session has it; alone, and beside one heavy user, group or conversation.
//!
//! The limit of a case is the same pairs alone, in rounds that alternate with its own: `times_alone` is its p99 by theirs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use im_engine::{
    ClientMsgId, ConversationId, Cursor, DeviceId, Engine, Hello, Identity, MemberChange, NewGroup,
    NewMessage, Platform, Pull, Session, UserId,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{
    Outcome,
    args::Plan,
    backend::{Bed, content, user},
    pace::open_loop,
    process::rss_kb,
    report::{self, Line},
    send::{Reader, arrival, p99s, send_at},
    stats::{Latencies, median},
};

/// How many rounds of each kind alternate.
const ROUNDS: u32 = 5;
/// How many pairs there are.
const PAIRS: usize = if cfg!(debug_assertions) { 5 } else { 100 };
/// How many messages a second they write, all together.
const PACE: f64 = 200.0;
/// How many entries wait for one user, and how many members one group has.
const CROWD: usize = if cfg!(debug_assertions) { 1_000 } else { 100_000 };
/// How many join it at once: as many as may.
const JOINING: usize = 400;
/// How many messages a second the group gets.
const GROUP_PACE: f64 = 20.0;
/// How many messages a second the hot conversation gets.
const HOT_PACE: f64 = 1_000.0;
/// How many messages are under way while the entries are made that wait.
const FILLING: usize = 500;

/// What burdens the servers meanwhile.
#[derive(Debug, Clone, Copy)]
enum Burden {
    /// A user pulls all that waits, page after page, again and again.
    Waiting,
    /// Messages come to a group of many members, none of them online.
    Members,
    /// One conversation gets most of the messages.
    Hot,
}

/// Who burdens.
struct Others {
    engine: Engine,
    session: Session,
    /// Before everything that waits.
    oldest: Cursor,
    /// The conversation that is hot, with its sender; what waits came from there, too.
    hot: (ConversationId, UserId),
    group: (ConversationId, UserId),
}

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let bed = Bed::open(plan.place()?).await?;
    let singles = bed.singles(PAIRS + 1).await?;
    let others = Arc::new(Others::make(&bed, &singles[PAIRS]).await?);
    let mut pairs = Pairs::connect(&bed, singles[..PAIRS].to_vec()).await?;
    // What is done once is done.
    pairs.write(&bed, plan.part(ROUNDS)).await?;
    for (burden, case) in
        [(Burden::Waiting, "waiting-entries"), (Burden::Members, "group-members"), (Burden::Hot, "hot")]
    {
        let (mut alone, mut beside, mut done) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            bed.watch.settled().await;
            alone.push(pairs.write(&bed, plan.part(ROUNDS)).await?);
            let (length, count) = (plan.part(ROUNDS), Arc::new(AtomicU64::new(0)));
            let begun = Instant::now();
            let work: JoinHandle<Outcome> =
                tokio::spawn(others.clone().burden(burden, length, count.clone()));
            beside.push(pairs.write(&bed, length).await?);
            work.await??;
            done.push(count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64());
        }
        let p99 = |rounds: &[Latencies]| median(p99s(rounds));
        Line::new(plan, "neighbours", case, "receives/s")
            .rate(Some(PACE), None)
            .median_latencies(&beside)
            .rss_kb(rss_kb()?)
            .more("alone_p99_ms", p99(&alone))
            .more("burden_per_s", median(done))
            .more("times_alone", p99(&beside).zip(p99(&alone)).map(|(beside, alone)| beside / alone))
            .print(plan);
    }
    pairs.sessions.shutdown().await;
    drop(others);
    bed.close().await?;
    Ok(())
}

/// The users whose messages are timed.
struct Pairs {
    singles: Vec<(ConversationId, [UserId; 2])>,
    base: Instant,
    arrivals: mpsc::UnboundedReceiver<Duration>,
    sessions: JoinSet<Outcome>,
}

impl Pairs {
    async fn connect(bed: &Bed, singles: Vec<(ConversationId, [UserId; 2])>) -> Outcome<Self> {
        let base = Instant::now();
        let (told, arrivals) = mpsc::unbounded_channel();
        let mut sessions = JoinSet::new();
        for user in singles.iter().flat_map(|(_, users)| users) {
            sessions.spawn(Reader::connect(bed, user, base, told.clone()).await?.run());
        }
        Ok(Self { singles, base, arrivals, sessions })
    }

    /// Writes for a while; how long each message took.
    async fn write(&mut self, bed: &Bed, length: Duration) -> Outcome<Latencies> {
        let (text, base, refused) = (content(), self.base, Arc::new(AtomicU64::new(0)));
        let singles = &self.singles;
        let round = open_loop(PACE, length, |number, due| {
            let due = due.saturating_duration_since(base);
            let send = send_at(bed, singles, number as usize, &text, due, &refused);
            async move { send?.await }
        })
        .await?;
        let mut latencies = Latencies::new()?;
        for _ in 0..round.done {
            latencies.record(arrival(&mut self.arrivals).await?);
        }
        Ok(latencies)
    }
}

impl Others {
    async fn make(bed: &Bed, (hot, [sender, receiver]): &(ConversationId, [UserId; 2])) -> Outcome<Self> {
        let engine = bed.engine.clone();
        let identity = Identity {
            user: receiver.clone(),
            device: DeviceId::new("bench")?,
            platform: Platform::new("bench")?,
        };
        let (session, _) = engine.connect(identity, Hello::default()).await?;
        let oldest = session.fresh().await?.cursor;
        let hot = (hot.clone(), sender.clone());
        let (text, left) = (content(), Arc::new(AtomicU64::new(CROWD as u64)));
        let fill = (0..FILLING).map(|_| {
            let (engine, (conversation, sender), text, left) =
                (engine.clone(), hot.clone(), text.clone(), left.clone());
            async move {
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    engine.send(NewMessage::text(&sender, &conversation, &*text)).await?;
                }
                Outcome::Ok(())
            }
        });
        futures::future::try_join_all(fill).await?;
        bed.watch.settled().await;
        // Numbers above those of the pairs.
        let members = (0..CROWD).map(|number| user(1_000_000 + number)).collect::<Outcome<Vec<_>>>()?;
        let group = ConversationId::group("crowd")?;
        let owner = members[0].clone();
        let new = NewGroup {
            id: group.clone(),
            name: None,
            members: Vec::new(),
            client_msg_id: ClientMsgId::fresh(),
        };
        engine.create_group(&owner, new).await?;
        for some in members[1..].chunks(JOINING) {
            let change = MemberChange::Join(some.to_vec());
            engine.change_members(&owner, &group, ClientMsgId::fresh(), change).await?;
        }
        bed.watch.settled().await;
        Ok(Self { engine, session, oldest, hot, group: (group, owner) })
    }

    /// Does so for a while, and counts entries, messages.
    async fn burden(self: Arc<Self>, burden: Burden, length: Duration, count: Arc<AtomicU64>) -> Outcome {
        let text = content();
        let send = |(conversation, sender): &(ConversationId, UserId)| {
            let message = NewMessage::text(sender, conversation, &*text);
            let (engine, count) = (self.engine.clone(), count.clone());
            async move {
                engine.send(message).await?;
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        match burden {
            Burden::Waiting => {
                let (begun, mut cursor) = (Instant::now(), self.oldest.clone());
                while begun.elapsed() < length {
                    cursor = self.pull(&cursor, &count).await?.unwrap_or_else(|| self.oldest.clone());
                }
            }
            Burden::Members => drop(open_loop(GROUP_PACE, length, |_, _| send(&self.group)).await?),
            Burden::Hot => drop(open_loop(HOT_PACE, length, |_, _| send(&self.hot)).await?),
        }
        Ok(())
    }

    /// Pulls a page of what waits, and counts its entries; where the next one begins, if there is more.
    async fn pull(&self, cursor: &Cursor, count: &AtomicU64) -> Outcome<Option<Cursor>> {
        match self.session.pull(cursor, 200).await? {
            Pull::Resync => Err("a cursor was not served".into()),
            Pull::Page { entries, more } => {
                count.fetch_add(entries.len() as u64, Ordering::Relaxed);
                Ok(entries.last().filter(|_| more).map(|last| last.cursor.clone()))
            }
        }
    }
}
