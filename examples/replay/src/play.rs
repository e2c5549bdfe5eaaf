//! A whole replay: the server, the stage, the clients, the killer, and what became of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{interval, sleep, timeout};

use crate::{
    chatlog::ChatLog,
    cli::Args,
    error::ReplayError,
    report::{Figures, words},
    run::Run,
    server::OwnServers,
    stage::{Stage, clients},
};

/// How long nothing may go on before the replay gives up.
const STALLED: Duration = Duration::from_secs(60);
/// How long the clients then have to say what they have.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// How often progress is shown and looked after.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server is left alone, and how long it is away, in milliseconds.
const UP_MS: std::ops::Range<u64> = 20..700;
const AWAY_MS: std::ops::Range<u64> = 0..200;

/// Plays, checks, and says what became of it.
pub(crate) async fn play(args: &Args) -> Result<Figures, ReplayError> {
    let file = args.file.as_deref().unwrap_or_else(|| std::path::Path::new(""));
    let log = ChatLog::read(file, args.days.map_or(usize::MAX, usize::from))?;
    let mut own = match &args.server {
        Some(_) => None,
        None => Some(OwnServers::start(args).await?),
    };
    let hosts = match (&own, &args.server) {
        (Some(own), _) => own.hosts(),
        (None, url) => vec![host(url.as_deref().unwrap_or_default())?],
    };
    let began = Instant::now();
    let total = log.messages();
    let run = Arc::new(Run::new(hosts, &log, args.reconnect));
    let finished = watched(&run, perform(&run, log, own.as_mut(), kills(args.kill_server, total))).await;
    if let Some(own) = own {
        own.stop().await?;
    }
    run.finish();
    let (checking, report) = (Instant::now(), run.history().check());
    words(&report).iter().for_each(|finding| run.say(finding));
    let mut happened = run.happened();
    happened.unfinished += u64::from(!finished?);
    let mut figures = Figures::new(&run.history(), &report, happened);
    figures.seconds = rounded(began.elapsed());
    figures.check_seconds = rounded(checking.elapsed());
    Ok(figures)
}

/// `host:port` of a URL.
fn host(url: &str) -> Result<String, ReplayError> {
    let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
    let host = host.filter(|host| !host.is_empty() && !host.contains('/'));
    let host = host.ok_or_else(|| ReplayError::Address(url.to_owned()))?;
    Ok(if host.contains(':') { host.to_owned() } else { format!("{host}:80") })
}

/// After how many acks the server is killed.
fn kills(count: u16, total: u64) -> Vec<u64> {
    let mut kills: Vec<u64> = (0..count).map(|_| rand::rng().random_range(0..total.max(1))).collect();
    kills.sort_unstable();
    kills
}

async fn perform(
    run: &Arc<Run>,
    log: ChatLog,
    own: Option<&mut OwnServers>,
    kills: Vec<u64>,
) -> Result<(), ReplayError> {
    let (mut stage, new) = Stage::new(run.clone(), log);
    let played = AtomicBool::new(false);
    let played = &played;
    let playing = async move {
        stage.play().await;
        played.store(true, Ordering::Relaxed);
        stage
    };
    let on_stage = async {
        let (own, stage) = tokio::join!(kill(run, own, kills, played), playing);
        // The clients of the last day may end.
        drop(stage);
        own
    };
    let looking_after = async {
        let Some(own) = on_stage.await? else { return std::future::pending().await };
        // A server that ends by itself is not waited for until the replay stalls.
        loop {
            own.check()?;
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        ended = clients(new) => ended,
        failed = looking_after => failed,
    }
}

/// Kills and restarts the server; what is left of it when everything was played follows quickly.
async fn kill<'s>(
    run: &Run,
    own: Option<&'s mut OwnServers>,
    kills: Vec<u64>,
    played: &AtomicBool,
) -> Result<Option<&'s mut OwnServers>, ReplayError> {
    let Some(server) = own else { return Ok(None) };
    let mut dice = StdRng::seed_from_u64(rand::random());
    let mut looks = interval(Duration::from_millis(5));
    for after in kills {
        while run.history().counts().0 < after && !played.load(Ordering::Relaxed) && !run.given_up() {
            server.check()?;
            looks.tick().await;
        }
        sleep(Duration::from_millis(dice.random_range(UP_MS))).await;
        let which = server.kill().await?;
        run.count_kill();
        run.progress();
        sleep(Duration::from_millis(dice.random_range(AWAY_MS))).await;
        server.restart(which).await?;
    }
    Ok(Some(server))
}

/// Shows progress; false when nothing went on for too long.
async fn watched(
    run: &Run,
    performance: impl Future<Output = Result<(), ReplayError>>,
) -> Result<bool, ReplayError> {
    let mut performance = Box::pin(performance);
    let mut looks = interval(LOOK);
    loop {
        tokio::select! {
            ended = &mut performance => return ended.map(|()| true),
            _ = looks.tick() => run.show_progress(),
        }
        if run.idle() > STALLED {
            run.say(&format!("nothing went on for {STALLED:?}: giving up"));
            run.give_up();
            let _ = timeout(LAST_WORDS, &mut performance).await;
            return Ok(false);
        }
    }
}

/// Seconds, to the millisecond.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
