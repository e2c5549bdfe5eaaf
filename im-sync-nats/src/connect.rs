//! Connecting, and what all parts on the server share.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, connection::State};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::StreamExt;
use im_core::{ErrorKind, NodeId, Parts, Result};
use tokio::sync::{mpsc, watch};

use crate::{
    NatsNotifier, NatsReport,
    error::{away, invalid, late, not_connected, not_flushed, not_published, not_subscribed},
    report,
};

/// How many messages wait for a subscription of ours before some are dropped, and it is told.
const WAITING: usize = 1024;

/// The parts of a chat on one NATS server or cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsBackend {
    pub(crate) inner: Arc<Inner>,
}

/// The open connection, and what was set.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    prefix: String,
    pub(crate) report: NatsReport,
    timeout: Duration,
    /// Counts the times after which messages may be missing.
    gaps: watch::Sender<u64>,
}

/// How a backend is opened.
pub struct NatsBuilder {
    url: String,
    options: ConnectOptions,
    prefix: String,
    timeout: Duration,
}

impl fmt::Debug for NatsBuilder {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl NatsBuilder {
    /// How to sign in, and with which certificates: [`ConnectOptions`] of async-nats. Its timeouts, capacities and the callback for events are
    /// the backend's.
    #[must_use]
    pub fn options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// How the names of all subjects begin: letters, digits, `-` and `_`; `im` by default. Two chats on one server have two.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long an answer may take, 100 ms – 5 min; 5 s by default.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Invalid`](im_core::ErrorKind::Invalid) for a setting out of range, a URL that cannot be read or a server before 2.9;
    /// [`Denied`](im_core::ErrorKind::Denied) for a wrong password or certificate; what the connection says.
    pub async fn open(self) -> Result<NatsBackend> {
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(named) {
            return Err(invalid("open", "a prefix is 1 to 64 letters, digits, - and _"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(300)).contains(&self.timeout) {
            return Err(invalid("open", "an answer may take 100 ms to 5 min"));
        }
        let (say, events) = mpsc::unbounded_channel();
        let servers = self.url.split(',').map(str::parse).collect::<std::io::Result<Vec<ServerAddr>>>();
        let servers = servers.map_err(|error| invalid("open", error.to_string()))?;
        let options = signed_in(self.options, servers.first());
        let options = options
            .connection_timeout(self.timeout)
            .request_timeout(Some(self.timeout))
            // A connection that is dead without a word is found in twice that.
            .ping_interval(self.timeout)
            .subscription_capacity(WAITING)
            .event_callback(move |event| {
                // Nobody listens once it is closed.
                let _ = say.send(event);
                async {}
            });
        let client = options.connect(servers).await.map_err(|error| not_connected(&error))?;
        let report = report::of(&client.server_info())?;
        tracing::info!(version = report.version, max_payload = report.max_payload, "NATS");
        let inner = Arc::new(Inner {
            client,
            prefix: self.prefix,
            report,
            timeout: self.timeout,
            gaps: watch::Sender::new(0),
        });
        tokio::spawn(watch_over(Arc::downgrade(&inner), events));
        Ok(NatsBackend { inner })
    }
}

/// With what the URL says of the user; the client by itself passes over it.
fn signed_in(options: ConnectOptions, server: Option<&ServerAddr>) -> ConnectOptions {
    let Some(user) = server.and_then(ServerAddr::username) else { return options };
    match server.and_then(ServerAddr::password) {
        Some(password) => options.user_and_password(user.to_owned(), password.to_owned()),
        None => options.token(user.to_owned()),
    }
}

/// Tells of gaps until the connection is closed.
async fn watch_over(inner: std::sync::Weak<Inner>, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut was_away = false;
    while let Some(event) = events.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        match event {
            Event::Disconnected => {
                tracing::warn!("the connection to NATS is lost");
                was_away = true;
            }
            Event::Connected if was_away => {
                tracing::info!("connected to NATS again");
                was_away = false;
                // What is told before the server hears of our subscriptions would be missing without a word. Where the connection is
                // lost again, the next one is waited for.
                while let Err(error) = inner.round_trip("notifier.subscribe").await {
                    if error.kind() != ErrorKind::Timeout || !events.is_empty() {
                        break;
                    }
                }
                inner.gaps.send_modify(|gaps| *gaps += 1);
            }
            Event::SlowConsumer(_) => inner.gaps.send_modify(|gaps| *gaps += 1),
            Event::ServerError(error) => tracing::warn!(%error, "NATS"),
            Event::ClientError(error) => tracing::warn!(%error, "NATS"),
            Event::LameDuckMode => tracing::info!("the NATS server is going to stop"),
            _ => {}
        }
    }
}

impl NatsBackend {
    /// Connects with the defaults of [`NatsBuilder`].
    ///
    /// # Errors
    /// See [`NatsBuilder::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).open().await
    }

    /// A server to be connected to, by a URL: `nats://user:password@host:4222`, `nats://token@host`, `tls://…`; several with commas in between.
    #[must_use]
    pub fn builder(url: &str) -> NatsBuilder {
        NatsBuilder {
            url: url.to_owned(),
            options: ConnectOptions::new(),
            prefix: "im".into(),
            timeout: Duration::from_secs(5),
        }
    }

    /// The notifier.
    #[must_use]
    pub fn notifier(&self) -> NatsNotifier {
        NatsNotifier(self.inner.clone())
    }

    /// What the server is.
    #[must_use]
    pub fn report(&self) -> &NatsReport {
        &self.inner.report
    }

    /// Closes the connection. All subscriptions end.
    pub async fn close(&self) {
        // It is closed already.
        let _ = self.inner.client.drain().await;
    }
}

impl Inner {
    /// The subject of what a node should know.
    pub(crate) fn notices(&self, node: &NodeId) -> String {
        format!("{}.notices.{}", self.prefix, BASE64_URL_SAFE_NO_PAD.encode(node.as_str()))
    }

    pub(crate) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// Publishes, and waits until it is written.
    ///
    /// # Errors
    /// When it may not have been.
    pub(crate) async fn publish(
        &self,
        operation: &'static str,
        subject: String,
        payloads: impl IntoIterator<Item = Bytes> + Send,
    ) -> Result<()> {
        // Else it would wait in the client, and be told when nobody needs it any more.
        if self.client.connection_state() != State::Connected {
            return Err(away(operation));
        }
        for payload in payloads {
            let published = self.client.publish(subject.clone(), payload);
            self.within(operation, published).await?.map_err(|error| not_published(operation, &error))?;
        }
        self.within(operation, self.client.flush()).await?.map_err(|error| not_flushed(operation, &error))
    }

    pub(crate) async fn subscribe(
        &self,
        operation: &'static str,
        subject: String,
    ) -> Result<async_nats::Subscriber> {
        let subscriber =
            self.client.subscribe(subject).await.map_err(|error| not_subscribed(operation, &error))?;
        self.round_trip(operation).await?;
        Ok(subscriber)
    }

    /// Waits until the server has done what was said to it before.
    async fn round_trip(&self, operation: &'static str) -> Result<()> {
        let subject = self.client.new_inbox();
        let subscribed = self.client.subscribe(subject.clone()).await;
        let mut answers = subscribed.map_err(|error| not_subscribed(operation, &error))?;
        // Also where there is no connection yet: it is sent behind the subscriptions then.
        let published = self.within(operation, self.client.publish(subject, Bytes::new())).await?;
        published.map_err(|error| not_published(operation, &error))?;
        self.within(operation, answers.next()).await?.map(drop).ok_or_else(|| away(operation))
    }

    async fn within<T>(&self, operation: &'static str, work: impl Future<Output = T> + Send) -> Result<T> {
        tokio::time::timeout(self.timeout, work).await.map_err(|_| late(operation))
    }
}

impl From<&NatsBackend> for Parts {
    /// The notifier.
    fn from(nats: &NatsBackend) -> Self {
        Self { notifier: Some(Arc::new(nats.notifier())), ..Self::default() }
    }
}
