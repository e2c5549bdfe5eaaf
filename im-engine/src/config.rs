//! Limits and times of an engine, with their defaults.

use std::{fmt, ops::RangeInclusive, time::Duration};

use im_core::WhenFull;

use crate::builder::invalid;

/// Limits and times of an engine. Start from [`Config::default`]. [`Builder::start`](crate::Builder::start) refuses those that
/// make no sense: a count or size of nothing, a time of nothing or of more than a day, unless said otherwise here.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The longest content, in bytes of UTF-8. Default 64 KiB.
    pub content_bytes: usize,
    /// The longest page of anything, at most 10,000. Default 200.
    pub page: usize,
    /// How many members a group may have. Default 100,000.
    pub group_members: usize,
    /// From how many members on a group is read by its members instead of written to them. Default 500.
    pub read_diffusion_threshold: usize,
    /// How many records one append takes at most; itself at most 65,536. Default 1,024.
    pub commit_records: usize,
    /// How many bytes of content one append takes, beyond its first record. Default 1 MiB.
    pub commit_bytes: usize,
    /// How many sends may wait for their append, per partition; at most 1,048,576. Default 16,384.
    pub commit_queue: usize,
    /// How long a send waits for its append, a *stored* ack for the store, a membership change for its application.
    /// Default 5 s.
    pub patience: Duration,
    /// How many records a projection takes at once, at most 10,000. Default 1,024.
    pub batch_records: usize,
    /// How many inbox entries one delivery writes, about. Default 10,000.
    pub delivery_entries: usize,
    /// How many bytes of content a signal carries at most; 0: none. Default 16 KiB.
    pub inline_bytes: usize,
    /// How long a worker's lease lasts without renewal. Default 3 s: what a dead node worked on waits for that and a third of it.
    pub lease: Duration,
    /// How long an admission to send may be remembered; 0: not at all. Default 1 s, which is also the most.
    pub admission: Duration,
    /// How many admissions, and how many member lists, are remembered; at most 16,777,216. Default 65,536.
    pub cache_entries: usize,
    /// How often a client is to send a heartbeat; three missed ones close the session. Default 30 s.
    pub heartbeat: Duration,
    /// How long a signal may go without its ack before it is sent again; doubles each time. Default 5 s.
    pub ack_timeout: Duration,
    /// How often a signal is sent again before the session is closed; may be 0, at most 16. Default 5.
    pub ack_tries: u32,
    /// How many bytes of signals wait for a slow session before they shrink to one; may be 0. Default 64 KiB.
    pub outbox_bytes: usize,
    /// How long a bootstrap waits for the store; may be 0. Default 2 s.
    pub bootstrap_wait: Duration,
    /// Whose sessions compete. Default [`SessionSlot::Device`].
    pub session_slot: SessionSlot,
    /// How many sessions a slot holds. Default 1.
    pub session_max: usize,
    /// What happens when a slot is full. Default [`WhenFull::KickOld`].
    pub session_when_full: WhenFull,
    /// Whether the devices of a user share read marks. Default [`ReadMarks::PerUser`].
    pub read_marks: ReadMarks,
    /// How long a device may stay away before its own read marks are forgotten; at most 36,500 days. Default 90 days.
    pub device_expiry: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            content_bytes: 64 << 10,
            page: 200,
            group_members: 100_000,
            read_diffusion_threshold: 500,
            commit_records: 1024,
            commit_bytes: 1 << 20,
            commit_queue: 16_384,
            patience: Duration::from_secs(5),
            batch_records: 1024,
            delivery_entries: 10_000,
            inline_bytes: 16 << 10,
            lease: Duration::from_secs(3),
            admission: Duration::from_secs(1),
            cache_entries: 65_536,
            heartbeat: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(5),
            ack_tries: 5,
            outbox_bytes: 64 << 10,
            bootstrap_wait: Duration::from_secs(2),
            session_slot: SessionSlot::Device,
            session_max: 1,
            session_when_full: WhenFull::KickOld,
            read_marks: ReadMarks::PerUser,
            device_expiry: Duration::from_secs(90 * 24 * 3600),
        }
    }
}

/// What a time may be, where nothing else is said.
pub(crate) const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

impl Config {
    /// Refuses limits and times that make no sense, before a channel or a timer panics over them.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](im_core::ErrorKind::Invalid) names the field.
    pub(crate) fn check(&self) -> im_core::Result<()> {
        self.check_counts()?;
        self.check_times()
    }

    fn check_counts(&self) -> im_core::Result<()> {
        const ANY: RangeInclusive<usize> = 1..=usize::MAX;
        const ALSO_NONE: RangeInclusive<usize> = 0..=usize::MAX;
        within("content_bytes", self.content_bytes, ANY)?;
        within("page", self.page, 1..=10_000)?;
        within("group_members", self.group_members, ANY)?;
        within("read_diffusion_threshold", self.read_diffusion_threshold, ANY)?;
        within("commit_records", self.commit_records, 1..=1 << 16)?;
        within("commit_bytes", self.commit_bytes, ANY)?;
        within("commit_queue", self.commit_queue, 1..=1 << 20)?;
        within("batch_records", self.batch_records, 1..=10_000)?;
        within("delivery_entries", self.delivery_entries, ANY)?;
        within("inline_bytes", self.inline_bytes, ALSO_NONE)?;
        within("cache_entries", self.cache_entries, 1..=1 << 24)?;
        within("ack_tries", self.ack_tries, 0..=16)?;
        within("outbox_bytes", self.outbox_bytes, ALSO_NONE)?;
        within("session_max", self.session_max, ANY)
    }

    fn check_times(&self) -> im_core::Result<()> {
        const DAY: Duration = *TIMES.end();
        within("patience", self.patience, TIMES)?;
        within("lease", self.lease, TIMES)?;
        within("admission", self.admission, Duration::ZERO..=Duration::from_secs(1))?;
        within("heartbeat", self.heartbeat, TIMES)?;
        within("ack_timeout", self.ack_timeout, TIMES)?;
        within("bootstrap_wait", self.bootstrap_wait, Duration::ZERO..=DAY)?;
        within("device_expiry", self.device_expiry, Duration::from_millis(1)..=DAY * 36_500)
    }
}

/// Refuses a value outside its range, by the name of its field.
pub(crate) fn within<T: PartialOrd + fmt::Debug>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> im_core::Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(invalid(format!("{field} is {value:?}, but must be from {:?} to {:?}", range.start(), range.end())))
}

/// Which sessions of a user compete for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSlot {
    /// All of the user.
    User,
    /// Those on one platform.
    Platform,
    /// Those of one device.
    Device,
}

/// Whether the devices of a user share read marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMarks {
    /// One mark for all devices.
    PerUser,
    /// A mark for each device.
    PerDevice,
}

#[cfg(test)]
mod tests {
    use im_core::ErrorKind;

    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        Config::default().check().unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        type Change = fn(&mut Config);
        let table: &[(&str, Change)] = &[
            ("content_bytes", |config| config.content_bytes = 0),
            ("page", |config| config.page = 0),
            ("page", |config| config.page = 10_001),
            ("group_members", |config| config.group_members = 0),
            ("read_diffusion_threshold", |config| config.read_diffusion_threshold = 0),
            ("commit_records", |config| config.commit_records = 0),
            ("commit_records", |config| config.commit_records = usize::MAX),
            ("commit_bytes", |config| config.commit_bytes = 0),
            ("commit_queue", |config| config.commit_queue = 0),
            ("commit_queue", |config| config.commit_queue = usize::MAX),
            ("batch_records", |config| config.batch_records = 0),
            ("delivery_entries", |config| config.delivery_entries = 0),
            ("cache_entries", |config| config.cache_entries = 0),
            ("cache_entries", |config| config.cache_entries = usize::MAX),
            ("ack_tries", |config| config.ack_tries = 17),
            ("session_max", |config| config.session_max = 0),
            ("patience", |config| config.patience = Duration::ZERO),
            ("patience", |config| config.patience = Duration::MAX),
            ("lease", |config| config.lease = Duration::ZERO),
            ("admission", |config| config.admission = Duration::from_secs(2)),
            ("heartbeat", |config| config.heartbeat = Duration::ZERO),
            ("heartbeat", |config| config.heartbeat = Duration::MAX),
            ("ack_timeout", |config| config.ack_timeout = Duration::ZERO),
            ("ack_timeout", |config| config.ack_timeout = Duration::MAX),
            ("bootstrap_wait", |config| config.bootstrap_wait = Duration::MAX),
            ("device_expiry", |config| config.device_expiry = Duration::ZERO),
            ("device_expiry", |config| config.device_expiry = Duration::MAX),
        ];
        for (field, change) in table {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().expect_err(field);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(&format!("{field} is ")), "{field}: {error}");
        }
    }
}
