//! Limits and times of an engine, with their defaults.

use std::time::Duration;

use im_core::WhenFull;

use crate::builder::invalid;

/// Limits and times of an engine. Start from [`Config::default`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The longest content, in bytes of UTF-8. Default 64 KiB.
    pub content_bytes: usize,
    /// The longest page of anything. Default 200.
    pub page: usize,
    /// How many members a group may have. Default 100,000.
    pub group_members: usize,
    /// From how many members on a group is read by its members instead of written to them. Default 500.
    pub read_diffusion_threshold: usize,
    /// How many records one append takes at most. Default 1,024.
    pub commit_records: usize,
    /// How many bytes of content one append takes, beyond its first record. Default 1 MiB.
    pub commit_bytes: usize,
    /// How many sends may wait for their append, per partition. Default 16,384.
    pub commit_queue: usize,
    /// How long a send waits for its append, a *stored* ack for the store, a membership change for its application.
    /// Default 5 s.
    pub patience: Duration,
    /// How many records a projection takes at once. Default 1,024.
    pub batch_records: usize,
    /// How many inbox entries one delivery writes, about. Default 10,000.
    pub delivery_entries: usize,
    /// How many bytes of content a signal carries at most. Default 16 KiB.
    pub inline_bytes: usize,
    /// How long a worker's lease lasts without renewal. Default 10 s.
    pub lease: Duration,
    /// How long an admission to send may be remembered. Default 1 s, which is also the most.
    pub admission: Duration,
    /// How many admissions, and how many member lists, are remembered. Default 65,536.
    pub cache_entries: usize,
    /// How often a client is to send a heartbeat; three missed ones close the session. Default 30 s.
    pub heartbeat: Duration,
    /// How long a signal may go without its ack before it is sent again; doubles each time. Default 5 s.
    pub ack_timeout: Duration,
    /// How often a signal is sent again before the session is closed. Default 5.
    pub ack_tries: u32,
    /// How many bytes of signals wait for a slow session before they shrink to one. Default 64 KiB.
    pub outbox_bytes: usize,
    /// How long a bootstrap waits for the store. Default 2 s.
    pub bootstrap_wait: Duration,
    /// Whose sessions compete. Default [`SessionSlot::Device`].
    pub session_slot: SessionSlot,
    /// How many sessions a slot holds. Default 1.
    pub session_max: usize,
    /// What happens when a slot is full. Default [`WhenFull::KickOld`].
    pub session_when_full: WhenFull,
    /// Whether the devices of a user share read marks. Default [`ReadMarks::PerUser`].
    pub read_marks: ReadMarks,
    /// How long a device may stay away before its own read marks are forgotten. Default 90 days.
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
            lease: Duration::from_secs(10),
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

impl Config {
    /// The longest page that every backend serves.
    const LONGEST_PAGE: usize = 10_000;

    /// Refuses limits and times that make no sense.
    pub(crate) fn check(&self) -> im_core::Result<()> {
        let counts = [
            ("content_bytes", self.content_bytes),
            ("page", self.page),
            ("group_members", self.group_members),
            ("commit_records", self.commit_records),
            ("commit_bytes", self.commit_bytes),
            ("commit_queue", self.commit_queue),
            ("batch_records", self.batch_records),
            ("delivery_entries", self.delivery_entries),
            ("cache_entries", self.cache_entries),
            ("session_max", self.session_max),
        ];
        let times = [
            ("patience", self.patience),
            ("lease", self.lease),
            ("heartbeat", self.heartbeat),
            ("ack_timeout", self.ack_timeout),
        ];
        let zero = counts.iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
        let zero = zero.or_else(|| times.iter().find(|(_, time)| time.is_zero()).map(|(name, _)| *name));
        if let Some(name) = zero {
            return Err(invalid(format!("{name} may not be zero")));
        }
        if self.page > Self::LONGEST_PAGE {
            return Err(invalid(format!("page may be {} at most", Self::LONGEST_PAGE)));
        }
        if self.admission > Duration::from_secs(1) {
            return Err(invalid("admission may be one second at most"));
        }
        Ok(())
    }
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
