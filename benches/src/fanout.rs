//! Fan-out: inbox entries per second.
//!
//! Messages go in through the engine and are counted when the inbox has them, so the figure carries the appends too: one for
//! each group's members. The limit writes the very same inbox rows in the same transactions.

use std::time::{Duration, Instant};

use im_engine::{ClientMsgId, ConversationId, NewGroup, NewMessage, UserId};

use crate::{
    Outcome,
    args::Plan,
    backend::{Bed, Place, content, user},
    pace::{Round, closed_loop, open_loop},
    process::rss_kb,
    raw::{self, Rows},
    report::{self, Line},
    space,
    stats::{Latencies, median},
};

const ROUNDS: u32 = 5;
/// How many groups there are; nobody is in two.
const GROUPS: usize = 20;
/// How many inbox entries are under way at the maximum rate: one delivery being written, one filling. A debug build has only to work.
const IN_FLIGHT: usize = if cfg!(debug_assertions) { 500 } else { 20_000 };

type Groups = [(ConversationId, UserId)];

pub(crate) async fn run(plan: &Plan) -> Outcome {
    report::head(plan);
    for members in [100, 200] {
        let bed = Bed::open(plan.place()?).await?;
        let groups = groups(&bed, members).await?;
        let case = format!("groups-of-{members}");
        let (rate, limit) = maximum(plan, &bed, &groups, members, &case).await?;
        if let Some(load) = plan.rate {
            half(plan, &bed, &groups, members, &case, load, (rate * load, limit)).await?;
        }
        if let Place::Schema(schema) = bed.close().await? {
            space::print(plan, &schema, &case).await?;
        }
    }
    Ok(())
}

async fn groups(bed: &Bed, members: usize) -> Outcome<Vec<(ConversationId, UserId)>> {
    let mut groups = Vec::new();
    for group in 0..GROUPS {
        let users = (0..members).map(|member| user(group * members + member)).collect::<Outcome<Vec<_>>>()?;
        let id = ConversationId::group(format!("group-{group:03}"))?;
        let new = NewGroup {
            id: id.clone(),
            name: None,
            members: users[1..].to_vec(),
            client_msg_id: ClientMsgId::fresh(),
        };
        bed.engine.create_group(&users[0], new).await?;
        groups.push((id, users[0].clone()));
    }
    Ok(groups)
}

async fn maximum(
    plan: &Plan,
    bed: &Bed,
    groups: &Groups,
    members: usize,
    case: &str,
) -> Outcome<(f64, Option<f64>)> {
    closed(bed, groups, members, plan.part(2 * ROUNDS)).await?;
    let (mut rates, mut limits, mut latencies) = (vec![], vec![], Latencies::new()?);
    let (mut raw, mut rss, mut batches) = (None, 0, vec![]);
    for _ in 0..ROUNDS {
        bed.watch.settled().await;
        bed.watch.record(plan.is_limited());
        let (before, begun) = (bed.watch.entries(), Instant::now());
        let round = closed(bed, groups, members, plan.part(ROUNDS)).await?;
        rates.push((bed.watch.entries() - before) as f64 / begun.elapsed().as_secs_f64());
        bed.watch.record(false);
        latencies.add(&round.latencies)?;
        let (writes, _) = (bed.watch.take_writes(), bed.watch.take_appends());
        if raw.is_none() {
            rss = rss_kb()?;
            raw = raw::open(&bed.place, Rows::Inbox).await?;
        }
        if let Some(raw) = &mut raw {
            let (rows, took) = raw.inbox(&writes).await?;
            limits.push(rows as f64 / took.as_secs_f64());
            batches.push(rows as f64 / writes.len().max(1) as f64);
        }
    }
    let (rate, limit) = (median(rates).unwrap_or_default(), median(limits));
    Line::new(plan, "fanout", case, "deliveries/s")
        .rate(Some(rate), limit)
        .latencies(&latencies)
        .rss_kb(rss)
        .more("batch", median(batches))
        .print(plan);
    Ok((rate, limit))
}

/// One message of a group after the other, each sent when the one before is in every inbox.
async fn closed(bed: &Bed, groups: &Groups, members: usize, length: Duration) -> Outcome<Round> {
    let callers = (IN_FLIGHT / members).max(1);
    let (bed_engine, watch, text) = (bed.engine.clone(), bed.watch.clone(), content());
    let groups = groups.to_vec();
    closed_loop(callers, length, move |caller| {
        let (id, sender) = &groups[caller % groups.len()];
        let message = NewMessage::text(sender, id, text.clone());
        let delivered = watch.delivered(&message.client_msg_id);
        let engine = bed_engine.clone();
        async move {
            engine.send(message).await?;
            Ok(delivered.await?)
        }
    })
    .await
}

/// The open loop: from when a message was due until it is in every inbox.
async fn half(
    plan: &Plan,
    bed: &Bed,
    groups: &Groups,
    members: usize,
    case: &str,
    load: f64,
    (rate, limit): (f64, Option<f64>),
) -> Outcome {
    bed.watch.settled().await;
    let text = content();
    let before = bed.watch.entries();
    let round = open_loop(rate / members as f64, plan.part(1), |number, _| {
        let (id, sender) = &groups[number as usize % groups.len()];
        let message = NewMessage::text(sender, id, text.clone());
        let delivered = bed.watch.delivered(&message.client_msg_id);
        let engine = bed.engine.clone();
        async move {
            engine.send(message).await?;
            Ok(delivered.await?)
        }
    })
    .await?;
    let entries = bed.watch.entries() - before;
    Line::new(plan, "fanout", case, "deliveries/s")
        .load(load)
        .rate(Some(entries as f64 / round.elapsed.as_secs_f64()), limit)
        .latencies(&round.latencies)
        .rss_kb(rss_kb()?)
        .print(plan);
    Ok(())
}
