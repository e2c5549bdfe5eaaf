//! What a server is started with.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use im_transport_ws::WsConfig;

use crate::{LogFormat, Store, SyncUrl, TokenKey};

/// What a server is started with. Start from [`Config::default`]: that is what `cargo run` does.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one. Default 127.0.0.1:8080.
    pub bind: SocketAddr,
    /// The folder of the database and of the development login's key; made if it is not there. Default `./im-data`.
    pub data: PathBuf,
    /// Where the data are. Default [`Store::Sqlite`], in the data folder.
    pub store: Store,
    /// Where log, inbox, presence and notifier are. Default none: where the data are.
    pub sync: Option<SyncUrl>,
    /// What the names of all keys there begin with. Default `im`.
    pub sync_prefix: String,
    /// The database is a restored copy: what it numbered after the copy was made may be known to clients. Default no.
    pub restored: bool,
    /// Who may sign in without a password. Default [`DevLogin::Loopback`].
    pub dev_login: DevLogin,
    /// The keys of those who may sign tokens. Default none.
    pub token_keys: Vec<TokenKey>,
    /// What a token's `aud` claim has to name. Default none: then a token that has the claim is refused, as it is meant for
    /// somebody else.
    pub token_audience: Option<String>,
    /// By how much the clock of who signs tokens may differ. Default 60 s, at most 600 s.
    pub token_leeway: Duration,
    /// How long entries stay in the sync inbox. Default 7 days.
    pub inbox_expiry: Duration,
    /// Limits and times of the engine.
    pub engine: im_engine::Config,
    /// Limits and times of the WebSocket transport.
    pub transport: WsConfig,
    /// How log lines look. Default [`LogFormat::Text`].
    pub log_format: LogFormat,
    /// Which log lines are written, as in `info` or `warn,im_engine=debug`. Default `info`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            data: "im-data".into(),
            store: Store::Sqlite,
            sync: None,
            sync_prefix: "im".to_owned(),
            restored: false,
            dev_login: DevLogin::Loopback,
            token_keys: Vec::new(),
            token_audience: None,
            token_leeway: Duration::from_secs(60),
            inbox_expiry: Duration::from_secs(7 * 24 * 3600),
            engine: im_engine::Config::default(),
            transport: WsConfig::default(),
            log_format: LogFormat::Text,
            log: "info".to_owned(),
        }
    }
}

/// Who may sign in under any name, without a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DevLogin {
    /// Browsers on this machine: only while the server listens on a loopback address and has no token keys.
    Loopback,
    /// Nobody.
    Off,
    /// Everybody who can reach the server.
    AllowAnyone,
}
