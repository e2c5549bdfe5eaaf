//! The history checker: takes what clients sent, were acked and saw, and says what went wrong.
//!
//! A history is a file of JSON lines, each an [`Event`], in the order in which they happened. Any program in any language may
//! write one; `client` names one device of one user.
//!
//! ```json
//! {"ev":"sent","client":"alice/web","user":"alice","conversation":"g","id":"m1"}
//! {"ev":"acked","client":"alice/web","user":"alice","conversation":"g","id":"m1","seq":4}
//! {"ev":"shown","client":"bob/web","user":"bob","conversation":"g","seq":4,"from":"alice","id":"m1","counts":true}
//! {"ev":"member","user":"bob","conversation":"g","joined":1,"left":null}
//! {"ev":"unread","client":"bob/web","user":"bob","conversation":"g","unread":1,"read":3,"head":4}
//! {"ev":"discarded","client":"bob/web","conversation":"g","above":5,"below":1048581}
//! {"ev":"forgiven","user":"alice","conversation":"g","id":"m1"}
//! {"ev":"done","client":"bob/web","user":"bob"}
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead},
};

use serde::{Deserialize, Serialize};

/// Something that a client did or saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A client began to send a message; written once, not for each retry.
    Sent {
        /// The client.
        client: String,
        /// Its user.
        user: String,
        /// Where to.
        conversation: String,
        /// The client message id.
        id: String,
    },
    /// A client's message was acked.
    Acked {
        /// The client.
        client: String,
        /// Its user.
        user: String,
        /// Where to.
        conversation: String,
        /// The client message id.
        id: String,
        /// The sequence id.
        seq: u64,
    },
    /// A client showed a record.
    Shown {
        /// The client.
        client: String,
        /// Its user.
        user: String,
        /// Where.
        conversation: String,
        /// The sequence id.
        seq: u64,
        /// The sender; empty for the system.
        from: String,
        /// The client message id.
        id: String,
        /// Whether it is a message, which counts as unread.
        counts: bool,
    },
    /// A client took back what it had shown inside a declared hole: the server lost it.
    Discarded {
        /// The client.
        client: String,
        /// Where.
        conversation: String,
        /// The hole begins above this sequence id.
        above: u64,
        /// And ends below this one.
        below: u64,
    },
    /// A user has a right to a span of a conversation, both ends included.
    Member {
        /// The user.
        user: String,
        /// The conversation.
        conversation: String,
        /// The joining record.
        joined: u64,
        /// The leaving record; none while the user is a member.
        left: Option<u64>,
    },
    /// What a client shows as unread, once everything is quiet.
    Unread {
        /// The client.
        client: String,
        /// Its user.
        user: String,
        /// Where.
        conversation: String,
        /// How many.
        unread: u64,
        /// The read mark, own sends included.
        read: u64,
        /// The head as far as the user has a right to it.
        head: u64,
    },
    /// A message that may be lost although it was acked: the stated durability did not cover what happened.
    Forgiven {
        /// The sender.
        user: String,
        /// Where.
        conversation: String,
        /// The client message id.
        id: String,
    },
    /// A client is up to date and will show nothing more; only such a client can have lost something.
    Done {
        /// The client.
        client: String,
        /// Its user.
        user: String,
    },
}

/// What went wrong, in words; a history is right when every list is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Acked messages that a client with a right to them never showed.
    pub lost: Vec<String>,
    /// Records that a client showed twice, or messages that stand twice.
    pub duplicated: Vec<String>,
    /// Records shown or numbered out of order.
    pub disordered: Vec<String>,
    /// Messages shown that nobody sent, or to somebody without a right to them.
    pub phantom: Vec<String>,
    /// Places at which clients saw different records.
    pub differing: Vec<String>,
    /// Unread counts that differ from their definition.
    pub unread_wrong: Vec<String>,
}

impl Report {
    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_right(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads a history of JSON lines; empty lines are passed over.
///
/// # Errors
/// When a line cannot be read or is no event.
pub fn read(lines: impl BufRead) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in lines.lines() {
        let line = line?;
        if !line.trim().is_empty() {
            events.push(serde_json::from_str(&line).map_err(io::Error::other)?);
        }
    }
    Ok(events)
}

/// Checks a history.
#[must_use]
pub fn check<'a>(history: impl IntoIterator<Item = &'a Event>) -> Report {
    let mut checker = Checker::default();
    for event in history {
        checker.event(event);
    }
    checker.finish()
}

/// A message: conversation, sender, client message id.
type Key<'a> = (&'a str, &'a str, &'a str);

/// The first and the last record of a span; no last one while it is open.
type Right = (u64, Option<u64>);

#[derive(Default)]
struct Checker<'a> {
    report: Report,
    sent: BTreeSet<Key<'a>>,
    acked: BTreeMap<Key<'a>, u64>,
    forgiven: BTreeSet<Key<'a>>,
    /// What stands at each place, as the first who said it.
    places: BTreeMap<(&'a str, u64), (&'a str, &'a str)>,
    counted: BTreeMap<&'a str, BTreeSet<u64>>,
    /// By client and conversation.
    shown: BTreeMap<(&'a str, &'a str), BTreeSet<u64>>,
    last_acked: BTreeMap<(&'a str, &'a str), u64>,
    /// By message: the highest sequence id acked to the client before it sent it.
    sent_after: BTreeMap<Key<'a>, u64>,
    rights: BTreeMap<(&'a str, &'a str), Vec<Right>>,
    unread: Vec<Unread<'a>>,
    done: BTreeMap<&'a str, &'a str>,
}

struct Unread<'a> {
    client: &'a str,
    user: &'a str,
    conversation: &'a str,
    unread: u64,
    read: u64,
    head: u64,
}

impl<'a> Checker<'a> {
    fn event(&mut self, event: &'a Event) {
        match event {
            Event::Sent { client, user, conversation, id } => {
                self.sent.insert((conversation, user, id));
                let before = self.last_acked.get(&(client.as_str(), conversation.as_str())).copied();
                self.sent_after.insert((conversation, user, id), before.unwrap_or(0));
            }
            Event::Acked { client, user, conversation, id, seq } => {
                self.acked(client, (conversation, user, id), *seq);
            }
            Event::Shown { client, user, conversation, seq, from, id, counts } => {
                self.shown(client, user, (conversation, from, id), *seq, *counts);
            }
            Event::Discarded { client, conversation, above, below } => {
                self.discarded(client, conversation, *above, *below);
            }
            Event::Member { user, conversation, joined, left } => {
                self.rights.entry((user, conversation)).or_default().push((*joined, *left));
            }
            Event::Unread { client, user, conversation, unread, read, head } => {
                let (unread, read, head) = (*unread, *read, *head);
                self.unread.push(Unread { client, user, conversation, unread, read, head });
            }
            Event::Forgiven { user, conversation, id } => {
                self.forgiven.insert((conversation, user, id));
            }
            Event::Done { client, user } => {
                self.done.insert(client, user);
            }
        }
    }

    fn acked(&mut self, client: &'a str, key: Key<'a>, seq: u64) {
        let (conversation, user, id) = key;
        match self.acked.insert(key, seq) {
            Some(first) if first != seq => {
                self.report.duplicated.push(format!("{key:?} was acked at {first} and at {seq}"));
            }
            _ => {}
        }
        if self.sent_after.get(&key).is_some_and(|before| seq <= *before) {
            self.report.disordered.push(format!("{client}: {key:?} at {seq}, sent after an ack above"));
        }
        let last = self.last_acked.entry((client, conversation)).or_default();
        *last = seq.max(*last);
        self.counted.entry(conversation).or_default().insert(seq);
        self.place(conversation, seq, (user, id));
    }

    fn place(&mut self, conversation: &'a str, seq: u64, stands: (&'a str, &'a str)) {
        let first = self.places.entry((conversation, seq)).or_insert(stands);
        if *first != stands {
            self.report.differing.push(format!("{conversation} at {seq}: {first:?} and {stands:?}"));
        }
    }

    fn shown(&mut self, client: &'a str, user: &'a str, key: Key<'a>, seq: u64, counts: bool) {
        let (conversation, from, id) = key;
        let shown = self.shown.entry((client, conversation)).or_default();
        let last = shown.last().copied().unwrap_or(0);
        if !shown.insert(seq) {
            self.report.duplicated.push(format!("{client} showed {conversation} at {seq} again"));
        } else if seq < last {
            self.report.disordered.push(format!("{client} showed {conversation} at {seq} after {last}"));
        }
        if counts {
            self.counted.entry(conversation).or_default().insert(seq);
            if !self.sent.contains(&key) {
                self.report.phantom.push(format!("{client} ({user}) showed {key:?}, which nobody sent"));
            }
        }
        self.place(conversation, seq, (from, id));
    }

    /// A hole is one for everybody.
    fn discarded(&mut self, client: &'a str, conversation: &'a str, above: u64, below: u64) {
        let inside = |seq: u64| above < seq && seq < below;
        if let Some(shown) = self.shown.get_mut(&(client, conversation)) {
            shown.retain(|seq| !inside(*seq));
        }
        self.places.retain(|(place, seq), _| *place != conversation || !inside(*seq));
        if let Some(counted) = self.counted.get_mut(conversation) {
            counted.retain(|seq| !inside(*seq));
        }
    }

    fn finish(mut self) -> Report {
        self.twice();
        self.without_right();
        self.lost();
        self.wrong_unread();
        self.report
    }

    /// A message may stand at one place only.
    fn twice(&mut self) {
        let mut first: BTreeMap<Key<'a>, u64> = BTreeMap::new();
        for ((conversation, seq), (from, id)) in &self.places {
            let key = (*conversation, *from, *id);
            if self.sent.contains(&key)
                && let Some(other) = first.insert(key, *seq)
            {
                self.report.duplicated.push(format!("{key:?} stands at {other} and at {seq}"));
            }
        }
    }

    fn may_read(&self, user: &str, conversation: &str, seq: u64) -> bool {
        let rights = self.rights.get(&(user, conversation)).map_or(&[][..], Vec::as_slice);
        rights.iter().any(|(joined, left)| *joined <= seq && left.is_none_or(|left| seq <= left))
    }

    fn without_right(&mut self) {
        let mut phantom = Vec::new();
        for ((client, conversation), seqs) in &self.shown {
            let Some(user) = self.done.get(client) else { continue };
            let wrong = seqs.iter().filter(|seq| !self.may_read(user, conversation, **seq));
            let forgiven = |seq: &&u64| self.is_forgiven(conversation, **seq);
            phantom.extend(
                wrong
                    .filter(|seq| !forgiven(seq))
                    .map(|seq| format!("{client} showed {conversation} at {seq} without a right to it")),
            );
        }
        self.report.phantom.extend(phantom);
    }

    fn is_forgiven(&self, conversation: &'a str, seq: u64) -> bool {
        let stands = self.places.get(&(conversation, seq));
        stands.is_some_and(|(from, id)| self.forgiven.contains(&(conversation, *from, *id)))
    }

    fn lost(&mut self) {
        let mut lost = Vec::new();
        for (client, user) in &self.done {
            for ((conversation, from, id), seq) in &self.acked {
                let shown = self.shown.get(&(*client, *conversation));
                if !self.forgiven.contains(&(*conversation, *from, *id))
                    && self.may_read(user, conversation, *seq)
                    && !shown.is_some_and(|shown| shown.contains(seq))
                {
                    lost.push(format!("{client} never showed {conversation} at {seq}: {id} of {from}"));
                }
            }
        }
        self.report.lost = lost;
    }

    /// Records in (base, head] that count, base being the highest of read mark, joined − 1 and the last own message.
    fn wrong_unread(&mut self) {
        let forgiven: BTreeSet<&str> =
            self.forgiven.iter().map(|(conversation, _, _)| *conversation).collect();
        let mut wrong = Vec::new();
        for said in self.unread.iter().filter(|said| !forgiven.contains(said.conversation)) {
            let Unread { client, user, conversation, unread, read, head } = said;
            let joined = self.rights.get(&(*user, *conversation)).and_then(|rights| rights.last());
            let own = self.places.range((*conversation, 0)..=(*conversation, *head));
            let own = own.filter(|(_, (from, _))| from == user).map(|((_, seq), _)| *seq);
            let counted = self.counted.get(conversation);
            let own = own.filter(|seq| counted.is_some_and(|counted| counted.contains(seq))).max();
            let base = (*read).max(joined.map_or(0, |(joined, _)| joined - 1)).max(own.unwrap_or(0));
            let expected =
                counted.map_or(0, |counted| counted.range(base + 1..).filter(|seq| *seq <= head).count());
            if expected as u64 != *unread {
                wrong.push(format!(
                    "{client}: {conversation} shows {unread} unread, read {read}, head {head}; by definition {expected}"
                ));
            }
        }
        self.report.unread_wrong = wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history in shorthand: one event a line.
    fn report(lines: &[&str]) -> Report {
        let text = lines.join("\n");
        check(&read(text.as_bytes()).unwrap())
    }

    const SENT: &str = r#"{"ev":"sent","client":"a/1","user":"a","conversation":"g","id":"m1"}"#;
    const ACKED: &str = r#"{"ev":"acked","client":"a/1","user":"a","conversation":"g","id":"m1","seq":1}"#;
    const SHOWN: &str = r#"{"ev":"shown","client":"b/1","user":"b","conversation":"g","seq":1,"from":"a","id":"m1","counts":true}"#;
    const MEMBER: &str = r#"{"ev":"member","user":"b","conversation":"g","joined":1,"left":null}"#;
    const DONE: &str = r#"{"ev":"done","client":"b/1","user":"b"}"#;

    #[test]
    fn a_right_history() {
        let unread =
            r#"{"ev":"unread","client":"b/1","user":"b","conversation":"g","unread":1,"read":0,"head":1}"#;
        assert!(report(&[SENT, ACKED, SHOWN, MEMBER, unread, DONE]).is_right());
    }

    #[test]
    fn finds_each_wrong() {
        assert_eq!(report(&[SENT, ACKED, MEMBER, DONE]).lost.len(), 1);
        assert_eq!(report(&[SENT, ACKED, SHOWN, SHOWN, MEMBER, DONE]).duplicated.len(), 1);
        assert_eq!(report(&[SHOWN, MEMBER, DONE]).phantom.len(), 1, "nobody sent it");
        assert_eq!(report(&[SENT, ACKED, SHOWN, DONE]).phantom.len(), 1, "no right to it");
        let other = SHOWN.replace("m1", "m2");
        assert_eq!(report(&[SENT, ACKED, &other.replace("true", "false"), MEMBER]).differing.len(), 1);
        let twice = SHOWN.replace(r#""seq":1"#, r#""seq":2"#);
        assert_eq!(report(&[SENT, ACKED, SHOWN, &twice, MEMBER, DONE]).duplicated.len(), 1);
        let (sent2, shown2) = (SENT.replace("m1", "m2"), other.replace(r#""seq":1"#, r#""seq":2"#));
        let backwards = [SENT, &sent2, &shown2, SHOWN, MEMBER, DONE];
        assert_eq!(report(&backwards).disordered.len(), 1);
        let acked2 = ACKED.replace("m1", "m2").replace(r#""seq":1"#, r#""seq":2"#);
        let renumbered = [sent2.as_str(), &acked2, SENT, ACKED];
        assert_eq!(report(&renumbered).disordered.len(), 1, "sent after the ack of 2, numbered 1");
        let unread =
            r#"{"ev":"unread","client":"b/1","user":"b","conversation":"g","unread":0,"read":0,"head":1}"#;
        assert_eq!(report(&[SENT, ACKED, SHOWN, MEMBER, unread, DONE]).unread_wrong.len(), 1);
    }

    #[test]
    fn what_is_forgiven_may_be_lost_and_who_is_not_done_may_lack_it() {
        let forgiven = r#"{"ev":"forgiven","user":"a","conversation":"g","id":"m1"}"#;
        assert!(report(&[SENT, ACKED, forgiven, MEMBER, DONE]).is_right());
        assert!(report(&[SENT, ACKED, MEMBER]).is_right());
    }
}
