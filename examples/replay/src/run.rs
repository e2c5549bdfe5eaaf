//! What all clients of a replay share.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::IndexedRandom;
use tokio::sync::{Notify, Semaphore};

use crate::{chatlog::ChatLog, history::History, report::Happened};

/// How many messages may be under way: sent, and not yet come back to their senders.
const UNDER_WAY: usize = 64;

/// What all clients of a replay share.
#[derive(Debug)]
pub(crate) struct Run {
    /// `host:port` of each server.
    hosts: Vec<String>,
    /// Differs from that of any other replay.
    pub(crate) id: String,
    /// Whether clients cut their connections.
    pub(crate) cuts: bool,
    pub(crate) days: Vec<DayState>,
    by_conversation: HashMap<String, usize>,
    /// One permit for each message that may still be sent.
    pub(crate) room: Semaphore,
    history: Mutex<History>,
    moved: Mutex<Instant>,
    give_up: AtomicBool,
    refused: AtomicU64,
    reconnects: AtomicU64,
    kills: AtomicU64,
    bar: ProgressBar,
}

/// How far a day has come.
#[derive(Debug)]
pub(crate) struct DayState {
    /// The group.
    pub(crate) conversation: String,
    /// The group is there.
    pub(crate) open: Semaphore,
    unsettled: AtomicU64,
    settled: Notify,
    top: AtomicU64,
}

impl DayState {
    /// The highest sequence id that was acked.
    pub(crate) fn top(&self) -> u64 {
        self.top.load(Ordering::Relaxed)
    }

    /// A message was acked or refused.
    fn settle(&self, seq: u64) {
        self.top.fetch_max(seq, Ordering::Relaxed);
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_one();
        }
    }

    /// Waits until each message was acked or refused.
    pub(crate) async fn all_settled(&self) {
        while self.unsettled.load(Ordering::Acquire) > 0 {
            self.settled.notified().await;
        }
    }
}

impl Run {
    /// A replay of this log that begins now.
    pub(crate) fn new(hosts: Vec<String>, log: &ChatLog, cuts: bool) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let day = |day: &crate::chatlog::Day| DayState {
            conversation: format!("replay-{id}-{}", day.name),
            open: Semaphore::new(0),
            unsettled: AtomicU64::new(day.lines.len() as u64),
            settled: Notify::new(),
            top: AtomicU64::new(0),
        };
        let days: Vec<_> = log.days.iter().map(day).collect();
        let conversations = || days.iter().map(|day| day.conversation.clone());
        Self {
            hosts,
            cuts,
            by_conversation: conversations().zip(0..).collect(),
            room: Semaphore::new(UNDER_WAY),
            history: Mutex::new(History::new(conversations())),
            moved: Mutex::new(Instant::now()),
            give_up: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            bar: bar(log.messages()),
            days,
            id,
        }
    }

    /// A server, any of them.
    pub(crate) fn host(&self) -> &str {
        self.hosts.choose(&mut rand::rng()).map_or("", String::as_str)
    }

    /// The day that is played in a conversation; none: it is not of this replay.
    pub(crate) fn day(&self, conversation: &str) -> Option<usize> {
        self.by_conversation.get(conversation).copied()
    }

    /// What was done and seen so far. Nothing is awaited while it is held.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client's message was acked.
    pub(crate) fn acked(&self, day: usize, user: &str, id: &str, seq: u64) {
        self.history().acked(day, user, id, seq);
        self.days[day].settle(seq);
        self.progress();
        self.bar.inc(1);
    }

    /// A client's message was refused for good.
    pub(crate) fn refused(&self, day: usize, why: &str) {
        self.say(&format!("refused: {why}"));
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.days[day].settle(0);
        self.room.add_permits(1);
        self.progress();
    }

    /// Something went on.
    pub(crate) fn progress(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nothing has gone on.
    pub(crate) fn idle(&self) -> Duration {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Nothing goes on any more: clients are to end as they are.
    pub(crate) fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }

    pub(crate) fn given_up(&self) -> bool {
        self.give_up.load(Ordering::Relaxed)
    }

    pub(crate) fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_kill(&self) {
        self.kills.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn happened(&self) -> Happened {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Happened {
            refused: count(&self.refused),
            reconnects: count(&self.reconnects),
            kills: count(&self.kills),
            unfinished: self.days.iter().map(|day| count(&day.unsettled)).sum(),
        }
    }

    /// Shows how far it is.
    pub(crate) fn show_progress(&self) {
        let (_, shown) = self.history().counts();
        let Happened { reconnects, kills, .. } = self.happened();
        self.bar.set_message(format!("{shown} deliveries, {reconnects} reconnects, {kills} kills"));
    }

    /// A line for people, on stderr.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// It is over.
    pub(crate) fn finish(&self) {
        self.show_progress();
        self.bar.finish();
    }
}

fn bar(messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} messages, {msg}");
    ProgressBar::new(messages).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
