//! Texts of the wire: borrowed from the frame, or from the engine's own values, wherever that is possible.

use std::{borrow::Cow, fmt, ops::Deref};

use im_core::{ClientMsgId, ConversationId, Cursor, DeviceId, Platform, SessionId, StateVersion, UserId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// Takes a JSON string without copying it, unless it has escapes.
struct Borrowed;

impl<'de> Visitor<'de> for Borrowed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident $schema:tt)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name<'a>(Cow<'a, str>);

        impl<'a> $name<'a> {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, taken out.
            #[must_use]
            pub fn into_inner(self) -> Cow<'a, str> {
                self.0
            }

            /// The same, borrowing nothing.
            #[must_use]
            pub fn into_owned(self) -> $name<'static> {
                $name(Cow::Owned(self.0.into_owned()))
            }
        }

        impl<'a> From<Cow<'a, str>> for $name<'a> {
            fn from(text: Cow<'a, str>) -> Self {
                Self(text)
            }
        }

        impl<'a> From<&'a str> for $name<'a> {
            fn from(text: &'a str) -> Self {
                Self(Cow::Borrowed(text))
            }
        }

        impl From<String> for $name<'_> {
            fn from(text: String) -> Self {
                Self(Cow::Owned(text))
            }
        }

        impl Deref for $name<'_> {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Borrowed).map(Self)
            }
        }

        impl JsonSchema for $name<'_> {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

texts! {
    /// The id of a user, device, conversation, message or session: 1 to 64 bytes of UTF-8 without control characters.
    ///
    /// Decoding does not check the shape: `im_core`'s ids do, with an error of its own.
    Id {
        "description": "1 to 64 bytes of UTF-8 without control characters; compared bytewise.",
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
    }
    /// A cursor or a state version: opaque to clients, at most 128 bytes; only ever compared for being the same.
    Opaque {
        "description": "Opaque; at most 128 bytes.",
        "type": "string",
        "maxLength": 128,
    }
    /// Any text.
    Text { "type": "string" }
    /// The token of a hello; its Debug does not show it.
    Token { "description": "Opaque to the protocol; never logged.", "type": "string" }
}

macro_rules! shown {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

shown! { Id Opaque Text }

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

macro_rules! from_core {
    ($name:ident: $($core:ty)*) => {$(
        impl<'a> From<&'a $core> for $name<'a> {
            fn from(value: &'a $core) -> Self {
                Self(Cow::Borrowed(value.as_str()))
            }
        }
    )*};
}

from_core! { Id: UserId DeviceId Platform ClientMsgId ConversationId SessionId }
from_core! { Opaque: Cursor StateVersion }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_escapes_is_borrowed() {
        let borrowed: Option<Text<'_>> = serde_json::from_str("\"你好\"").unwrap();
        assert!(matches!(borrowed.unwrap().into_inner(), Cow::Borrowed("你好")));
        let owned: Text<'_> = serde_json::from_str(r#""a\nb""#).unwrap();
        assert!(matches!(owned.into_inner(), Cow::Owned(text) if text == "a\nb"));
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", Token::from("secret")).contains("secret"));
    }
}
