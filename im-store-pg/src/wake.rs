//! Who waits for records is woken when some come, on whatever node they were appended.
//!
//! A hint only: whoever is woken reads the log, and looks again now and then without being woken.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use im_core::Partition;
use tokio::sync::watch;

use crate::connect::Inner;

/// The waiting, and the word to other nodes.
#[derive(Debug)]
pub(crate) struct Wake {
    partitions: Vec<watch::Sender<()>>,
    /// Of partitions that moved: other nodes are to be told.
    untold: Vec<AtomicBool>,
}

impl Wake {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            partitions: (0..partitions).map(|_| watch::Sender::new(())).collect(),
            untold: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Is changed when a partition moves.
    pub(crate) fn subscribe(&self, partition: Partition) -> watch::Receiver<()> {
        self.partitions[usize::from(partition.0)].subscribe()
    }

    pub(crate) fn wake(&self, partition: usize) {
        if let Some(sender) = self.partitions.get(partition) {
            sender.send_replace(());
        }
    }

    pub(crate) fn wake_all(&self) {
        (0..self.partitions.len()).for_each(|partition| self.wake(partition));
    }

    /// Records were appended here: wakes this node's readers now, and tells the other nodes, not more often than one telling takes.
    pub(crate) fn moved(&self, inner: &Arc<Inner>, partition: Partition) {
        let at = usize::from(partition.0);
        self.wake(at);
        if !self.untold[at].swap(true, Ordering::AcqRel) {
            tokio::spawn(tell(Arc::downgrade(inner), at));
        }
    }
}

/// The channel of a log, by the name of its data.
pub(crate) fn channel(name: &str) -> String {
    format!("im_log_{name}")
}

async fn tell(inner: Weak<Inner>, partition: usize) {
    let Some(inner) = inner.upgrade() else { return };
    // Before the word goes out: what is appended from now on needs another one.
    inner.wake.untold[partition].store(false, Ordering::Release);
    let told = sqlx::query("SELECT pg_notify($1, $2)")
        .bind(channel(&inner.name))
        .bind(partition.to_string())
        .execute(&inner.pool)
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, "other nodes were not told of new records; they look by themselves");
    }
}
