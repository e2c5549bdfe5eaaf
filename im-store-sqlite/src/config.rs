//! What can be set before a file is opened.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use im_core::{Clock, Result, SystemClock};

use crate::Sqlite;

/// Sets up a [`Sqlite`]; see [`Sqlite::builder`].
#[derive(Debug, Clone)]
pub struct SqliteBuilder {
    pub(crate) path: PathBuf,
    pub(crate) expiry: Duration,
    pub(crate) restored: bool,
    pub(crate) survives_power_failure: bool,
    pub(crate) presence_ttl: Duration,
    pub(crate) readers: u32,
    pub(crate) cache_bytes: usize,
    pub(crate) clock: Arc<dyn Clock>,
}

impl SqliteBuilder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            expiry: Duration::from_secs(7 * 24 * 3600),
            restored: false,
            survives_power_failure: true,
            presence_ttl: Duration::from_secs(30),
            readers: 4,
            cache_bytes: 64 << 20,
            clock: Arc::new(SystemClock),
        }
    }

    /// How long inbox entries are kept, from their delivery on; default 7 days.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// Says that the file was put back from a copy, so that what was acked after the copy is missing: the data get another
    /// incarnation, numbering keeps a distance, and clients fetch their state afresh. Say it once, at the first start after
    /// the restore, and put it back without a `-wal` beside it: one of the file that was there before would be taken for its
    /// own, and [`open`](Self::open) refuses it as [`Invalid`](im_core::ErrorKind::Invalid). Default: false.
    #[must_use]
    pub fn restored(mut self, restored: bool) -> Self {
        self.restored = restored;
        self
    }

    /// Whether an ack waits for the disk (`synchronous=FULL`), default true. Without it the newest acks survive the death of
    /// the process but not a crash of the operating system; after one the data are another incarnation, and clients fetch
    /// their state afresh.
    #[must_use]
    pub fn survives_power_failure(mut self, survives: bool) -> Self {
        self.survives_power_failure = survives;
        self
    }

    /// How long a node may be silent before its sessions are gone; default 30 s.
    #[must_use]
    pub fn presence_ttl(mut self, ttl: Duration) -> Self {
        self.presence_ttl = ttl;
        self
    }

    /// How many reads run at once, each on a thread and a connection of its own; default 4, least 1.
    #[must_use]
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// The page cache of the writing connection, in bytes; default 64 MiB. It should hold the ends of the timelines and
    /// inboxes that are in use. Each reading connection has a sixteenth of it.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// The clock, also for leases and presence; default [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the file, or creates it, on the current tokio runtime.
    ///
    /// # Errors
    /// [`InUse`](im_core::ErrorKind::InUse) while another process has it open; [`NewerVersion`](im_core::ErrorKind::NewerVersion)
    /// when a newer version of this crate has written it; [`Corrupt`](im_core::ErrorKind::Corrupt) when it is damaged or
    /// something else; [`Denied`](im_core::ErrorKind::Denied) when it may not be written, or its folder is not there;
    /// [`Full`](im_core::ErrorKind::Full) when the disk is. The file is then as it was.
    pub async fn open(self) -> Result<Sqlite> {
        Sqlite::connect(self).await
    }
}
