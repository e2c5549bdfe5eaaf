//! Notices as text, at most as long as `NOTIFY` takes: JSON, with records as im-core encodes them.
//!
//! A node that runs another version may not understand it; then it is told that it lags.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use im_core::{
    ConversationId, Cursor, Mark, NodeId, Notice, Ordinal, Record, Seq, SessionId, Signals, StateVersion,
    UserId, UserSignal, codec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest payload of `NOTIFY` in its default configuration is 7,999 bytes:
/// <https://www.postgresql.org/docs/current/sql-notify.html>
const MOST_BYTES: usize = 7_900;

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

/// User, previous cursor, indices of records, cursors.
#[derive(Serialize, Deserialize)]
struct WireSignal(UserId, Option<Cursor>, Vec<u32>, Vec<Cursor>);

fn wire(signals: &Signals) -> Wire {
    let record = |record: &Arc<Record>| BASE64_STANDARD.encode(codec::encode(record));
    let user = |signal: &UserSignal| {
        let UserSignal { user, previous, records, cursors } = signal.clone();
        WireSignal(user, previous, records.to_vec(), cursors.to_vec())
    };
    Wire::Signals {
        r: signals.records.iter().map(record).collect(),
        u: signals.users.iter().map(user).collect(),
    }
}

/// A notice in as many payloads as it needs; none where this version has no words for it.
pub(crate) fn encode(notice: &Notice) -> Vec<String> {
    let wire = match notice {
        Notice::Signals(signals) => return pack(signals),
        Notice::State(user, version) => Wire::State(user.clone(), version.clone()),
        Notice::Head(id, mark) => Wire::Head(id.clone(), mark.seq.0, mark.ordinal.0),
        Notice::Kick(user, sessions) => Wire::Kick(user.clone(), sessions.clone()),
        _ => return Vec::new(),
    };
    text(&wire).into_iter().collect()
}

fn text(wire: &Wire) -> Option<String> {
    serde_json::to_string(wire).ok()
}

/// What is too long goes in halves; what of one user is too long goes without its records, and then with its last cursor alone.
fn pack(signals: &Signals) -> Vec<String> {
    if let Some(text) = text(&wire(signals)).filter(|text| text.len() <= MOST_BYTES) {
        return vec![text];
    }
    match signals.users.as_slice() {
        [] => Vec::new(),
        [one] => {
            let cursors = one.cursors.last().cloned().into_iter().collect();
            let bare = UserSignal { records: Arc::default(), cursors, ..one.clone() };
            text(&wire(&Signals { records: [].into(), users: vec![bare] })).into_iter().collect()
        }
        many => {
            let (first, second) = many.split_at(many.len() / 2);
            [first, second].into_iter().flat_map(|some| pack(&part(signals, some))).collect()
        }
    }
}

/// The signals of some users, with the records that they are sent.
fn part(signals: &Signals, users: &[UserSignal]) -> Signals {
    let mut places = vec![None; signals.records.len()];
    let mut records = Vec::new();
    let mut users = users.to_vec();
    for user in &mut users {
        let place = |index: &u32| {
            let at = *index as usize;
            *places[at].get_or_insert_with(|| {
                records.push(signals.records[at].clone());
                records.len() as u32 - 1
            })
        };
        user.records = user.records.iter().map(place).collect();
    }
    Signals { records: records.into(), users }
}

/// The notice of a payload; none where it cannot be understood.
pub(crate) fn decode(text: &str) -> Option<Notice> {
    Some(match serde_json::from_str(text).ok()? {
        Wire::State(user, version) => Notice::State(user, version),
        Wire::Head(id, seq, ordinal) => Notice::Head(id, Mark { seq: Seq(seq), ordinal: Ordinal(ordinal) }),
        Wire::Kick(user, sessions) => Notice::Kick(user, sessions),
        Wire::Signals { r, u } => {
            let record = |text: String| codec::decode(&BASE64_STANDARD.decode(text).ok()?).ok().map(Arc::new);
            let records = r.into_iter().map(record).collect::<Option<Arc<[_]>>>()?;
            let signal = |WireSignal(user, previous, records, cursors)| UserSignal {
                user,
                previous,
                records: records.into(),
                cursors: cursors.into(),
            };
            let users: Vec<UserSignal> = u.into_iter().map(signal).collect();
            let known = |signal: &UserSignal| {
                !signal.cursors.is_empty()
                    && signal.records.iter().all(|index| (*index as usize) < records.len())
            };
            if !users.iter().all(known) {
                return None;
            }
            Notice::Signals(Signals { records, users })
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
        let signal = |n| UserSignal {
            user: UserId::new(format!("user-{n}")).unwrap(),
            previous: Some(Cursor::new(format!("{n}"))),
            records: all.clone().into(),
            cursors: all.iter().map(|at| Cursor::new(format!("{n}-{at}"))).collect(),
        };
        let record = |(n, bytes): (usize, &usize)| record(n as u64, *bytes);
        Signals {
            records: records.iter().enumerate().map(record).collect(),
            users: (0..users).map(signal).collect(),
        }
    }

    /// What users are told by all payloads together: the records' places and the last cursor.
    fn told(payloads: &[String]) -> Vec<(String, Vec<u64>, String)> {
        assert!(payloads.iter().all(|payload| payload.len() <= MOST_BYTES));
        let notices = payloads.iter().map(|payload| decode(payload).unwrap());
        let of = |notice| {
            let Notice::Signals(Signals { records, users }) = notice else { panic!("no signals") };
            users.into_iter().map(move |user: UserSignal| {
                let seqs = user.records.iter().map(|index| records[*index as usize].seq.0).collect();
                (user.user.to_string(), seqs, user.cursors.last().unwrap().as_str().to_owned())
            })
        };
        notices.flat_map(of).collect()
    }

    #[test]
    fn many_users_are_told_in_several_payloads_all_of_them_everything() {
        let payloads = encode(&Notice::Signals(signals(1000, &[300, 20])));
        assert!(payloads.len() > 1);
        let due: Vec<_> = (0..1000).map(|n| (format!("user-{n}"), vec![0, 1], format!("{n}-1"))).collect();
        assert_eq!(told(&payloads), due);
    }

    #[test]
    fn what_is_too_long_for_one_is_told_without_its_records() {
        let payloads = encode(&Notice::Signals(signals(2, &[9000])));
        let due: Vec<_> = (0..2).map(|n| (format!("user-{n}"), vec![], format!("{n}-0"))).collect();
        assert_eq!(told(&payloads), due);
    }

    #[test]
    fn what_is_no_notice_is_none() {
        for text in [
            "",
            "{}",
            "{\"x\":1}",
            "{\"s\":{\"r\":[],\"u\":[[\"a\",null,[0],[\"c\"]]]}}",
            "{\"s\":{\"r\":[\"!\"],\"u\":[]}}",
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
