//! Records: everything that stands in a timeline.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ClientMsgId, ConversationId, DeviceId, Timestamp, UserId};

/// Sequence id: the place of a record in its conversation: 1, 2, 3 …; 0 is "before the first".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// How many records up to here count as unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ordinal(pub u64);

/// A sequence id with the ordinal that belongs to it: a head, a read mark, a boundary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The sequence id.
    pub seq: Seq,
    /// The ordinal of the last record at or below it.
    pub ordinal: Ordinal,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
#[non_exhaustive]
pub enum RecordKind {
    /// A user's message; counts as unread. Number 1.
    Message,
    /// A notice of the system or the host. Number 2.
    Notice,
    /// A change of members; its content is the JSON of a [`MembersChange`](crate::MembersChange). Number 3.
    Members,
    /// The group switches to read diffusion from here on. Number 4.
    Large,
    /// Reserved for a recall. Number 5.
    Recall,
    /// Reserved for an edit. Number 6.
    Edit,
    /// A kind that this version does not know.
    Other(u16),
}

impl RecordKind {
    /// Whether a record of this kind counts as unread, fixed when it is appended.
    #[must_use]
    pub fn counts(self) -> bool {
        self == Self::Message
    }

    /// Whether this version may process the record. A projection that meets another one stops.
    #[must_use]
    pub fn is_known(self) -> bool {
        matches!(self, Self::Message | Self::Notice | Self::Members | Self::Large)
    }
}

impl From<u16> for RecordKind {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::Message,
            2 => Self::Notice,
            3 => Self::Members,
            4 => Self::Large,
            5 => Self::Recall,
            6 => Self::Edit,
            other => Self::Other(other),
        }
    }
}

impl From<RecordKind> for u16 {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Message => 1,
            RecordKind::Notice => 2,
            RecordKind::Members => 3,
            RecordKind::Large => 4,
            RecordKind::Recall => 5,
            RecordKind::Edit => 6,
            RecordKind::Other(number) => number,
        }
    }
}

macro_rules! content_types {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal),* $(,)?) => {
        /// How a content is to be read.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum ContentType {
            $($(#[$doc])* $variant = $number,)*
        }

        impl ContentType {
            /// All content types.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name, as on the wire and in tables.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The content type of a name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The content type of a number, as in the record codec.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

content_types! {
    /// Plain text.
    #[default]
    Text = 1 "text",
    /// Text with markup that the clients agree on.
    RichText = 2 "rich_text",
    /// JSON that names an image.
    Image = 3 "image",
    /// JSON that names a file.
    File = 4 "file",
    /// JSON that names a video.
    Video = 5 "video",
    /// JSON that names a sound.
    Audio = 6 "audio",
    /// JSON of the host application.
    Custom = 7 "custom",
    /// JSON of the engine; a user cannot send it.
    System = 8 "system",
}

/// What is compared to tell a retry from a conflict: kept from the original for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub u64);

impl ContentHash {
    /// The first 8 bytes (big-endian) of SHA-256 over kind, content type and content.
    #[must_use]
    pub fn of(kind: RecordKind, content_type: ContentType, content: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(u16::from(kind).to_be_bytes());
        hash.update([content_type as u8]);
        hash.update(content.as_bytes());
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

/// What names one message for ever: a retry carries the same key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SendKey {
    /// The conversation.
    pub conversation: ConversationId,
    /// The sender.
    pub sender: UserId,
    /// The sender's name of the message.
    pub client_msg_id: ClientMsgId,
}

impl fmt::Debug for SendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.conversation, self.sender, self.client_msg_id)
    }
}

/// One record of a conversation's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its place there.
    pub seq: Seq,
    /// How many records up to this one, itself included, count as unread.
    pub ordinal: Ordinal,
    /// When the log took it; never earlier than the record before it.
    pub created_at: Timestamp,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's device, kept only where devices have read marks of their own.
    pub device: Option<DeviceId>,
    /// The other user of a SINGLE conversation; none in a GROUP.
    pub send_to: Option<UserId>,
    /// The sender's name of the message.
    pub client_msg_id: ClientMsgId,
    /// Declares that no record exists above this sequence id and below the record's own; set on the first record of a
    /// conversation in a new epoch.
    pub hole_after: Option<Seq>,
    /// What it is.
    pub kind: RecordKind,
    /// How the content is to be read.
    pub content_type: ContentType,
    /// The content: text, or JSON text.
    pub content: Arc<str>,
    /// The hash of the original content.
    pub hash: ContentHash,
}

impl Record {
    /// The record's place with its ordinal.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { seq: self.seq, ordinal: self.ordinal }
    }

    /// What names the message for ever.
    #[must_use]
    pub fn key(&self) -> SendKey {
        SendKey {
            conversation: self.conversation.clone(),
            sender: self.sender.clone(),
            client_msg_id: self.client_msg_id.clone(),
        }
    }
}
