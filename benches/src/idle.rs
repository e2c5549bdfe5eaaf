//! Memory of connections that are signed in and do nothing.
//!
//! What the server's process holds with all of them, less what it held with none, over their number: everything counts that a
//! connection makes the server keep, the session, the presence, the sockets' tasks. The kernel's part is not in it.

use crate::{
    Outcome,
    args::{Kind, Plan, Shape},
    report::{self, Line},
    side::Ready,
    ws::Running,
};

const CONNECTIONS: usize = 8000;

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let shape = Shape { groups: 1, members: CONNECTIONS.min(plan.connections).max(1) };
    let per_connection = async |kind: Kind| -> Outcome<(f64, u64)> {
        let running = Running::start(kind, plan.backend, shape).await?;
        let Ready { rss_before_kb, rss_kb } = running.ready;
        running.end().await?;
        Ok((rss_kb.saturating_sub(rss_before_kb) as f64 / shape.connections() as f64, rss_kb))
    };
    let (own, rss) = per_connection(Kind::Own).await?;
    let (bare, _) = per_connection(Kind::Bare).await?;
    let mut line = Line::new(plan, "idle", format!("{}", shape.connections()), "KB/connection").rss_kb(rss);
    // Less is better: 1 is as small as the bare loop.
    (line.limit, line.ratio) = (Some(bare), (own > 0.0).then(|| bare / own));
    line.rss_kb_per_connection = Some(own);
    line.print(plan);
    Ok(())
}
