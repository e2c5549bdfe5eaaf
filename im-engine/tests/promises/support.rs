//! Short words for what every test here needs.

use std::time::Duration;

use im_core::{ClientMsgId, ContentType, ConversationId, DeviceId, Direction, Parts, Platform, Seq, UserId};
use im_engine::{
    AckLevel, Config, Draft, Engine, Event, Hello, HistoryPage, HistoryRange, Identity, MemberChange,
    NewGroup, Session,
};

use crate::hooks::Hooks;

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn id(text: &str) -> ClientMsgId {
    ClientMsgId::new(text).unwrap()
}

pub(crate) fn group_id(name: &str) -> ConversationId {
    ConversationId::group(name).unwrap()
}

pub(crate) fn group(name: &str, members: &[&str], made_as: &str) -> NewGroup {
    NewGroup {
        id: group_id(name),
        name: None,
        members: members.iter().map(|name| user(name)).collect(),
        client_msg_id: id(made_as),
    }
}

pub(crate) fn removal(name: &str) -> MemberChange {
    MemberChange::Leave(vec![user(name)])
}

/// A text that is acked when it is stored.
pub(crate) fn text(conversation: &ConversationId, name: &str, content: &str) -> Draft {
    Draft {
        conversation: conversation.clone(),
        client_msg_id: id(name),
        content_type: ContentType::Text,
        content: content.into(),
        level: AckLevel::Stored,
    }
}

pub(crate) fn everything() -> HistoryRange {
    HistoryRange { from: Seq(1), to: None, direction: Direction::Forward, max: 100 }
}

pub(crate) fn contents(page: &HistoryPage) -> Vec<&str> {
    page.records.iter().map(|record| &*record.content).collect()
}

/// An engine whose parts' calls can be met.
pub(crate) async fn hooked(backend: impl Into<Parts>, change: impl FnOnce(&mut Config)) -> (Engine, Hooks) {
    let hooks = Hooks::default();
    let mut config = Config::default();
    change(&mut config);
    let parts = hooks.wrap(backend.into());
    (Engine::builder(parts).config(config).start().await.unwrap(), hooks)
}

pub(crate) fn identity(name: &str, device: &str) -> Identity {
    Identity {
        user: user(name),
        device: DeviceId::new(device).unwrap(),
        platform: Platform::new("test").unwrap(),
    }
}

pub(crate) async fn connect(chat: &Engine, name: &str, device: &str) -> Session {
    let (session, _) = chat.connect(identity(name, device), Hello::default()).await.unwrap();
    session.fresh().await.unwrap();
    session
}

/// Waits for an event that is wanted, for at most 10 s.
pub(crate) async fn wait_for<T>(session: &Session, wanted: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(session.event().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("the event within 10 s")
}
