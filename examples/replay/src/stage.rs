//! Who says what and when: the days one after the other, in the order of the file.

use std::{collections::HashMap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
};

use crate::{
    chatlog::{ChatLog, Nick},
    client::{Client, Task},
    error::ReplayError,
    run::Run,
};

/// How probable it is that a nick joins at the beginning of a day, and not before it first says something.
const EARLY: f64 = 0.8;

/// The clients that play, by nick. One that is dropped from here says what it counts and ends.
#[derive(Debug)]
pub(crate) struct Stage {
    run: Arc<Run>,
    log: ChatLog,
    tasks: HashMap<Nick, UnboundedSender<Task>>,
    new: UnboundedSender<Client>,
    dice: StdRng,
}

/// Starts the clients that come from the stage, and waits for all of them.
pub(crate) async fn clients(
    mut new: tokio::sync::mpsc::UnboundedReceiver<Client>,
) -> Result<(), ReplayError> {
    let mut all = JoinSet::new();
    let mut open = true;
    loop {
        tokio::select! {
            client = new.recv(), if open => match client {
                Some(client) => drop(all.spawn(client.live())),
                None => open = false,
            },
            Some(ended) = all.join_next() => ended.map_err(std::io::Error::other)??,
            else => return Ok(()),
        }
    }
}

impl Stage {
    pub(crate) fn new(run: Arc<Run>, log: ChatLog) -> (Self, tokio::sync::mpsc::UnboundedReceiver<Client>) {
        let (new, clients) = unbounded_channel();
        let dice = StdRng::seed_from_u64(rand::random());
        (Self { run, log, tasks: HashMap::new(), new, dice }, clients)
    }

    /// Plays all days. The clients of the last one stay until the stage is dropped.
    pub(crate) async fn play(&mut self) {
        let last_days = self.log.last_days();
        for day in 0..self.log.days.len() {
            self.play_day(day).await;
            let more = day + 1 < self.log.days.len();
            self.tasks.retain(|nick, _| !more || last_days[*nick] > day);
        }
    }

    async fn play_day(&mut self, day: usize) {
        let members = self.log.days[day].members();
        let mut late: Vec<Nick> = Vec::new();
        if let Some(first) = members.first() {
            self.tell(*first, Task::Create(day));
            // Is closed, once the group is there.
            let _ = self.run.days[day].open.acquire().await;
        }
        for nick in members.into_iter().skip(1) {
            if self.dice.random_bool(EARLY) {
                self.tell(nick, Task::Join(day));
            } else {
                late.push(nick);
            }
        }
        for (nick, text) in std::mem::take(&mut self.log.days[day].lines) {
            if let Ok(permit) = self.run.room.acquire().await {
                permit.forget();
            }
            if let Some(place) = late.iter().position(|late| *late == nick) {
                late.swap_remove(place);
                self.tell(nick, Task::Join(day));
            }
            self.tell(nick, Task::Say(day, text));
        }
        self.run.days[day].all_settled().await;
    }

    fn tell(&mut self, nick: Nick, task: Task) {
        let tasks = self.tasks.entry(nick).or_insert_with(|| {
            let (tasks, todo) = unbounded_channel();
            let client = Client::new(self.run.clone(), self.log.nicks[nick].clone(), todo);
            // Who takes them ends only with the replay.
            let _ = self.new.send(client);
            tasks
        });
        let _ = tasks.send(task);
    }
}
