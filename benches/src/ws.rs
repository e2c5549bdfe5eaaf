//! WebSocket frames out.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    Outcome,
    args::{Backend, Kind, Plan, Shape},
    report::{self, Line},
    side::{Answer, Ask, Ready},
    stats::{Latencies, median},
};

const ROUNDS: u32 = 5;
/// The large window: what the engine queues for a session by default holds about twice as many.
const LARGE: u64 = 64;
const SHAPES: [Shape; 3] = [
    Shape { groups: 1, members: 1000 },
    Shape { groups: 1, members: 8000 },
    Shape { groups: 100, members: 100 },
];

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    for shape in SHAPES {
        let members = shape.members.min(plan.connections / shape.groups).max(1);
        let groups = shape.groups.min(plan.connections.max(1));
        let shape = Shape { groups, members };
        let mut own = Running::start(Kind::Own, plan.backend, shape).await?;
        let mut bare = Running::start(Kind::Bare, plan.backend, shape).await?;
        for window in [1, LARGE] {
            let (rate, limit) = maximum(plan, shape, window, &mut own, &mut bare).await?;
            if let Some(load) = plan.rate.filter(|_| window == LARGE) {
                let rate = rate * load / shape.connections() as f64;
                let ask = Ask { window: LARGE, seconds: plan.seconds, rate: Some(rate) };
                let answer = own.ask(ask).await?;
                line(plan, shape, window, std::slice::from_ref(&answer))?
                    .rate(Some(answer.frames as f64 / answer.seconds), Some(limit))
                    .load(load)
                    .print(plan);
            }
        }
        own.end().await?;
        bare.end().await?;
    }
    Ok(())
}

async fn maximum(
    plan: &Plan,
    shape: Shape,
    window: u64,
    own: &mut Running,
    bare: &mut Running,
) -> Outcome<(f64, f64)> {
    let ask = |part: Duration| Ask { window, seconds: part.as_secs_f64(), rate: None };
    for side in [&mut *own, &mut *bare] {
        side.ask(ask(plan.part(2 * ROUNDS))).await?;
    }
    let (mut answers, mut limits) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        answers.push(own.ask(ask(plan.part(ROUNDS))).await?);
        limits.push(bare.ask(ask(plan.part(ROUNDS))).await?);
    }
    let rate = |answers: &[Answer]| {
        median(answers.iter().map(|answer| answer.frames as f64 / answer.seconds).collect())
            .unwrap_or_default()
    };
    let (rate, limit) = (rate(&answers), rate(&limits));
    line(plan, shape, window, &answers)?.rate(Some(rate), Some(limit)).print(plan);
    Ok((rate, limit))
}

fn line(plan: &Plan, shape: Shape, window: u64, answers: &[Answer]) -> Outcome<Line> {
    let mut latencies = Latencies::new()?;
    for latency in answers.iter().flat_map(|answer| &answer.latencies_us) {
        latencies.record(Duration::from_micros(*latency));
    }
    let rss = answers.last().map_or(0, |answer| answer.rss_kb);
    let case = format!("{}x{}/w{window}", shape.groups, shape.members);
    Ok(Line::new(plan, "ws", case, "frames/s").latencies(&latencies).rss_kb(rss))
}

/// A server's process with its clients.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) ready: Ready,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Running {
    pub(crate) async fn start(kind: Kind, backend: Backend, shape: Shape) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("side")
            .args(["--kind", kind.as_str(), "--backend", backend.as_str()])
            .args(["--groups", &shape.groups.to_string(), "--members", &shape.members.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no way to a server")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no way from a server")?).lines();
        let ready = lines.next_line().await?.ok_or("a server did not start")?;
        Ok(Self { ready: serde_json::from_str(&ready)?, stdin, lines, child })
    }

    async fn ask(&mut self, ask: Ask) -> Outcome<Answer> {
        self.stdin.write_all((serde_json::to_string(&ask)? + "\n").as_bytes()).await?;
        let answer = self.lines.next_line().await?.ok_or("a server is gone")?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends the clients, and then the server.
    pub(crate) async fn end(mut self) -> Outcome {
        drop(self.stdin);
        match self.child.wait().await? {
            ended if ended.success() => Ok(()),
            ended => Err(format!("a server did not end well: {ended}").into()),
        }
    }
}
