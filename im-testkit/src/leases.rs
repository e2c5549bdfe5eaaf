//! The clauses of [`im_core::Leases`].

use std::{sync::Arc, time::Duration};

use im_core::{Leases, NodeId, Parts};

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{HOSTILE, together},
    violation::ensure,
};

const TTL: Duration = Duration::from_secs(2);

fn leases(parts: &Parts) -> Result<Arc<dyn Leases>, Violation> {
    parts
        .log
        .as_ref()
        .map(|part| part.leases.clone())
        .ok_or_else(|| Violation::new("the log part is missing"))
}

async fn open(data: &dyn Data) -> Result<Arc<dyn Leases>, Violation> {
    leases(&data.node().await?)
}

/// Clause 1: while it lasts, one node has it, however many try at once.
///
/// # Errors
/// The violation that was found.
pub async fn exclusive(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let mut tries = Vec::new();
    for n in 0..16 {
        let (leases, node) = (open(&*data).await?, NodeId::new(format!("node-{n}"))?);
        tries.push(async move { Ok((leases.claim("work", &node, TTL * 10).await?, node)) });
    }
    let winners: Vec<_> = together(tries).await?.into_iter().filter(|(won, _)| *won).collect();
    ensure!(winners.len() == 1, "{} nodes hold one lease: {winners:?}", winners.len());
    let leases = open(&*data).await?;
    let thief = NodeId::new("thief")?;
    ensure!(!leases.claim("work", &thief, TTL).await?, "a lease was stolen while it lasted");
    for name in HOSTILE {
        ensure!(leases.claim(name, &thief, TTL).await?, "the lease {name:?} is not apart from the others");
    }
    Ok(())
}

/// Clause 2: the holder renews, and the lease lasts from then on.
///
/// # Errors
/// The violation that was found.
pub async fn renewed(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let leases = open(&*data).await?;
    let (holder, other) = (NodeId::new("holder")?, NodeId::new("other")?);
    ensure!(leases.claim("work", &holder, TTL).await?, "a free lease was refused");
    for _ in 0..3 {
        data.pass(TTL / 2).await;
        ensure!(leases.claim("work", &holder, TTL).await?, "the holder could not renew");
    }
    data.pass(TTL / 2).await;
    ensure!(!leases.claim("work", &other, TTL).await?, "a renewed lease ended with its first ttl");
    Ok(())
}

/// Clause 3: free after its ttl or a release by the holder; a release by another changes nothing.
///
/// # Errors
/// The violation that was found.
pub async fn free_again(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let leases = open(&*data).await?;
    let (holder, other) = (NodeId::new("holder")?, NodeId::new("other")?);
    ensure!(leases.claim("work", &holder, TTL).await?, "a free lease was refused");
    leases.release("work", &other).await?;
    ensure!(!leases.claim("work", &other, TTL).await?, "another node released the lease");
    leases.release("work", &holder).await?;
    ensure!(leases.claim("work", &other, TTL).await?, "a released lease is not free");
    data.pass(TTL + Duration::from_millis(50)).await;
    ensure!(leases.claim("work", &holder, TTL).await?, "a lease outlived its ttl");
    leases.release("work", &other).await?;
    ensure!(
        !leases.claim("work", &other, TTL).await?,
        "the former holder released the lease of the present one"
    );
    Ok(())
}
