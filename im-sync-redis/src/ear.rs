//! What a node hears: one connection that listens for the words of other nodes, on all channels that this one needs.
//!
//! The client's own managing of subscriptions is not used: a subscriber that missed something must be told so when its channel is
//! listened on again, not before, or what is said between the two would be missing without a word.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, ClusterInterface, EventInterface, PubsubInterface},
    types::{
        ClusterHash, ClusterStateChange, ConnectHandle, Message, RespVersion,
        config::{Config, Options, Server},
    },
    util::redis_keyslot,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use im_core::{
    Error, ErrorKind, NodeId, Noticed, Partition, Result, notices,
    subscribers::{Subscribers, Subscription},
};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc, oneshot, watch,
};

use crate::{
    connect::{Inner, builder},
    error::{BACKEND, failed},
};

/// How often the connection is asked whether it still is one: a server that is cut off says no word of it.
const LOOK: Duration = Duration::from_secs(1);
const OPERATION: &str = "notifier.subscribe";

/// A channel to listen on, and who is to be told.
#[derive(Debug)]
struct Wanted {
    channel: String,
    subscription: Subscription,
    done: oneshot::Sender<Result<()>>,
}

/// What a node hears.
#[derive(Debug)]
pub(crate) struct Ear {
    lines: Lines,
    wanted: mpsc::Sender<Wanted>,
    close: watch::Sender<bool>,
    /// Of the appends of this process.
    untold: Untold,
}

/// The connection that listens, and how.
#[derive(Debug, Clone)]
struct Lines {
    client: Client,
    /// The channels of nodes are those of shards: a word for one goes over the servers of its slot alone, not over all of the cluster.
    is_sharded: bool,
    /// How long a subscription may take.
    timeout: Duration,
}

impl Lines {
    /// Listens on a channel that all servers pass on. What was said on it before this returns need not come.
    async fn listen(&self, channel: &str) -> fred::prelude::FredResult<()> {
        self.client.subscribe(channel).await?;
        // The client answers before the server does: the server has done it when it answers what comes next.
        self.ask().await
    }

    /// Listens on the channel of a node.
    async fn listen_node(&self, channel: &str) -> fred::prelude::FredResult<()> {
        // One at a time: one command for several would have several answers.
        if self.is_sharded { self.client.ssubscribe(channel).await } else { self.listen(channel).await }
    }

    async fn leave_node(&self, channel: &str) -> fred::prelude::FredResult<()> {
        if self.is_sharded {
            self.client.sunsubscribe(channel).await
        } else {
            self.client.unsubscribe(channel).await
        }
    }

    /// Whether the server that is listened on is there.
    async fn ask(&self) -> fred::prelude::FredResult<()> {
        // In a cluster all channels but those of shards are listened on at one server, chosen by the client's id.
        let slot = ClusterHash::Custom(redis_keyslot(self.client.id().as_bytes()));
        let there = Options { cluster_hash: Some(slot), ..Options::default() };
        self.client.with_options(&there).ping(None).await
    }

    /// Where channels belong to slots, asks who serves them.
    async fn look_elsewhere(&self) {
        if self.is_sharded {
            // A failure is the next look's to find.
            let _ = tokio::time::timeout(self.timeout, self.client.sync_cluster()).await;
        }
    }

    /// After a while asks, and listens again on the channels of shards: a slot that went to another server takes its listeners along
    /// only when they ask.
    async fn look(self, channels: Vec<String>) -> bool {
        tokio::time::sleep(LOOK).await;
        let mut looked = self.ask().await;
        for channel in channels.iter().filter(|_| self.is_sharded) {
            looked = looked.and(self.listen_node(channel).await);
        }
        looked.is_ok()
    }
}

/// The task that listens.
pub(crate) struct Listening {
    lines: Lines,
    wake: String,
    connection: ConnectHandle,
    messages: Receiver<Message>,
    reconnects: Receiver<Server>,
    changes: Receiver<Vec<ClusterStateChange>>,
    subscribers: Subscribers<String>,
    /// Resolve to the channels of subscribers that are gone.
    gone: FuturesUnordered<BoxFuture<'static, String>>,
    wanted: mpsc::Receiver<Wanted>,
    closed: watch::Receiver<bool>,
    /// No handle is left that could subscribe.
    is_orphan: bool,
    /// Not all channels are listened on.
    is_deaf: bool,
}

impl Ear {
    /// Connects, and listens on the channel of wakes.
    ///
    /// # Errors
    /// When the server cannot be reached or listened on.
    pub(crate) async fn open(
        config: &Config,
        timeout: Duration,
        is_sharded: bool,
        wake: String,
        partitions: u16,
    ) -> Result<(Self, Listening)> {
        let mut config = config.clone();
        // The older protocol takes no commands but those of channels on a connection that listens.
        config.version = RespVersion::RESP3;
        let client = builder(&config, timeout).build().map_err(failed("open"))?;
        let connection = client.init().await.map_err(failed("open"))?;
        // From here on: the first connection is no reconnection.
        let (reconnects, changes) = (client.reconnect_rx(), client.cluster_change_rx());
        let messages = client.message_rx();
        let lines = Lines { client, is_sharded, timeout };
        lines.listen(&wake).await.map_err(failed("open"))?;
        let (wanted, receiver) = mpsc::channel(16);
        let (close, closed) = watch::channel(false);
        let listening = Listening {
            lines: lines.clone(),
            wake,
            connection,
            messages,
            reconnects,
            changes,
            subscribers: Subscribers::default(),
            gone: FuturesUnordered::new(),
            wanted: receiver,
            closed,
            is_orphan: false,
            is_deaf: false,
        };
        Ok((Self { lines, wanted, close, untold: Untold::new(partitions) }, listening))
    }

    /// Subscribes to a channel; returns when it is listened on.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or the backend was closed.
    pub(crate) async fn subscribe(&self, channel: String) -> Result<mpsc::Receiver<Noticed>> {
        let failed = |kind, why: &str| Error::new(kind, BACKEND, OPERATION, why);
        let closed = || failed(ErrorKind::Unavailable, "the backend was closed");
        let (subscription, receiver) = Subscription::new();
        let (done, listened) = oneshot::channel();
        let listen = async {
            self.wanted.send(Wanted { channel, subscription, done }).await.map_err(|_| closed())?;
            listened.await.map_err(|_| closed())?
        };
        // While there is no connection everybody waits in a row.
        let late = |_| Err(failed(ErrorKind::Timeout, "no connection can be had to listen on"));
        tokio::time::timeout(self.lines.timeout * 2, listen).await.unwrap_or_else(late)?;
        Ok(receiver)
    }

    /// Whether the channels of nodes are those of shards.
    pub(crate) fn is_sharded(&self) -> bool {
        self.lines.is_sharded
    }

    /// Ends all subscriptions, and the connection.
    pub(crate) async fn close(&self) {
        self.close.send_replace(true);
        // It is closed already.
        let _ = self.lines.client.quit().await;
    }
}

impl Listening {
    /// Listens until the backend is closed, or the last handle and the last receiver are gone.
    pub(crate) async fn run(mut self, inner: Weak<Inner>) {
        let mut look = self.look();
        loop {
            tokio::select! {
                biased;
                () = until_closed(&mut self.closed) => break,
                wanted = self.wanted.recv(), if !self.is_orphan => match wanted {
                    Some(wanted) => self.listen(&inner, wanted).await,
                    None => self.is_orphan = true,
                },
                // Before what follows: what was said before a break comes before the word of it.
                heard = self.messages.recv() => match heard {
                    Ok(message) => self.pass_on(&inner, &message),
                    Err(RecvError::Lagged(_)) => self.missed(&inner),
                    Err(RecvError::Closed) => break,
                },
                again = self.reconnects.recv() => match again {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.listen_again(&inner).await,
                    Err(RecvError::Closed) => break,
                },
                moved = self.changes.recv() => match moved {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.listen_again(&inner).await,
                    Err(RecvError::Closed) => break,
                },
                Some(channel) = self.gone.next(), if !self.gone.is_empty() => self.retire(&channel).await,
                is_well = &mut look => {
                    if self.is_deaf {
                        self.lines.look_elsewhere().await;
                        self.listen_again(&inner).await;
                    } else if !is_well {
                        tracing::debug!("the connection that listens does not answer");
                        // A channel of a slot may be another server's by now.
                        self.is_deaf = self.lines.is_sharded;
                    }
                    look = self.look();
                }
                ended = &mut self.connection => {
                    tracing::warn!(?ended, "the connection that listens ended; again in {LOOK:?}");
                    self.connect_again(&inner).await;
                }
            }
            if self.is_orphan && self.subscribers.is_empty() {
                break;
            }
        }
        // It is closed already.
        let _ = self.lines.client.quit().await;
    }

    fn look(&self) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        self.lines.clone().look(self.subscribers.keys().cloned().collect()).boxed()
    }

    async fn listen(&mut self, inner: &Weak<Inner>, wanted: Wanted) {
        let Wanted { channel, subscription, done } = wanted;
        let listened = self.lines.listen_node(&channel).await;
        // What was said before is for those who were there, not for the new subscriber.
        for _ in 0..self.messages.len() {
            match self.messages.try_recv() {
                Ok(message) => self.pass_on(inner, &message),
                Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => self.missed(inner),
                Err(_) => break,
            }
        }
        if listened.is_ok() {
            let (closed, name) = (subscription.closed(), channel.clone());
            self.gone.push(closed.map(|()| name).boxed());
            self.subscribers.add(channel, subscription);
        } else if !self.subscribers.contains(&channel) {
            // The server may have done it all the same.
            let _ = self.lines.leave_node(&channel).await;
        }
        // Who does not wait any more has dropped its receiver.
        let _ = done.send(listened.map_err(failed(OPERATION)));
    }

    /// Listens on all channels again, then tells that something may be missing.
    async fn listen_again(&mut self, inner: &Weak<Inner>) {
        let mut listened = self.lines.listen(&self.wake).await;
        for channel in self.subscribers.keys() {
            listened = listened.and(self.lines.listen_node(channel).await);
        }
        self.is_deaf = listened.is_err();
        if let Err(error) = listened {
            tracing::warn!(%error, "other nodes are not heard; again in {LOOK:?}");
        }
        self.missed(inner);
    }

    /// The client gave up by itself, as it does for an error that it thinks lasts.
    async fn connect_again(&mut self, inner: &Weak<Inner>) {
        tokio::time::sleep(LOOK).await;
        self.connection = self.lines.client.connect();
        self.missed(inner);
    }

    async fn retire(&mut self, channel: &str) {
        if self.subscribers.retire(channel)
            && let Err(error) = self.lines.leave_node(channel).await
        {
            tracing::debug!(%error, "a channel is still listened on; what is said on it is for nobody");
        }
    }

    fn missed(&mut self, inner: &Weak<Inner>) {
        self.subscribers.lag_all();
        if let Some(inner) = inner.upgrade() {
            inner.wake.wake_all();
        }
    }

    fn pass_on(&mut self, inner: &Weak<Inner>, message: &Message) {
        let payload = message.value.as_bytes().unwrap_or_default();
        if *message.channel == *self.wake {
            let Some(inner) = inner.upgrade() else { return };
            for number in payload.as_chunks().0 {
                inner.wake.wake(Partition(u16::from_be_bytes(*number)));
            }
            return;
        }
        match notices::decode(payload) {
            Ok(notices) => notices.into_iter().for_each(|notice| {
                // Nobody may be there any more.
                let _ = self.subscribers.tell(&*message.channel, notice);
            }),
            Err(error) => {
                tracing::warn!(%error, "a word of another node is not understood");
                self.subscribers.lag(&*message.channel);
            }
        }
    }
}

/// Where no handle is left to close it, it never is.
async fn until_closed(closed: &mut watch::Receiver<bool>) {
    if closed.wait_for(|closed| *closed).await.is_err() {
        std::future::pending().await
    }
}

/// Which partitions moved while other nodes were being told of them.
#[derive(Debug)]
struct Untold(Mutex<Vec<Telling>>);

/// What is under way for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    Nothing,
    UnderWay,
    /// Once more after what is under way.
    Again,
}

impl Untold {
    fn new(partitions: u16) -> Self {
        Self(Mutex::new(vec![Telling::Nothing; usize::from(partitions)]))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Telling>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a telling has to begin.
    fn begin(&self, partition: Partition) -> bool {
        let mut all = self.lock();
        let Some(telling) = all.get_mut(usize::from(partition.0)) else { return false };
        let begins = *telling == Telling::Nothing;
        *telling = if begins { Telling::UnderWay } else { Telling::Again };
        begins
    }

    /// Whether it has to be told once more.
    fn end(&self, partition: Partition) -> bool {
        let mut all = self.lock();
        let Some(telling) = all.get_mut(usize::from(partition.0)) else { return false };
        let again = *telling == Telling::Again;
        *telling = if again { Telling::UnderWay } else { Telling::Nothing };
        again
    }
}

impl Inner {
    /// Records were appended here: wakes this process's readers now, and tells the other nodes in the background, not more often than one
    /// telling takes. Needs a runtime of tokio.
    pub(crate) fn appended(self: &Arc<Self>, partition: Partition) {
        self.wake.wake(partition);
        if self.ear.untold.begin(partition) {
            tokio::spawn(tell(self.clone(), partition));
        }
    }

    /// Says something on the channel of a node.
    ///
    /// # Errors
    /// When it may not have been said.
    pub(crate) async fn say(&self, node: &NodeId, payload: bytes::Bytes) -> Result<()> {
        // Never said twice: what may have been said already is given up with its connection.
        let once = Options { max_attempts: Some(1), ..Options::default() };
        let (client, channel) = (self.client.with_options(&once), self.keys.notices(node));
        let said = if self.ear.is_sharded() {
            client.spublish::<(), _, _>(channel, payload).await
        } else {
            client.publish::<(), _, _>(channel, payload).await
        };
        said.map_err(failed("notifier.notify"))
    }
}

async fn tell(inner: Arc<Inner>, partition: Partition) {
    loop {
        let payload = bytes::Bytes::copy_from_slice(&partition.0.to_be_bytes());
        if let Err(error) = inner.client.publish::<(), _, _>(inner.keys.wake(), payload).await {
            tracing::debug!(%error, "other nodes were not told of new records; they look by themselves");
        }
        if !inner.ear.untold.end(partition) {
            return;
        }
    }
}
