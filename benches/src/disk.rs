//! What the disk alone does to latencies: the contents appended to a file and synced, nothing else.
//!
//! No log can acknowledge sooner than this, and where a disk stands still everything that was due meanwhile is late. A round of
//! the engine beside rounds of this tells whose fault a slow hundredth is.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::tempfile_in;

use crate::{Outcome, backend::CONTENT_BYTES, pace::Timetable, stats::Latencies};

/// The file is written once before, and then over and over: nothing but contents is to be synced.
const FILE_BYTES: usize = 16 << 20;

/// A file on the disk under measurement.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    at: usize,
}

impl Disk {
    pub(crate) fn open(folder: &Path) -> Outcome<Self> {
        let file = tempfile_in(folder)?;
        file.write_all_at(&vec![b'.'; FILE_BYTES], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Writes what is due together and syncs it, then what was due meanwhile: from when a message was due until it is on the disk.
    pub(crate) fn open_loop(&mut self, rate: f64, length: Duration) -> Outcome<Latencies> {
        let mut timetable = Timetable::new(Instant::now(), rate, length);
        let mut latencies = Latencies::new()?;
        let mut due = Vec::new();
        while let Some(next) = timetable.next() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            due.extend(std::iter::from_fn(|| timetable.take(now)));
            self.write(due.len() * CONTENT_BYTES)?;
            due.drain(..).for_each(|due| latencies.record(due.elapsed()));
        }
        Ok(latencies)
    }

    fn write(&mut self, bytes: usize) -> Outcome {
        let bytes = bytes.min(FILE_BYTES);
        if self.at + bytes > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&vec![b'x'; bytes], self.at as u64)?;
        self.file.sync_data()?;
        self.at += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_due_is_written_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(folder.path()).unwrap();
        let latencies = disk.open_loop(1000.0, Duration::from_millis(100)).unwrap();
        assert_eq!(latencies.count(), 100);
        let mut written = vec![0; 100 * CONTENT_BYTES + 1];
        disk.file.read_exact_at(&mut written, 0).unwrap();
        assert_eq!(written.iter().position(|byte| *byte != b'x'), Some(100 * CONTENT_BYTES));
    }

    #[test]
    fn the_file_does_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(folder.path()).unwrap();
        for _ in 0..3 {
            disk.write(FILE_BYTES / 2 + 1).unwrap();
        }
        disk.write(2 * FILE_BYTES).unwrap();
        assert_eq!(disk.file.metadata().unwrap().len(), FILE_BYTES as u64);
    }
}
