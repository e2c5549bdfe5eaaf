//! The notifier: a bounded channel per subscriber.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::lock;
use crate::{NodeId, Notice, Noticed, Notifier, Result};

/// How many notices wait for a subscriber before it lags.
const CAPACITY: usize = 1024;

/// The notifier part.
#[derive(Clone)]
pub struct MemoryNotifier(Arc<Mutex<BTreeMap<NodeId, Vec<Subscriber>>>>);

struct Subscriber {
    sender: mpsc::Sender<Noticed>,
    lagging: bool,
}

impl MemoryNotifier {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }
}

impl fmt::Debug for MemoryNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNotifier").finish_non_exhaustive()
    }
}

impl Subscriber {
    fn notify(&mut self, notice: Notice) {
        // The last place is kept for `Lagged`, so that it is there also when nothing ever follows.
        let sent = if self.sender.capacity() > 1 {
            self.lagging = false;
            Some(Noticed::Notice(notice))
        } else if self.lagging {
            None
        } else {
            self.lagging = true;
            Some(Noticed::Lagged)
        };
        if let Some(sent) = sent {
            // A receiver that is gone misses nothing.
            let _ = self.sender.try_send(sent);
        }
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn notify(&self, notices: Vec<(NodeId, Notice)>) -> Result<()> {
        let mut subscribers = lock(&self.0);
        for (node, notice) in notices {
            let Some(there) = subscribers.get_mut(&node) else { continue };
            there.retain(|subscriber| !subscriber.sender.is_closed());
            // Mostly there is one, and a notice may have thousands of users: only a second subscriber costs a copy.
            let Some((last, others)) = there.split_last_mut() else { continue };
            others.iter_mut().for_each(|subscriber| subscriber.notify(notice.clone()));
            last.notify(notice);
        }
        subscribers.retain(|_, there| !there.is_empty());
        Ok(())
    }

    async fn subscribe(&self, node: &NodeId) -> Result<mpsc::Receiver<Noticed>> {
        let (sender, receiver) = mpsc::channel(CAPACITY + 1);
        lock(&self.0).entry(node.clone()).or_default().push(Subscriber { sender, lagging: false });
        Ok(receiver)
    }
}
