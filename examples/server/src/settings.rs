//! Everything that can be set: by a flag, an environment variable, or a line of a TOML file, always under the same name.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use im_engine::{ReadMarks, SessionSlot, WhenFull};
use im_transport_ws::WsConfig;
use serde::Deserialize;

use crate::{Config, DevLogin, KeySource, LogFormat, Store, SyncUrl, TokenAlgorithm, TokenKey};

/// One layer of settings; what it does not set is left to the next.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// IP address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "IM_BIND", value_name = "ADDRESS")]
    pub bind: Option<SocketAddr>,
    /// Folder of the database; made if it is not there [default: im-data]
    #[arg(long, env = "IM_DATA", value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Where the data are: sqlite, a file in the data folder, or the URL of a Postgres database, which many servers may share
    /// [default: sqlite]
    #[arg(long, env = "IM_STORE", value_name = "WHERE", hide_env_values = true)]
    pub store: Option<Store>,
    /// Where messages are logged, synced and signalled: the URL of Redis, which the same servers share as the store [default: where
    /// the data are]
    #[arg(long, env = "IM_SYNC", value_name = "URL", hide_env_values = true)]
    pub sync: Option<SyncUrl>,
    /// What the names of all keys in Redis begin with: one for each chat [default: im]
    #[arg(long, env = "IM_SYNC_PREFIX", value_name = "NAME")]
    pub sync_prefix: Option<String>,
    /// Who may sign in without a password [default: loopback]
    #[arg(long, env = "IM_DEV_LOGIN", value_name = "WHO")]
    pub dev_login: Option<DevLogin>,
    /// Secrets of at least 32 bytes whose HS256 tokens are accepted, one in each file [default: none]
    #[arg(long, env = "IM_HS256_KEY_FILES", value_name = "FILES", value_delimiter = ',')]
    pub hs256_key_files: Option<Vec<PathBuf>>,
    /// Public Ed25519 keys in PEM whose EdDSA tokens are accepted, one in each file [default: none]
    #[arg(long, env = "IM_EDDSA_KEY_FILES", value_name = "FILES", value_delimiter = ',')]
    pub eddsa_key_files: Option<Vec<PathBuf>>,
    /// What the `aud` claim of a token must name [default: none, and a token that has the claim is refused]
    #[arg(long, env = "IM_TOKEN_AUDIENCE", value_name = "NAME")]
    pub token_audience: Option<String>,
    /// By how much the clock of who signs tokens may differ, at most 600 [default: 60]
    #[arg(long, env = "IM_TOKEN_LEEWAY_SECONDS", value_name = "SECONDS")]
    pub token_leeway_seconds: Option<u32>,
    /// Longest content of a message, in bytes of UTF-8 [default: 65536]
    #[arg(long, env = "IM_CONTENT_BYTES", value_name = "BYTES")]
    pub content_bytes: Option<NonZeroUsize>,
    /// How many frames a connection may send in a second [default: 50]
    #[arg(long, env = "IM_RATE_PER_SECOND", value_name = "FRAMES")]
    pub rate_per_second: Option<NonZeroU16>,
    /// How many frames a connection may send at once [default: 200]
    #[arg(long, env = "IM_RATE_BURST", value_name = "FRAMES")]
    pub rate_burst: Option<NonZeroU16>,
    /// From how many members on a group is read by its members instead of written to each [default: 500]
    #[arg(long, env = "IM_READ_DIFFUSION_THRESHOLD", value_name = "MEMBERS")]
    pub read_diffusion_threshold: Option<NonZeroUsize>,
    /// How long a client that was away finds what it missed without loading everything anew [default: 7]
    #[arg(long, env = "IM_INBOX_EXPIRY_DAYS", value_name = "DAYS")]
    pub inbox_expiry_days: Option<NonZeroU32>,
    /// How often a client says that it lives; three silences close its connection [default: 30]
    #[arg(long, env = "IM_HEARTBEAT_SECONDS", value_name = "SECONDS")]
    pub heartbeat_seconds: Option<NonZeroU32>,
    /// Which connections of a user compete for a place [default: device]
    #[arg(long, env = "IM_SESSION_SLOT", value_name = "WHICH")]
    pub session_slot: Option<Slot>,
    /// How many connections such a place has [default: 1]
    #[arg(long, env = "IM_SESSION_MAX", value_name = "CONNECTIONS")]
    pub session_max: Option<NonZeroUsize>,
    /// Who goes when the place is full [default: kick-old]
    #[arg(long, env = "IM_SESSION_WHEN_FULL", value_name = "WHO")]
    pub session_when_full: Option<Full>,
    /// Whether the devices of a user share what was read [default: per-user]
    #[arg(long, env = "IM_READ_MARKS", value_name = "HOW")]
    pub read_marks: Option<Marks>,
    /// Which log lines are written to stderr, as in `info` or `warn,im_engine=debug` [default: info]
    #[arg(long, env = "IM_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "IM_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// See [`SessionSlot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// All of the user
    User,
    /// Those on one platform
    Platform,
    /// Those of one device
    Device,
}

/// See [`WhenFull`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Full {
    /// The oldest connection
    KickOld,
    /// The new one
    RejectNew,
}

/// See [`ReadMarks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Marks {
    /// They share it
    PerUser,
    /// Each has its own
    PerDevice,
}

impl Settings {
    /// These settings, and below them those of another layer.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            bind: self.bind.or(below.bind),
            data: self.data.or(below.data),
            store: self.store.or(below.store),
            sync: self.sync.or(below.sync),
            sync_prefix: self.sync_prefix.or(below.sync_prefix),
            dev_login: self.dev_login.or(below.dev_login),
            hs256_key_files: self.hs256_key_files.or(below.hs256_key_files),
            eddsa_key_files: self.eddsa_key_files.or(below.eddsa_key_files),
            token_audience: self.token_audience.or(below.token_audience),
            token_leeway_seconds: self.token_leeway_seconds.or(below.token_leeway_seconds),
            content_bytes: self.content_bytes.or(below.content_bytes),
            rate_per_second: self.rate_per_second.or(below.rate_per_second),
            rate_burst: self.rate_burst.or(below.rate_burst),
            read_diffusion_threshold: self.read_diffusion_threshold.or(below.read_diffusion_threshold),
            inbox_expiry_days: self.inbox_expiry_days.or(below.inbox_expiry_days),
            heartbeat_seconds: self.heartbeat_seconds.or(below.heartbeat_seconds),
            session_slot: self.session_slot.or(below.session_slot),
            session_max: self.session_max.or(below.session_max),
            session_when_full: self.session_when_full.or(below.session_when_full),
            read_marks: self.read_marks.or(below.read_marks),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }
}

impl From<Settings> for Config {
    /// The settings, and the defaults for what they do not set.
    fn from(settings: Settings) -> Self {
        let default = Self::default();
        let engine = settings.engine(default.engine);
        let transport = settings.transport(default.transport, engine.content_bytes);
        Self {
            token_keys: settings.token_keys(),
            bind: settings.bind.unwrap_or(default.bind),
            data: settings.data.unwrap_or(default.data),
            store: settings.store.unwrap_or(default.store),
            sync: settings.sync.or(default.sync),
            sync_prefix: settings.sync_prefix.unwrap_or(default.sync_prefix),
            restored: default.restored,
            dev_login: settings.dev_login.unwrap_or(default.dev_login),
            token_audience: settings.token_audience.or(default.token_audience),
            token_leeway: settings.token_leeway_seconds.map_or(default.token_leeway, seconds),
            inbox_expiry: settings
                .inbox_expiry_days
                .map_or(default.inbox_expiry, |days| seconds(days.get()) * 24 * 3600),
            engine,
            transport,
            log_format: settings.log_format.unwrap_or(default.log_format),
            log: settings.log.unwrap_or(default.log),
        }
    }
}

fn put<T>(place: &mut T, value: Option<impl Into<T>>) {
    if let Some(value) = value {
        *place = value.into();
    }
}

impl Settings {
    fn engine(&self, mut engine: im_engine::Config) -> im_engine::Config {
        put(&mut engine.content_bytes, self.content_bytes);
        put(&mut engine.read_diffusion_threshold, self.read_diffusion_threshold);
        put(&mut engine.heartbeat, self.heartbeat_seconds.map(|every| seconds(every.get())));
        put(&mut engine.session_slot, self.session_slot);
        put(&mut engine.session_max, self.session_max);
        put(&mut engine.session_when_full, self.session_when_full);
        put(&mut engine.read_marks, self.read_marks);
        engine
    }

    /// Frames have room for the longest content, escaped as JSON, and answers for two such frames.
    fn transport(&self, mut transport: WsConfig, content_bytes: usize) -> WsConfig {
        put(&mut transport.rate.per_second, self.rate_per_second.map(NonZeroU16::get));
        put(&mut transport.rate.burst, self.rate_burst.map(NonZeroU16::get));
        transport.frame_bytes = transport.frame_bytes.max(content_bytes.saturating_mul(2));
        transport.outgoing_bytes = transport.outgoing_bytes.max(transport.frame_bytes.saturating_mul(2));
        transport
    }

    fn token_keys(&self) -> Vec<TokenKey> {
        let files =
            [(TokenAlgorithm::Hs256, &self.hs256_key_files), (TokenAlgorithm::EdDsa, &self.eddsa_key_files)];
        let keys = files.into_iter().flat_map(|(algorithm, files)| {
            let files = files.iter().flatten().cloned();
            files.map(move |file| TokenKey { algorithm, source: KeySource::File(file) })
        });
        keys.collect()
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

impl From<Slot> for SessionSlot {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::User => Self::User,
            Slot::Platform => Self::Platform,
            Slot::Device => Self::Device,
        }
    }
}

impl From<Full> for WhenFull {
    fn from(full: Full) -> Self {
        match full {
            Full::KickOld => Self::KickOld,
            Full::RejectNew => Self::RejectNew,
        }
    }
}

impl From<Marks> for ReadMarks {
    fn from(marks: Marks) -> Self {
        match marks {
            Marks::PerUser => Self::PerUser,
            Marks::PerDevice => Self::PerDevice,
        }
    }
}
