//! Memory of connections that are signed in and do nothing.
//!
//! What the server's process holds with all of them, less what it held with none, over their number: everything counts that a
//! connection makes the server keep, the session, the presence, the sockets' tasks. The kernel's part is not in it.

use crate::{
    Outcome,
    args::{Kind, Plan, Shape},
    report::{self, Line},
    ws::Running,
};

const CONNECTIONS: usize = 8000;

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    let shape = Shape { groups: 1, members: CONNECTIONS.min(plan.connections).max(1) };
    let per_connection = |running: &Running| {
        let grown = running.ready.rss_kb.saturating_sub(running.ready.rss_before_kb);
        grown as f64 / shape.connections() as f64
    };
    let own = Running::start(Kind::Own, plan.backend, shape).await?;
    let (own, rss) = (per_connection(&own), own.ready.rss_kb);
    let bare = per_connection(&Running::start(Kind::Bare, plan.backend, shape).await?);
    let mut line = Line::new(plan, "idle", format!("{}", shape.connections()), "KB/connection").rss_kb(rss);
    // Less is better: 1 is as small as the bare loop.
    (line.limit, line.ratio) = (Some(bare), (own > 0.0).then(|| bare / own));
    line.rss_kb_per_connection = Some(own);
    line.print(plan);
    Ok(())
}
