//! Putting an engine together.

use std::sync::Arc;

use im_core::{
    Clock, ErrorKind, LogPart, Notifier, Open, Parts, Policy, Presence, Projection, StorePart, SyncInbox,
    SystemClock,
};

use crate::{Config, Engine, IdSource, engine::Inner, ids::Uuids};

/// Puts an engine together; see [`Engine::builder`].
#[derive(Debug)]
pub struct Builder {
    pub(crate) parts: Parts,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) projections: Vec<Arc<dyn Projection>>,
}

impl Builder {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            config: Config::default(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(Uuids),
            policy: Arc::new(Open),
            projections: Vec::new(),
        }
    }

    /// Another log than that of the first backend.
    #[must_use]
    pub fn log(mut self, log: LogPart) -> Self {
        self.parts.log = Some(log);
        self
    }

    /// Another store.
    #[must_use]
    pub fn store(mut self, store: StorePart) -> Self {
        self.parts.store = Some(store);
        self
    }

    /// Another inbox.
    #[must_use]
    pub fn inbox(mut self, inbox: Arc<dyn SyncInbox>) -> Self {
        self.parts.inbox = Some(inbox);
        self
    }

    /// Another presence.
    #[must_use]
    pub fn presence(mut self, presence: Arc<dyn Presence>) -> Self {
        self.parts.presence = Some(presence);
        self
    }

    /// Another notifier.
    #[must_use]
    pub fn notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.parts.notifier = Some(notifier);
        self
    }

    /// Limits and times. Default: [`Config::default`].
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What members may do. Default: [`Open`].
    #[must_use]
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// The clock. Default: [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The source of ids. Default: UUIDs of version 7.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// A projection of the host's own: it follows the log from its own checkpoint.
    #[must_use]
    pub fn projection(mut self, projection: Arc<dyn Projection>) -> Self {
        self.projections.push(projection);
        self
    }

    /// Checks the parts, takes the log's epoch and starts the workers on the current tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names a part that is missing or a limit that makes no sense; other errors are those of the
    /// backends.
    pub async fn start(self) -> im_core::Result<Engine> {
        Inner::start(self).await
    }
}

/// The parts, all there.
#[derive(Debug, Clone)]
pub(crate) struct Complete {
    pub(crate) log: LogPart,
    pub(crate) store: StorePart,
    pub(crate) inbox: Arc<dyn SyncInbox>,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) notifier: Arc<dyn Notifier>,
}

impl TryFrom<Parts> for Complete {
    type Error = im_core::Error;

    fn try_from(parts: Parts) -> im_core::Result<Self> {
        fn there<T>(part: Option<T>, name: &str) -> im_core::Result<T> {
            part.ok_or_else(|| invalid(format!("no backend supplies the {name}")))
        }
        Ok(Self {
            log: there(parts.log, "log")?,
            store: there(parts.store, "store")?,
            inbox: there(parts.inbox, "inbox")?,
            presence: there(parts.presence, "presence")?,
            notifier: there(parts.notifier, "notifier")?,
        })
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> im_core::Error {
    im_core::Error::new(ErrorKind::Invalid, "engine", "start", message)
}
