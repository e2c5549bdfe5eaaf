//! The little world of the examples: Alice and Bob, a reading circle, a large group.

use im_core::{ConversationKind, Role};
use im_protocol::{ConversationView, EntryView, HeadView, Id, MarkView, RecordView, SettingsView};

pub(crate) const ALICE: &str = "alice";
pub(crate) const BOB: &str = "bob";
pub(crate) const CAROL: &str = "carol";
/// Alice and Bob.
pub(crate) const SINGLE: &str = "s_8c2d1c6a7a1e5b3f94d0e6b2a7c4f1d85e9b3a60c7d2f481";
/// Alice, Bob and Carol.
pub(crate) const CIRCLE: &str = "reading-circle";
/// A large group.
pub(crate) const EVERYBODY: &str = "everybody";
/// A moment on 2026-11-23.
pub(crate) const NOW: u64 = 1_795_400_000_000;
pub(crate) const END: &str = "1:4711:9f3c";
pub(crate) const CURSOR: &str = "1:4709:2b7a";
pub(crate) const MIDDLE: &str = "1:4710:c01d";
pub(crate) const VERSION: &str = "7e1d:42";
pub(crate) const BEFORE: &str = "7e1d:41";

/// A message's name: another one for each number.
pub(crate) fn msg_id(number: u64) -> Id<'static> {
    let millis: u64 = 0x019a_5b1e_7c00 + 37 * number;
    format!("{:08x}-{:04x}-7c44-8b1a-0a1b2c3d4e5f", millis >> 16, millis & 0xffff).into()
}

pub(crate) fn mark(seq: u64, ordinal: u64) -> MarkView {
    MarkView { seq: seq.into(), ordinal: ordinal.into() }
}

pub(crate) fn head(conversation: &str, seq: u64, ordinal: u64) -> HeadView<'_> {
    HeadView { conversation: conversation.into(), seq: seq.into(), ordinal: ordinal.into() }
}

pub(crate) fn entry<'a>(cursor: &'a str, record: RecordView<'a>) -> EntryView<'a> {
    EntryView { cursor: cursor.into(), record }
}

/// Bob's text to Alice.
pub(crate) fn text(seq: u64, ordinal: u64, content: &str) -> RecordView<'_> {
    RecordView {
        conversation: SINGLE.into(),
        seq: seq.into(),
        ordinal: ordinal.into(),
        created_at: (NOW - 60_000 + seq % 60 * 1000).into(),
        from: BOB.into(),
        client_msg_id: msg_id(seq),
        kind: "message".into(),
        content_type: "text".into(),
        content: content.into(),
        hole_after: None,
    }
}

/// A change of members in the circle.
pub(crate) fn change(seq: u64, ordinal: u64, content: &str) -> RecordView<'_> {
    RecordView {
        conversation: CIRCLE.into(),
        from: ALICE.into(),
        kind: "members".into(),
        content_type: "system".into(),
        ..text(seq, ordinal, content)
    }
}

/// The SINGLE as Alice has it: Bob wrote seven, she read five.
pub(crate) fn single() -> ConversationView<'static> {
    ConversationView {
        id: SINGLE.into(),
        kind: ConversationKind::Single,
        name: None,
        peer: Some(BOB.into()),
        created_at: (NOW - 86_400_000).into(),
        large: false,
        role: Role::Member,
        joined: mark(1, 0),
        left: None,
        head: mark(7, 7),
        last: Some(text(7, 7, "See you at six?")),
        read: mark(5, 5),
        unread: 2_u64.into(),
        settings: SettingsView::default(),
    }
}

/// The circle as Alice has it: she made it and muted it.
pub(crate) fn circle() -> ConversationView<'static> {
    ConversationView {
        id: CIRCLE.into(),
        kind: ConversationKind::Group,
        name: Some("Reading circle".into()),
        peer: None,
        role: Role::Owner,
        head: mark(3, 2),
        last: Some(RecordView { conversation: CIRCLE.into(), ..text(3, 2, "第三章读完了") }),
        read: mark(3, 2),
        unread: 0_u64.into(),
        settings: SettingsView { nickname: Some("A.".into()), undisturbed: true, ..SettingsView::default() },
        ..single()
    }
}

/// A conversation that Alice made by opening it; nobody wrote yet.
pub(crate) fn opened() -> ConversationView<'static> {
    ConversationView {
        created_at: NOW.into(),
        head: mark(0, 0),
        last: None,
        read: mark(0, 0),
        unread: 0_u64.into(),
        ..single()
    }
}

/// A group that Alice was put out of.
pub(crate) fn left() -> ConversationView<'static> {
    ConversationView {
        role: Role::Member,
        left: Some(mark(3, 2)),
        last: Some(change(3, 2, r#"{"leave":["alice"]}"#)),
        settings: SettingsView { cleared: mark(1, 1), hidden: true, ..SettingsView::default() },
        ..circle()
    }
}
