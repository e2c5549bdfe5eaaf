//! In-memory reference backends: every contract in its plainest form, and honest about what real backends do to it.
//!
//! They keep nothing beyond the process, but within it they show what the contracts allow: entries expire, keys are forgotten
//! after the dedupe window, and each part can [lose its tail](MemoryLog::lose_tail) and come back as another incarnation.
//! Handles are cheap to clone and share their data, so that several engines on one [`Memory`] are several nodes.
//!
//! Nothing here is random and no order comes from a hash map: with a [name](MemoryBuilder::name) and a clock of the runtime
//! the same calls give the same answers, byte for byte.
//!
//! ```
//! use im_core::{Parts, memory::Memory};
//!
//! let memory = Memory::builder().partitions(4).build();
//! let one_node = Parts::from(&memory);
//! let another_node = Parts::from(&memory);
//! # assert!(one_node.log.is_some() && another_node.store.is_some());
//! ```

mod conversations;
mod inbox;
mod leases;
mod log;
mod notifier;
mod presence;
mod store;
mod tables;
mod user_state;

pub use inbox::MemoryInbox;
pub use log::MemoryLog;
pub use notifier::MemoryNotifier;
pub use presence::MemoryPresence;
pub use store::MemoryStore;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{Clock, Error, ErrorKind, Incarnation, LogPart, Parts, StorePart, SystemClock, TokioClock};

const BACKEND: &str = "memory";

/// All five parts in the memory of this process.
#[derive(Debug, Clone)]
pub struct Memory {
    log: MemoryLog,
    store: MemoryStore,
    inbox: MemoryInbox,
    presence: MemoryPresence,
    notifier: MemoryNotifier,
}

impl Memory {
    /// Parts with the defaults of [`MemoryBuilder`].
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Parts to be set up.
    #[must_use]
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// The log with its leases.
    #[must_use]
    pub fn log(&self) -> MemoryLog {
        self.log.clone()
    }

    /// The store with conversations and user state.
    #[must_use]
    pub fn store(&self) -> MemoryStore {
        self.store.clone()
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> MemoryInbox {
        self.inbox.clone()
    }

    /// The presence.
    #[must_use]
    pub fn presence(&self) -> MemoryPresence {
        self.presence.clone()
    }

    /// The notifier.
    #[must_use]
    pub fn notifier(&self) -> MemoryNotifier {
        self.notifier.clone()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&Memory> for Parts {
    fn from(memory: &Memory) -> Self {
        let (log, store) = (Arc::new(memory.log()), Arc::new(memory.store()));
        Self {
            log: Some(LogPart { log: log.clone(), leases: log }),
            store: Some(StorePart {
                messages: store.clone(),
                conversations: store.clone(),
                states: store,
                outbox: None,
            }),
            inbox: Some(Arc::new(memory.inbox())),
            presence: Some(Arc::new(memory.presence())),
            notifier: Some(Arc::new(memory.notifier())),
        }
    }
}

impl From<Memory> for Parts {
    fn from(memory: Memory) -> Self {
        Self::from(&memory)
    }
}

/// Sets up a [`Memory`].
#[derive(Debug, Clone)]
pub struct MemoryBuilder {
    partitions: u16,
    dedupe_window: Option<Duration>,
    expiry: Duration,
    loss_window: Duration,
    presence_ttl: Duration,
    clock: Option<Arc<dyn Clock>>,
    name: Option<String>,
}

impl Default for MemoryBuilder {
    fn default() -> Self {
        Self {
            partitions: 1,
            dedupe_window: None,
            expiry: Duration::from_secs(7 * 24 * 3600),
            loss_window: Duration::from_secs(60),
            presence_ttl: Duration::from_secs(30),
            clock: None,
            name: None,
        }
    }
}

impl MemoryBuilder {
    /// The number of log partitions; default and least 1.
    #[must_use]
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions.max(1);
        self
    }

    /// How long the log remembers send keys; default none: for ever, and then nothing is ever trimmed.
    #[must_use]
    pub fn dedupe_window(mut self, window: Option<Duration>) -> Self {
        self.dedupe_window = window;
        self
    }

    /// How long inbox entries are kept; default 7 days.
    #[must_use]
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// How much each part says that it may lose with an incarnation; default 60 s. `lose_tail` does not check it.
    #[must_use]
    pub fn loss_window(mut self, window: Duration) -> Self {
        self.loss_window = window;
        self
    }

    /// How long a node may be silent before its sessions are gone; default 30 s.
    #[must_use]
    pub fn presence_ttl(mut self, ttl: Duration) -> Self {
        self.presence_ttl = ttl;
        self
    }

    /// The clock, also for leases and presence; default a [`TokioClock`] that starts at the system's time, so that paused
    /// time works.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// What the incarnations are named after; default a fresh UUID. It must be unique among the parts in use: give one only
    /// where a run has to repeat exactly.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The parts, empty.
    #[must_use]
    pub fn build(self) -> Memory {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::starting_at(SystemClock.now())));
        let name = self.name.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let names = |part| Names { base: format!("{name}-{part}"), taken: 0 };
        Memory {
            log: MemoryLog::new(
                names("log"),
                self.partitions,
                self.dedupe_window,
                self.loss_window,
                clock.clone(),
            ),
            store: MemoryStore::new(names("store"), self.loss_window, clock.clone()),
            inbox: MemoryInbox::new(names("inbox"), self.expiry, self.loss_window, clock.clone()),
            presence: MemoryPresence::new(self.presence_ttl, clock),
            notifier: MemoryNotifier::new(),
        }
    }
}

/// Names the incarnations of one part, one after the other.
#[derive(Debug)]
struct Names {
    base: String,
    taken: u64,
}

impl Names {
    fn next(&mut self) -> Incarnation {
        self.taken += 1;
        Incarnation::new(format!("{}-{}", self.base, self.taken))
    }
}

/// A panic elsewhere leaves nothing half done here: every change happens after its last check.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn other_incarnation(operation: &'static str, given: &Incarnation, present: &Incarnation) -> Error {
    let message = format!("made under incarnation {given:?}, the present one is {present:?}");
    Error::new(ErrorKind::OtherIncarnation, BACKEND, operation, message)
}

fn invalid(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, operation, message)
}
