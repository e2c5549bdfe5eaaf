//! Leases that are not.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use im_core::{Leases, LogPart, NodeId, Result};

use super::{Broken, Shared, with_log};

pub(super) const BROKEN: &[Broken] = &[
    Broken {
        clause: "leases::exclusive",
        defect: "everybody gets it",
        wrap: |parts, shared| wrap(parts, shared, Defect::ForEverybody),
    },
    Broken {
        clause: "leases::renewed",
        defect: "a renewal is answered and not made",
        wrap: |parts, shared| wrap(parts, shared, Defect::RenewalNotMade),
    },
    Broken {
        clause: "leases::free_again",
        defect: "anybody may release",
        wrap: |parts, shared| wrap(parts, shared, Defect::ReleasedByAnybody),
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    ForEverybody,
    RenewalNotMade,
    ReleasedByAnybody,
}

fn wrap(parts: im_core::Parts, shared: &Arc<Shared>, defect: Defect) -> im_core::Parts {
    let shared = shared.clone();
    with_log(parts, |part| LogPart {
        leases: Arc::new(Wrapped { right: part.leases.clone(), defect, shared }),
        ..part
    })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn Leases>,
    defect: Defect,
    shared: Arc<Shared>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Leases for Wrapped {
    async fn claim(&self, name: &str, node: &NodeId, ttl: Duration) -> Result<bool> {
        let holder = self.shared.notes().holders.get(name).cloned();
        if self.defect == Defect::RenewalNotMade && holder.as_ref() == Some(node) {
            return Ok(true);
        }
        let claimed = self.right.claim(name, node, ttl).await?;
        if claimed {
            self.shared.notes().holders.insert(name.to_owned(), node.clone());
        }
        Ok(claimed || self.defect == Defect::ForEverybody)
    }

    async fn release(&self, name: &str, node: &NodeId) -> Result<()> {
        let holder = self.shared.notes().holders.get(name).cloned();
        let anybody = self.defect == Defect::ReleasedByAnybody;
        self.right.release(name, holder.as_ref().filter(|_| anybody).unwrap_or(node)).await
    }
}
