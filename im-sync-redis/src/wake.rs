//! Who waits at the end of a partition is told of new records: by this process's own appends at once, by those of others through a
//! channel. A word may be lost; so who waits looks again now and then.

use im_core::Partition;
use tokio::sync::Notify;

/// The waiting readers of all partitions.
#[derive(Debug)]
pub(crate) struct Wake(Vec<Notify>);

impl Wake {
    pub(crate) fn new(partitions: u16) -> Self {
        Self((0..partitions).map(|_| Notify::new()).collect())
    }

    /// The readers of a partition; none where the log has no such one.
    pub(crate) fn of(&self, partition: Partition) -> Option<&Notify> {
        self.0.get(usize::from(partition.0))
    }

    /// Wakes the readers of a partition.
    pub(crate) fn wake(&self, partition: Partition) {
        if let Some(readers) = self.of(partition) {
            readers.notify_waiters();
        }
    }

    /// Wakes everybody: something may have been missed.
    pub(crate) fn wake_all(&self) {
        self.0.iter().for_each(Notify::notify_waiters);
    }
}
