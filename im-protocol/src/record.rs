//! Records on the wire, and records that are encoded once and sent many times.
//!
//! Where a type has a parameter `R`, it is a [`RecordView`], or an [`EncodedRecord`] to be sent.

use std::{borrow::Cow, sync::Arc};

use im_core::{Record, RecordKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Id, Int, Opaque, Text};

/// A record as every reader of its conversation sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct RecordView<'a> {
    /// The conversation.
    #[serde(borrow)]
    pub conversation: Id<'a>,
    /// Its place there, from 1 on.
    pub seq: Int,
    /// How many records up to this one, itself included, count as unread.
    pub ordinal: Int,
    /// When the server took it, in milliseconds since 1970; never earlier than the record before it.
    pub created_at: Int,
    /// Who sent it; empty: the system.
    #[serde(borrow)]
    pub from: Text<'a>,
    /// The sender's name of the message.
    #[serde(borrow)]
    pub client_msg_id: Id<'a>,
    /// What it is: `message`, `notice`, `members`, `large`; reserved are `recall`, `edit`; any other is `kind_` and a number,
    /// or a name that a later version gave. A client counts and keeps what it does not know, and does not show it.
    #[serde(borrow)]
    pub kind: Text<'a>,
    /// How the content is to be read: `text`, `rich_text`, `image`, `file`, `video`, `audio`, `custom`, `system`, or a name
    /// that a later version gave.
    #[serde(borrow, rename = "type")]
    pub content_type: Text<'a>,
    /// Text, or JSON text.
    #[serde(borrow)]
    pub content: Text<'a>,
    /// No record exists above this sequence id and below the record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hole_after: Option<Int>,
}

impl<'a> From<&'a Record> for RecordView<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            conversation: (&record.conversation).into(),
            seq: record.seq.into(),
            ordinal: record.ordinal.into(),
            created_at: record.created_at.into(),
            from: record.sender.as_str().into(),
            client_msg_id: (&record.client_msg_id).into(),
            kind: kind_name(record.kind).into(),
            content_type: record.content_type.as_str().into(),
            content: (&*record.content).into(),
            hole_after: record.hole_after.map(Int::from),
        }
    }
}

impl RecordView<'_> {
    /// What the record is, if this version knows the name.
    #[must_use]
    pub fn record_kind(&self) -> Option<RecordKind> {
        kind_of(&self.kind)
    }
}

/// The name of a kind on the wire.
#[must_use]
pub fn kind_name(kind: RecordKind) -> Cow<'static, str> {
    match kind {
        RecordKind::Message => "message".into(),
        RecordKind::Notice => "notice".into(),
        RecordKind::Members => "members".into(),
        RecordKind::Large => "large".into(),
        RecordKind::Recall => "recall".into(),
        RecordKind::Edit => "edit".into(),
        other => format!("kind_{}", u16::from(other)).into(),
    }
}

/// The kind of a name, if this version knows it.
#[must_use]
pub fn kind_of(name: &str) -> Option<RecordKind> {
    match name {
        "message" => Some(RecordKind::Message),
        "notice" => Some(RecordKind::Notice),
        "members" => Some(RecordKind::Members),
        "large" => Some(RecordKind::Large),
        "recall" => Some(RecordKind::Recall),
        "edit" => Some(RecordKind::Edit),
        other => other.strip_prefix("kind_")?.parse::<u16>().ok().map(RecordKind::from),
    }
}

/// A record as JSON, made once and shared by every frame that carries it. Cheap to clone.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct EncodedRecord(Arc<RawValue>);

impl EncodedRecord {
    /// Encodes a record.
    #[must_use]
    pub fn new(record: &Record) -> Self {
        // Texts and integers always encode; `null` would be seen by every test.
        let json = to_raw_value(&RecordView::from(record)).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self(json.into())
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// An inbox entry on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Entry")]
pub struct EntryView<'a, R = RecordView<'a>> {
    /// The cursor that stands on it.
    #[serde(borrow)]
    pub cursor: Opaque<'a>,
    /// The record.
    pub record: R,
}

#[cfg(test)]
mod tests {
    use im_core::{
        ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Ordinal, Seq, Timestamp, UserId,
    };

    use super::*;

    #[test]
    fn a_record_is_shown_without_what_is_not_for_others() {
        let record = Record {
            conversation: ConversationId::group("g").unwrap(),
            seq: Seq(9),
            ordinal: Ordinal(7),
            created_at: Timestamp(1_795_400_000_000),
            sender: UserId::system(),
            device: Some(DeviceId::new("phone").unwrap()),
            send_to: Some(UserId::new("bob").unwrap()),
            client_msg_id: ClientMsgId::new("m").unwrap(),
            hole_after: Some(Seq(4)),
            kind: RecordKind::Other(77),
            content_type: ContentType::RichText,
            content: "a \"b\"\n".into(),
            hash: ContentHash(1),
        };
        let json = concat!(
            r#"{"conversation":"g","seq":9,"ordinal":7,"created_at":1795400000000,"from":"","client_msg_id":"m","#,
            r#""kind":"kind_77","type":"rich_text","content":"a \"b\"\n","hole_after":4}"#
        );
        assert_eq!(EncodedRecord::new(&record).as_str(), json);
        let usual = Record { hole_after: None, kind: RecordKind::Message, ..record };
        let json = json.replace(",\"hole_after\":4", "").replace("kind_77", "message");
        assert_eq!(EncodedRecord::new(&usual).as_str(), json);
    }

    #[test]
    fn each_kind_has_its_name() {
        for number in 0..=u16::MAX {
            let kind = RecordKind::from(number);
            assert_eq!(kind_of(&kind_name(kind)), Some(kind));
        }
        assert_eq!(kind_name(RecordKind::Other(77)), "kind_77");
        assert_eq!(kind_of("poll"), None);
    }
}
