//! Who waits for records is woken when some come, on whatever node they were appended.
//!
//! A hint only: whoever is woken reads the log, and looks again now and then without being woken.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use im_core::Partition;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use crate::connect::Inner;

/// How often who waits looks without being woken: a notice may be lost with its connection.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a lost connection.
const PAUSE: Duration = Duration::from_millis(500);

/// The waiting, and the word to other nodes.
#[derive(Debug)]
pub(crate) struct Wake {
    partitions: Vec<watch::Sender<()>>,
    /// Of partitions that moved: other nodes are to be told.
    untold: Vec<AtomicBool>,
    listens: AtomicBool,
}

impl Wake {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            partitions: (0..partitions).map(|_| watch::Sender::new(())).collect(),
            untold: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
            listens: AtomicBool::new(false),
        }
    }

    /// Is changed when a partition moves.
    pub(crate) fn subscribe(&self, partition: Partition) -> watch::Receiver<()> {
        self.partitions[usize::from(partition.0)].subscribe()
    }

    fn wake(&self, partition: usize) {
        if let Some(sender) = self.partitions.get(partition) {
            sender.send_replace(());
        }
    }

    /// Records were appended here: wakes this node's readers now, and tells the other nodes, not more often than one telling takes.
    pub(crate) fn moved(&self, inner: &Arc<Inner>, partition: Partition) {
        let at = usize::from(partition.0);
        self.wake(at);
        if !self.untold[at].swap(true, Ordering::AcqRel) {
            tokio::spawn(tell(Arc::downgrade(inner), at));
        }
    }

    /// Listens for other nodes' words from now on.
    pub(crate) fn listen(&self, inner: &Arc<Inner>) {
        if !self.listens.swap(true, Ordering::AcqRel) {
            tokio::spawn(listen(Arc::downgrade(inner)));
        }
    }
}

/// The channel of a schema.
fn channel(inner: &Inner) -> String {
    format!("im_log_{}", inner.name)
}

async fn tell(inner: Weak<Inner>, partition: usize) {
    let Some(inner) = inner.upgrade() else { return };
    // Before the word goes out: what is appended from now on needs another one.
    inner.wake.untold[partition].store(false, Ordering::Release);
    let told = sqlx::query("SELECT pg_notify($1, $2)")
        .bind(channel(&inner))
        .bind(partition.to_string())
        .execute(&inner.pool)
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, "other nodes were not told of new records; they look by themselves");
    }
}

async fn listen(inner: Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade().filter(|inner| !inner.pool.is_closed()) else { return };
        let (pool, channel) = (strong.pool.clone(), channel(&strong));
        drop(strong);
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(&channel).await.is_ok()
        {
            hear(&inner, &mut listener).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes words on until the connection breaks or nobody is there any more.
async fn hear(inner: &Weak<Inner>, listener: &mut PgListener) {
    loop {
        let heard = tokio::time::timeout(LOOK, listener.try_recv()).await;
        let Some(inner) = inner.upgrade() else { return };
        match heard {
            Ok(Ok(Some(word))) => inner.wake.wake(word.payload().parse().unwrap_or(usize::MAX)),
            // Words may be missing: everybody looks.
            Err(_) | Ok(Ok(None)) => (0..inner.wake.partitions.len()).for_each(|at| inner.wake.wake(at)),
            Ok(Err(_)) => return,
        }
    }
}
