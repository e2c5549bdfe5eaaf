//! A page of 50 out of a long history; and what that history costs otherwise: the start of an engine on it (`start`, beside a bare
//! connection that reads one page), and sends onto it (`flat`, beside the same onto a hundredth of it).
//!
//! Pages are asked for one at a time, from anywhere in any conversation, so a latency is what one page takes on the server.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use im_engine::{ConversationId, Direction, Engine, HistoryRange, NewMessage, Seq, UserId};
use sqlx::{
    ConnectOptions, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    Outcome,
    args::{Backend, Plan},
    backend::{Bed, content},
    pace::{Round, open_loop},
    process::rss_kb,
    report::{self, Line},
    send,
    stats::{Latencies, median},
};

const ROUNDS: u32 = 5;
const PAGE: usize = 50;
/// About how many messages a conversation has.
const LENGTH: u64 = 1000;
/// How much longer the long history is than the short one.
const TIMES: u64 = 100;

type Singles = [(ConversationId, [UserId; 2])];

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let (_, length) = shape(plan.rows);
    let (mut bed, singles) = fill(plan, plan.rows).await?;
    if plan.backend == Backend::Sqlite {
        bed = started(plan, bed, &singles).await?;
        flat(plan, &bed, &singles).await?;
    }
    let (rate, limit) = maximum(plan, &bed, &singles, length).await?;
    if let Some(load) = plan.rate {
        half(plan, &bed, &singles, length, load, (rate * load, limit)).await?;
    }
    bed.close().await?;
    Ok(())
}

/// How many conversations so many messages make, and how long each is.
fn shape(rows: u64) -> (u64, u64) {
    let conversations = (rows / LENGTH).max(1);
    (conversations, rows / conversations)
}

/// The start of an engine on what is there, until it takes sends; the file may be in the system's cache.
async fn started(plan: &Plan, bed: Bed, singles: &Singles) -> Outcome<Bed> {
    let folder = bed.close().await?;
    let mut latencies = Latencies::new()?;
    let begun = Instant::now();
    let bed = Bed::open_in(plan.backend, folder).await?;
    let took = begun.elapsed();
    latencies.record(took);
    let (begun, (_, length)) = (Instant::now(), shape(plan.rows));
    RawPages::open(&bed.path("chat.db")).await?.round(Duration::from_nanos(1), singles, length, 0).await?;
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
    let bed = Bed::open(plan.backend).await?;
    let singles = bed.singles(conversations as usize).await?;
    match plan.backend {
        Backend::Memory => {
            fill_by_sending(&bed, &singles, length).await?;
            Ok((bed, singles))
        }
        Backend::Sqlite => {
            // The first message of each: a checkpoint is there afterwards, to be moved behind what is filled in.
            fill_by_sending(&bed, &singles, 1).await?;
            let path = bed.path("chat.db");
            let folder = bed.close().await?;
            fill_file(&path, length).await?;
            Ok((Bed::open_in(plan.backend, folder).await?, singles))
        }
    }
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

/// Fills the engine's own tables: message after message over all conversations in turn, as a busy server gets them, so that
/// neighbours in a conversation lie far apart in the file. The inbox's checkpoint goes behind them: nobody is to be told.
async fn fill_file(path: &Path, length: u64) -> Outcome {
    let mut conn = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-524288")
        .connect()
        .await?;
    for seq in 2..=length {
        sqlx::query("BEGIN").execute(&mut conn).await?;
        sqlx::query(
            "INSERT INTO messages (conversation_id, sequence_id, ordinal, created_at, send_from, send_to, client_msg_id, kind, \
             content_type, content, content_hash) \
             SELECT conversation_id, ?1, ?1, created_at + ?1, send_from, send_to, \
             printf('%012x-7%03x-%s', created_at + ?1, ?1 % 4096, lower(hex(randomblob(9)))), kind, content_type, content, \
             content_hash FROM messages WHERE sequence_id = 1 AND id <= (SELECT count(*) FROM conversation_facts) ORDER BY id",
        )
        .bind(seq.cast_signed())
        .execute(&mut conn)
        .await?;
        sqlx::query(
            "INSERT INTO timelines (conversation_id, sequence_id, main_user, device, ordinal, message) \
             SELECT conversation_id, sequence_id, '', '', ordinal, id FROM messages \
             WHERE id > (SELECT max(id) FROM messages) - (SELECT count(*) FROM conversation_facts)",
        )
        .execute(&mut conn)
        .await?;
        sqlx::query("COMMIT").execute(&mut conn).await?;
    }
    let moved = sqlx::query(
        "UPDATE checkpoints SET offset = (SELECT max(id) FROM messages), rewind_offset = (SELECT max(id) FROM messages)",
    )
    .execute(&mut conn)
    .await?;
    if moved.rows_affected() == 0 {
        return Err("the file has no checkpoint to move".into());
    }
    sqlx::Connection::close(conn).await?;
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

async fn maximum(plan: &Plan, bed: &Bed, singles: &Singles, length: u64) -> Outcome<(f64, Option<f64>)> {
    let (mut rates, mut limits) = (vec![], vec![]);
    let (mut latencies, mut raw_latencies, mut rss) = (Latencies::new()?, Latencies::new()?, 0);
    let mut raw = None;
    let warm_up = plan.part(2 * ROUNDS);
    one_at_a_time(warm_up, |number| page(&bed.engine, place(singles, length, number))).await?;
    for turn in 0..u64::from(ROUNDS) {
        let begin = turn * 1_000_003;
        let own = one_at_a_time(plan.part(ROUNDS), |number| {
            page(&bed.engine, place(singles, length, begin + number))
        });
        let own = own.await?;
        rates.push(own.rate());
        latencies.add(&own.latencies)?;
        if plan.backend == Backend::Memory {
            rss = rss_kb()?;
            continue;
        }
        if raw.is_none() {
            rss = rss_kb()?;
            let mut opened = RawPages::open(&bed.path("chat.db")).await?;
            opened.round(warm_up, singles, length, 0).await?;
            raw = Some(opened);
        }
        if let Some(raw) = &mut raw {
            let round = raw.round(plan.part(ROUNDS), singles, length, begin).await?;
            limits.push(round.rate());
            raw_latencies.add(&round.latencies)?;
        }
    }
    let (rate, limit) = (median(rates).unwrap_or_default(), median(limits));
    Line::new(plan, "history", format!("{}-rows", plan.rows), "pages/s")
        .rate(Some(rate), limit)
        .latencies(&latencies)
        .rss_kb(rss)
        .more("limit_p99_ms", raw_latencies.quantile_ms(0.99))
        .print(plan);
    Ok((rate, limit))
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

/// The bare query on the same file, on a connection like those that the engine reads with.
struct RawPages {
    conn: SqliteConnection,
}

impl RawPages {
    async fn open(path: &Path) -> Outcome<Self> {
        let conn = SqliteConnectOptions::new()
            .filename(path)
            .row_buffer_size(1024)
            .pragma("query_only", "ON")
            .pragma("cache_size", "-4096")
            .connect()
            .await?;
        Ok(Self { conn })
    }

    async fn round(&mut self, length: Duration, singles: &Singles, rows: u64, begin: u64) -> Outcome<Round> {
        let mut latencies = Latencies::new()?;
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < length {
            let (id, _, to) = place(singles, rows, begin + done);
            let asked = Instant::now();
            complete(self.page(id, to).await?.len(), to)?;
            latencies.record(asked.elapsed());
            done += 1;
        }
        Ok(Round { done, elapsed: start.elapsed(), latencies })
    }

    /// What a reader needs of each message.
    async fn page(
        &mut self,
        id: &ConversationId,
        to: u64,
    ) -> Outcome<Vec<(i64, i64, i64, Arc<str>, Arc<str>, Arc<str>)>> {
        let rows = sqlx::query(
            "SELECT m.sequence_id, m.ordinal, m.created_at, m.send_from, m.client_msg_id, m.content \
             FROM timelines t CROSS JOIN messages m ON m.id = t.message \
             WHERE t.conversation_id = ? AND t.sequence_id BETWEEN 1 AND ? ORDER BY t.sequence_id DESC LIMIT ?",
        )
        .bind(id.as_str())
        .bind(to.cast_signed())
        .bind(PAGE as i64)
        .fetch_all(&mut self.conn)
        .await?;
        let text =
            |row: &sqlx::sqlite::SqliteRow, column: usize| row.try_get::<&str, _>(column).map(Arc::from);
        rows.iter()
            .map(|row| {
                Ok((
                    row.try_get(0)?,
                    row.try_get(1)?,
                    row.try_get(2)?,
                    text(row, 3)?,
                    text(row, 4)?,
                    text(row, 5)?,
                ))
            })
            .collect()
    }
}
