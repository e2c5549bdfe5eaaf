//! A simulated client: does what the protocol asks of one, over sessions that break.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use im_core::{
    ClientMsgId, ContentType, ConversationId, Cursor, DeviceId, Direction, Mark, Outcome, Platform, Pull,
    Record, Seq, StateVersion, UserId,
};
use im_engine::{
    AckLevel, ChatError, ChatResult, ConversationView, Draft, Event, Hello, HistoryRange, Identity,
    MemberChange, NewGroup, Refusal, Session,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::timeout};

use super::world::{World, user};
use crate::{
    checker,
    client::{Marks, Place, Take},
};

/// How long a client waits for any answer before it takes the connection for dead.
const ANSWER: Duration = Duration::from_secs(4);
/// How often it has an idea.
const IDEAS: Duration = Duration::from_millis(400);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long it must see nothing new, with everything acked, to be done.
const QUIET: Duration = Duration::from_secs(40);

pub(super) fn client_msg_id(text: &str) -> ClientMsgId {
    ClientMsgId::new(text).unwrap_or_else(|error| unreachable!("the simulation makes right ids: {error}"))
}

/// Starts all clients.
pub(super) fn start(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let devices = (0..world.plan.users).flat_map(|number| {
        let devices = if number % 3 == 0 { 2 } else { 1 };
        (0..devices).map(move |device| (number, device))
    });
    devices.map(|(number, device)| tokio::spawn(Client::new(world, number, device).live())).collect()
}

struct Client {
    world: Arc<World>,
    number: usize,
    name: String,
    user: UserId,
    device: DeviceId,
    dice: StdRng,
    marks: Marks,
    cursor: Option<Cursor>,
    version: Option<StateVersion>,
    outbox: VecDeque<Draft>,
    /// Message ids and group changes made so far.
    made: u64,
    last_news: tokio::time::Instant,
    known: BTreeMap<ConversationId, ()>,
}

/// Why a session is over.
#[derive(Debug)]
enum Over {
    Broken,
    Done,
}

impl From<ChatError> for Over {
    fn from(_: ChatError) -> Self {
        Self::Broken
    }
}

impl From<tokio::time::error::Elapsed> for Over {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Broken
    }
}

type Step<T> = Result<T, Over>;

impl Client {
    fn new(world: &Arc<World>, number: usize, device: usize) -> Self {
        let seed = world.plan.seed.wrapping_mul(31).wrapping_add((number * 7 + device) as u64);
        Self {
            world: world.clone(),
            number,
            name: format!("u{number}/d{device}"),
            user: user(&format!("u{number}")),
            device: DeviceId::new(format!("d{device}"))
                .unwrap_or_else(|error| unreachable!("the simulation makes right ids: {error}")),
            dice: StdRng::seed_from_u64(seed),
            marks: Marks::default(),
            cursor: None,
            version: None,
            outbox: VecDeque::new(),
            made: 0,
            last_news: tokio::time::Instant::now(),
            known: BTreeMap::new(),
        }
    }

    async fn live(mut self) {
        loop {
            let over = match self.connect().await {
                Some(session) => self.session(&session).await.err(),
                None => None,
            };
            if let Some(Over::Done) = over {
                let event = checker::Event::Done { client: self.name, user: self.user.to_string() };
                self.world.note(event);
                return;
            }
            let pause = self.dice.random_range(50..600);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn connect(&mut self) -> Option<Session> {
        let node = self.world.node(self.dice.random_range(0..8))?;
        let identity = Identity {
            user: self.user.clone(),
            device: self.device.clone(),
            platform: Platform::new("sim").ok()?,
        };
        let hello = Hello { cursor: self.cursor.clone(), state: self.version.clone() };
        let (session, welcome) = timeout(ANSWER, node.engine.connect(identity, hello)).await.ok()?.ok()?;
        if welcome.resync {
            self.cursor = None;
        }
        for (id, head) in welcome.heads {
            self.head(&session, &id, head).await.ok()?;
        }
        Some(session)
    }

    async fn session(&mut self, session: &Session) -> Step<()> {
        if self.cursor.is_none() {
            self.bootstrap(session).await?;
        } else {
            self.catch_up(session).await?;
        }
        let mut ideas = tokio::time::interval(IDEAS);
        let mut beats = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                event = session.event() => self.event(session, event).await?,
                _ = beats.tick() => self.heartbeat(session).await?,
                _ = ideas.tick() => self.idea(session).await?,
            }
        }
    }

    /// Begins afresh: cursor and version first, then every conversation; what lies between a mark and the head is paged.
    async fn bootstrap(&mut self, session: &Session) -> Step<()> {
        let fresh = timeout(ANSWER, session.fresh()).await??;
        let mut after = None;
        loop {
            let page = timeout(ANSWER, session.bootstrap(&fresh, after, 2)).await??;
            for view in &page.conversations {
                self.view(session, view).await?;
            }
            if !page.behind.is_empty() {
                return Err(Over::Broken);
            }
            after = page.conversations.last().map(|view| view.membership.conversation.id.clone());
            if !page.more {
                break;
            }
        }
        (self.cursor, self.version) = (Some(fresh.cursor), Some(fresh.state));
        Ok(())
    }

    /// A conversation as the server has it: known from joined − 1 on, paged up to its head.
    async fn view(&mut self, session: &Session, view: &ConversationView) -> Step<()> {
        let id = &view.membership.conversation.id;
        let joined = view.membership.intervals.first().map_or(1, |interval| interval.joined.seq.0);
        if self.marks.get(id.as_str()).is_none() {
            self.marks.know(id.as_str(), joined - 1);
        }
        self.known.insert(id.clone(), ());
        self.page_up_to(session, id, view.head.seq.0).await
    }

    async fn page_up_to(&mut self, session: &Session, id: &ConversationId, to: u64) -> Step<()> {
        while let Some(mark) = self.marks.get(id.as_str()).filter(|mark| *mark < to) {
            let range = HistoryRange {
                from: Seq(mark + 1),
                to: Some(Seq(to)),
                direction: Direction::Forward,
                max: 3,
            };
            match timeout(ANSWER, session.history(id, range)).await? {
                Ok(page) => {
                    for record in &page.records {
                        if self.marks.take_paged(id.as_str(), record.seq.0) {
                            self.discard(record);
                            self.show(record);
                        }
                    }
                    if !page.more {
                        self.marks.know(id.as_str(), to);
                    }
                }
                Err(ChatError::Refused(Refusal::Behind { .. })) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    session.close(im_engine::CloseReason::Silent);
                    return Err(Over::Broken);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn event(&mut self, session: &Session, event: Event) -> Step<()> {
        match event {
            Event::Entries(entries) => {
                for entry in entries.as_slice() {
                    self.take(session, &entry.record).await?;
                    self.cursor = Some(entry.cursor.clone());
                }
                self.ack(session)
            }
            Event::End(end) => {
                if self.cursor.as_ref() != Some(&end) {
                    self.catch_up(session).await?;
                }
                self.ack(session)
            }
            Event::State(version) => self.state(session, &version).await,
            Event::Heads(heads) => {
                for (id, head) in heads {
                    self.head(session, &id, head).await?;
                }
                Ok(())
            }
            Event::Closed(_) => Err(Over::Broken),
            _ => Ok(()),
        }
    }

    fn ack(&mut self, session: &Session) -> Step<()> {
        if let Some(cursor) = &self.cursor {
            session.ack(cursor)?;
        }
        Ok(())
    }

    /// Pulls until there is no more.
    async fn catch_up(&mut self, session: &Session) -> Step<()> {
        loop {
            let Some(cursor) = self.cursor.clone() else { return self.bootstrap(session).await };
            match timeout(ANSWER, session.pull(&cursor, 4)).await?? {
                Pull::Resync => self.cursor = None,
                Pull::Page { entries, more } => {
                    for entry in entries {
                        self.take(session, &entry.record).await?;
                        self.cursor = Some(entry.cursor);
                    }
                    if !more {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn take(&mut self, session: &Session, record: &Arc<Record>) -> Step<()> {
        let place = Place { seq: record.seq.0, hole_after: record.hole_after.map(|seq| seq.0) };
        let id = record.conversation.as_str();
        loop {
            match self.marks.take(id, place) {
                Take::Drop => return Ok(()),
                Take::Show => {
                    self.discard(record);
                    self.show(record);
                    return Ok(());
                }
                Take::Gap { to, .. } => self.page_up_to(session, &record.conversation, to).await?,
                Take::Unknown => {
                    let view = timeout(ANSWER, session.conversation(&record.conversation)).await??;
                    let joined = view.membership.intervals.first().map_or(1, |first| first.joined.seq.0);
                    self.marks.know(id, joined - 1);
                    self.known.insert(record.conversation.clone(), ());
                }
            }
        }
    }

    async fn head(&mut self, session: &Session, id: &ConversationId, head: Mark) -> Step<()> {
        if self.marks.get(id.as_str()).is_some_and(|mark| mark >= head.seq.0) {
            return Ok(());
        }
        if self.marks.get(id.as_str()).is_none() {
            let view = timeout(ANSWER, session.conversation(id)).await??;
            self.view(session, &view).await?;
        }
        self.page_up_to(session, id, head.seq.0).await
    }

    async fn state(&mut self, session: &Session, version: &StateVersion) -> Step<()> {
        if self.version.as_ref() == Some(version) {
            return Ok(());
        }
        let state = timeout(ANSWER, session.state(self.version.clone())).await??;
        match state.changes {
            Some(changes) => {
                for view in &changes {
                    self.view(session, view).await?;
                }
                self.version = Some(state.version);
                Ok(())
            }
            None => self.bootstrap(session).await,
        }
    }

    async fn heartbeat(&mut self, session: &Session) -> Step<()> {
        let beat = timeout(ANSWER, session.heartbeat()).await??;
        if beat.end != self.cursor {
            self.catch_up(session).await?;
        }
        self.state(session, &beat.state).await?;
        for (id, head) in beat.heads {
            self.head(session, &id, head).await?;
        }
        self.ack(session)?;
        let quiet = self.world.quiet.load(Ordering::Relaxed) && self.outbox.is_empty();
        if quiet && self.last_news.elapsed() > QUIET {
            self.say_unread(session).await?;
            return Err(Over::Done);
        }
        Ok(())
    }

    async fn say_unread(&mut self, session: &Session) -> Step<()> {
        let ids: Vec<_> = self.known.keys().cloned().collect();
        for id in ids {
            let view = match timeout(ANSWER, session.conversation(&id)).await? {
                Ok(view) => view,
                Err(ChatError::Refused(Refusal::NotMember)) => continue,
                Err(error) => return Err(error.into()),
            };
            self.world.note(checker::Event::Unread {
                client: self.name.clone(),
                user: self.user.to_string(),
                conversation: id.to_string(),
                unread: view.unread,
                read: view.membership.read.seq.0,
                head: view.head.seq.0,
            });
        }
        Ok(())
    }

    /// What the client holds inside a declared hole the server has lost.
    fn discard(&self, record: &Record) {
        if let Some(Seq(above)) = record.hole_after {
            self.world.note(checker::Event::Discarded {
                client: self.name.clone(),
                conversation: record.conversation.to_string(),
                above,
                below: record.seq.0,
            });
        }
    }

    fn show(&mut self, record: &Record) {
        self.last_news = tokio::time::Instant::now();
        self.world.note(checker::Event::Shown {
            client: self.name.clone(),
            user: self.user.to_string(),
            conversation: record.conversation.to_string(),
            seq: record.seq.0,
            from: record.sender.to_string(),
            id: record.client_msg_id.to_string(),
            counts: record.kind.counts(),
        });
    }

    /// Writes, reads, joins, leaves, breaks off.
    async fn idea(&mut self, session: &Session) -> Step<()> {
        if !self.world.quiet.load(Ordering::Relaxed) {
            match self.dice.random_range(0..20) {
                0..=9 => self.write(),
                10..=12 => self.read(session).await?,
                13 => self.join(session).await?,
                14 => self.leave(session).await?,
                15 => self.make_group(session).await?,
                16 => self.open_single(session).await?,
                17 => return Err(Over::Broken),
                _ => {}
            }
        }
        self.send_all(session).await
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        // The id names the sending device, so that a user's devices do not meet.
        format!("{}-{}", self.name.replace('/', "-"), self.made)
    }

    fn write(&mut self) {
        let choices: Vec<_> = self.known.keys().cloned().collect();
        if choices.is_empty() || self.outbox.len() > 5 {
            return;
        }
        let conversation = choices[self.dice.random_range(0..choices.len())].clone();
        let id = self.fresh();
        self.world.note(checker::Event::Sent {
            client: self.name.clone(),
            user: self.user.to_string(),
            conversation: conversation.to_string(),
            id: id.clone(),
        });
        self.outbox.push_back(Draft {
            conversation,
            client_msg_id: client_msg_id(&id),
            content_type: ContentType::Text,
            content: id.into(),
            level: if self.dice.random_range(0..4) == 0 { AckLevel::Stored } else { AckLevel::Logged },
        });
    }

    /// Sends what waits, oldest first, again until each is acked or refused.
    async fn send_all(&mut self, session: &Session) -> Step<()> {
        while let Some(draft) = self.outbox.front().cloned() {
            let (conversation, id) = (draft.conversation.to_string(), draft.client_msg_id.to_string());
            match timeout(ANSWER, session.send(draft)).await? {
                Ok(ack) => self.world.note(checker::Event::Acked {
                    client: self.name.clone(),
                    user: self.user.to_string(),
                    conversation,
                    id,
                    seq: ack.seq.0,
                }),
                Err(ChatError::Refused(Refusal::NotMember | Refusal::UnknownConversation)) => {}
                Err(error) if error.is_transient() || error.outcome() == Outcome::Unknown => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            self.outbox.pop_front();
        }
        Ok(())
    }

    async fn read(&mut self, session: &Session) -> Step<()> {
        let choices: Vec<_> = self.known.keys().cloned().collect();
        if choices.is_empty() {
            return Ok(());
        }
        let id = &choices[self.dice.random_range(0..choices.len())];
        let mark = self.marks.get(id.as_str()).unwrap_or(0);
        forgive(timeout(ANSWER, session.mark_read(id, Seq(mark))).await?)
    }

    async fn join(&mut self, session: &Session) -> Step<()> {
        let (group, id) = (self.world.group(self.dice.random_range(0..8)), self.fresh());
        let change = MemberChange::Join(vec![self.user.clone()]);
        forgive(timeout(ANSWER * 2, session.change_members(&group, client_msg_id(&id), change)).await?)
    }

    async fn leave(&mut self, session: &Session) -> Step<()> {
        let (group, id) = (self.world.group(self.dice.random_range(0..8)), self.fresh());
        let change = MemberChange::Leave(vec![self.user.clone()]);
        forgive(timeout(ANSWER * 2, session.change_members(&group, client_msg_id(&id), change)).await?)
    }

    async fn make_group(&mut self, session: &Session) -> Step<()> {
        let (group, id) = (self.world.group(self.dice.random_range(0..8)), self.fresh());
        let others = (0..self.world.plan.users).filter(|number| *number != self.number);
        let members = others.map(|number| user(&format!("u{number}"))).collect();
        let new = NewGroup { id: group, name: None, members, client_msg_id: client_msg_id(&id) };
        forgive(timeout(ANSWER * 2, session.create_group(new)).await?)
    }

    async fn open_single(&mut self, session: &Session) -> Step<()> {
        let other = user(&format!("u{}", self.dice.random_range(0..self.world.plan.users)));
        let opened = timeout(ANSWER, session.open_single(&other)).await?;
        if let Ok(conversation) = &opened
            && self.marks.get(conversation.id.as_str()).is_none()
        {
            self.marks.know(conversation.id.as_str(), 0);
            self.known.insert(conversation.id.clone(), ());
        }
        forgive(opened)
    }
}

/// A refusal is an answer; a failure breaks the session, and the client comes again.
fn forgive<T>(result: ChatResult<T>) -> Step<()> {
    match result {
        Ok(_) | Err(ChatError::Refused(_)) => Ok(()),
        Err(ChatError::Failed(_)) => Err(Over::Broken),
    }
}
