//! Durable send → ack.
//!
//! The engine runs whole: while it acks, its fan-out writes the inboxes of both users on the same file or server. The limit is
//! what an ack waits for: the message rows alone. `limit_whole` is the limit of every row that a message makes the engine insert,
//! inbox entries too; `settled_rate` counts messages until the last of them was fanned out.
//!
//! On a server beside, also the processor time for each message until it was fanned out: `own_cpu_us` of this process, senders and
//! engine; `server_cpu_us` of everything else on the machine, with what the bare rows left it to do later; and
//! `limit_server_cpu_us`, the same for a message of the limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use im_engine::{
    ChatError, ConversationId, Cursor, DeviceId, Engine, Event, Hello, Identity, NewMessage, Platform, Pull,
    Refusal, Session, UserId,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Outcome,
    args::Plan,
    backend::{Bed, Place, content},
    disk::Disk,
    pace::{Round, closed_loop, open_loop},
    process::{Cpu, rss_kb},
    raw::{self, Rows, Singles},
    report::{self, Line},
    stats::{Latencies, median},
};

/// How many rounds of each kind alternate.
const ROUNDS: u32 = 5;
/// How long a session hears nothing before its client asks by itself.
const QUIET: Duration = Duration::from_secs(5);
/// How many messages wait for their acks at the maximum rate. Figures of a debug build are worth nothing: there it has only to work.
const IN_FLIGHT: usize = if cfg!(debug_assertions) { 100 } else { 2000 };
/// How many conversations there are, where there are many.
const MANY: usize = if cfg!(debug_assertions) { 20 } else { 1000 };

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    for (case, conversations) in [("many", MANY), ("hot", 1)] {
        let bed = Bed::open(plan.place()?).await?;
        let singles = bed.singles(conversations).await?;
        let measured = maximum(plan, &bed, &singles, case).await?;
        if let Some(load) = plan.rate {
            let (rate, limit) = measured;
            half(plan, &bed, &singles, case, load, (rate * load, limit)).await?;
            received(plan, &bed, &singles, case, load).await?;
        }
        bed.close().await?;
    }
    Ok(())
}

/// The closed loop beside the raw limit; both medians.
async fn maximum(plan: &Plan, bed: &Bed, singles: &Singles, case: &str) -> Outcome<(f64, Option<f64>)> {
    closed(bed, singles, plan.part(2 * ROUNDS)).await?;
    let (mut rates, mut settled, mut limits, mut wholes) = (vec![], vec![], vec![], vec![]);
    let mut latencies = Latencies::new()?;
    let mut raws = Vec::new();
    let (mut rss, mut backlog, mut batches) = (0, 0, vec![]);
    let (mut cpu, mut limit_cpu, mut messages) = (Cpu::default(), Cpu::default(), 0);
    for _ in 0..ROUNDS {
        bed.watch.settled().await;
        bed.watch.record(plan.is_limited());
        let (begun, cpu_begun) = (Instant::now(), Cpu::now()?);
        let round = closed(bed, singles, plan.part(ROUNDS)).await?;
        backlog = backlog.max(bed.watch.backlog());
        bed.watch.settled().await;
        settled.push(round.done as f64 / begun.elapsed().as_secs_f64());
        cpu.add_since(cpu_begun)?;
        bed.watch.record(false);
        rates.push(round.rate());
        latencies.add(&round.latencies)?;
        bed.watch.take_writes();
        let sizes = bed.watch.take_appends();
        if raws.is_empty() {
            // Before the other connections' caches are there.
            rss = rss_kb()?;
            for rows in [Rows::Messages, Rows::MessagesAndInbox] {
                raws.extend(raw::open(&bed.place, rows).await?);
            }
        }
        let rows: usize = sizes.iter().map(|(_, size)| size).sum();
        messages += rows as u64;
        for (number, (raw, limits)) in raws.iter_mut().zip([&mut limits, &mut wholes]).enumerate() {
            let cpu_begun = Cpu::now()?;
            limits.push(rows as f64 / raw.messages(&sizes, singles).await?.as_secs_f64());
            if number == 0 {
                limit_cpu.add_since(cpu_begun)?;
            }
        }
        batches.extend(sizes.into_iter().map(|(_, size)| size as f64));
    }
    let (rate, limit) = (median(rates).unwrap_or_default(), median(limits));
    let mut line = Line::new(plan, "send", case, "acks/s")
        .rate(Some(rate), limit)
        .latencies(&latencies)
        .rss_kb(rss)
        .more("limit_whole", median(wholes))
        .more("settled_rate", median(settled))
        .more("backlog", backlog)
        .more("batch", median(batches));
    if let Place::Schema(_) | Place::Keyspace(_) = &bed.place {
        for (name, time) in [
            ("own_cpu_us", cpu.own),
            ("server_cpu_us", cpu.others),
            ("limit_server_cpu_us", limit_cpu.others),
        ] {
            line = line.more(name, time / messages.max(1));
        }
    }
    line.print(plan);
    Ok((rate, limit))
}

pub(crate) async fn closed(bed: &Bed, singles: &Singles, length: Duration) -> Outcome<Round> {
    let (engine, text) = (bed.engine.clone(), content());
    let senders: Vec<_> = (0..IN_FLIGHT).map(|caller| place(singles, caller)).collect::<Outcome<_>>()?;
    closed_loop(IN_FLIGHT, length, move |caller| {
        let (conversation, sender) = &senders[caller];
        let message = NewMessage::text(sender, conversation, &*text);
        let engine = engine.clone();
        async move {
            engine.send(message).await?;
            Ok(())
        }
    })
    .await
}

/// A conversation with its sender: each caller another one, as far as they go. The ids are the caller's own, as those are that
/// come in a frame.
fn place(singles: &Singles, caller: usize) -> Outcome<(ConversationId, UserId)> {
    let (conversation, [low, high]) = &singles[caller % singles.len()];
    let sender = if (caller / singles.len()).is_multiple_of(2) { low } else { high };
    Ok((ConversationId::new(conversation.as_str())?, UserId::new(sender.as_str())?))
}

/// The open loop: from when a message was due until its ack.
async fn half(
    plan: &Plan,
    bed: &Bed,
    singles: &Singles,
    case: &str,
    load: f64,
    (rate, limit): (f64, Option<f64>),
) -> Outcome {
    bed.watch.settled().await;
    let text = content();
    let refused = Arc::new(AtomicU64::new(0));
    let round = open_loop(rate, plan.part(1), |number, _| {
        let (place, text) = (place(singles, number as usize), text.clone());
        let (engine, refused) = (bed.engine.clone(), refused.clone());
        async move {
            let (conversation, sender) = place?;
            sent(&engine, NewMessage::text(&sender, &conversation, &*text), &refused).await
        }
    })
    .await?;
    Line::new(plan, "send", case, "acks/s")
        .load(load)
        .rate(Some(round.rate()), limit)
        .latencies(&round.latencies)
        .rss_kb(rss_kb()?)
        .more("backlog", bed.watch.backlog())
        .more("refused", refused.load(Ordering::Relaxed))
        .print(plan);
    Ok(())
}

/// Sends as a client does: what is refused because of an overload is sent again when the refusal says.
async fn sent(engine: &Engine, message: NewMessage, refused: &AtomicU64) -> Outcome {
    loop {
        match engine.send(message.clone()).await {
            Err(ChatError::Refused(Refusal::Overloaded(wait))) => {
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
            }
            done => return Ok(done.map(drop)?),
        }
    }
}

/// Everybody is online, and time counts until the other user's session has a message: first a closed loop, in which as many
/// messages are on their way as wait for their acks above, for the maximum; then open loops, from when a message was due. A disk
/// that stands still once in a round is its p99: so there are several, each beside a round of the disk alone.
async fn received(plan: &Plan, bed: &Bed, singles: &Singles, case: &str, load: f64) -> Outcome {
    bed.watch.settled().await;
    let base = Instant::now();
    let (told, mut arrivals) = mpsc::unbounded_channel();
    let mut sessions = JoinSet::new();
    for (_, users) in singles {
        for user in users {
            let reader = Reader::connect(bed, user, base, told.clone()).await?;
            // Whoever waits for its messages says only that they did not come.
            let run =
                async move { reader.run().await.inspect_err(|error| eprintln!("im-bench: a peer: {error}")) };
            sessions.spawn(run);
        }
    }
    drop(told);
    let case = format!("{case}-receive");
    let line = || Line::new(plan, "send", &*case, "receives/s");
    let text = content();
    let refused = Arc::new(AtomicU64::new(0));
    let (rate, latencies) =
        closed_received(bed, singles, base, plan.part(1), &mut arrivals, &refused).await?;
    line().rate(Some(rate), None).latencies(&latencies).rss_kb(rss_kb()?).print(plan);
    let mut disk = match &bed.place {
        Place::Folder(folder) => Some(Disk::open(folder.path())?),
        Place::Memory | Place::Schema(_) | Place::Keyspace(_) => None,
    };
    let (mut rates, mut own, mut bare) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bed.watch.settled().await;
        let round = open_loop(rate * load, plan.part(1), |number, due| {
            let due = due.saturating_duration_since(base);
            let send = send_at(bed, singles, number as usize, &text, due, &refused);
            async move { send?.await }
        })
        .await?;
        rates.push(round.rate());
        let mut latencies = Latencies::new()?;
        for _ in 0..round.done {
            latencies.record(arrival(&mut arrivals).await?);
        }
        own.push(latencies);
        if let Some(disk) = &mut disk {
            bare.push(tokio::task::block_in_place(|| disk.open_loop(rate * load, plan.part(1)))?);
        }
    }
    let mut line = line().load(load).rate(median(rates), None).median_latencies(&own).rss_kb(rss_kb()?);
    line = line.more("refused", refused.load(Ordering::Relaxed)).more("p99_ms_of_rounds", p99s(&own));
    if disk.is_some() {
        line = line.more("disk_p99_ms", median(p99s(&bare))).more("disk_p99_ms_of_rounds", p99s(&bare));
    }
    line.print(plan);
    sessions.shutdown().await;
    Ok(())
}

/// Messages per second until the last of them has been received, and how long each took.
async fn closed_received(
    bed: &Bed,
    singles: &Singles,
    base: Instant,
    length: Duration,
    arrivals: &mut mpsc::UnboundedReceiver<Duration>,
    refused: &Arc<AtomicU64>,
) -> Outcome<(f64, Latencies)> {
    let (begun, text) = (Instant::now(), content());
    let (mut latencies, mut on_their_way) = (Latencies::new()?, JoinSet::new());
    let (mut begun_sends, mut received) = (0, 0);
    loop {
        while begun.elapsed() < length && begun_sends - received < IN_FLIGHT {
            on_their_way.spawn(send_at(bed, singles, begun_sends, &text, base.elapsed(), refused)?);
            begun_sends += 1;
        }
        if begun_sends == received {
            break;
        }
        tokio::select! {
            arrival = arrival(arrivals) => {
                latencies.record(arrival?);
                received += 1;
            }
            Some(acked) = on_their_way.join_next() => acked??,
        }
    }
    let rate = received as f64 / begun.elapsed().as_secs_f64();
    while let Some(acked) = on_their_way.join_next().await {
        acked??;
    }
    Ok((rate, latencies))
}

/// Sends a message that says when it was due.
pub(crate) fn send_at(
    bed: &Bed,
    singles: &Singles,
    number: usize,
    text: &str,
    due: Duration,
    refused: &Arc<AtomicU64>,
) -> Outcome<impl Future<Output = Outcome> + Send + use<>> {
    let (conversation, sender) = place(singles, number)?;
    let text = format!("{:020}{}", due.as_nanos(), &text[20..]);
    let (engine, refused) = (bed.engine.clone(), refused.clone());
    Ok(async move { sent(&engine, NewMessage::text(&sender, &conversation, &*text), &refused).await })
}

/// The p99 of each round.
pub(crate) fn p99s(rounds: &[Latencies]) -> Vec<f64> {
    rounds.iter().filter_map(|latencies| latencies.quantile_ms(0.99)).collect()
}

pub(crate) async fn arrival(arrivals: &mut mpsc::UnboundedReceiver<Duration>) -> Outcome<Duration> {
    if let Ok(arrival) = arrivals.try_recv() {
        return Ok(arrival);
    }
    let arrival = tokio::time::timeout(Duration::from_secs(10), arrivals.recv());
    Ok(arrival.await.map_err(|_| "a message was not received")?.ok_or("all sessions ended")?)
}

/// An online user who takes what is sent to it, as a client would: signals with entries, else a pull.
pub(crate) struct Reader {
    session: Session,
    cursor: Cursor,
    base: Instant,
    told: mpsc::UnboundedSender<Duration>,
}

impl Reader {
    pub(crate) async fn connect(
        bed: &Bed,
        user: &UserId,
        base: Instant,
        told: mpsc::UnboundedSender<Duration>,
    ) -> Outcome<Self> {
        let identity = Identity {
            user: user.clone(),
            device: DeviceId::new("bench")?,
            platform: Platform::new("bench")?,
        };
        let (session, _) = bed.engine.connect(identity, Hello::default()).await?;
        let cursor = session.fresh().await?.cursor;
        session.pull(&cursor, 1).await?;
        Ok(Self { session, cursor, base, told })
    }

    pub(crate) async fn run(mut self) -> Outcome {
        loop {
            // A signal may be lost; then a client finds out when it asks by itself.
            let Ok(event) = tokio::time::timeout(QUIET, self.session.event()).await else {
                self.pull().await?;
                continue;
            };
            match event {
                Event::Entries(entries) => self.take(entries.as_slice()),
                Event::End(_) => self.pull().await?,
                Event::Closed(reason) => return Err(format!("a session was closed: {reason:?}").into()),
                _ => {}
            }
        }
    }

    async fn pull(&mut self) -> Outcome {
        loop {
            match self.session.pull(&self.cursor, 200).await? {
                Pull::Resync => return Err("a cursor was not served".into()),
                Pull::Page { entries, more } => {
                    self.take(&entries);
                    if !more {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take(&mut self, entries: &[im_engine::Entry]) {
        let now = self.base.elapsed();
        let own = self.session.user().clone();
        for record in entries.iter().map(|entry| &entry.record).filter(|record| record.sender != own) {
            let due = record.content.get(..20).and_then(|due| due.parse().ok()).map(Duration::from_nanos);
            if let Some(due) = due {
                // Nobody listens any more: the measurement is over.
                let _ = self.told.send(now.saturating_sub(due));
            }
        }
        if let Some(last) = entries.last() {
            self.cursor = last.cursor.clone();
            // A session that is closed says so with its next event.
            let _ = self.session.ack(&self.cursor);
        }
    }
}
