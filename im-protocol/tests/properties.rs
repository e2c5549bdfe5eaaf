//! Whatever comes in decodes or is a typed error; what goes out reads back the same.

#![allow(clippy::unwrap_used)]

use im_core::{
    ClientMsgId, ContentHash, ContentType, ConversationId, Ordinal, Record, RecordKind, Role, Seq, Timestamp,
    UserId,
};
use im_protocol::{
    EncodedRecord, EntryView, ErrorCode, Event, Id, Int, Level, Op, Opaque, RecordView, Request, ServerFrame,
    Signal, Text, frame, op,
};
use proptest::{collection::vec, option, prelude::*};

fn id() -> impl Strategy<Value = Id<'static>> {
    any::<String>().prop_map(Id::from)
}

fn opaque() -> impl Strategy<Value = Opaque<'static>> {
    any::<String>().prop_map(Opaque::from)
}

fn text() -> impl Strategy<Value = Text<'static>> {
    any::<String>().prop_map(Text::from)
}

fn int() -> impl Strategy<Value = Int> {
    (0..=Int::MAX.get()).prop_map(Int::from)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Logged), Just(Level::Stored)]
}

fn content_type() -> impl Strategy<Value = ContentType> {
    proptest::sample::select(ContentType::ALL)
}

fn reading() -> impl Strategy<Value = Op<'static>> {
    prop_oneof![
        (opaque(), option::of(int())).prop_map(|(after, max)| op::Pull { after, max }.into()),
        opaque().prop_map(|cursor| op::Ack { cursor }.into()),
        (id(), option::of(int()), option::of(int()), option::of(int()), any::<bool>()).prop_map(
            |(conversation, from, to, max, backward)| {
                op::History { conversation, from, to, max, backward }.into()
            }
        ),
        option::of(opaque()).prop_map(|since| op::State { since }.into()),
        (option::of(id()), option::of(int()), option::of(vec(id(), 0..3)), any::<bool>())
            .prop_map(|(after, max, ids, fresh)| op::Conversations { after, max, ids, fresh }.into()),
        (id(), option::of(id()), option::of(int())).prop_map(|(conversation, after, max)| op::Members {
            conversation,
            after,
            max
        }
        .into()),
        Just(op::Ping {}.into()),
    ]
}

fn writing() -> impl Strategy<Value = Op<'static>> {
    prop_oneof![
        (any::<String>(), id(), option::of(id()), option::of(opaque()), option::of(opaque())).prop_map(
            |(token, device, platform, cursor, state)| {
                op::Hello { token: token.into(), device, platform, cursor, state }.into()
            }
        ),
        (id(), id(), content_type(), text(), option::of(level())).prop_map(
            |(conversation, client_msg_id, content_type, content, ack)| {
                op::Send { conversation, client_msg_id, content_type, content, ack }.into()
            }
        ),
        (id(), int()).prop_map(|(conversation, seq)| op::MarkRead { conversation, seq }.into()),
        (id(), option::of(text()), option::of(any::<bool>()), option::of(any::<bool>()), option::of(int()))
            .prop_map(|(conversation, nickname, hidden, undisturbed, cleared)| {
                op::Set { conversation, nickname, hidden, undisturbed, cleared }.into()
            }),
        id().prop_map(|user| op::OpenSingle { user }.into()),
    ]
}

fn gathering() -> impl Strategy<Value = Op<'static>> {
    prop_oneof![
        (option::of(id()), option::of(text()), vec(id(), 0..4), id()).prop_map(
            |(conversation, name, members, client_msg_id)| {
                op::CreateGroup { conversation, name, members, client_msg_id }.into()
            }
        ),
        (id(), option::of(vec(id(), 0..4)), id()).prop_map(|(conversation, users, client_msg_id)| {
            op::Join { conversation, users, client_msg_id }.into()
        }),
        (id(), option::of(vec(id(), 0..4)), id()).prop_map(|(conversation, users, client_msg_id)| {
            op::Leave { conversation, users, client_msg_id }.into()
        }),
        (id(), id(), role(), id()).prop_map(|(conversation, user, role, client_msg_id)| {
            op::SetRole { conversation, user, role, client_msg_id }.into()
        }),
    ]
}

fn request() -> impl Strategy<Value = Request<'static>> {
    let op = prop_oneof![reading(), writing(), gathering()];
    (int(), op).prop_map(|(id, op)| Request { id: Some(id), op })
}

prop_compose! {
    fn record()(
        conversation in "\\PC{1,12}", sender in "\\PC{0,12}", client_msg_id in "\\PC{1,12}",
        seq in 1..=Int::MAX.get(), ordinal in 0..=Int::MAX.get(), created_at in 0..4_000_000_000_000_i64,
        hole in option::of(0..=Int::MAX.get()), kind in any::<u16>(), content_type in content_type(),
        content in any::<String>(),
    ) -> Record {
        let kind = RecordKind::from(kind);
        Record {
            conversation: ConversationId::new(conversation).unwrap(),
            seq: Seq(seq),
            ordinal: Ordinal(ordinal),
            created_at: Timestamp(created_at),
            sender: UserId::sender(sender).unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new(client_msg_id).unwrap(),
            hole_after: hole.map(Seq),
            kind,
            content_type,
            hash: ContentHash::of(kind, content_type, &content),
            content: content.into(),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_a_typed_error(bytes in vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = Request::decode(&text);
        let _ = ServerFrame::decode(&text);
    }

    /// Closer to the truth than random bytes: JSON of every shape under the names that a request has.
    #[test]
    fn any_json_is_a_request_or_a_typed_error(
        id in json(), name in proptest::sample::select(Op::NAMES), key in key(), value in json(), other in json(),
    ) {
        let text = serde_json::json!({ "id": id, "op": name, key: value, "conversation": other }).to_string();
        if let Err(error) = Request::decode(&text) {
            prop_assert!(matches!(error.code, ErrorCode::WrongType), "{error:?}");
            prop_assert_eq!(error.re.map(Int::get), id.as_u64().filter(|id| *id <= Int::MAX.get()));
            prop_assert!(error.message.len() <= 256);
        }
    }

    #[test]
    fn a_frame_that_was_cut_or_damaged_is_a_request_or_a_typed_error(
        request in request(), at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = frame::request(&request).into_bytes();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        let decoded = Request::decode(&String::from_utf8_lossy(&bytes)).map(drop);
        prop_assert!(!cut || decoded.is_err());
    }

    #[test]
    fn a_request_reads_back_the_same(request in request()) {
        let text = frame::request(&request);
        prop_assert_eq!(Request::decode(&text).unwrap(), request);
    }

    #[test]
    fn fields_that_are_not_known_change_nothing(request in request(), value in json()) {
        let text = frame::request(&request);
        let more = text.replacen('{', &format!("{{\"new_in_v9\":{value},"), 1);
        prop_assert_eq!(Request::decode(&more).unwrap(), request);
    }

    #[test]
    fn a_composed_signal_is_the_encoded_signal(records in vec((".{0,20}", record()), 1..5)) {
        let encoded: Vec<_> =
            records.iter().map(|(cursor, record)| (cursor.as_str(), EncodedRecord::new(record))).collect();
        let composed = frame::signal(encoded.iter().map(|(cursor, record)| (*cursor, record)));
        let entries: Vec<_> = records
            .iter()
            .map(|(cursor, record)| EntryView { cursor: cursor.as_str().into(), record: RecordView::from(record) })
            .collect();
        let end = entries.last().unwrap().cursor.clone();
        let event = Event::Signal(Signal { end, entries });
        prop_assert_eq!(&composed, &frame::event(&event));
        match ServerFrame::decode(&composed).unwrap() {
            ServerFrame::Event(decoded) => prop_assert_eq!(decoded, event),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

fn key() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(
        &["cursor", "after", "max", "seq", "members", "content", "user", "role", "type"][..],
    )
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}
