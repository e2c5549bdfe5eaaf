//! Connecting, and what all parts on the servers share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{ClientLike, ClusterInterface, FredResult, LuaInterface},
    types::{
        Builder, ClusterHash, CustomCommand, MultipleKeys, Value,
        config::{Config, Options, ReconnectPolicy, UnresponsiveConfig},
        scripts::Script,
    },
};
use im_core::{Durability, Incarnation, LogPart, Parts, Result};

use crate::{
    RedisBuilder, RedisInbox, RedisLog, RedisNotifier, RedisPresence, RedisReport,
    config::Source,
    ear::Ear,
    error::{failed, invalid, is_late, is_redirected},
    keys::Keys,
    log, report,
    silence::Silence,
    wake::Wake,
};

/// How many commands may wait to be sent; whoever comes then is told that it is full.
const MOST_COMMANDS: usize = 100_000;
/// How often the client follows a redirection by itself: never. Where it asks the server that takes a slot over (`ASKING`, fred 10.1) it
/// takes the next answer on that connection for its own, and whatever else is under way there gets its neighbour's.
const REDIRECTIONS: u32 = 0;
/// How soon a command is sent again whose slot was on its way to another server.
const REDIRECTED: Duration = Duration::from_millis(20);
/// Of how many users one script touches the keys where all lie on one server: it holds everybody up for less than a millisecond.
const TOGETHER: usize = 50;
/// The least that a connection may take to be made.
const LEAST: Duration = Duration::from_millis(100);
/// How soon a broken connection is made anew: 50 ms, doubling, at most this, for ever.
const RECONNECT_MS: (u32, u32) = (50, 1000);

/// Log, inbox, presence and notifier on one set of Redis servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisBackend {
    pub(crate) inner: Arc<Inner>,
}

/// The open connections, and what was set.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    /// The connections are ours to close.
    is_own: bool,
    pub(crate) keys: Keys,
    pub(crate) report: RedisReport,
    /// Of the log.
    pub(crate) partitions: u16,
    pub(crate) expiry: Duration,
    pub(crate) inbox_entries: u32,
    pub(crate) dedupe_window: Duration,
    pub(crate) presence_ttl: Duration,
    command_timeout: Duration,
    silence: Arc<Silence>,
    pub(crate) wake: Wake,
    pub(crate) ear: Ear,
}

impl RedisBackend {
    /// Connects with the defaults of [`RedisBuilder`].
    ///
    /// # Errors
    /// See [`RedisBuilder::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url)?.open().await
    }

    /// Servers to be connected to, by a URL: `redis://user:password@host:6379`, `rediss://…` with TLS,
    /// `redis-cluster://host:port?node=host:port`, `redis-sentinel://host:port?sentinelServiceName=name`.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn builder(url: &str) -> Result<RedisBuilder> {
        RedisBuilder::of_url(url)
    }

    /// Servers to be connected to, by a configuration of fred.
    #[must_use]
    pub fn with_config(config: Config) -> RedisBuilder {
        RedisBuilder::new(Source::Config(Box::new(config)))
    }

    /// The host's own client, connected, with its timeouts and policies: without a command timeout, a bound of the buffer and a
    /// reconnect policy a server that falls silent is waited for, for ever. On a cluster it must not follow redirections by itself
    /// (`max_redirections` 0): fred 10.1 mixes answers up while a slot moves. One more connection, beside it, listens.
    #[must_use]
    pub fn with_client(client: Client) -> RedisBuilder {
        RedisBuilder::new(Source::Client(client))
    }

    pub(crate) async fn open(config: RedisBuilder) -> Result<Self> {
        let (client, is_own) = match &config.source {
            Source::Client(client) => (client.clone(), false),
            Source::Config(server) => (connect(server, config.command_timeout).await?, true),
        };
        let opened = Self::on(client.clone(), is_own, config).await;
        if opened.is_err() && is_own {
            // Nobody else would end its task.
            let _ = client.quit().await;
        }
        opened
    }

    async fn on(client: Client, is_own: bool, config: RedisBuilder) -> Result<Self> {
        if client.is_clustered() && client.connection_config().max_redirections != REDIRECTIONS {
            let why = "a client of a cluster that follows redirections mixes answers up while slots move: set its max_redirections to 0";
            return Err(invalid("open", why));
        }
        let report = report::of(&client).await?;
        if report.durability < Durability::Synced || report.has_replicas {
            tracing::warn!(
                durability = %report.durability,
                loss_window_s = report.loss_window.as_secs(),
                "an acked message may be lost: ask for stored acks where it must not be"
            );
        }
        tracing::info!(version = report.version, masters = report.masters, durability = %report.durability, "Redis");
        let keys = Keys::new(config.prefix);
        // A connection that listens has a bound of its own, whatever the host's client has.
        let server = client.client_config();
        let is_sharded = client.is_clustered() && report.has_shard_channels();
        let partitions = log::partitions(&client, &keys).await?.unwrap_or(config.partitions);
        let (ear, listening) =
            Ear::open(&server, config.command_timeout, is_sharded, keys.wake(), partitions).await?;
        let inner = Inner {
            client,
            is_own,
            keys,
            report,
            partitions,
            expiry: config.expiry,
            inbox_entries: config.inbox_entries,
            dedupe_window: config.dedupe_window,
            presence_ttl: config.presence_ttl,
            command_timeout: config.command_timeout,
            silence: Arc::default(),
            wake: Wake::new(partitions),
            ear,
        };
        let inner = Arc::new(inner);
        tokio::spawn(listening.run(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// The log with its leases.
    #[must_use]
    pub fn log(&self) -> RedisLog {
        RedisLog(self.inner.clone())
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> RedisInbox {
        RedisInbox(self.inner.clone())
    }

    /// The presence.
    #[must_use]
    pub fn presence(&self) -> RedisPresence {
        RedisPresence(self.inner.clone())
    }

    /// The notifier.
    #[must_use]
    pub fn notifier(&self) -> RedisNotifier {
        RedisNotifier(self.inner.clone())
    }

    /// What the servers are, as they said when this was opened.
    #[must_use]
    pub fn report(&self) -> &RedisReport {
        &self.inner.report
    }

    /// Closes the connections, unless they are the host's. Whatever is asked later is
    /// [`Unavailable`](im_core::ErrorKind::Unavailable).
    pub async fn close(&self) {
        self.inner.ear.close().await;
        if self.inner.is_own {
            // It is closed already.
            let _ = self.inner.client.quit().await;
        }
    }
}

async fn connect(config: &Config, timeout: Duration) -> Result<Client> {
    let client = builder(config, timeout).build().map_err(failed("open"))?;
    client.init().await.map_err(failed("open"))?;
    Ok(client)
}

/// fred's own defaults have no timeout and no bound.
pub(crate) fn builder(config: &Config, timeout: Duration) -> Builder {
    // Of a cluster nothing else is done while a server is asked who serves what, and the one asked first may be the one that is silent.
    let asking = if config.server.is_clustered() { (timeout / 5).max(LEAST) } else { timeout };
    let mut builder = Builder::from_config(config.clone());
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = timeout;
            performance.broadcast_channel_capacity = 4096;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = asking;
            connection.internal_command_timeout = asking;
            connection.max_command_buffer_len = MOST_COMMANDS;
            connection.max_redirections = REDIRECTIONS;
            connection.tcp.nodelay = Some(true);
            #[cfg(target_os = "linux")]
            {
                // Else a write to a machine that is gone is tried for a quarter of an hour.
                connection.tcp.user_timeout = Some(timeout);
            }
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(timeout), interval: timeout / 4 };
        })
        .set_policy(ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2));
    builder
}

impl Drop for Inner {
    /// The client's task would hold the connection for ever.
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.is_own, tokio::runtime::Handle::try_current()) {
            let client = self.client.clone();
            runtime.spawn(async move { client.quit().await });
        }
    }
}

impl Inner {
    /// Runs a script, which is sent as a text where the server does not know it.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub(crate) async fn run(
        &self,
        operation: &'static str,
        script: &Script,
        keys: impl Into<MultipleKeys>,
        args: Vec<Value>,
    ) -> Result<Value> {
        // Sent once: of a command that the client sends again, the answer tells of the last time only.
        let once = self.client.with_options(&Options { max_attempts: Some(1), ..Options::default() });
        let (keys, hash) = (keys.into(), script.sha1().clone());
        let over = self.gives_up();
        loop {
            let sent = self.silence.now();
            let mut answer = once.evalsha(hash.clone(), keys.clone(), args.clone()).await;
            if answer.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT")) {
                // With its text, after which this server knows it. To load it on all of them would wait for what each has under way.
                let text = script.lua().cloned().unwrap_or_default();
                answer = once.eval(text, keys.clone(), args.clone()).await;
            }
            self.listen(sent, &answer);
            if !again(&answer, over).await {
                return answer.map_err(failed(operation));
            }
        }
    }

    /// How many users' keys one script may touch: on a cluster they lie on several servers.
    pub(crate) fn together(&self) -> usize {
        if self.client.is_clustered() { 1 } else { TOGETHER }
    }

    /// Takes note of an answer. Where none comes any more our own connections are made anew.
    fn listen(&self, sent: u64, answer: &FredResult<Value>) {
        match answer {
            Ok(_) => return self.silence.heard(),
            Err(error) if is_late(error) => {}
            // The client may say so by itself, as when too much waits to be sent.
            Err(_) => return,
        }
        // The client makes a connection anew by itself that it knows to be broken.
        let is_ours = self.is_own && self.client.is_connected();
        // Other masters of a cluster may answer, and nobody counts for each when it did.
        let is_silent = self.client.is_clustered() || self.silence.lasts_since(sent);
        let Some(turn) = (is_ours && is_silent).then(|| self.silence.turn(sent)).flatten() else { return };
        let client = self.client.clone();
        tokio::spawn(async move {
            let done = if client.is_clustered() {
                tracing::warn!(
                    "a server of the Redis cluster does not answer: who serves its slots is asked for"
                );
                client.sync_cluster().await
            } else {
                tracing::warn!("Redis answers nothing any more: its connection is made anew");
                client.force_reconnection().await
            };
            if let Err(error) = done {
                tracing::warn!(%error, "Redis cannot be reached");
            }
            drop(turn);
        });
    }

    /// Until when a command is sent again that is redirected.
    fn gives_up(&self) -> Instant {
        Instant::now() + self.command_timeout
    }

    /// A command on one key.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub(crate) async fn command(
        &self,
        operation: &'static str,
        name: &'static str,
        key: impl AsRef<[u8]>,
        args: Vec<Value>,
    ) -> Result<Value> {
        let key = Value::Bytes(Bytes::copy_from_slice(key.as_ref()));
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let args: Vec<_> = std::iter::once(key).chain(args).collect();
        let over = self.gives_up();
        loop {
            let sent = self.silence.now();
            let answer = self.client.custom(command.clone(), args.clone()).await;
            self.listen(sent, &answer);
            if !again(&answer, over).await {
                return answer.map_err(failed(operation));
            }
        }
    }

    /// The identity of the data now.
    ///
    /// # Errors
    /// When a server cannot be asked.
    pub(crate) async fn incarnation(&self, operation: &'static str) -> Result<Incarnation> {
        report::incarnation(&self.client, self.keys.prefix(), operation).await
    }
}

/// Waits a little where the slot of a command was on its way to another server, which takes as long as the moving of its keys; false if
/// it was not, or it is time to give up. Whoever is redirected has done nothing.
async fn again(answer: &FredResult<Value>, over: Instant) -> bool {
    let is_redirected = answer.as_ref().is_err_and(is_redirected) && Instant::now() < over;
    if is_redirected {
        tokio::time::sleep(REDIRECTED).await;
    }
    is_redirected
}

impl From<&RedisBackend> for Parts {
    /// All but the store.
    fn from(redis: &RedisBackend) -> Self {
        Self {
            log: Some(LogPart { log: Arc::new(redis.log()), leases: Arc::new(redis.log()) }),
            store: None,
            inbox: Some(Arc::new(redis.inbox())),
            presence: Some(Arc::new(redis.presence())),
            notifier: Some(Arc::new(redis.notifier())),
        }
    }
}

impl From<RedisBackend> for Parts {
    fn from(redis: RedisBackend) -> Self {
        Self::from(&redis)
    }
}
