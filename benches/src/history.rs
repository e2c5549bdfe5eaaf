//! A page of 50 out of a long history; and what that history costs otherwise: the start of an engine on it (`start`, beside a bare
//! connection that reads one page), and sends onto it (`flat`, beside the same onto a hundredth of it).
//!
//! On Postgres also what it takes on the disk (`space`).
//!
//! Pages are asked for one at a time, from anywhere in any conversation, so a latency is what one page takes on the server. On
//! SQLite once with the file read into the system's cache before each round, and once (`cold`) with it taken out, when the disk is most
//! of a latency. The bare query takes rows as sqlx gives them, one by one.

mod pg;
mod sqlite;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use im_engine::{ConversationId, Direction, Engine, HistoryRange, NewMessage, Seq, UserId};

use crate::{
    Outcome,
    args::Plan,
    backend::{Bed, Place, content},
    pace::{Round, open_loop},
    process::{disk_kb, rss_kb},
    raw::Singles,
    report::{self, Line},
    send, space,
    stats::{Latencies, median},
};
use sqlite::{Cache, State};

const ROUNDS: u32 = 5;
const PAGE: usize = 50;
/// About how many messages a conversation has.
const LENGTH: u64 = 1000;
/// How much longer the long history is than the short one.
const TIMES: u64 = 100;

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let (_, length) = shape(plan.rows);
    let (mut bed, singles) = fill(plan, plan.rows).await?;
    if plan.is_limited() {
        bed = started(plan, bed, &singles).await?;
        flat(plan, &bed, &singles).await?;
    }
    let mut cache = match &bed.place {
        Place::Folder(folder) => Some(Cache::of(&folder.path().join("chat.db"))?),
        Place::Memory | Place::Schema(_) | Place::Keyspace(_) => None,
    };
    let warm = cache.as_mut().map(|cache| (cache, State::Warm));
    let (rate, limit) = maximum(plan, &bed, &singles, length, warm).await?;
    if let Some(load) = plan.rate {
        if let Some(cache) = &mut cache {
            cache.bring(State::Warm)?;
        }
        half(plan, &bed, &singles, length, load, (rate * load, limit)).await?;
    }
    if let Some(cache) = &mut cache {
        maximum(plan, &bed, &singles, length, Some((cache, State::Cold))).await?;
    }
    let place = bed.close().await?;
    drop(cache);
    if let Place::Schema(schema) = place {
        space::print(plan, &schema, &format!("{}-rows", plan.rows)).await?;
    }
    Ok(())
}

/// How many conversations so many messages make, and how long each is.
fn shape(rows: u64) -> (u64, u64) {
    let conversations = (rows / LENGTH).max(1);
    (conversations, rows / conversations)
}

/// The start of an engine on what is there, until it takes sends; the data may be in the system's cache.
async fn started(plan: &Plan, bed: Bed, singles: &Singles) -> Outcome<Bed> {
    let place = bed.close().await?;
    let mut latencies = Latencies::new()?;
    let begun = Instant::now();
    let bed = Bed::open(place).await?;
    let took = begun.elapsed();
    latencies.record(took);
    let (begun, (_, length)) = (Instant::now(), shape(plan.rows));
    if let Some(mut raw) = pages(&bed.place).await? {
        bare(&mut *raw, Duration::from_nanos(1), singles, length, 0).await?;
    }
    let per_second = |took: Duration| Some(1.0 / took.as_secs_f64());
    Line::new(plan, "history", format!("{}-rows/start", plan.rows), "starts/s")
        .rate(per_second(took), per_second(begun.elapsed()))
        .latencies(&latencies)
        .rss_kb(rss_kb()?)
        .print(plan);
    Ok(bed)
}

/// Sends to as many conversations on both histories in turn.
async fn flat(plan: &Plan, long: &Bed, singles: &Singles) -> Outcome {
    let (short, short_singles) = fill(plan, plan.rows / TIMES).await?;
    let active = short_singles.len();
    let (mut rates, mut limits, mut latencies) = (vec![], vec![], Latencies::new()?);
    for bed in [&short, long] {
        send::closed(bed, &singles[..active], plan.part(2 * ROUNDS)).await?;
        bed.watch.settled().await;
    }
    for _ in 0..ROUNDS {
        let round = send::closed(long, &singles[..active], plan.part(ROUNDS)).await?;
        long.watch.settled().await;
        rates.push(round.rate());
        latencies.add(&round.latencies)?;
        limits.push(send::closed(&short, &short_singles, plan.part(ROUNDS)).await?.rate());
        short.watch.settled().await;
    }
    short.close().await?;
    Line::new(plan, "history", format!("{}-rows/flat", plan.rows), "acks/s")
        .rate(median(rates), median(limits))
        .latencies(&latencies)
        .rss_kb(rss_kb()?)
        .print(plan);
    Ok(())
}

async fn fill(plan: &Plan, rows: u64) -> Outcome<(Bed, Vec<(ConversationId, [UserId; 2])>)> {
    let (conversations, length) = shape(rows);
    let bed = Bed::open(plan.place()?).await?;
    let singles = bed.singles(conversations as usize).await?;
    if !plan.is_limited() {
        fill_by_sending(&bed, &singles, length).await?;
        return Ok((bed, singles));
    }
    // The first message of each: a checkpoint is there afterwards, to be moved behind what is filled in.
    fill_by_sending(&bed, &singles, 1).await?;
    let place = bed.close().await?;
    match &place {
        Place::Memory | Place::Keyspace(_) => {}
        Place::Folder(folder) => sqlite::fill(&folder.path().join("chat.db"), length).await?,
        Place::Schema(schema) => pg::fill(schema, length).await?,
    }
    Ok((Bed::open(place).await?, singles))
}

async fn fill_by_sending(bed: &Bed, singles: &Singles, length: u64) -> Outcome {
    let text = content();
    for _ in 0..length {
        for some in singles.chunks(1000) {
            let sends = some
                .iter()
                .map(|(id, [sender, _])| bed.engine.send(NewMessage::text(sender, id, text.clone())));
            futures::future::try_join_all(sends).await?;
        }
    }
    bed.watch.settled().await;
    Ok(())
}

/// Where a page ends: another place each time, the same for both sides.
fn place(singles: &Singles, length: u64, number: u64) -> (&ConversationId, &UserId, u64) {
    // Steps of a prime and of another one: neither conversations nor places come in their order.
    let (id, [user, _]) = &singles[(number.wrapping_mul(7919) % singles.len() as u64) as usize];
    let lowest = (PAGE as u64).min(length);
    (id, user, lowest + number.wrapping_mul(104_729) % (length - lowest + 1))
}

async fn page(engine: &Engine, (id, user, to): (&ConversationId, &UserId, u64)) -> Outcome {
    let range = HistoryRange { from: Seq(1), to: Some(Seq(to)), direction: Direction::Backward, max: PAGE };
    let page = engine.history(user, id, range).await?;
    complete(page.records.len(), to)
}

fn complete(records: usize, to: u64) -> Outcome {
    let expected = PAGE.min(to as usize);
    if records == expected {
        Ok(())
    } else {
        Err(format!("a page of {records} instead of {expected}").into())
    }
}

async fn one_at_a_time<F: Future<Output = Outcome>>(
    length: Duration,
    mut request: impl FnMut(u64) -> F,
) -> Outcome<Round> {
    let mut latencies = Latencies::new()?;
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < length {
        let begun = Instant::now();
        request(done).await?;
        latencies.record(begun.elapsed());
        done += 1;
    }
    Ok(Round { done, elapsed: start.elapsed(), latencies })
}

async fn maximum(
    plan: &Plan,
    bed: &Bed,
    singles: &Singles,
    length: u64,
    mut cache: Option<(&mut Cache, State)>,
) -> Outcome<(f64, Option<f64>)> {
    let (mut rates, mut limits) = (vec![], vec![]);
    let (mut latencies, mut raw_latencies, mut rss) = (Latencies::new()?, Latencies::new()?, 0);
    let mut raw = None;
    let is_ours = matches!(bed.place, Place::Folder(_));
    // Of each side: pages, and what was read from the disk for them.
    let (mut read, mut raw_read) = (Disk::default(), Disk::default());
    let warm_up = plan.part(2 * ROUNDS);
    one_at_a_time(warm_up, |number| page(&bed.engine, place(singles, length, number))).await?;
    for turn in 1..=u64::from(ROUNDS) {
        // Other pages for each side: who comes second would find those of the first in the cache.
        let begin = turn * 1_000_003;
        if let Some((cache, state)) = &mut cache {
            cache.bring(*state)?;
        }
        let before = Disk::kb(is_ours)?;
        let own = one_at_a_time(plan.part(ROUNDS), |number| {
            page(&bed.engine, place(singles, length, begin + number))
        });
        let own = own.await?;
        read.add(own.done, Disk::kb(is_ours)? - before);
        rates.push(own.rate());
        latencies.add(&own.latencies)?;
        if raw.is_none() {
            rss = rss_kb()?;
            raw = pages(&bed.place).await?;
            if let Some(raw) = &mut raw {
                bare(&mut **raw, warm_up, singles, length, 0).await?;
            }
        }
        if let Some(raw) = &mut raw {
            if let Some((cache, state)) = &mut cache {
                cache.bring(*state)?;
            }
            let before = Disk::kb(is_ours)?;
            let round = bare(&mut **raw, plan.part(ROUNDS), singles, length, begin + 500_001).await?;
            raw_read.add(round.done, Disk::kb(is_ours)? - before);
            limits.push(round.rate());
            raw_latencies.add(&round.latencies)?;
        }
    }
    let (rate, limit) = (median(rates).unwrap_or_default(), median(limits));
    let case = if matches!(cache, Some((_, State::Cold))) { "/cold" } else { "" };
    let mut line = Line::new(plan, "history", format!("{}-rows{case}", plan.rows), "pages/s")
        .rate(Some(rate), limit)
        .latencies(&latencies)
        .rss_kb(rss)
        .more("limit_p99_ms", raw_latencies.quantile_ms(0.99));
    if is_ours {
        line = line
            .more("disk_kb_per_page", read.kb_per_page())
            .more("limit_disk_kb_per_page", raw_read.kb_per_page());
    }
    line.print(plan);
    Ok((rate, limit))
}

/// What pages had read from the disk.
#[derive(Debug, Default)]
struct Disk {
    pages: u64,
    kb: u64,
}

impl Disk {
    /// What this process has had read so far; nothing where it does not read the data itself.
    fn kb(is_ours: bool) -> Outcome<u64> {
        if is_ours { disk_kb() } else { Ok(0) }
    }

    fn add(&mut self, pages: u64, kb: u64) {
        self.pages += pages;
        self.kb += kb;
    }

    /// To a tenth.
    fn kb_per_page(&self) -> f64 {
        (10.0 * self.kb as f64 / self.pages.max(1) as f64).round() / 10.0
    }
}

async fn half(
    plan: &Plan,
    bed: &Bed,
    singles: &Singles,
    length: u64,
    load: f64,
    (rate, limit): (f64, Option<f64>),
) -> Outcome {
    let round = open_loop(rate, plan.part(1), |number, _| {
        let (id, user, to) = place(singles, length, number);
        let (engine, id, user) = (bed.engine.clone(), id.clone(), user.clone());
        async move { page(&engine, (&id, &user, to)).await }
    })
    .await?;
    Line::new(plan, "history", format!("{}-rows", plan.rows), "pages/s")
        .load(load)
        .rate(Some(round.rate()), limit)
        .latencies(&round.latencies)
        .rss_kb(rss_kb()?)
        .print(plan);
    Ok(())
}

/// The bare query for a page, on a connection like those that the engine reads with.
#[async_trait]
trait Pages: Send {
    /// Reads what a reader needs of each message; how many there were.
    async fn page(&mut self, id: &ConversationId, to: u64) -> Outcome<usize>;
}

async fn pages(place: &Place) -> Outcome<Option<Box<dyn Pages>>> {
    Ok(match place {
        Place::Memory | Place::Keyspace(_) => None,
        Place::Folder(folder) => {
            Some(Box::new(sqlite::RawPages::open(&folder.path().join("chat.db")).await?))
        }
        Place::Schema(schema) => Some(Box::new(pg::RawPages::open(schema).await?)),
    })
}

async fn bare(
    raw: &mut dyn Pages,
    length: Duration,
    singles: &Singles,
    rows: u64,
    begin: u64,
) -> Outcome<Round> {
    let mut latencies = Latencies::new()?;
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < length {
        let (id, _, to) = place(singles, rows, begin + done);
        let asked = Instant::now();
        complete(raw.page(id, to).await?, to)?;
        latencies.record(asked.elapsed());
        done += 1;
    }
    Ok(Round { done, elapsed: start.elapsed(), latencies })
}
