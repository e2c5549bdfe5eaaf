//! The record codec: Protocol Buffers, described by `record.proto` beside this crate's manifest.
//!
//! Fields are only ever added; numbers are never given twice; a reader ignores fields that it does not know.

use bytes::Bytes;
use prost::Message;

use crate::{
    ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, InvalidId, Ordinal, Record, RecordKind,
    Seq, Timestamp, UserId,
};

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not a Protocol Buffers message of this shape.
    #[error("malformed record: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// An id in the record is not one.
    #[error("malformed id in a record: {0}")]
    Id(#[from] InvalidId),
    /// A number is out of the range of its field.
    #[error("{0} out of range in a record")]
    Range(&'static str),
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(string, tag = "1")]
    conversation_id: String,
    #[prost(uint64, tag = "2")]
    sequence_id: u64,
    #[prost(uint64, tag = "3")]
    ordinal: u64,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(string, tag = "5")]
    send_from: String,
    #[prost(string, tag = "6")]
    device: String,
    #[prost(string, tag = "7")]
    send_to: String,
    #[prost(string, tag = "8")]
    client_msg_id: String,
    #[prost(uint64, optional, tag = "9")]
    hole_after: Option<u64>,
    #[prost(uint32, tag = "10")]
    kind: u32,
    #[prost(uint32, tag = "11")]
    content_type: u32,
    #[prost(string, tag = "12")]
    content: String,
    #[prost(fixed64, tag = "13")]
    content_hash: u64,
}

/// Encodes a record.
#[must_use]
pub fn encode(record: &Record) -> Bytes {
    let text = |id: Option<&str>| id.unwrap_or_default().to_owned();
    let wire = Wire {
        conversation_id: record.conversation.as_str().to_owned(),
        sequence_id: record.seq.0,
        ordinal: record.ordinal.0,
        created_at: record.created_at.0,
        send_from: record.sender.as_str().to_owned(),
        device: text(record.device.as_ref().map(DeviceId::as_str)),
        send_to: text(record.send_to.as_ref().map(UserId::as_str)),
        client_msg_id: record.client_msg_id.as_str().to_owned(),
        hole_after: record.hole_after.map(|seq| seq.0),
        kind: u16::from(record.kind).into(),
        content_type: record.content_type as u32,
        content: record.content.to_string(),
        content_hash: record.hash.0,
    };
    wire.encode_to_vec().into()
}

/// Decodes a record. A kind that this version does not know becomes [`RecordKind::Other`], an unknown content type
/// [`ContentType::Custom`].
///
/// # Errors
/// [`DecodeError`] when the bytes are not a record.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let wire = Wire::decode(bytes)?;
    let optional = |text: String| (!text.is_empty()).then_some(text);
    Ok(Record {
        conversation: ConversationId::new(wire.conversation_id)?,
        seq: Seq(wire.sequence_id),
        ordinal: Ordinal(wire.ordinal),
        created_at: Timestamp(wire.created_at),
        sender: UserId::sender(wire.send_from)?,
        device: optional(wire.device).map(DeviceId::new).transpose()?,
        send_to: optional(wire.send_to).map(UserId::new).transpose()?,
        client_msg_id: ClientMsgId::new(wire.client_msg_id)?,
        hole_after: wire.hole_after.map(Seq),
        kind: RecordKind::from(u16::try_from(wire.kind).map_err(|_| DecodeError::Range("kind"))?),
        content_type: ContentType::from_number(wire.content_type).unwrap_or(ContentType::Custom),
        content: wire.content.into(),
        hash: ContentHash(wire.content_hash),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn record()(
            (conversation, sender, id) in ("[^\\p{Cc}]{1,16}", "[^\\p{Cc}]{0,16}", "[^\\p{Cc}]{1,16}"),
            (device, to) in (proptest::option::of("[^\\p{Cc}]{1,16}"), proptest::option::of("[^\\p{Cc}]{1,16}")),
            (seq, ordinal, created_at, hash) in any::<(u64, u64, i64, u64)>(),
            hole in proptest::option::of(any::<u64>()),
            kind in any::<u16>(),
            content_type in proptest::sample::select(ContentType::ALL),
            content in "\\PC{0,300}",
        ) -> Record {
            Record {
                conversation: ConversationId::new(conversation).unwrap(),
                seq: Seq(seq),
                ordinal: Ordinal(ordinal),
                created_at: Timestamp(created_at),
                sender: UserId::sender(sender).unwrap(),
                device: device.map(|id| DeviceId::new(id).unwrap()),
                send_to: to.map(|id| UserId::new(id).unwrap()),
                client_msg_id: ClientMsgId::new(id).unwrap(),
                hole_after: hole.map(Seq),
                kind: RecordKind::from(kind),
                content_type,
                content: content.into(),
                hash: ContentHash(hash),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(record in record()) {
            prop_assert_eq!(decode(&encode(&record)).unwrap(), record);
        }

        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let record = sample();
        let mut bytes = encode(&record).to_vec();
        bytes.extend_from_slice(&[0xf8, 0x07, 0x01]); // field 127, varint 1
        assert_eq!(decode(&bytes).unwrap(), record);
    }

    #[test]
    fn the_bytes_are_pinned() {
        let hex: String = encode(&sample()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0a0167100718052001 2a05616c696365 4202 6d31 5001 5801 6206e4bda0e5a5bd 690100000000000000"
                .replace(' ', "")
        );
    }

    fn sample() -> Record {
        Record {
            conversation: ConversationId::new("g").unwrap(),
            seq: Seq(7),
            ordinal: Ordinal(5),
            created_at: Timestamp(1),
            sender: UserId::new("alice").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new("m1").unwrap(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            content: "你好".into(),
            hash: ContentHash(1),
        }
    }
}
