//! How a client comes to its records: signals, pulls, gaps, heads of large groups, bootstrap, own state; and what it says at
//! the end.

use std::time::Duration;

use im_protocol::{ConversationView, EntryView, ErrorCode, Int, MarkView, Op, RecordView, Signal, ok, op};
use im_testkit::client::{Place, Take};
use rand::RngExt;
use tokio::time::sleep;

use crate::{
    history::Unread,
    link::{Over, Step},
    session::Session,
};

/// How long nothing must have come before a client takes what it has for everything, although somebody was acked more.
const QUIET: Duration = Duration::from_secs(15);
/// How long it waits before it asks again for conversations that the store does not have yet.
const BEHIND: Duration = Duration::from_millis(500);
/// How many conversations are asked for by name at a time.
const NAMED: usize = 100;

impl Session<'_> {
    /// What hello or a heartbeat say of the inbox and of the user's own state.
    pub(crate) async fn follow(&mut self, end: Option<&str>, state: &str) -> Step<()> {
        if self.client.cursor.is_none() || end.is_some_and(|end| self.client.cursor.as_deref() != Some(end)) {
            self.pull().await?;
        }
        self.state(state).await
    }

    pub(crate) async fn signal(&mut self, signal: Signal<'_>) -> Step<()> {
        self.owes_ack = true;
        if self.aside {
            return Ok(());
        }
        if signal.entries.is_empty() && self.client.cursor.as_deref() != Some(&*signal.end) {
            return self.pull().await;
        }
        for entry in &signal.entries {
            self.take_entry(entry).await?;
        }
        Ok(())
    }

    /// Pulls until there is no more; without a cursor, or where it cannot be served, bootstraps before.
    pub(crate) async fn pull(&mut self) -> Step<()> {
        loop {
            let Some(cursor) = self.client.cursor.clone() else {
                self.bootstrap().await?;
                continue;
            };
            self.passed_over = false;
            let answer = self.ask(op::Pull { after: cursor.into(), max: None }).await?;
            let page: ok::Pull<'_> = answer.read()?;
            if page.resync {
                self.client.cursor = None;
                continue;
            }
            for entry in &page.entries {
                self.take_entry(entry).await?;
            }
            self.owes_ack |= !page.entries.is_empty();
            if !page.more && !self.passed_over {
                self.aside = false;
                return Ok(());
            }
        }
    }

    /// Begins afresh. What is behind a known mark is paged, so that everything is shown in order.
    async fn bootstrap(&mut self) -> Step<()> {
        (self.aside, self.passed_over) = (true, true);
        let (mut begin, mut after) = (None, None::<String>);
        let mut behind = Vec::new();
        loop {
            let fresh = begin.is_none();
            let ask = op::Conversations { after: after.map(Into::into), fresh, ..Default::default() };
            let answer = self.ask(ask).await?;
            let page: ok::Conversations<'_> = answer.read()?;
            for view in &page.conversations {
                self.learn(view, true).await?;
            }
            behind.extend(page.behind.iter().map(|id| id.to_string()));
            if let (true, Some(cursor), Some(state)) = (fresh, &page.cursor, &page.state) {
                begin = Some((cursor.to_string(), state.to_string()));
            } else if fresh {
                return Err(Over::Wrong("a bootstrap without cursor or state version".into()));
            }
            after = page.next.map(|next| next.to_string());
            if after.is_none() {
                break;
            }
        }
        self.ask_for(behind, true).await?;
        (self.client.cursor, self.client.state) = begin.unzip();
        self.owes_ack = true;
        Ok(())
    }

    /// Fetches conversations by name.
    async fn ask_for(&mut self, mut ids: Vec<String>, whole: bool) -> Step<()> {
        while !ids.is_empty() {
            let some: Vec<_> = ids.split_off(ids.len().saturating_sub(NAMED));
            let names = some.iter().map(|id| id.as_str().into()).collect();
            let answer = self.ask(op::Conversations { ids: Some(names), ..Default::default() }).await?;
            let page: ok::Conversations<'_> = answer.read()?;
            for view in &page.conversations {
                self.learn(view, whole).await?;
            }
            if !page.behind.is_empty() {
                ids.extend(page.behind.iter().map(|id| id.to_string()));
                sleep(BEHIND).await;
            }
        }
        Ok(())
    }

    /// A conversation as the server has it. It begins below the joining record; those of other replays begin at their heads.
    async fn learn(&mut self, view: &ConversationView<'_>, whole: bool) -> Step<()> {
        let id = view.id.as_str();
        if self.client.run.day(id).is_none() {
            self.client.marks.know(id, view.head.seq.get());
            return Ok(());
        }
        let held = self.client.held.entry(id.to_owned()).or_default();
        held.joined = held.joined.max(view.joined);
        held.read = held.read.max(view.read);
        held.head = held.head.max(view.head);
        if self.client.marks.get(id).is_none() {
            self.client.marks.know(id, view.joined.seq.get().saturating_sub(1));
        }
        if whole || view.large { self.page_up_to(id, view.head.seq.get()).await } else { Ok(()) }
    }

    pub(crate) async fn state(&mut self, version: &str) -> Step<()> {
        if self.client.state.as_deref() == Some(version) {
            return Ok(());
        }
        let since = self.client.state.clone();
        let answer = self.ask(op::State { since: since.map(Into::into) }).await?;
        let state: ok::State<'_> = answer.read()?;
        for view in &state.changes {
            self.learn(view, false).await?;
        }
        if state.all {
            self.list().await?;
        }
        self.client.state = Some(state.version.to_string());
        Ok(())
    }

    async fn list(&mut self) -> Step<()> {
        let mut after = None::<String>;
        loop {
            let ask = op::Conversations { after: after.map(Into::into), ..Default::default() };
            let answer = self.ask(ask).await?;
            let page: ok::Conversations<'_> = answer.read()?;
            for view in &page.conversations {
                self.learn(view, false).await?;
            }
            let behind = page.behind.iter().map(|id| id.to_string()).collect();
            self.ask_for(behind, false).await?;
            after = page.next.map(|next| next.to_string());
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// A large group has a head.
    pub(crate) async fn head(&mut self, id: &str, seq: u64) -> Step<()> {
        if self.client.marks.get(id).is_none() {
            self.ask_for(vec![id.to_owned()], false).await?;
        }
        self.page_up_to(id, seq).await
    }

    async fn take_entry(&mut self, entry: &EntryView<'_>) -> Step<()> {
        self.take(&entry.record).await?;
        self.client.cursor = Some(entry.cursor.to_string());
        Ok(())
    }

    async fn take(&mut self, record: &RecordView<'_>) -> Step<()> {
        let id = record.conversation.as_str();
        let place = Place { seq: record.seq.get(), hole_after: record.hole_after.map(Int::get) };
        loop {
            match self.client.marks.take(id, place) {
                Take::Drop => return Ok(()),
                Take::Show => {
                    self.show(record);
                    return Ok(());
                }
                Take::Gap { to, .. } => self.page_up_to(id, to).await?,
                Take::Unknown => {
                    self.ask_for(vec![id.to_owned()], false).await?;
                    if self.client.marks.get(id).is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes the history above the mark, upwards.
    async fn page_up_to(&mut self, id: &str, to: u64) -> Step<()> {
        while let Some(mark) = self.client.marks.get(id).filter(|mark| *mark < to) {
            let range = op::History {
                conversation: id.into(),
                from: Some((mark + 1).into()),
                to: Some(to.into()),
                max: None,
                backward: false,
            };
            let answer = match self.try_ask(Op::History(range)).await? {
                Ok(answer) => answer,
                Err((_, ErrorCode::NotMember, _)) => {
                    self.client.marks.know(id, to);
                    return Ok(());
                }
                Err((_, code, why)) => return Err(Over::Wrong(format!("history of {id}: {code}, {why}"))),
            };
            let page: ok::History<RecordView<'_>> = answer.read()?;
            for record in &page.records {
                if self.client.marks.take_paged(id, record.seq.get()) {
                    self.show(record);
                }
            }
            if !page.more {
                self.client.marks.know(id, to);
            } else if page.records.is_empty() {
                return Err(Over::Wrong(format!("history of {id} has more, but brings nothing")));
            }
        }
        Ok(())
    }

    fn show(&mut self, record: &RecordView<'_>) {
        let Some(day) = self.client.run.day(&record.conversation) else { return };
        let client = &mut *self.client;
        client.last_news = tokio::time::Instant::now();
        let held = client.held.entry(record.conversation.to_string()).or_default();
        let (mark, own) =
            (MarkView { seq: record.seq, ordinal: record.ordinal }, *record.from == *client.name);
        held.head = held.head.max(mark);
        if own {
            held.read = held.read.max(mark);
        }
        let counts = &*record.kind == "message";
        let mut history = client.run.history();
        if let Some(hole_after) = record.hole_after {
            history.discarded(day, &client.name, hole_after.get(), record.seq.get());
        }
        history.shown(day, &client.name, record, counts);
        drop(history);
        client.run.progress();
        if own && counts {
            client.run.room.add_permits(1);
        }
    }

    /// The user reads what is there in one of the groups.
    pub(crate) async fn read_something(&mut self) -> Step<()> {
        let choices = self.client.held.len();
        if choices == 0 {
            return Ok(());
        }
        let chosen = self.client.dice.random_range(0..choices);
        let Some(id) = self.client.held.keys().nth(chosen).cloned() else { return Ok(()) };
        self.read_all(&id).await
    }

    async fn read_all(&mut self, id: &str) -> Step<()> {
        let Some(mark) = self.client.marks.get(id).filter(|mark| *mark > 0) else { return Ok(()) };
        let answer = self.ask(op::MarkRead { conversation: id.into(), seq: mark.into() }).await?;
        let read = answer.read::<ok::MarkRead>()?.read;
        let held = self.client.held.entry(id.to_owned()).or_default();
        held.read = held.read.max(read);
        Ok(())
    }

    /// Everything came. Some users read a last time; then what they count is told, by the client and by the server, and the
    /// client is done. False: something may yet come.
    pub(crate) async fn conclude(&mut self) -> Step<bool> {
        let client = &*self.client;
        let short = client.held.keys().any(|id| {
            let top = client.run.day(id).map_or(0, |day| client.run.days[day].top());
            client.marks.get(id).unwrap_or(0) < top
        });
        if short && client.last_news.elapsed() < QUIET {
            return Ok(false);
        }
        let ids: Vec<String> = client.held.keys().cloned().collect();
        for id in &ids {
            if self.client.dice.random_bool(0.5) {
                self.read_all(id).await?;
            }
            self.tell(id).await?;
        }
        Ok(true)
    }

    async fn tell(&mut self, id: &str) -> Step<()> {
        let answer = self.ask(op::Conversations { ids: Some(vec![id.into()]), ..Default::default() }).await?;
        let page: ok::Conversations<'_> = answer.read()?;
        let (Some(day), Some(view)) = (self.client.run.day(id), page.conversations.first()) else {
            return Err(Over::Lost);
        };
        let client = &*self.client;
        let mut history = client.run.history();
        let name = &client.name;
        history.member(day, name, view.joined.seq.get(), view.left.map(|left| left.seq.get()));
        let told = Unread { unread: view.unread.get(), read: view.read.seq.get(), head: view.head.seq.get() };
        history.unread(day, name, told);
        if let Some(held) = client.held.get(id) {
            history.unread(day, name, held.unread());
        }
        history.done(day, name);
        Ok(())
    }
}

impl crate::client::Held {
    /// What the client itself counts.
    fn unread(&self) -> Unread {
        let below =
            MarkView { seq: self.joined.seq.get().saturating_sub(1).into(), ordinal: self.joined.ordinal };
        let read = self.read.max(below);
        let unread = self.head.ordinal.get().saturating_sub(read.ordinal.get());
        Unread { unread, read: read.seq.get(), head: self.head.seq.get() }
    }
}
