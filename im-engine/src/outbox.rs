//! Sends what hosts put into the outbox inside their own transactions.
//!
//! A message is removed when it is in the store. Whoever dies in between leaves one that the next finds to be a duplicate; so do two at
//! once. The lease spares work, nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use im_core::{ConversationId, ErrorKind, Outbox, Place, Result, Waiting};
use tokio::time::Instant;

use crate::{
    Ack, AckLevel, NewMessage, Refusal,
    engine::Inner,
    error::{ChatError, ChatResult},
};

const LEASE: &str = "outbox";
/// How long the lease lasts, if the workers' do not end sooner: after a node has died, what hosts sent waits so long and a third.
const LASTS: Duration = Duration::from_secs(3);
/// How often the outbox is looked into. Nobody tells of its messages: a word inside the host's transaction would make all that say one
/// commit one after the other.
const LOOK: Duration = Duration::from_millis(200);
/// How often a node that cannot read something lets others look, which may be of a newer version.
const PASS_ON: Duration = Duration::from_secs(30);
/// The longest pause while something cannot be sent.
const LONGEST: Duration = Duration::from_secs(5);

impl Inner {
    /// Sends what is in the outbox for as long as the node takes work in; nothing to do where the store has none.
    pub(crate) fn drain_outbox(self: &Arc<Self>) {
        if let Some(outbox) = self.parts.store.outbox.clone() {
            self.spawn(Drain { inner: self.clone(), outbox, claimed: None, passed_on: None }.run());
        }
    }
}

struct Drain {
    inner: Arc<Inner>,
    outbox: Arc<dyn Outbox>,
    /// When this node last got the lease.
    claimed: Option<Instant>,
    /// When it last let others look.
    passed_on: Option<Instant>,
}

/// How a round ended.
enum Round {
    /// Nothing waits any more.
    Empty,
    /// Some could not be sent now.
    Left,
    /// Another node has the lease.
    NotOurs,
    /// Another node may have it.
    PassedOn,
}

/// What became of the messages of one conversation.
#[derive(Default)]
struct Sent {
    done: Vec<Place>,
    refused: Vec<(Place, Refusal)>,
    /// One could not be sent now: those after it have to wait.
    is_blocked: bool,
}

impl Drain {
    async fn run(mut self) {
        let stop = self.inner.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.rounds() => {}
        }
        if self.claimed.is_some() {
            self.release().await;
        }
    }

    /// Gives the lease back; where that fails it runs out while it is not claimed again.
    async fn release(&self) {
        if let Err(error) = self.inner.parts.log.leases.release(LEASE, &self.inner.node).await {
            tracing::warn!(%error, "the lease of the outbox could not be released");
        }
    }

    async fn rounds(&mut self) {
        let mut pause = LOOK;
        loop {
            let rest = match self.round().await {
                Ok(Round::Empty) => {
                    pause = LOOK;
                    LOOK
                }
                Ok(Round::NotOurs) => self.lease() / 3,
                // Until every other has looked for it.
                Ok(Round::PassedOn) => LASTS,
                left => {
                    if let Err(error) = left {
                        tracing::warn!(%error, "the outbox cannot be sent; again in {pause:?}");
                    }
                    let longer = (pause * 2).min(LONGEST);
                    std::mem::replace(&mut pause, longer)
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// Once through all that waits, page by page.
    async fn round(&mut self) -> Result<Round> {
        let max = self.inner.config.page;
        let (mut after, mut blocked) = (None, BTreeSet::new());
        loop {
            if !self.has_lease().await? {
                return Ok(Round::NotOurs);
            }
            let page = self.outbox.waiting(after, max).await?;
            let is_last = page.len() < max;
            after = page.last().map(|last| last.place);
            self.send(page, &mut blocked).await?;
            if is_last {
                if self.pass_on().await? {
                    return Ok(Round::PassedOn);
                }
                return Ok(if blocked.is_empty() { Round::Empty } else { Round::Left });
            }
        }
    }

    /// Gives the lease back, now and then, where something is passed over that only another node may be able to send.
    async fn pass_on(&mut self) -> Result<bool> {
        let is_due = self.passed_on.is_none_or(|passed_on| passed_on.elapsed() >= PASS_ON);
        if !is_due || !self.outbox.pass_on().await? {
            return Ok(false);
        }
        (self.claimed, self.passed_on) = (None, Some(Instant::now()));
        self.release().await;
        Ok(true)
    }

    async fn has_lease(&mut self) -> Result<bool> {
        let (lease, Inner { parts, node, .. }) = (self.lease(), &*self.inner);
        if self.claimed.is_some_and(|claimed| claimed.elapsed() < lease / 3) {
            return Ok(true);
        }
        let now = Instant::now();
        self.claimed = parts.log.leases.claim(LEASE, node, lease).await?.then_some(now);
        Ok(self.claimed.is_some())
    }

    fn lease(&self) -> Duration {
        self.inner.config.lease.min(LASTS)
    }

    /// Conversations side by side, the messages of each one after the other: so none comes before one that has to be tried again.
    async fn send(&mut self, page: Vec<Waiting>, blocked: &mut BTreeSet<ConversationId>) -> Result<()> {
        let mut conversations = BTreeMap::<_, Vec<Waiting>>::new();
        for waiting in page.into_iter().filter(|waiting| !blocked.contains(&waiting.message.conversation)) {
            conversations.entry(waiting.message.conversation.clone()).or_default().push(waiting);
        }
        let this = &*self;
        let sends = conversations
            .into_iter()
            .map(|(conversation, waiting)| async { (conversation, this.send_in_turn(waiting).await) });
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for (conversation, sent) in futures::future::join_all(sends).await {
            done.extend(sent.done);
            refused.extend(sent.refused);
            if sent.is_blocked {
                blocked.insert(conversation);
            }
        }
        // A page may take longer than the lease, and who has that by now may have sent what could not be sent then.
        if !refused.is_empty() && self.has_lease().await? {
            self.outbox.refuse(&refused).await?;
        }
        if !done.is_empty() {
            self.outbox.done(&done).await?;
        }
        Ok(())
    }

    async fn send_in_turn(&self, waiting: Vec<Waiting>) -> Sent {
        let mut sent = Sent::default();
        for Waiting { place, message } in waiting {
            // In the store, where the host's rows are: a log of its own may lose what it acked.
            let message = NewMessage { level: AckLevel::Stored, ..message.into() };
            let answer = match self.inner.begin_send(message).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            match verdict(answer) {
                Verdict::Done => sent.done.push(place),
                Verdict::Never(refusal) => {
                    tracing::warn!(number = place.number, %refusal, "a message of the outbox is refused");
                    sent.refused.push((place, refusal));
                }
                Verdict::Later(error) => {
                    tracing::warn!(number = place.number, %error, "a message of the outbox has to wait");
                    sent.is_blocked = true;
                    break;
                }
            }
        }
        sent
    }
}

/// What an answer means for a message of the outbox.
enum Verdict {
    Done,
    /// It will never be sent.
    Never(Refusal),
    /// It is to be tried again.
    Later(ChatError),
}

fn verdict(answer: ChatResult<Ack>) -> Verdict {
    match answer {
        Ok(_) => Verdict::Done,
        Err(ChatError::Refused(refusal)) if !refusal.is_transient() => Verdict::Never(refusal),
        // This message, whenever it comes.
        Err(ChatError::Failed(error)) if error.kind() == ErrorKind::Invalid => {
            Verdict::Never(Refusal::Invalid(error.to_string()))
        }
        Err(error) => Verdict::Later(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use im_core::{
        ClientMsgId, ContentType, Direction, Error, History, HistoryQuery, NodeId, Outgoing, Parts, Policy,
        PolicyRequest, Seq, StorePart, UserId, memory::Memory,
    };

    use super::*;
    use crate::{Config, Engine};

    #[derive(Debug, Default)]
    struct Desk {
        waiting: Mutex<BTreeMap<Place, Outgoing>>,
        refused: Mutex<Vec<(u64, &'static str)>>,
        /// `done` fails so often, and does nothing.
        fails: Mutex<u32>,
        /// Whoever looks hangs for ever.
        dead: Mutex<bool>,
        /// Something waits that cannot be read here.
        is_old: Mutex<bool>,
    }

    impl Desk {
        fn put(&self, number: u64, message: Outgoing) {
            self.waiting.lock().unwrap().insert(Place { transaction: 1, number }, message);
        }
    }

    #[async_trait]
    impl Outbox for Desk {
        async fn waiting(&self, after: Option<Place>, max: usize) -> Result<Vec<Waiting>> {
            if *self.dead.lock().unwrap() {
                std::future::pending::<()>().await;
            }
            let waiting = self.waiting.lock().unwrap();
            let all = waiting.iter().filter(|(place, _)| after.is_none_or(|after| **place > after));
            Ok(all
                .take(max)
                .map(|(place, message)| Waiting { place: *place, message: message.clone() })
                .collect())
        }

        async fn done(&self, places: &[Place]) -> Result<()> {
            let mut fails = self.fails.lock().unwrap();
            if *fails > 0 {
                *fails -= 1;
                return Err(gone());
            }
            self.waiting.lock().unwrap().retain(|place, _| !places.contains(place));
            Ok(())
        }

        async fn refuse(&self, refused: &[(Place, Refusal)]) -> Result<()> {
            for (place, refusal) in refused {
                self.waiting.lock().unwrap().remove(place);
                self.refused.lock().unwrap().push((place.number, refusal.code()));
            }
            Ok(())
        }

        async fn pass_on(&self) -> Result<bool> {
            Ok(*self.is_old.lock().unwrap())
        }
    }

    fn gone() -> Error {
        Error::new(ErrorKind::Unavailable, "test", "test", "gone")
    }

    /// Cannot decide about pictures for a while, and forbids files, and sounds after it has thought for longer than a lease lasts.
    #[derive(Debug)]
    struct Undecided(Mutex<u32>);

    #[async_trait]
    impl Policy for Undecided {
        async fn check(&self, request: &PolicyRequest) -> Result<im_core::Verdict> {
            match request {
                PolicyRequest::Send { content_type: ContentType::Image, .. } => {
                    let mut fails = self.0.lock().unwrap();
                    *fails = fails.saturating_sub(1);
                    if *fails > 0 { Err(gone()) } else { Ok(im_core::Verdict::Allow) }
                }
                PolicyRequest::Send { content_type: ContentType::Audio, .. } => {
                    tokio::time::sleep(LASTS + LASTS / 3).await;
                    Ok(im_core::Verdict::Deny("no sounds".into()))
                }
                PolicyRequest::Send { content_type: ContentType::File, .. } => {
                    Ok(im_core::Verdict::Deny("no files".into()))
                }
                _ => Ok(im_core::Verdict::Allow),
            }
        }
    }

    struct Bed {
        chat: Engine,
        desk: Arc<Desk>,
        memory: Memory,
        alice: UserId,
        /// With bob, and with carol.
        conversations: [ConversationId; 2],
    }

    async fn bed(fails: u32) -> Bed {
        let memory = Memory::new();
        let desk = Arc::new(Desk::default());
        let store = StorePart { outbox: Some(desk.clone()), ..Parts::from(&memory).store.unwrap() };
        let config = Config { page: 3, ..Config::default() };
        let chat = Engine::builder(Parts::from(&memory))
            .store(store)
            .config(config)
            .policy(Undecided(Mutex::new(fails)))
            .start()
            .await
            .unwrap();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| UserId::new(name).unwrap());
        let with_bob = chat.open_single(&alice, &bob).await.unwrap().id;
        let with_carol = chat.open_single(&alice, &carol).await.unwrap().id;
        Bed { chat, desk, memory, alice, conversations: [with_bob, with_carol] }
    }

    impl Bed {
        fn message(&self, conversation: usize, n: u64, content_type: ContentType) -> Outgoing {
            Outgoing {
                client_msg_id: ClientMsgId::new(format!("m{n}")).unwrap(),
                content_type,
                ..Outgoing::text(&self.alice, &self.conversations[conversation], n.to_string())
            }
        }

        async fn empty(&self) {
            let empty = async {
                while !self.desk.waiting.lock().unwrap().is_empty() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(600), empty).await.expect("everything is sent");
        }

        async fn history(&self, conversation: usize) -> Vec<String> {
            let conversation = self.conversations[conversation].clone();
            let query = HistoryQuery {
                conversation,
                from: Seq(1),
                to: None,
                direction: Direction::Forward,
                max: 100,
            };
            let store = Parts::from(&self.memory).store.unwrap();
            let History::Page { records, .. } = store.messages.history(&query).await.unwrap() else {
                panic!("behind")
            };
            records.iter().map(|record| record.content.to_string()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_sent_now_stops_its_conversation_and_no_other() {
        let bed = bed(20).await;
        for n in 0..8 {
            let content_type = if n == 1 { ContentType::Image } else { ContentType::Text };
            bed.desk.put(n, bed.message(0, n, content_type));
        }
        for n in 8..10 {
            bed.desk.put(n, bed.message(1, n, ContentType::Text));
        }
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(bed.history(0).await, ["0"]);
        assert_eq!(bed.history(1).await, ["8", "9"], "beyond the pages of the other");
        bed.empty().await;
        assert_eq!(bed.history(0).await, ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert_eq!(bed.history(1).await, ["8", "9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_put_aside_and_stops_nothing() {
        let bed = bed(0).await;
        let stranger = UserId::new("stranger").unwrap();
        bed.desk.put(1, Outgoing { sender: stranger, ..bed.message(0, 1, ContentType::Text) });
        bed.desk.put(2, bed.message(0, 2, ContentType::File));
        bed.desk.put(3, bed.message(0, 3, ContentType::Text));
        bed.desk.put(4, Outgoing { content: "other".into(), ..bed.message(0, 3, ContentType::Text) });
        let nowhere = ConversationId::group("nowhere").unwrap();
        bed.desk.put(5, Outgoing { conversation: nowhere, ..bed.message(0, 5, ContentType::Text) });
        bed.desk
            .put(6, Outgoing { content: "x".repeat(70_000).into(), ..bed.message(0, 6, ContentType::Text) });
        bed.desk.put(7, bed.message(0, 7, ContentType::Text));
        bed.empty().await;
        assert_eq!(bed.history(0).await, ["3", "7"]);
        let mut refused = bed.desk.refused.lock().unwrap().clone();
        refused.sort_unstable();
        let due = [
            (1, "not_member"),
            (2, "denied"),
            (4, "conflict"),
            (5, "unknown_conversation"),
            (6, "too_large"),
        ];
        assert_eq!(refused, due);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_and_not_removed_is_sent_once() {
        let bed = bed(0).await;
        *bed.desk.fails.lock().unwrap() = 3;
        bed.desk.put(1, bed.message(0, 1, ContentType::Text));
        bed.desk.put(2, bed.message(0, 2, ContentType::Text));
        bed.empty().await;
        assert_eq!(bed.history(0).await, ["1", "2"]);
        assert_eq!(*bed.desk.fails.lock().unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_lost_the_lease_meanwhile_refuses_nothing() {
        let bed = bed(0).await;
        bed.desk.put(1, bed.message(0, 1, ContentType::Audio));
        // Until the first has the lease.
        tokio::time::sleep(LOOK).await;
        let leases = Parts::from(&bed.memory).log.unwrap().leases;
        let other = NodeId::new("other").unwrap();
        // While the policy thinks.
        while !leases.claim(LEASE, &other, Duration::from_secs(600)).await.unwrap() {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(LASTS * 3).await;
        assert!(bed.desk.refused.lock().unwrap().is_empty());
        assert_eq!(bed.desk.waiting.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_node_takes_over_at_once_after_a_shutdown() {
        let bed = bed(0).await;
        // Until the first has the lease.
        tokio::time::sleep(LOOK).await;
        let store = StorePart { outbox: Some(bed.desk.clone()), ..Parts::from(&bed.memory).store.unwrap() };
        // It looks often, for the workers' leases as well.
        let config = Config { lease: Duration::from_secs(1), ..Config::default() };
        let other =
            Engine::builder(Parts::from(&bed.memory)).store(store).config(config).start().await.unwrap();
        bed.chat.shutdown().await;
        let since = Instant::now();
        bed.desk.put(1, bed.message(0, 1, ContentType::Text));
        bed.empty().await;
        assert!(since.elapsed() < LASTS / 2, "{:?}", since.elapsed());
        other.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_node_takes_over_within_five_seconds_after_a_death() {
        let bed = bed(0).await;
        // Until the first has the lease.
        tokio::time::sleep(LOOK).await;
        let (alive, dead) = (Arc::new(Desk::default()), bed.desk.clone());
        let store = StorePart { outbox: Some(alive.clone()), ..Parts::from(&bed.memory).store.unwrap() };
        let other = Engine::builder(Parts::from(&bed.memory)).store(store).start().await.unwrap();
        tokio::time::sleep(LOOK).await;
        *dead.dead.lock().unwrap() = true;
        let since = Instant::now();
        alive.put(1, bed.message(0, 1, ContentType::Text));
        let bed = Bed { desk: alive, ..bed };
        bed.empty().await;
        assert!(since.elapsed() > LASTS / 3, "the first had the lease, and did not give it back");
        assert!(since.elapsed() <= Duration::from_secs(5), "{:?}", since.elapsed());
        other.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_read_something_lets_others_look_and_goes_on_where_there_is_none() {
        let bed = bed(0).await;
        *bed.desk.is_old.lock().unwrap() = true;
        bed.desk.put(1, bed.message(0, 1, ContentType::Text));
        bed.empty().await;
        let since = Instant::now();
        bed.desk.put(2, bed.message(0, 2, ContentType::Text));
        bed.empty().await;
        assert!(since.elapsed() <= LASTS + LOOK * 2, "{:?}", since.elapsed());

        let newer = Arc::new(Desk::default());
        let store = StorePart { outbox: Some(newer.clone()), ..Parts::from(&bed.memory).store.unwrap() };
        let other = Engine::builder(Parts::from(&bed.memory)).store(store).start().await.unwrap();
        newer.put(1, bed.message(0, 3, ContentType::Text));
        let since = Instant::now();
        let bed = Bed { desk: newer, ..bed };
        bed.empty().await;
        assert!(since.elapsed() <= PASS_ON + LASTS, "{:?}", since.elapsed());
        assert_eq!(bed.history(0).await, ["1", "2", "3"]);
        other.shutdown().await;
    }
}
