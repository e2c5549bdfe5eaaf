//! What a node hears: one connection that listens for the words of other nodes, on all channels that this one needs.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use im_core::{
    Error, ErrorKind, Notice, Noticed, Result,
    subscribers::{Subscribers, Subscription},
};
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tokio::sync::{mpsc, oneshot};

use crate::{
    connect::Inner,
    error::{BACKEND, failed},
    notices,
    pool::Pool,
};

/// How often everybody looks without having heard anything: a word may be lost with its connection.
const LOOK: Duration = Duration::from_millis(500);
/// After how many silent looks the connection is asked whether it still is one: a server that is cut off says no word of it.
const ASK_AFTER: u32 = 2;
/// How long its answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// The pause after a lost connection.
const PAUSE: Duration = Duration::from_millis(500);
const OPERATION: &str = "notifier.subscribe";

/// Who is told what is heard, by channel.
#[derive(Debug, Default)]
struct Shared(Mutex<Subscribers<String>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Subscribers<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel to listen on, and who is to be told.
struct Wanted {
    channel: String,
    subscription: Subscription,
    done: oneshot::Sender<Result<()>>,
}

/// What a node hears.
#[derive(Debug)]
pub(crate) struct Ear {
    subscribers: Arc<Shared>,
    wanted: mpsc::Sender<Wanted>,
}

/// The way to the task that listens.
#[derive(Debug)]
pub(crate) struct Listening {
    subscribers: Arc<Shared>,
    wanted: mpsc::Receiver<Wanted>,
    /// No handle is left that could subscribe.
    is_orphan: bool,
}

impl Ear {
    pub(crate) fn new() -> (Self, Listening) {
        let (subscribers, (wanted, receiver)) = (Arc::<Shared>::default(), mpsc::channel(16));
        (
            Self { subscribers: subscribers.clone(), wanted },
            Listening { subscribers, wanted: receiver, is_orphan: false },
        )
    }

    /// Tells a subscriber of this process; the notice comes back where there is none.
    pub(crate) fn tell_here(&self, channel: &str, notice: Notice) -> Option<Notice> {
        self.subscribers.lock().tell(channel, notice)
    }

    /// Subscribes to a channel; returns when it is listened on.
    pub(crate) async fn subscribe(&self, channel: String) -> Result<mpsc::Receiver<Noticed>> {
        let gone = || Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, "the database was closed");
        let (subscription, receiver) = Subscription::new();
        let (done, listened) = oneshot::channel();
        self.wanted.send(Wanted { channel, subscription, done }).await.map_err(|_| gone())?;
        listened.await.map_err(|_| gone())??;
        Ok(receiver)
    }
}

impl Listening {
    /// Listens until the last handle and the last receiver are gone.
    pub(crate) async fn run(mut self, inner: Weak<Inner>, pool: Pool, log: String) {
        loop {
            let ended = match connect(&pool, &log, &self.subscribers).await {
                Ok(mut listener) => {
                    // What was said meanwhile was not heard.
                    self.subscribers.lock().lag_all();
                    wake_all(&inner);
                    self.hear(&inner, &pool, &mut listener, &log).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return,
                Err(_) if pool.connections().is_closed() => return,
                Err(error) => tracing::warn!(%error, "other nodes are not heard; again in {PAUSE:?}"),
            }
            self.refuse_for_a_while().await;
            wake_all(&inner);
            self.is_orphan = self.wanted.is_closed();
            if self.is_over() {
                return;
            }
        }
    }

    /// Whoever wants to subscribe while nothing can be heard is told so.
    async fn refuse_for_a_while(&mut self) {
        let over = tokio::time::Instant::now() + PAUSE;
        while let Ok(Some(wanted)) = tokio::time::timeout_at(over, self.wanted.recv()).await {
            let message = "no connection can be had to listen on";
            let error = Error::new(ErrorKind::Unavailable, BACKEND, OPERATION, message);
            let _ = wanted.done.send(Err(error));
        }
        tokio::time::sleep_until(over).await;
    }

    /// Whether nobody listens any more, and nobody will.
    fn is_over(&self) -> bool {
        if !self.is_orphan {
            return false;
        }
        let mut subscribers = self.subscribers.lock();
        subscribers.retire_all();
        subscribers.is_empty()
    }

    /// Passes words on until the connection breaks, or nobody listens any more.
    async fn hear(
        &mut self,
        inner: &Weak<Inner>,
        pool: &Pool,
        listener: &mut PgListener,
        log: &str,
    ) -> sqlx::Result<()> {
        let mut silent = 0;
        let mut closed = pin!(pool.connections().close_event());
        loop {
            tokio::select! {
                biased;
                () = &mut closed => return Err(sqlx::Error::PoolClosed),
                wanted = self.wanted.recv(), if !self.is_orphan => match wanted {
                    Some(wanted) => self.listen(inner, listener, log, wanted).await?,
                    None => self.is_orphan = true,
                },
                heard = tokio::time::timeout(LOOK, listener.try_recv()) => match heard {
                    Ok(heard) => {
                        let word = heard?.ok_or_else(lost)?;
                        silent = 0;
                        pool.has_answered();
                        self.pass_on(inner, &word, log);
                    }
                    Err(_) => {
                        silent += 1;
                        wake_all(inner);
                        if silent % ASK_AFTER == 0 {
                            ask(listener).await?;
                            pool.has_answered();
                        }
                    }
                },
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }

    async fn listen(
        &self,
        inner: &Weak<Inner>,
        listener: &mut PgListener,
        log: &str,
        wanted: Wanted,
    ) -> sqlx::Result<()> {
        let Wanted { channel, subscription, done } = wanted;
        match self.listen_to(inner, listener, log, &channel).await {
            Ok(()) => {
                self.subscribers.lock().add(channel, subscription);
                let _ = done.send(Ok(()));
                Ok(())
            }
            Err(error) => {
                let message = error.to_string();
                let _ = done.send(Err(failed(OPERATION)(error)));
                Err(sqlx::Error::Protocol(message))
            }
        }
    }

    /// Listens on one channel more. What was said before is passed on: it is not for the new subscriber.
    async fn listen_to(
        &self,
        inner: &Weak<Inner>,
        listener: &mut PgListener,
        log: &str,
        channel: &str,
    ) -> sqlx::Result<()> {
        let is_known = self.subscribers.lock().contains(channel);
        if is_known {
            // What was said before this goes out comes before its answer.
            ask(listener).await?;
        } else {
            in_time(listener.listen(channel)).await?;
        }
        while let Ok(heard) = tokio::time::timeout(Duration::ZERO, listener.try_recv()).await {
            self.pass_on(inner, &heard?.ok_or_else(lost)?, log);
        }
        Ok(())
    }

    fn pass_on(&self, inner: &Weak<Inner>, word: &PgNotification, log: &str) {
        if word.channel() == log {
            if let (Some(inner), Ok(partition)) = (inner.upgrade(), word.payload().parse()) {
                inner.wake.wake(partition);
            }
            return;
        }
        let heard = notices::decode(word.payload());
        let mut subscribers = self.subscribers.lock();
        match heard {
            Some(notices) => notices.into_iter().for_each(|notice| {
                // Nobody may be there any more.
                let _ = subscribers.tell(word.channel(), notice);
            }),
            None => subscribers.lag(word.channel()),
        }
    }
}

fn wake_all(inner: &Weak<Inner>) {
    inner.upgrade().into_iter().for_each(|inner| inner.wake.wake_all());
}

/// Whether the server is still there.
async fn ask(listener: &mut PgListener) -> sqlx::Result<()> {
    in_time(sqlx::query("SELECT 1").execute(listener)).await.map(drop)
}

async fn in_time<T>(answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(lost()))
}

fn lost() -> sqlx::Error {
    sqlx::Error::Protocol("the connection that listens was lost".to_owned())
}

async fn connect(pool: &Pool, log: &str, subscribers: &Shared) -> sqlx::Result<PgListener> {
    // A pool of its own, and another one each time: a connection that is dead without a word never comes back.
    let options = PgConnectOptions::clone(&pool.connections().connect_options());
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(ANSWER)
        .connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&own).await?;
    // Nobody would see a connection change that is made inside: its wait is given up now and then, and begun again.
    listener.eager_reconnect(false);
    let channels: Vec<String> = {
        let mut subscribers = subscribers.lock();
        subscribers.retire_all();
        subscribers.keys().cloned().collect()
    };
    in_time(listener.listen_all(channels.iter().map(String::as_str).chain([log]))).await?;
    Ok(listener)
}
