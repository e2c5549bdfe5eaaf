//! Notices as text, at most as long as `NOTIFY` takes: JSON, with records as im-core encodes them.
//!
//! A node that runs another version may not understand it; then it is told that it lags.

use std::{collections::HashSet, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use im_core::{
    ConversationId, Cursor, Mark, NodeId, Notice, Ordinal, Record, Seq, SessionId, Signal, Signals,
    StateVersion, UserId, codec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest payload of `NOTIFY` in its default configuration is 7,999 bytes:
/// <https://www.postgresql.org/docs/current/sql-notify.html>
const MOST_BYTES: usize = 7_900;
/// How a payload begins that this version writes and reads.
const VERSION: char = '1';
/// The longest text of a notice: with version and brackets a payload.
const MOST_WORD: usize = MOST_BYTES - 3;
/// How many sessions one text names at most: such an id has up to 64 bytes, and each may need an escape.
const MOST_SESSIONS: usize = 50;
/// What signals are without records and users.
const EMPTY: usize = "{\"s\":{\"r\":[],\"u\":[]}}".len();
/// A place of a record in a text, with its comma.
const PLACE: usize = "4294967295,".len();

/// The channel of a node, among those of the data of this name. A node's id may be longer than a channel's name.
pub(crate) fn channel(name: &str, node: &NodeId) -> String {
    let hash = Sha256::digest(node.as_str().as_bytes());
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("im_{name}_{hex}")
}

#[derive(Serialize, Deserialize)]
enum Wire {
    #[serde(rename = "s")]
    Signals { r: Vec<String>, u: Vec<WireSignal> },
    #[serde(rename = "v")]
    State(UserId, StateVersion),
    #[serde(rename = "h")]
    Head(ConversationId, u64, u64),
    #[serde(rename = "k")]
    Kick(UserId, Vec<SessionId>),
}

/// What one user got: with its previous cursor, indices of records, cursors.
#[derive(Clone, Serialize, Deserialize)]
struct WireSignal(UserId, Option<Cursor>, Arc<[u32]>, Arc<[Cursor]>);

fn each(signals: &Signals) -> impl Iterator<Item = WireSignal> {
    signals.signals.iter().flat_map(|Signal { users, records, cursors }| {
        let one = |(user, previous): &(UserId, Option<Cursor>)| {
            WireSignal(user.clone(), previous.clone(), records.clone(), cursors.clone())
        };
        users.iter().map(one)
    })
}

/// What one call tells one node: in order, and in as few payloads as it takes.
#[derive(Default)]
pub(crate) struct Payloads(Vec<String>);

impl Payloads {
    pub(crate) fn add(&mut self, notice: &Notice) {
        for word in words(notice) {
            match self.0.last_mut() {
                Some(last) if last.len() + 1 + word.len() < MOST_BYTES => {
                    last.push(',');
                    last.push_str(&word);
                }
                _ => self.0.push(format!("{VERSION}[{word}")),
            }
        }
    }

    pub(crate) fn into_texts(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|text| text + "]")
    }
}

/// A notice as one text or several, each at most [`MOST_WORD`] long.
fn words(notice: &Notice) -> Vec<String> {
    match notice {
        Notice::Signals(signals) => pack(signals),
        Notice::State(user, version) => vec![text(&Wire::State(user.clone(), version.clone()))],
        Notice::Head(id, mark) => vec![text(&Wire::Head(id.clone(), mark.seq.0, mark.ordinal.0))],
        Notice::Kick(user, sessions) => {
            let kick = |some: &[SessionId]| text(&Wire::Kick(user.clone(), some.to_vec()));
            sessions.chunks(MOST_SESSIONS).map(kick).collect()
        }
        // This version has no words for it: the node learns that something is missing.
        _ => vec![text(&())],
    }
}

fn text(wire: &impl Serialize) -> String {
    // What is here always has a text; and what is none is understood by nobody, who then lags.
    serde_json::to_string(wire).unwrap_or_else(|_| "null".to_owned())
}

/// How long something is as text.
fn length(wire: &impl Serialize) -> usize {
    text(wire).len()
}

/// Signals in as many texts as it takes. What of one user is too long goes without its records, or with its last cursor alone.
fn pack(signals: &Signals) -> Vec<String> {
    let lengths = record_lengths(signals);
    let (mut texts, mut part, mut size) = (Vec::new(), Vec::new(), EMPTY);
    let mut sent = HashSet::new();
    for signal in each(signals) {
        let signal = fitting(signal, &lengths);
        let own = signal_length(&signal);
        let fresh = |sent: &HashSet<u32>| -> usize {
            let indices: HashSet<&u32> = signal.2.iter().filter(|index| !sent.contains(*index)).collect();
            indices.into_iter().map(|index| lengths[*index as usize]).sum()
        };
        if size + own + fresh(&sent) > MOST_WORD {
            texts.push(text(&wire(&signals.records, std::mem::take(&mut part))));
            sent.clear();
            size = EMPTY;
        }
        size += own + fresh(&sent);
        sent.extend(signal.2.iter().copied());
        part.push(signal);
    }
    if !part.is_empty() {
        texts.push(text(&wire(&signals.records, part)));
    }
    texts
}

/// How long each record is as text, with what stands around it.
fn record_lengths(signals: &Signals) -> Vec<usize> {
    let quoted = |record: &Arc<Record>| codec::encode(record).len().div_ceil(3) * 4 + 3;
    signals.records.iter().map(quoted).collect()
}

/// How long a user's signal is at most, without its records. Where it is sent they may have other places, which are lower than
/// the number of all.
fn signal_length(WireSignal(user, previous, records, cursors): &WireSignal) -> usize {
    length(&(user, previous, (), cursors)) + 1 + records.len() * PLACE
}

/// A signal that fits into a text of its own.
fn fitting(mut signal: WireSignal, lengths: &[usize]) -> WireSignal {
    let records: usize = signal.2.iter().map(|index| lengths[*index as usize]).sum();
    if EMPTY + signal_length(&signal) + records > MOST_WORD {
        signal.2 = Arc::default();
    }
    if EMPTY + signal_length(&signal) > MOST_WORD {
        signal.1 = None;
        signal.3 = signal.3.last().cloned().into_iter().collect();
    }
    signal
}

/// The signals of some users, with the records that they are sent.
fn wire(all: &[Arc<Record>], mut users: Vec<WireSignal>) -> Wire {
    let mut places = vec![None; all.len()];
    let mut records = Vec::new();
    for user in &mut users {
        let place = |index: &u32| {
            let at = *index as usize;
            *places[at].get_or_insert_with(|| {
                records.push(BASE64_STANDARD.encode(codec::encode(&all[at])));
                records.len() as u32 - 1
            })
        };
        user.2 = user.2.iter().map(place).collect();
    }
    Wire::Signals { r: records, u: users }
}

/// The notices of a payload; none where it cannot be understood.
pub(crate) fn decode(text: &str) -> Option<Vec<Notice>> {
    let wires: Vec<Wire> = serde_json::from_str(text.strip_prefix(VERSION)?).ok()?;
    wires.into_iter().map(notice).collect()
}

fn notice(wire: Wire) -> Option<Notice> {
    Some(match wire {
        Wire::State(user, version) => Notice::State(user, version),
        Wire::Head(id, seq, ordinal) => Notice::Head(id, Mark { seq: Seq(seq), ordinal: Ordinal(ordinal) }),
        Wire::Kick(user, sessions) => Notice::Kick(user, sessions),
        Wire::Signals { r, u } => {
            let record = |text: String| codec::decode(&BASE64_STANDARD.decode(text).ok()?).ok().map(Arc::new);
            let records = r.into_iter().map(record).collect::<Option<Arc<[_]>>>()?;
            let known = |WireSignal(_, _, indices, cursors): &WireSignal| {
                !cursors.is_empty() && indices.iter().all(|index| (*index as usize) < records.len())
            };
            if !u.iter().all(known) {
                return None;
            }
            let mut signals = Vec::new();
            for WireSignal(user, previous, records, cursors) in u {
                Signal::push(&mut signals, (user, previous), records, cursors);
            }
            Notice::Signals(Signals { records, signals })
        }
    })
}

#[cfg(test)]
mod tests {
    use im_core::{ClientMsgId, ContentHash, ContentType, RecordKind, Timestamp};

    use super::*;

    fn record(n: u64, bytes: usize) -> Arc<Record> {
        Arc::new(Record {
            conversation: ConversationId::group("g").unwrap(),
            seq: Seq(n),
            ordinal: Ordinal(n),
            created_at: Timestamp(0),
            sender: UserId::new("x").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new("m").unwrap(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: "字".repeat(bytes / 3).into(),
            hash: ContentHash(0),
        })
    }

    fn signals(users: usize, records: &[usize]) -> Signals {
        let all: Vec<u32> = (0..records.len() as u32).collect();
        let signal = |n| Signal {
            users: vec![(UserId::new(format!("user-{n}")).unwrap(), Some(Cursor::new(format!("{n}"))))],
            records: all.clone().into(),
            cursors: all.iter().map(|at| Cursor::new(format!("{n}-{at}"))).collect(),
        };
        let record = |(n, bytes): (usize, &usize)| record(n as u64, *bytes);
        Signals {
            records: records.iter().enumerate().map(record).collect(),
            signals: (0..users).map(signal).collect(),
        }
    }

    fn payloads(notices: &[Notice]) -> Vec<String> {
        let mut payloads = Payloads::default();
        notices.iter().for_each(|notice| payloads.add(notice));
        payloads.into_texts().collect()
    }

    fn heard(payloads: &[String]) -> Vec<Notice> {
        assert!(payloads.iter().all(|payload| payload.len() <= MOST_BYTES));
        payloads.iter().flat_map(|payload| decode(payload).unwrap()).collect()
    }

    /// What users are told by all payloads together: the records' places and the last cursor.
    fn told(payloads: &[String]) -> Vec<(String, Vec<u64>, String)> {
        let of = |notice| {
            let Notice::Signals(signals) = notice else { panic!("no signals") };
            let told = |WireSignal(user, _, indices, cursors)| {
                let seqs = indices.iter().map(|index| signals.records[*index as usize].seq.0).collect();
                (user.to_string(), seqs, cursors.last().unwrap().as_str().to_owned())
            };
            each(&signals).map(told).collect::<Vec<_>>()
        };
        heard(payloads).into_iter().flat_map(of).collect()
    }

    #[test]
    fn many_users_are_told_in_few_payloads_all_of_them_everything() {
        let payloads = payloads(&[Notice::Signals(signals(1000, &[300, 20]))]);
        let bytes: usize = payloads.iter().map(String::len).sum();
        assert!(payloads.len() > 1 && payloads.len() <= bytes / (MOST_BYTES / 2));
        let due: Vec<_> = (0..1000).map(|n| (format!("user-{n}"), vec![0, 1], format!("{n}-1"))).collect();
        assert_eq!(told(&payloads), due);
    }

    #[test]
    fn what_is_too_long_for_one_is_told_without_its_records() {
        let mut some = signals(2, &[9000, 10]);
        some.signals[1].records = [1].into();
        let payloads = payloads(&[Notice::Signals(some)]);
        let due = [("user-0".into(), vec![], "0-1".into()), ("user-1".into(), vec![1], "1-1".into())];
        assert_eq!(told(&payloads), due);
    }

    #[test]
    fn of_very_many_cursors_the_last_is_told() {
        let payloads = payloads(&[Notice::Signals(signals(1, &[1; 3000]))]);
        assert_eq!(told(&payloads), [("user-0".into(), vec![], "0-2999".into())]);
    }

    #[test]
    fn the_limit_is_kept_wherever_a_record_comes_to_lie() {
        for bytes in 0..300 {
            let payloads = payloads(&[Notice::Signals(signals(60, &[bytes * 3, 2000, 300]))]);
            assert_eq!(told(&payloads).len(), 60);
        }
    }

    #[test]
    fn small_notices_share_payloads_in_their_order() {
        let session = |n| SessionId::new(format!("{}{n}", "\\".repeat(60))).unwrap();
        let user = || UserId::new("\"".repeat(64)).unwrap();
        let mut notices = vec![Notice::Kick(user(), (0..100).map(session).collect())];
        for n in 0..500 {
            let mark = Mark { seq: Seq(n), ordinal: Ordinal(n) };
            notices.push(Notice::Head(ConversationId::group("g").unwrap(), mark));
            notices.push(Notice::State(user(), StateVersion::new(format!("\0{n}"))));
        }
        let payloads = payloads(&notices);
        assert!(payloads.len() < 30);
        let (kicks, others): (Vec<_>, Vec<_>) =
            heard(&payloads).into_iter().partition(|notice| matches!(notice, Notice::Kick(..)));
        assert_eq!(others, notices[1..]);
        let of = |notice: Notice| if let Notice::Kick(_, sessions) = notice { sessions } else { Vec::new() };
        assert_eq!(
            kicks.into_iter().flat_map(of).collect::<Vec<_>>(),
            (0..100).map(session).collect::<Vec<_>>()
        );
        assert!(payloads.iter().all(|payload| !payload.contains('\0')));
    }

    #[test]
    fn what_is_no_notice_is_none() {
        for text in [
            "",
            "1",
            "[]",
            "2[]",
            "1[null]",
            "1[{\"x\":1}]",
            "1[{\"s\":{\"r\":[],\"u\":[[\"a\",null,[0],[\"c\"]]]}}]",
            "1[{\"s\":{\"r\":[],\"u\":[[\"a\",null,[],[]]]}}]",
            "1[{\"s\":{\"r\":[\"!\"],\"u\":[]}}]",
        ] {
            assert!(decode(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_channel_has_at_most_63_bytes() {
        let node = NodeId::new("x".repeat(64)).unwrap();
        assert!(channel("0123456789ab", &node).len() <= 63);
    }
}
