//! The clauses of [`im_core::Notifier`].

use std::{sync::Arc, time::Duration};

use im_core::{
    Cursor, Mark, NodeId, Notice, Noticed, Notifier, Ordinal, Partition, Seq, SessionId, Signal, Signals,
    StateVersion,
};
use tokio::sync::mpsc::Receiver;

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{HOSTILE, Script, group, together, user},
    violation::{ensure, ensure_eq},
};

/// How long a notice may be under way.
const PATIENCE: Duration = Duration::from_secs(10);

async fn open(data: &dyn Data) -> Result<Arc<dyn Notifier>, Violation> {
    data.node().await?.notifier.ok_or_else(|| Violation::new("the notifier part is missing"))
}

async fn next(receiver: &mut Receiver<Noticed>) -> Result<Noticed, Violation> {
    match tokio::time::timeout(PATIENCE, receiver.recv()).await {
        Ok(Some(noticed)) => Ok(noticed),
        Ok(None) => Err(Violation::new("a subscription ended by itself")),
        Err(_) => Err(Violation::new(format!("no notice came within {PATIENCE:?}"))),
    }
}

async fn next_notice(receiver: &mut Receiver<Noticed>) -> Result<Notice, Violation> {
    match next(receiver).await? {
        Noticed::Notice(notice) => Ok(notice),
        Noticed::Lagged => Err(Violation::new("a subscriber that keeps up lags")),
    }
}

/// A numbered notice.
fn numbered(n: u64) -> Result<Notice, Violation> {
    Ok(Notice::Head(group("g")?, Mark { seq: Seq(n), ordinal: Ordinal(0) }))
}

/// Clause 1: a notice reaches its node whole, whatever it is, and no other node.
///
/// # Errors
/// The violation that was found.
pub async fn to_its_node(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (sender, receiver) = (open(&*data).await?, open(&*data).await?);
    let nodes = HOSTILE.iter().map(|name| NodeId::new(*name)).collect::<Result<Vec<_>, _>>()?;
    let mut receivers = Vec::new();
    for node in &nodes {
        receivers.push(receiver.subscribe(node).await?);
    }
    let mut notices = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        notices.extend(of_every_kind(HOSTILE[n])?.into_iter().map(|notice| (node.clone(), notice)));
    }
    sender.notify(notices).await?;
    for (n, receiver) in receivers.iter_mut().enumerate() {
        for due in of_every_kind(HOSTILE[n])? {
            ensure_eq!(next_notice(receiver).await?, due, "the notice to {:?}", nodes[n]);
        }
    }
    // Whatever was on a wrong way would come before this.
    sender
        .notify(nodes.iter().map(|node| Ok((node.clone(), numbered(0)?))).collect::<Result<_, Violation>>()?)
        .await?;
    for receiver in &mut receivers {
        ensure_eq!(next_notice(receiver).await?, numbered(0)?, "the last notice");
    }
    Ok(())
}

fn of_every_kind(name: &str) -> Result<Vec<Notice>, Violation> {
    let lineage = im_core::Lineage {
        log: im_core::Incarnation::new("log"),
        store: im_core::Incarnation::new("store"),
        inbox: im_core::Incarnation::new("inbox"),
    };
    let mut script = Script::on_paper(lineage, Partition(0));
    let records = script.messages(&group(name)?, name, 2)?.into_iter().map(|record| record.record).collect();
    let signal = |previous: Option<&str>, records: &[u32], cursors: &[&str]| {
        Ok::<_, Violation>(Signal {
            users: vec![(user(name)?, previous.map(Cursor::new)), (user("another")?, None)],
            records: records.into(),
            cursors: cursors.iter().map(|cursor| Cursor::new(*cursor)).collect(),
        })
    };
    let signals = vec![signal(Some("before"), &[0, 1], &["c1", "c2"])?, signal(None, &[1], &[name])?];
    let bare = vec![signal(None, &[], &["c3"])?];
    Ok(vec![
        Notice::Signals(Signals { records, signals }),
        Notice::Signals(Signals { records: [].into(), signals: bare }),
        Notice::State(user(name)?, StateVersion::new("version/7")),
        Notice::Head(group(name)?, Mark { seq: Seq(1 << 40), ordinal: Ordinal(7) }),
        Notice::Kick(user(name)?, vec![SessionId::new(name)?, SessionId::new("s2")?]),
    ])
}

/// Clause 2: the notices of one call come in their order, also while others send.
///
/// # Errors
/// The violation that was found.
pub async fn in_order(fixture: &dyn Fixture) -> Verdict {
    const SENDERS: u64 = 4;
    const CALLS: u64 = 5;
    const EACH: u64 = 20;
    let data = fixture.fresh().await?;
    let node = NodeId::new("node")?;
    let mut receiver = open(&*data).await?.subscribe(&node).await?;
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let (notifier, node) = (open(&*data).await?, node.clone());
        senders.push(async move {
            for call in 0..CALLS {
                let first = (sender * CALLS + call) * EACH;
                let notices = (first..first + EACH).map(|n| Ok((node.clone(), numbered(n)?)));
                notifier.notify(notices.collect::<Result<_, Violation>>()?).await?;
            }
            Ok(())
        });
    }
    together(senders).await?;
    let mut last = [None; (SENDERS * CALLS) as usize];
    for _ in 0..SENDERS * CALLS * EACH {
        let Notice::Head(_, Mark { seq: Seq(n), .. }) = next_notice(&mut receiver).await? else {
            return Err(Violation::new("a notice that nobody sent"));
        };
        let last = &mut last[(n / EACH) as usize];
        let due = last.map_or(n - n % EACH, |last: u64| last + 1);
        ensure_eq!(n, due, "the next notice of a call");
        *last = Some(n);
    }
    Ok(())
}

/// Clause 3: a subscriber that does not keep up is told where notices are missing; none is missing without a word, and memory is
/// bounded.
///
/// # Errors
/// The violation that was found.
pub async fn lagged_not_silent(fixture: &dyn Fixture) -> Verdict {
    const FLOOD: u64 = 200_000;
    const CALL: u64 = 1000;
    let data = fixture.fresh().await?;
    let (notifier, node) = (open(&*data).await?, NodeId::new("slow node")?);
    let mut receiver = open(&*data).await?.subscribe(&node).await?;
    for first in (0..FLOOD).step_by(CALL as usize) {
        let notices = (first..first + CALL).map(|n| Ok((node.clone(), numbered(n)?)));
        notifier.notify(notices.collect::<Result<_, Violation>>()?).await?;
    }
    let (mut next_due, mut lagged, mut received) = (0, false, 0_u64);
    // The last word is `Lagged` or the last notice; nothing else is needed to learn of what is missing.
    while next_due < FLOOD && !lagged {
        match next(&mut receiver).await? {
            Noticed::Lagged => lagged = true,
            Noticed::Notice(Notice::Head(_, Mark { seq: Seq(n), .. })) => {
                ensure!(n == next_due, "{n} came without a word about those from {next_due} on");
                (next_due, received) = (n + 1, received + 1);
            }
            Noticed::Notice(other) => return Err(Violation::new(format!("{other:?}, which nobody sent"))),
        }
    }
    ensure!(lagged, "{received} notices waited for a subscriber that did not come");
    notifier.notify(vec![(node.clone(), numbered(FLOOD)?)]).await?;
    loop {
        match next(&mut receiver).await? {
            Noticed::Notice(notice) if notice == numbered(FLOOD)? => return Ok(()),
            Noticed::Notice(_) => {}
            // The flood was still on its way, and took the last one along.
            Noticed::Lagged => notifier.notify(vec![(node.clone(), numbered(FLOOD)?)]).await?,
        }
    }
}

/// Clause 4: a notice to nobody is no error, and none waits for a subscriber that comes later.
///
/// # Errors
/// The violation that was found.
pub async fn nobody_there(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let (notifier, node) = (open(&*data).await?, NodeId::new("node")?);
    notifier.notify(vec![(node.clone(), numbered(1)?)]).await?;
    drop(notifier.subscribe(&node).await?);
    notifier.notify(vec![(node.clone(), numbered(2)?), (NodeId::new("nowhere")?, numbered(3)?)]).await?;
    notifier.notify(Vec::new()).await?;
    let mut receiver = notifier.subscribe(&node).await?;
    notifier.notify(vec![(node, numbered(4)?)]).await?;
    ensure_eq!(next_notice(&mut receiver).await?, numbered(4)?, "the first notice of a new subscriber");
    Ok(())
}
