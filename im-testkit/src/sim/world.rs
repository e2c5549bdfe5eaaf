//! What the nodes and clients of a simulation share.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use im_core::{
    Clock, ConversationId, MessageLog, MessageStore, Partition, Parts, Position, SendKey, Timestamp,
    TokioClock, UserId,
    memory::{Memory, MemoryInbox, MemoryLog, MemoryStore},
};
use im_core::{ConversationStore, SyncInbox};
use im_engine::{Config, Engine, IdSource};

use super::Plan;
use crate::{
    checker::Event,
    fault::{Faults, Odds},
    joined::Join,
};

/// How long the clients may take to become quiet once nothing goes wrong any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) log: MemoryLog,
    pub(super) store: MemoryStore,
    pub(super) inbox: MemoryInbox,
    memory: Memory,
    join: Join,
    ids: Arc<Counting>,
    clock: Arc<dyn Clock>,
    nodes: Mutex<Vec<Node>>,
    history: Mutex<Vec<Event>>,
    /// Clients write no more and only catch up.
    pub(super) quiet: AtomicBool,
    lives: AtomicU64,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) faults: Faults,
}

/// Ids by counting, so that a seed replays.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl IdSource for Counting {
    fn fresh(&self) -> String {
        format!("id{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) async fn new(plan: Plan) -> Result<Self, String> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_790_000_000_000)));
        let memory = Memory::builder()
            .partitions(plan.partitions)
            .clock(clock.clone())
            .presence_ttl(Duration::from_secs(6))
            .loss_window(if plan.losses { Duration::from_secs(20) } else { Duration::ZERO })
            .build();
        let world = Self {
            plan,
            log: memory.log(),
            store: memory.store(),
            inbox: memory.inbox(),
            memory,
            join: Join::default(),
            ids: Arc::default(),
            clock,
            nodes: Mutex::default(),
            history: Mutex::default(),
            quiet: AtomicBool::new(false),
            lives: AtomicU64::new(0),
        };
        for _ in 0..plan.nodes {
            world.start_node().await?;
        }
        Ok(world)
    }

    pub(super) async fn start_node(&self) -> Result<(), String> {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let faults = Faults::new(self.plan.seed.wrapping_mul(1000).wrapping_add(life), Odds::default());
        let mut config = Config::default();
        config.read_diffusion_threshold = self.plan.threshold;
        config.lease = Duration::from_secs(3);
        config.heartbeat = Duration::from_secs(5);
        config.ack_timeout = Duration::from_secs(1);
        config.batch_records = 8;
        config.delivery_entries = 5;
        let engine = Engine::builder(faults.wrap(self.parts()))
            .config(config)
            .clock(self.clock.clone())
            .ids(self.ids.clone())
            .start()
            .await
            .map_err(|error| format!("a node did not start: {error}"))?;
        lock(&self.nodes).push(Node { engine, faults });
        Ok(())
    }

    fn parts(&self) -> Parts {
        let parts = Parts::from(&self.memory);
        if self.plan.joined { self.join.parts(parts) } else { parts }
    }

    pub(super) fn node(&self, at: usize) -> Option<Node> {
        let nodes = lock(&self.nodes);
        (!nodes.is_empty()).then(|| nodes[at % nodes.len()].clone())
    }

    /// The node is no longer given to clients.
    pub(super) fn take_node(&self, at: usize) -> Option<Node> {
        let mut nodes = lock(&self.nodes);
        (!nodes.is_empty()).then(|| {
            let at = at % nodes.len();
            nodes.remove(at)
        })
    }

    pub(super) fn all_nodes(&self) -> Vec<Node> {
        lock(&self.nodes).clone()
    }

    pub(super) fn group(&self, number: usize) -> ConversationId {
        conversation(&format!("g{}", number % self.plan.groups))
    }

    pub(super) fn note(&self, event: Event) {
        lock(&self.history).push(event);
    }

    /// The messages that are in the log or the store, of all that were sent.
    pub(super) async fn kept(&self) -> BTreeSet<SendKey> {
        let sent: Vec<SendKey> = lock(&self.history)
            .iter()
            .filter_map(|event| match event {
                Event::Sent { user: sender, conversation: place, id, .. } => Some(SendKey {
                    conversation: conversation(place),
                    sender: user(sender),
                    client_msg_id: super::client::client_msg_id(id),
                }),
                _ => None,
            })
            .collect();
        let logged = self.log.find(&sent).await.unwrap_or_default();
        let stored = MessageStore::find(&self.store, &sent).await.unwrap_or_default();
        let kept = sent.into_iter().zip(logged).zip(stored);
        kept.filter(|((_, logged), stored)| logged.or(*stored).is_some()).map(|((key, _), _)| key).collect()
    }

    /// What a loss took from both log and store may be lost, also if its ack is still on its way.
    pub(super) async fn forgive(&self, before: BTreeSet<SendKey>) {
        for SendKey { conversation, sender, client_msg_id } in before.difference(&self.kept().await) {
            self.note(Event::Forgiven {
                user: sender.to_string(),
                conversation: conversation.to_string(),
                id: client_msg_id.to_string(),
            });
        }
    }

    /// Nothing goes wrong any more; the clients catch up and end.
    pub(super) async fn calm_down(&self) -> Result<(), String> {
        for node in self.all_nodes() {
            node.faults.set(Odds::default());
            node.faults.thaw();
        }
        self.quiet.store(true, Ordering::Relaxed);
        let projected = async {
            while !self.is_projected().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, projected)
            .await
            .map_err(|_| "the projections did not reach the end of the log".to_owned())
    }

    /// Whether store and inbox have everything that the log has.
    async fn is_projected(&self) -> bool {
        let Ok(ends) = self.log.ends().await else { return false };
        for (partition, end) in Partition::all(self.plan.partitions).zip(ends) {
            let stored = MessageStore::checkpoint(&self.store, partition).await.ok().flatten();
            let delivered = SyncInbox::checkpoint(&self.inbox, partition).await.ok().flatten();
            let reached = |checkpoint: Option<im_core::Checkpoint>| {
                checkpoint.map_or(Position::START, |checkpoint| checkpoint.position) >= end
            };
            if !(reached(stored) && reached(delivered)) {
                return false;
            }
        }
        true
    }

    /// Where everything stands, for a run that does not become quiet.
    pub(super) async fn describe(&self) -> String {
        let ids: Vec<_> = (0..self.plan.groups).map(|number| self.group(number)).collect();
        let users = (0..self.plan.users)
            .flat_map(|number| ids.iter().map(move |id| (id.clone(), user(&format!("u{number}")))));
        let users: Vec<_> = users.collect();
        let mut text = format!("log ends {:?}\n", self.log.ends().await);
        for partition in Partition::all(self.plan.partitions) {
            let stored = MessageStore::checkpoint(&self.store, partition).await;
            let delivered = SyncInbox::checkpoint(&self.inbox, partition).await;
            text += &format!("stored {stored:?}\ndelivered {delivered:?}\n");
        }
        text += &format!("applied {:?}\n", self.store.applied(&ids).await);
        text += &format!("last {:?}\n", self.store.last(&ids).await);
        text + &format!("memberships {:?}\n", self.store.memberships(&users, &None).await)
    }

    /// The rights of every user, as the store has them; then the history.
    pub(super) async fn finish(&self) -> Result<Vec<Event>, String> {
        let users: BTreeSet<UserId> =
            (0..self.plan.users).map(|number| user(&format!("u{number}"))).collect();
        for user in &users {
            let list = self.store.list(user, &None, &None, 1000).await.map_err(|error| error.to_string())?;
            for membership in list {
                for interval in membership.intervals {
                    self.note(Event::Member {
                        user: user.to_string(),
                        conversation: membership.conversation.id.to_string(),
                        joined: interval.joined.seq.0,
                        left: interval.left.map(|left| left.seq.0),
                    });
                }
            }
        }
        for node in self.all_nodes() {
            node.engine.shutdown().await;
        }
        Ok(std::mem::take(&mut lock(&self.history)))
    }
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap_or_else(|_| UserId::system())
}

pub(super) fn conversation(id: &str) -> ConversationId {
    ConversationId::new(id).unwrap_or_else(|error| unreachable!("the simulation makes right ids: {error}"))
}
