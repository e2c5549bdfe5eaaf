//! Outboxes that show too early, pass over, disorder and drop.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{Outbox, Parts, Place, Refusal, Result, StorePart, Waiting};

use super::{Broken, Shared, with_store};

pub(super) const BROKEN: &[Broken] = &[
    Broken {
        clause: "outbox::committed",
        defect: "what has been looked for in vain is not looked for again",
        wrap: |parts, shared| wrap(parts, shared, Defect::OnceInVain),
    },
    Broken {
        clause: "outbox::never_passed",
        defect: "a look begins after the last place that was seen",
        wrap: |parts, shared| wrap(parts, shared, Defect::PassesOver),
    },
    Broken {
        clause: "outbox::in_order",
        defect: "a page is in the opposite order",
        wrap: |parts, shared| wrap(parts, shared, Defect::Reverses),
    },
    Broken {
        clause: "outbox::kept",
        defect: "a refused message is dropped",
        wrap: |parts, shared| wrap(parts, shared, Defect::Drops),
    },
    Broken {
        clause: "outbox::kept",
        defect: "everything up to what is done goes with it",
        wrap: |parts, shared| wrap(parts, shared, Defect::DoneUpTo),
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    OnceInVain,
    PassesOver,
    Reverses,
    Drops,
    DoneUpTo,
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let wrap = |right| -> Arc<dyn Outbox> { Arc::new(Wrapped { right, defect, shared: shared.clone() }) };
    with_store(parts, |part| StorePart { outbox: part.outbox.clone().map(wrap), ..part })
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn Outbox>,
    defect: Defect,
    shared: Arc<Shared>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Outbox for Wrapped {
    async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>> {
        let seen = self.shared.notes().place.filter(|_| self.defect == Defect::PassesOver);
        let mut page = self.right.waiting(after.max(seen), max).await?;
        match self.defect {
            Defect::PassesOver => {
                let last = page.last().map(|last| last.place);
                let mut notes = self.shared.notes();
                notes.place = notes.place.max(last);
            }
            Defect::OnceInVain if page.is_empty() => {
                self.shared.next();
            }
            Defect::OnceInVain if self.shared.count() > 0 => page.clear(),
            Defect::Reverses => page.reverse(),
            _ => {}
        }
        Ok(page)
    }

    async fn done(&self, places: &[Place]) -> Result<()> {
        let last = places.iter().max().filter(|_| self.defect == Defect::DoneUpTo);
        let mut all = places.to_vec();
        if let Some(last) = last {
            let waiting = self.right.waiting(None, usize::MAX).await?;
            all.extend(waiting.iter().map(|waiting| waiting.place).filter(|place| place <= last));
        }
        self.right.done(&all).await
    }

    async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()> {
        if self.defect == Defect::Drops {
            return self.right.done(&refused.iter().map(|(place, _)| *place).collect::<Vec<_>>()).await;
        }
        self.right.refuse(refused).await
    }

    async fn pass_on(&self) -> Result<bool> {
        self.right.pass_on().await
    }
}
