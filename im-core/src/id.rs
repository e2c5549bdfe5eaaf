//! Identifiers: what names a user, a device, a conversation, a message.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 64;

/// Why a text cannot be an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// The text is empty.
    #[error("an id may not be empty")]
    Empty,
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("an id may have at most {MAX_ID_BYTES} bytes")]
    TooLong,
    /// The text holds a control character.
    #[error("an id may not contain control characters")]
    ControlCharacter,
    /// A group id begins with `s_`, which belongs to SINGLE conversations.
    #[error("a group id may not begin with \"s_\"")]
    ReservedPrefix,
    /// A SINGLE conversation needs two different users.
    #[error("a single conversation needs two different users")]
    SameUser,
}

fn check(text: &str) -> Result<(), InvalidId> {
    match text {
        "" => Err(InvalidId::Empty),
        long if long.len() > MAX_ID_BYTES => Err(InvalidId::TooLong),
        bad if bad.chars().any(char::is_control) => Err(InvalidId::ControlCharacter),
        _ => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 64 bytes of UTF-8 without control characters, compared bytewise. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "Arc<str>", into = "Arc<str>")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as an id.
            ///
            /// # Errors
            /// [`InvalidId`] when the text is empty, too long, or has a control character.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidId> {
                let text = text.into();
                check(&text)?;
                Ok(Self(text))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<Arc<str>> for $name {
            type Error = InvalidId;
            fn try_from(text: Arc<str>) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for Arc<str> {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A user of the host application. The one exception to the shape is [`UserId::system`].
    UserId
);
text_id!(
    /// A device of a user.
    DeviceId
);
text_id!(
    /// The kind of client a device runs, such as `web` or `ios`.
    Platform
);
text_id!(
    /// The sender's own name of a message; with conversation and sender it names one message for ever.
    ClientMsgId
);
text_id!(
    /// A conversation, SINGLE or GROUP.
    ConversationId
);
text_id!(
    /// One run of one server process; a new one at every start.
    NodeId
);
text_id!(
    /// One live connection of one device of one user.
    SessionId
);

impl UserId {
    /// The sender of records that no user made, such as a mode record: the empty id, which no user can have.
    #[must_use]
    pub fn system() -> Self {
        Self("".into())
    }

    /// Whether this is [`UserId::system`].
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a sender as a backend kept it: a user's id or the empty system id.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is neither.
    pub fn sender(text: impl Into<Arc<str>>) -> Result<Self, InvalidId> {
        let text = text.into();
        if text.is_empty() { Ok(Self(text)) } else { Self::new(text) }
    }
}

impl ClientMsgId {
    /// A fresh one: a UUID of version 7, whose time lets a log with a limited memory tell new messages from retries.
    #[must_use]
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

const SINGLE_PREFIX: &str = "s_";

impl ConversationId {
    /// The id of the SINGLE conversation of two users, the same for either order:
    /// `s_` and 24 bytes of SHA-256, in hex, over the sorted, length-prefixed pair.
    ///
    /// # Errors
    /// [`InvalidId::SameUser`] when the two are one.
    pub fn single(a: &UserId, b: &UserId) -> Result<Self, InvalidId> {
        if a == b {
            return Err(InvalidId::SameUser);
        }
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        let mut hash = Sha256::new();
        for user in [low, high] {
            hash.update((user.as_str().len() as u32).to_be_bytes());
            hash.update(user.as_str().as_bytes());
        }
        let hex: String = hash.finalize()[..24].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(format!("{SINGLE_PREFIX}{hex}").into()))
    }

    /// Takes a text as the id of a GROUP.
    ///
    /// # Errors
    /// [`InvalidId`] when the text cannot be an id, or begins with `s_`.
    pub fn group(text: impl Into<Arc<str>>) -> Result<Self, InvalidId> {
        let id = Self::new(text)?;
        if id.is_single() { Err(InvalidId::ReservedPrefix) } else { Ok(id) }
    }

    /// Whether this is the id of a SINGLE conversation.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.0.starts_with(SINGLE_PREFIX)
    }
}

/// A partition of the message log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partition(pub u16);

impl Partition {
    /// The partition of a conversation among `count` (at least 1).
    ///
    /// Pinned for ever: 64-bit FNV-1a (Fowler, Noll, Vo; the published offset basis and prime) over the id, modulo `count`.
    #[must_use]
    pub fn of(conversation: &ConversationId, count: u16) -> Self {
        let hash = conversation.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self((hash % u64::from(count.max(1))) as u16)
    }

    /// All partitions of a log that has `count`.
    pub fn all(count: u16) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_64_bytes_without_control_characters() {
        assert_eq!(UserId::new(""), Err(InvalidId::Empty));
        assert_eq!(UserId::new("x".repeat(65)), Err(InvalidId::TooLong));
        assert_eq!(UserId::new("a\nb"), Err(InvalidId::ControlCharacter));
        assert_eq!(UserId::new("a\0b"), Err(InvalidId::ControlCharacter));
        assert!(UserId::new("x".repeat(64)).is_ok());
        assert!(UserId::new("张三 ' \" \\ . * > {} 😀").is_ok());
    }

    #[test]
    fn a_single_id_is_the_same_from_both_sides_and_no_group_can_take_it() {
        let (a, b) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let id = ConversationId::single(&a, &b).unwrap();
        assert_eq!(id, ConversationId::single(&b, &a).unwrap());
        assert!(id.is_single());
        assert_eq!(ConversationId::group(id.as_str()), Err(InvalidId::ReservedPrefix));
        assert_eq!(ConversationId::single(&a, &a), Err(InvalidId::SameUser));
    }

    #[test]
    fn a_single_id_does_not_confuse_where_one_user_ends() {
        let id = |a: &str, b: &str| {
            ConversationId::single(&UserId::new(a).unwrap(), &UserId::new(b).unwrap()).unwrap()
        };
        assert_ne!(id("ab", "c"), id("a", "bc"));
    }

    #[test]
    fn the_partition_of_a_conversation_is_pinned() {
        let of = |id: &str| Partition::of(&ConversationId::new(id).unwrap(), 1024).0;
        // FNV-1a of "a" is af63dc4c8601ec8c, of "foobar" 85944171f73967e8 (the published test vectors).
        assert_eq!(of("a"), (0xaf63_dc4c_8601_ec8c_u64 % 1024) as u16);
        assert_eq!(of("foobar"), (0x8594_4171_f739_67e8_u64 % 1024) as u16);
    }

    #[test]
    fn a_bad_id_does_not_deserialize() {
        use serde::de::{
            IntoDeserializer,
            value::{Error, StrDeserializer},
        };
        let long = "x".repeat(65);
        let text: StrDeserializer<'_, Error> = long.as_str().into_deserializer();
        assert!(UserId::deserialize(text).is_err());
    }
}
