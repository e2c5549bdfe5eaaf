//! Notifiers that mislead, reorder, hoard and drop.

use std::sync::Arc;

use async_trait::async_trait;
use im_core::{Error, ErrorKind, NodeId, Notice, Noticed, Notifier, Parts, Result};
use tokio::sync::mpsc;

use super::{Broken, Shared};

macro_rules! broken {
    ($($clause:literal $defect:ident $what:literal)*) => {
        pub(super) const BROKEN: &[Broken] = &[$(Broken {
            clause: concat!("notifier::", $clause),
            defect: $what,
            wrap: |parts, shared| wrap(parts, shared, Defect::$defect),
        }),*];

        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($defect),* }
    };
}

broken! {
    "to_its_node" ToEverybody "everybody gets everything"
    "in_order" Reverses "the notices of a call come in the opposite order"
    "lagged_not_silent" DropsSilently "a full channel drops without a word"
    "lagged_not_silent" Hoards "a channel without a bound"
    "nobody_there" FailsForNobody "a notice to nobody is an error"
}

fn wrap(parts: Parts, shared: &Arc<Shared>, defect: Defect) -> Parts {
    let wrap = |right| -> Arc<dyn Notifier> { Arc::new(Wrapped { right, defect, shared: shared.clone() }) };
    Parts { notifier: parts.notifier.map(wrap), ..parts }
}

#[derive(Debug)]
struct Wrapped {
    right: Arc<dyn Notifier>,
    defect: Defect,
    shared: Arc<Shared>,
}

impl Wrapped {
    fn capacity(&self) -> Option<usize> {
        match self.defect {
            Defect::DropsSilently => Some(1024),
            Defect::Hoards => Some(1 << 20),
            _ => None,
        }
    }

    fn spoiled(&self, mut notices: Vec<(NodeId, Notice)>) -> Result<Vec<(NodeId, Notice)>> {
        let nodes = self.shared.notes().nodes.clone();
        match self.defect {
            Defect::ToEverybody => {
                let all = |(_, notice): (NodeId, Notice)| {
                    nodes.iter().map(move |node| (node.clone(), notice.clone()))
                };
                notices = notices.into_iter().flat_map(all).collect();
            }
            Defect::Reverses => notices.reverse(),
            Defect::FailsForNobody if notices.iter().any(|(node, _)| !nodes.contains(node)) => {
                return Err(Error::new(ErrorKind::Other, "broken", "notifier.notify", "nobody is there"));
            }
            _ => {}
        }
        Ok(notices)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Notifier for Wrapped {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let notices = self.spoiled(notices)?;
        if self.capacity().is_none() {
            return self.right.notify(notices).await;
        }
        for (node, notice) in notices {
            for subscriber in self.shared.notes().subscribers.get(&node).into_iter().flatten() {
                let _ = subscriber.try_send(Noticed::Notice(notice.clone()));
            }
        }
        Ok(())
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        self.shared.notes().nodes.insert(node.clone());
        let Some(capacity) = self.capacity() else { return self.right.subscribe(node).await };
        let (sender, receiver) = mpsc::channel(capacity);
        self.shared.notes().subscribers.entry(node.clone()).or_default().push(sender);
        Ok(receiver)
    }
}
