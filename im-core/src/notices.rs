//! The codec of notices: Protocol Buffers, described by `notices.proto` beside this crate's manifest.
//!
//! Fields are only ever added; numbers are never given twice; a reader ignores fields that it does not know. A kind of notice that it
//! does not know is an error: something is missing there, and the subscriber has to be told [`Noticed::Lagged`](crate::Noticed).

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::{
    ConversationId, Cursor, InvalidId, Mark, NodeId, Notice, Ordinal, Record, Seq, SessionId, Signal,
    Signals, StateVersion, UserId, codec,
};

/// Why bytes are not notices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not a Protocol Buffers message of this shape.
    #[error("malformed notices: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// An id in a notice is not one.
    #[error("malformed id in a notice: {0}")]
    Id(#[from] InvalidId),
    /// A record that a notice carries is not one.
    #[error("in a notice: {0}")]
    Record(#[from] codec::DecodeError),
    /// A signal contradicts itself.
    #[error("a signal {0}")]
    Signal(&'static str),
    /// A notice of a kind that this version does not know.
    #[error("a notice of an unknown kind")]
    UnknownKind,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(message, repeated, tag = "1")]
    notices: Vec<WireNotice>,
}

#[derive(Clone, PartialEq, Message)]
struct WireNotice {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Signals(WireSignals),
    #[prost(message, tag = "2")]
    State(WireState),
    #[prost(message, tag = "3")]
    Head(WireHead),
    #[prost(message, tag = "4")]
    Kick(WireKick),
}

#[derive(Clone, PartialEq, Message)]
struct WireSignals {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    records: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    signals: Vec<WireSignal>,
}

#[derive(Clone, PartialEq, Message)]
struct WireSignal {
    #[prost(message, repeated, tag = "1")]
    users: Vec<WireUser>,
    #[prost(uint32, repeated, tag = "2")]
    records: Vec<u32>,
    #[prost(string, repeated, tag = "3")]
    cursors: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct WireUser {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(string, optional, tag = "2")]
    previous: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct WireState {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireHead {
    #[prost(string, tag = "1")]
    conversation_id: String,
    #[prost(uint64, tag = "2")]
    sequence_id: u64,
    #[prost(uint64, tag = "3")]
    ordinal: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireKick {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(string, repeated, tag = "2")]
    session_ids: Vec<String>,
}

/// Encodes notices. Encodings may be joined: their bytes in a row are the encoding of all their notices in a row.
#[must_use]
pub fn encode(notices: &[Notice]) -> Bytes {
    let wire = |notice| WireNotice { kind: Some(kind(notice)) };
    Wire { notices: notices.iter().map(wire).collect() }.encode_to_vec().into()
}

/// What one call of [`Notifier::notify`](crate::Notifier::notify) tells each node, encoded: in order, and in as few payloads as it takes.
/// A payload has at most so many bytes, or one notice.
#[must_use]
pub fn payloads(notices: Vec<(NodeId, Notice)>, most: usize) -> HashMap<NodeId, Vec<Bytes>> {
    let mut by_node: HashMap<NodeId, Vec<BytesMut>> = HashMap::new();
    for (node, notice) in notices {
        let bytes = encode(std::slice::from_ref(&notice));
        let payloads = by_node.entry(node).or_default();
        match payloads.last_mut() {
            Some(last) if last.len() + bytes.len() <= most => last.extend_from_slice(&bytes),
            _ => payloads.push(bytes.into()),
        }
    }
    let frozen = |payloads: Vec<BytesMut>| payloads.into_iter().map(BytesMut::freeze).collect();
    by_node.into_iter().map(|(node, payloads)| (node, frozen(payloads))).collect()
}

fn kind(notice: &Notice) -> Kind {
    match notice {
        Notice::Signals(Signals { records, signals }) => Kind::Signals(WireSignals {
            records: records.iter().map(|record| codec::encode(record)).collect(),
            signals: signals.iter().map(wire_signal).collect(),
        }),
        Notice::State(user, version) => {
            Kind::State(WireState { user_id: user.as_str().to_owned(), version: version.as_str().to_owned() })
        }
        Notice::Head(conversation, mark) => Kind::Head(WireHead {
            conversation_id: conversation.as_str().to_owned(),
            sequence_id: mark.seq.0,
            ordinal: mark.ordinal.0,
        }),
        Notice::Kick(user, sessions) => Kind::Kick(WireKick {
            user_id: user.as_str().to_owned(),
            session_ids: sessions.iter().map(|session| session.as_str().to_owned()).collect(),
        }),
    }
}

fn wire_signal(signal: &Signal) -> WireSignal {
    let text = |cursor: &Cursor| cursor.as_str().to_owned();
    let user = |(user, previous): &(UserId, Option<Cursor>)| WireUser {
        user_id: user.as_str().to_owned(),
        previous: previous.as_ref().map(text),
    };
    WireSignal {
        users: signal.users.iter().map(user).collect(),
        records: signal.records.to_vec(),
        cursors: signal.cursors.iter().map(text).collect(),
    }
}

/// Decodes notices.
///
/// # Errors
/// [`DecodeError`] when the bytes are not notices, or hold one of a kind that this version does not know; then none is decoded.
pub fn decode(bytes: &[u8]) -> Result<Vec<Notice>, DecodeError> {
    let wire = Wire::decode(bytes)?;
    wire.notices.into_iter().map(|notice| of_kind(notice.kind.ok_or(DecodeError::UnknownKind)?)).collect()
}

fn of_kind(kind: Kind) -> Result<Notice, DecodeError> {
    Ok(match kind {
        Kind::Signals(wire) => {
            let record = |bytes: Bytes| codec::decode(&bytes).map(Arc::new);
            let records = wire.records.into_iter().map(record).collect::<Result<Arc<[Arc<Record>]>, _>>()?;
            let signal = |wire| signal(wire, records.len());
            Notice::Signals(Signals {
                signals: wire.signals.into_iter().map(signal).collect::<Result<_, _>>()?,
                records,
            })
        }
        Kind::State(wire) => Notice::State(UserId::new(wire.user_id)?, StateVersion::new(wire.version)),
        Kind::Head(wire) => Notice::Head(
            ConversationId::new(wire.conversation_id)?,
            Mark { seq: Seq(wire.sequence_id), ordinal: Ordinal(wire.ordinal) },
        ),
        Kind::Kick(wire) => Notice::Kick(
            UserId::new(wire.user_id)?,
            wire.session_ids.into_iter().map(SessionId::new).collect::<Result<_, _>>()?,
        ),
    })
}

/// A signal whose places are among so many records.
fn signal(wire: WireSignal, records: usize) -> Result<Signal, DecodeError> {
    if wire.cursors.is_empty() {
        return Err(DecodeError::Signal("has no cursor"));
    }
    if !wire.records.is_empty() && wire.records.len() != wire.cursors.len() {
        return Err(DecodeError::Signal("has not as many records as cursors"));
    }
    if wire.records.iter().any(|at| *at as usize >= records) {
        return Err(DecodeError::Signal("has a record that is not there"));
    }
    let user = |user: WireUser| Ok((UserId::new(user.user_id)?, user.previous.map(Cursor::new)));
    Ok(Signal {
        users: wire.users.into_iter().map(user).collect::<Result<_, DecodeError>>()?,
        records: wire.records.into(),
        cursors: wire.cursors.into_iter().map(Cursor::new).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::Index};

    use super::*;
    use crate::{ClientMsgId, ContentHash, ContentType, RecordKind, Timestamp};

    const ID: &str = "[^\\p{Cc}]{1,16}";

    fn record(n: u64, content: &str) -> Arc<Record> {
        Arc::new(Record {
            conversation: ConversationId::new("g").unwrap(),
            seq: Seq(n),
            ordinal: Ordinal(n),
            created_at: Timestamp(1),
            sender: UserId::new("alice").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new("m1").unwrap(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: content.into(),
            hash: ContentHash(1),
        })
    }

    #[test]
    fn payloads_keep_the_order_and_the_limit() {
        let (most, node) = (1 << 20, NodeId::new("node").unwrap());
        let session = |n| SessionId::new(format!("{}{n}", "x".repeat(50))).unwrap();
        let kick = |sessions| Notice::Kick(UserId::new("a").unwrap(), (0..sessions).map(session).collect());
        let mut notices = vec![kick(30_000)];
        for n in 0..200_000 {
            let mark = Mark { seq: Seq(n), ordinal: Ordinal(n) };
            notices.push(Notice::Head(ConversationId::group("g").unwrap(), mark));
        }
        let given = notices.iter().map(|notice| (node.clone(), notice.clone())).collect();
        let payloads = payloads(given, most).remove(&node).unwrap();
        assert!(payloads.len() > 2 && payloads[1..].iter().all(|payload| payload.len() <= most));
        assert!(payloads[1..payloads.len() - 1].iter().all(|payload| payload.len() > most - 100));
        let heard: Vec<_> = payloads.iter().flat_map(|payload| decode(payload).unwrap()).collect();
        assert_eq!(heard, notices);
    }

    prop_compose! {
        fn signals()(
            contents in vec("\\PC{0,40}", 0..5),
            of in vec(
                (vec((ID, option::of("\\PC{0,40}")), 0..4), vec(("\\PC{0,40}", any::<Index>()), 1..5), any::<bool>()),
                0..5,
            ),
        ) -> Notice {
            let records: Arc<[_]> = contents.iter().enumerate().map(|(n, text)| record(n as u64, text)).collect();
            let user = |(user, previous): (String, Option<String>)| (UserId::new(user).unwrap(), previous.map(Cursor::new));
            let signals = of.into_iter().map(|(users, entries, carried)| Signal {
                users: users.into_iter().map(user).collect(),
                records: entries
                    .iter()
                    .filter(|_| carried && !records.is_empty())
                    .map(|(_, at)| at.index(records.len()) as u32)
                    .collect(),
                cursors: entries.iter().map(|(cursor, _)| Cursor::new(cursor)).collect(),
            });
            let signals = signals.collect();
            Notice::Signals(Signals { records, signals })
        }
    }

    fn notice() -> impl Strategy<Value = Notice> {
        let user = || ID.prop_map(|id| UserId::new(id).unwrap());
        prop_oneof![
            signals(),
            (user(), "\\PC{0,40}")
                .prop_map(|(user, version)| Notice::State(user, StateVersion::new(version))),
            (ID, any::<(u64, u64)>()).prop_map(|(id, (seq, ordinal))| {
                Notice::Head(
                    ConversationId::new(id).unwrap(),
                    Mark { seq: Seq(seq), ordinal: Ordinal(ordinal) },
                )
            }),
            (user(), vec(ID, 0..4)).prop_map(|(user, ids)| {
                Notice::Kick(user, ids.into_iter().map(|id| SessionId::new(id).unwrap()).collect())
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(notices in vec(notice(), 0..5)) {
            prop_assert_eq!(decode(&encode(&notices)).unwrap(), notices);
        }

        #[test]
        fn encodings_may_be_joined(notices in vec(notice(), 0..5)) {
            let joined: Vec<u8> =
                notices.iter().flat_map(|notice| encode(std::slice::from_ref(notice)).to_vec()).collect();
            prop_assert_eq!(joined, encode(&notices).to_vec());
        }

        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn bytes_that_were_changed_decode_or_fail_without_a_panic(
            notices in vec(notice(), 1..4),
            changes in vec((any::<Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = encode(&notices).to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = decode(&bytes);
        }
    }

    fn of_one(wire: WireSignal) -> Result<Vec<Notice>, DecodeError> {
        let kind =
            Kind::Signals(WireSignals { records: vec![codec::encode(&record(1, "x"))], signals: vec![wire] });
        decode(&Wire { notices: vec![WireNotice { kind: Some(kind) }] }.encode_to_vec())
    }

    #[test]
    fn a_signal_that_contradicts_itself_is_refused() {
        let wire = |records: &[u32], cursors: &[&str]| WireSignal {
            users: vec![WireUser { user_id: "alice".into(), previous: None }],
            records: records.to_vec(),
            cursors: cursors.iter().map(|&cursor| cursor.to_owned()).collect(),
        };
        for good in [wire(&[0], &["c"]), wire(&[], &["c", "d"]), wire(&[0, 0], &["c", "d"])] {
            assert!(of_one(good).is_ok());
        }
        for bad in [wire(&[], &[]), wire(&[0], &[]), wire(&[0], &["c", "d"]), wire(&[1], &["c"])] {
            assert!(matches!(of_one(bad), Err(DecodeError::Signal(_))));
        }
        let nobody = WireSignal {
            users: vec![WireUser { user_id: String::new(), previous: None }],
            ..wire(&[], &["c"])
        };
        assert_eq!(of_one(nobody), Err(DecodeError::Id(InvalidId::Empty)));
    }

    #[test]
    fn a_later_version_may_add_fields_and_its_kinds_are_errors() {
        let notice = Notice::State(UserId::new("alice").unwrap(), StateVersion::new("v"));
        let mut bytes = encode(std::slice::from_ref(&notice)).to_vec();
        bytes.extend_from_slice(&[0xf8, 0x07, 0x01]); // field 127, varint 1
        assert_eq!(decode(&bytes).unwrap(), [notice]);
        let unknown = [0x0a, 0x03, 0xfa, 0x07, 0x00]; // a notice with field 127, empty
        assert_eq!(decode(&unknown), Err(DecodeError::UnknownKind));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let user = || UserId::new("a").unwrap();
        let notices = [
            Notice::Signals(Signals {
                records: [].into(),
                signals: vec![Signal {
                    users: vec![(user(), Some(Cursor::new("p"))), (user(), None)],
                    records: [].into(),
                    cursors: [Cursor::new("c")].into(),
                }],
            }),
            Notice::State(user(), StateVersion::new("v")),
            Notice::Head(ConversationId::new("g").unwrap(), Mark { seq: Seq(7), ordinal: Ordinal(5) }),
            Notice::Kick(user(), vec![SessionId::new("s").unwrap()]),
        ];
        let hex: String = encode(&notices).iter().map(|byte| format!("{byte:02x}")).collect();
        let due = "0a14 0a12 1210 0a06 0a0161 120170 0a03 0a0161 1a0163 \
                   0a08 1206 0a0161 120176 \
                   0a09 1a07 0a0167 1007 1805 \
                   0a08 2206 0a0161 120173";
        assert_eq!(hex, due.replace(' ', ""));
    }
}
