//! The engine: what a host holds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use im_core::{
    ClientMsgId, Clock, Conversation, ConversationId, DeviceId, Durability, LogInfo, Mark, Member, NodeId,
    Partition, Parts, Policy, Projection, ReadMark, Result, Seq, SessionRef, SettingsChange, StateVersion,
    UserId,
};
use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Ack, Config, ConversationView, Hello, HistoryPage, HistoryRange, IdSource, Identity, MemberChange,
    NewGroup, NewMessage, Refusal, Session, SessionSlot, StateView, Welcome,
    admission::Admissions,
    builder::{Builder, Complete},
    commit::Commit,
    config::{self, TIMES},
    epoch::Numbering,
    error::ChatResult,
    fanout::FanOut,
    hub::Hub,
    lookups::Lookups,
    marks,
    persist::Persist,
    progress::Progress,
    signal::{self, Signaller},
    switch::Switch,
    worker::Worker,
};

/// The chat engine of one server node. Cheap to clone; [`Engine::shutdown`] ends it.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What an engine runs on, for a line at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineInfo {
    /// The log's backend.
    pub log: &'static str,
    /// The store's backend.
    pub store: &'static str,
    /// The inbox's backend.
    pub inbox: &'static str,
    /// What a *logged* ack survives.
    pub logged: Durability,
    /// What a *stored* ack survives.
    pub stored: Durability,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: Complete,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) node: NodeId,
    pub(crate) partitions: u16,
    pub(crate) log_is_store: bool,
    pub(crate) dedupe_window: Option<Duration>,
    pub(crate) numbering: Arc<Numbering>,
    pub(crate) admissions: Admissions,
    pub(crate) lookups: Arc<Lookups>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) signaller: Signaller,
    pub(crate) hub: Hub,
    pub(crate) stop: CancellationToken,
    workers_stop: CancellationToken,
    intake: Mutex<Option<Intake>>,
    /// The committers and the marker.
    intake_tasks: TaskTracker,
    /// Workers, housekeeping, what sessions leave to be done.
    tasks: TaskTracker,
    /// Where the engine was started. Sessions may be dropped anywhere.
    pub(crate) runtime: Handle,
    info: EngineInfo,
}

/// The queues that take work in; dropped at shutdown, so that their tasks drain and end.
#[derive(Debug, Clone)]
struct Intake {
    commit: Arc<Commit>,
    marks: marks::Queue,
}

#[cfg(test)]
impl Engine {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    pub(crate) async fn start(builder: Builder) -> Result<Engine> {
        builder.config.check()?;
        let parts = Complete::try_from(builder.parts)?;
        config::within("presence ttl", parts.presence.ttl(), TIMES)?;
        let node = NodeId::new(builder.ids.fresh())
            .map_err(|error| crate::builder::invalid(format!("the id source gave no id: {error}")))?;
        let (log, store, inbox) =
            futures::try_join!(parts.log.log.info(), parts.store.messages.info(), parts.inbox.info())?;
        if inbox.only_log.as_ref().is_some_and(|only| *only != log.incarnation) {
            let message = format!(
                "the inbox on {} takes the records of its own log only, not those of the log on {}: give it that log, \
                 or take another inbox",
                inbox.backend, log.backend
            );
            return Err(crate::builder::invalid(message));
        }
        let numbering = Arc::new(Numbering::open(&parts).await?);
        let info = EngineInfo {
            log: log.backend,
            store: store.backend,
            inbox: inbox.backend,
            logged: log.durability,
            stored: store.durability,
        };
        let log_is_store = log.incarnation == store.incarnation;
        let LogInfo { partitions, dedupe_window, .. } = log;
        let (commit, committers) = Commit::new(&parts, &numbering, &builder.config, partitions);
        let commit = Arc::new(commit);
        let notices = parts.notifier.subscribe(&node).await;
        let (marks, marker) = marks::queue(parts.clone());
        let inner = Arc::new(Self {
            signaller: signaller(&parts, &builder.config),
            admissions: Admissions::new(builder.config.cache_entries, builder.config.admission),
            lookups: Arc::default(),
            progress: Arc::new(Progress::new()),
            hub: Hub::default(),
            stop: CancellationToken::new(),
            workers_stop: CancellationToken::new(),
            intake: Mutex::new(Some(Intake { commit: commit.clone(), marks })),
            intake_tasks: TaskTracker::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            config: builder.config,
            clock: builder.clock,
            ids: builder.ids,
            policy: builder.policy,
            parts,
            node,
            partitions,
            log_is_store,
            dedupe_window,
            numbering,
            info,
        });
        let runtime = &inner.runtime;
        committers.into_iter().for_each(|committer| drop(inner.intake_tasks.spawn_on(committer, runtime)));
        inner.intake_tasks.spawn_on(marker, runtime);
        inner.start_workers(builder.projections, &commit);
        inner.keep_house(notices);
        inner.drain_outbox();
        Ok(Engine { inner })
    }

    fn start_workers(self: &Arc<Self>, hosts: Vec<Arc<dyn Projection>>, commit: &Arc<Commit>) {
        let mut projections: Vec<Arc<dyn Projection>> = vec![Arc::new(self.fan_out(commit))];
        if !self.log_is_store {
            projections.push(Arc::new(Persist { messages: self.parts.store.messages.clone() }));
        }
        projections.extend(hosts);
        for projection in projections {
            for partition in Partition::all(self.partitions) {
                let worker = Worker {
                    projection: projection.clone(),
                    partition,
                    parts: self.parts.clone(),
                    numbering: self.numbering.clone(),
                    progress: self.progress.clone(),
                    clock: self.clock.clone(),
                    config: self.config.clone(),
                    node: self.node.clone(),
                    stop: self.workers_stop.clone(),
                };
                self.spawn(worker.run());
            }
        }
    }

    fn fan_out(&self, commit: &Arc<Commit>) -> FanOut {
        FanOut {
            signaller: signaller(&self.parts, &self.config),
            switch: Switch::new(self.config.read_diffusion_threshold, Arc::downgrade(commit)),
            parts: self.parts.clone(),
            delivery_entries: self.config.delivery_entries,
            cache_entries: self.config.cache_entries,
            known: Mutex::new(HashMap::new()),
            max_recipients: OnceCell::new(),
        }
    }

    /// Runs a task that shutdown waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Runs a task that shutdown ends.
    pub(crate) fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.workers_stop.clone();
        self.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    fn intake(&self) -> ChatResult<Intake> {
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(intake.clone().ok_or(Refusal::ShuttingDown)?)
    }

    pub(crate) fn commit(&self) -> ChatResult<Arc<Commit>> {
        Ok(self.intake()?.commit)
    }

    pub(crate) fn marks(&self) -> ChatResult<marks::Queue> {
        Ok(self.intake()?.marks)
    }

    /// How far the store lags behind the log in the partition of a conversation.
    pub(crate) async fn store_lag(&self, id: &ConversationId) -> Result<Duration> {
        let partition = Partition::of(id, self.partitions);
        let stored = self.parts.store.messages.checkpoint(partition).await?;
        let after = stored.map(|checkpoint| checkpoint.position).unwrap_or_default();
        match self.parts.log.log.read(partition, after, 1, Duration::ZERO).await? {
            im_core::LogRead::Trimmed(_) => Ok(Duration::MAX),
            im_core::LogRead::Records(next) => {
                let now = self.clock.now();
                Ok(next.first().map_or(Duration::ZERO, |next| now.since(next.record.created_at)))
            }
        }
    }

    /// The slot in which a session competes.
    pub(crate) fn slot(&self, session: &SessionRef) -> String {
        match self.config.session_slot {
            SessionSlot::User => String::new(),
            SessionSlot::Platform => format!("platform/{}", session.platform),
            SessionSlot::Device => format!("device/{}", session.device),
        }
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.hub.cells().iter().for_each(|cell| cell.drain());
        // Without senders the committers and the marker answer what waits, and end.
        drop(self.intake.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.intake_tasks.close();
        self.intake_tasks.wait().await;
        self.hub.cells().iter().for_each(|cell| cell.close(crate::CloseReason::Draining));
        self.workers_stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn signaller(parts: &Complete, config: &Config) -> Signaller {
    Signaller { parts: parts.clone(), inline_bytes: config.inline_bytes }
}

impl Engine {
    /// Begins to put an engine together from a backend, or from parts of several.
    #[must_use]
    pub fn builder(parts: impl Into<Parts>) -> Builder {
        Builder::new(parts.into())
    }

    /// What the engine runs on.
    #[must_use]
    pub fn info(&self) -> EngineInfo {
        self.inner.info
    }

    /// This node's id: a new one at every start.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// The limits and times in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Connects a session; the transport has checked who it is.
    ///
    /// # Errors
    /// [`Refusal::SessionsFull`], [`Refusal::ShuttingDown`], or a part's failure.
    pub async fn connect(&self, identity: Identity, hello: Hello) -> ChatResult<(Session, Welcome)> {
        self.inner.connect(identity, hello).await
    }

    /// Ends the sessions of a user, on whatever node: all, or those of one device. Their clients are told that they were kicked,
    /// and do not come back by themselves; that the user may not sign in again is the authenticator's to say. Returns how many
    /// sessions there were.
    ///
    /// # Errors
    /// A failure; some sessions may not have been ended.
    pub async fn end_sessions(&self, user: &UserId, device: Option<&DeviceId>) -> ChatResult<usize> {
        let parts = &self.inner.parts;
        let mut sessions =
            parts.presence.sessions(std::slice::from_ref(user)).await?.pop().unwrap_or_default();
        sessions.retain(|session| device.is_none_or(|device| session.device == *device));
        let ended = sessions.len();
        parts.notifier.notify(signal::kicks(user, sessions)).await?;
        Ok(ended)
    }

    /// Sends a message: durable in the log when this returns, in the store too if it asks for that.
    ///
    /// The host itself may send, as a user that is a member of the conversation: keep one for notices. Users need not be created.
    ///
    /// # Errors
    /// A [`Refusal`]: [`NotMember`](Refusal::NotMember), [`UnknownConversation`](Refusal::UnknownConversation),
    /// [`TooLarge`](Refusal::TooLarge), [`Invalid`](Refusal::Invalid), [`Denied`](Refusal::Denied),
    /// [`Conflict`](Refusal::Conflict), [`ClientClock`](Refusal::ClientClock), [`Overloaded`](Refusal::Overloaded); or a
    /// failure. After one whose outcome is unknown send the same message again: it is stored once.
    pub async fn send(&self, message: NewMessage) -> ChatResult<Ack> {
        self.inner.begin_send(message).await?.await
    }

    /// The SINGLE conversation of two users, created if it is not there.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] when the two are one, [`Refusal::Denied`], or a failure.
    pub async fn open_single(&self, user: &UserId, other: &UserId) -> ChatResult<Conversation> {
        self.inner.open_single(user, other).await
    }

    /// Creates a group; its creator is the owner. Returns when the members are in.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] when the id is taken, [`Refusal::Invalid`], [`Refusal::TooLarge`], [`Refusal::Denied`],
    /// [`Refusal::ClientClock`], [`Refusal::Overloaded`], or a failure. After one whose outcome is unknown create the same group
    /// again: it is created once.
    pub async fn create_group(&self, creator: &UserId, group: NewGroup) -> ChatResult<Ack> {
        self.inner.create_group(creator, group).await
    }

    /// Changes the members of a group, on behalf of a user. Returns when the change is applied.
    ///
    /// # Errors
    /// [`Refusal::NotMember`], [`Refusal::NotAllowed`], [`Refusal::UnknownConversation`], [`Refusal::Invalid`] when nobody is
    /// named, [`Refusal::TooLarge`], [`Refusal::Denied`], [`Refusal::ClientClock`], [`Refusal::Overloaded`], or a failure. After
    /// one whose outcome is unknown ask for the same again: it is done once.
    pub async fn change_members(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        client_msg_id: ClientMsgId,
        change: MemberChange,
    ) -> ChatResult<Ack> {
        self.inner.change_members(user, conversation, client_msg_id, change).await
    }

    /// A page of a conversation, as far as the user has a right to it.
    ///
    /// # Errors
    /// [`Refusal::NotMember`], [`Refusal::UnknownConversation`], [`Refusal::Behind`] when the store has not applied the range
    /// yet, [`Refusal::Overloaded`], or a failure.
    pub async fn history(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> ChatResult<HistoryPage> {
        self.inner.history(user, conversation, range).await
    }

    /// A page of the user's conversations after an id; and whether there are more.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn conversations(
        &self,
        user: &UserId,
        after: Option<ConversationId>,
        max: usize,
    ) -> ChatResult<(Vec<ConversationView>, bool)> {
        self.inner.conversations(user, None, after, max).await
    }

    /// A page of a conversation's members after a user id; for members only.
    ///
    /// # Errors
    /// [`Refusal::NotMember`], [`Refusal::UnknownConversation`], [`Refusal::Overloaded`], or a failure.
    pub async fn members(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        after: Option<UserId>,
        max: usize,
    ) -> ChatResult<Vec<Member>> {
        self.inner.members(user, conversation, after, max).await
    }

    /// Moves the user's read mark; the mark that holds now.
    ///
    /// # Errors
    /// [`Refusal::NotMember`], [`Refusal::Behind`], or a failure.
    pub async fn mark_read(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        seq: Seq,
    ) -> ChatResult<Mark> {
        let mark = ReadMark { user: user.clone(), device: None, conversation: conversation.clone(), seq };
        self.inner.mark_read(mark).await
    }

    /// Changes the user's settings of a conversation; the state version after it.
    ///
    /// # Errors
    /// [`Refusal::NotMember`], [`Refusal::TooLarge`], or a failure.
    pub async fn set(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        change: &SettingsChange,
    ) -> ChatResult<StateVersion> {
        self.inner.set(user, conversation, change).await
    }

    /// What changed in the user's own state since a version.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn state(&self, user: &UserId, since: Option<StateVersion>) -> ChatResult<StateView> {
        self.inner.state(user, None, since).await
    }

    /// Ends the engine: sessions are told to go elsewhere and closed, waiting sends are answered, projections finish their
    /// batch and give back their leases. The backends stay open: they are the host's to close.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
