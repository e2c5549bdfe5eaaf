//! What a server says without being asked.
//!
//! Where a type has a parameter `R`, it is a [`RecordView`], or an [`EncodedRecord`](crate::EncodedRecord) to be sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EntryView, HeadView, Opaque, RecordView, Text};

/// What a server says without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "ev", rename_all = "snake_case")]
#[schemars(rename = "Event")]
#[non_exhaustive]
pub enum Event<'a, R = RecordView<'a>> {
    /// The inbox has new entries.
    Signal(Signal<'a, R>),
    /// The user's own state changed.
    State(StateChanged<'a>),
    /// Large groups have new heads.
    Heads(Heads<'a>),
    /// The session ends for good; its close code follows.
    Kicked(Kicked<'a>),
    /// The server stops soon: connect again when it closes the connection.
    Draining(Draining),
}

/// The inbox has new entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ev.signal")]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
pub struct Signal<'a, R = RecordView<'a>> {
    /// The inbox end as far as this signal knows; with entries the cursor of the last one.
    #[serde(borrow)]
    pub end: Opaque<'a>,
    /// The entries, oldest first; they follow what was sent on this connection before. Absent: pull.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntryView<'a, R>>,
}

/// The user's own state changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ev.state")]
pub struct StateChanged<'a> {
    /// The version that it has now.
    #[serde(borrow)]
    pub version: Opaque<'a>,
}

/// Large groups have new heads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ev.heads")]
pub struct Heads<'a> {
    /// The heads; at most a page.
    #[serde(borrow)]
    pub heads: Vec<HeadView<'a>>,
}

/// The session ends for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ev.kicked")]
pub struct Kicked<'a> {
    /// Why, as a stable word: `replaced` (a newer session took its place), or one that the host or a later version gives.
    #[serde(borrow)]
    pub reason: Text<'a>,
}

/// The server stops soon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ev.draining")]
pub struct Draining {}

impl<'a> Event<'a> {
    /// The names of all events.
    pub const NAMES: &'static [&'static str] = &["signal", "state", "heads", "kicked", "draining"];

    /// None: an event of a later version.
    pub(crate) fn decode(name: &str, text: &'a str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "signal" => serde_json::from_str(text).map(Self::Signal),
            "state" => serde_json::from_str(text).map(Self::State),
            "heads" => serde_json::from_str(text).map(Self::Heads),
            "kicked" => serde_json::from_str(text).map(Self::Kicked),
            "draining" => serde_json::from_str(text).map(Self::Draining),
            _ => return None,
        })
    }
}
