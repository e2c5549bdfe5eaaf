//! What the clients did and saw, kept small: texts once, the rest as numbers; a history of the checker is made of it day by day.

use std::{collections::HashMap, sync::Arc, time::Instant};

use hdrhistogram::Histogram;
use im_protocol::RecordView;
use im_testkit::checker::{Event, Report, check};

/// Latencies up to this are told apart, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// Texts that were seen, each once.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let text: Arc<str> = text.into();
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.numbers.insert(text.clone(), number);
        self.texts.push(text);
        number
    }

    fn text(&self, number: u32) -> String {
        self.texts[number as usize].to_string()
    }
}

/// An event of the checker, without its conversation.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Sent { user: u32, id: u32 },
    Acked { user: u32, id: u32, seq: u64 },
    Shown { user: u32, from: u32, id: u32, seq: u64, counts: bool },
    Discarded { user: u32, above: u64, below: u64 },
    Member { user: u32, joined: u64, left: Option<u64> },
    Unread { user: u32, unread: u64, read: u64, head: u64 },
    Done { user: u32 },
}

/// A number with what it is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) unread: u64,
    pub(crate) read: u64,
    pub(crate) head: u64,
}

/// What the clients did and saw, by day.
#[derive(Debug)]
pub(crate) struct History {
    names: Names,
    days: Vec<(String, Vec<Seen>)>,
    sent_at: HashMap<u32, Instant>,
    ack_us: Histogram<u64>,
    receive_us: Histogram<u64>,
    shown: u64,
    acked: u64,
}

impl History {
    /// An empty one of these conversations, a day each.
    pub(crate) fn new(conversations: impl IntoIterator<Item = String>) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_US, 3)
                .unwrap_or_else(|error| unreachable!("the bounds are right: {error}"))
        };
        Self {
            names: Names::default(),
            days: conversations.into_iter().map(|conversation| (conversation, Vec::new())).collect(),
            sent_at: HashMap::new(),
            ack_us: histogram(),
            receive_us: histogram(),
            shown: 0,
            acked: 0,
        }
    }

    /// A client sends a message for the first time.
    pub(crate) fn sent(&mut self, day: usize, user: &str, id: &str) {
        let (user, id) = (self.names.number(user), self.names.number(id));
        self.sent_at.insert(id, Instant::now());
        self.days[day].1.push(Seen::Sent { user, id });
    }

    /// A client's message was acked.
    pub(crate) fn acked(&mut self, day: usize, user: &str, id: &str, seq: u64) {
        let (user, id) = (self.names.number(user), self.names.number(id));
        self.acked += 1;
        if let Some(at) = self.sent_at.get(&id) {
            self.ack_us.saturating_record(micros(*at));
        }
        self.days[day].1.push(Seen::Acked { user, id, seq });
    }

    /// A client showed a record.
    pub(crate) fn shown(&mut self, day: usize, user: &str, record: &RecordView<'_>, counts: bool) {
        let [user, from, id] =
            [user, &*record.from, &*record.client_msg_id].map(|text| self.names.number(text));
        self.shown += u64::from(counts);
        if let Some(at) = self.sent_at.get(&id).filter(|_| counts && user != from) {
            self.receive_us.saturating_record(micros(*at));
        }
        self.days[day].1.push(Seen::Shown { user, from, id, seq: record.seq.get(), counts });
    }

    /// A client threw away what it showed between these sequence ids, because a record says that nothing is there.
    pub(crate) fn discarded(&mut self, day: usize, user: &str, above: u64, below: u64) {
        let user = self.names.number(user);
        self.days[day].1.push(Seen::Discarded { user, above, below });
    }

    /// A user is a member, from one record up to another.
    pub(crate) fn member(&mut self, day: usize, user: &str, joined: u64, left: Option<u64>) {
        let user = self.names.number(user);
        self.days[day].1.push(Seen::Member { user, joined, left });
    }

    /// What a client, or the server for it, counts as unread at the end.
    pub(crate) fn unread(&mut self, day: usize, user: &str, Unread { unread, read, head }: Unread) {
        let user = self.names.number(user);
        self.days[day].1.push(Seen::Unread { user, unread, read, head });
    }

    /// A client is level with the server and will show nothing more of this day.
    pub(crate) fn done(&mut self, day: usize, user: &str) {
        let user = self.names.number(user);
        self.days[day].1.push(Seen::Done { user });
    }

    /// Acked and shown messages.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.acked, self.shown)
    }

    /// Latencies until the ack and until another client shows it, in microseconds.
    pub(crate) fn latencies(&self) -> (&Histogram<u64>, &Histogram<u64>) {
        (&self.ack_us, &self.receive_us)
    }

    /// What the checker says. Conversations know nothing of each other: one at a time needs little memory.
    pub(crate) fn check(&self) -> Report {
        let mut all = Report::default();
        for (conversation, seen) in &self.days {
            let events: Vec<Event> = seen.iter().map(|seen| self.event(conversation, *seen)).collect();
            let report = check(&events);
            all.lost.extend(report.lost);
            all.duplicated.extend(report.duplicated);
            all.disordered.extend(report.disordered);
            all.phantom.extend(report.phantom);
            all.differing.extend(report.differing);
            all.unread_wrong.extend(report.unread_wrong);
        }
        all
    }

    fn event(&self, conversation: &str, seen: Seen) -> Event {
        let conversation = conversation.to_owned();
        let text = |number| self.names.text(number);
        match seen {
            Seen::Sent { user, id } => {
                Event::Sent { client: text(user), user: text(user), conversation, id: text(id) }
            }
            Seen::Acked { user, id, seq } => {
                Event::Acked { client: text(user), user: text(user), conversation, id: text(id), seq }
            }
            Seen::Shown { user, from, id, seq, counts } => {
                let (from, id) = (text(from), text(id));
                Event::Shown { client: text(user), user: text(user), conversation, seq, from, id, counts }
            }
            Seen::Discarded { user, above, below } => {
                Event::Discarded { client: text(user), conversation, above, below }
            }
            Seen::Member { user, joined, left } => {
                Event::Member { user: text(user), conversation, joined, left }
            }
            Seen::Unread { user, unread, read, head } => {
                Event::Unread { client: text(user), user: text(user), conversation, unread, read, head }
            }
            Seen::Done { user } => Event::Done { client: text(user), user: text(user) },
        }
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(LONGEST_US)
}
