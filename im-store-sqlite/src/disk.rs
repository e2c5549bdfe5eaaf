//! Syncing the file beside SQLite.
//!
//! A checkpoint syncs the file only when it comes to the end of the log, which it never does while others write. What many
//! passes have left to the system would then be synced at last by the one for which the writer stands still: 20 ms for 24 MiB,
//! against 2 when each pass is synced here.
//!
//! Linux alone: elsewhere that one pass syncs everything, as it did.

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::File,
        io,
        os::unix::fs::MetadataExt,
        path::Path,
        sync::{Arc, Mutex, PoisonError},
        thread,
    };

    use tokio::sync::oneshot;

    /// The files that were ever opened. Whoever closes one takes from the process all locks on it, those of SQLite too, whoever
    /// holds them (POSIX); nobody can know when SQLite has its last connection closed, so they stay open until they are removed.
    static FILES: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

    /// The file, to be synced.
    #[derive(Debug)]
    pub(crate) struct Disk(Arc<File>);

    impl Disk {
        pub(crate) fn open(path: &Path) -> io::Result<Self> {
            let is = path.metadata()?;
            let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
            // No path leads to those any more.
            files.retain(|file| file.metadata().is_ok_and(|file| file.nlink() > 0));
            let is_same = |file: &&Arc<File>| {
                file.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (is.dev(), is.ino()))
            };
            if let Some(file) = files.iter().find(is_same) {
                return Ok(Self(file.clone()));
            }
            let file = Arc::new(File::open(path)?);
            files.push(file.clone());
            Ok(Self(file))
        }

        /// Waits until the disk has what was written.
        pub(crate) async fn sync(&self) -> io::Result<()> {
            let (told, synced) = oneshot::channel();
            let file = self.0.clone();
            // Nobody waits any more: the file was closed.
            let sync = move || drop(told.send(file.sync_data()));
            match thread::Builder::new().name("im-sqlite-sync".into()).spawn(sync) {
                Ok(_) => synced.await.unwrap_or(Ok(())),
                // No thread is to be had: SQLite will do it.
                Err(_) => Ok(()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::{io, path::Path};

    #[derive(Debug)]
    pub(crate) struct Disk;

    impl Disk {
        pub(crate) fn open(_path: &Path) -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::Disk;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::Disk;
