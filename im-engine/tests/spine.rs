//! A message from one session to another on the reference backends, by the engine's public API.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use im_core::{ClientMsgId, ConversationId, DeviceId, Platform, Pull, Seq, UserId, memory::Memory};
use im_engine::{
    AckLevel, ChatError, Config, Draft, Engine, Event, Hello, Identity, MemberChange, NewGroup, NewMessage,
    Refusal, Session,
};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn id(text: &str) -> ClientMsgId {
    ClientMsgId::new(text).unwrap()
}

async fn engine() -> Engine {
    engine_with(|_| {}).await
}

async fn engine_with(change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::default();
    change(&mut config);
    let memory = Memory::builder().partitions(2).build();
    Engine::builder(memory).config(config).start().await.unwrap()
}

async fn connect(chat: &Engine, name: &str, device: &str) -> Session {
    let identity = Identity {
        user: user(name),
        device: DeviceId::new(device).unwrap(),
        platform: Platform::new("test").unwrap(),
    };
    let (session, welcome) = chat.connect(identity, Hello::default()).await.unwrap();
    assert!(welcome.resync, "a client without a cursor must bootstrap");
    session.fresh().await.unwrap();
    session
}

fn text(conversation: &ConversationId, name: &str, content: &str) -> Draft {
    Draft {
        conversation: conversation.clone(),
        client_msg_id: id(name),
        content_type: im_core::ContentType::Text,
        content: content.into(),
        level: AckLevel::Logged,
    }
}

async fn next(session: &Session) -> Event {
    tokio::time::timeout(Duration::from_secs(10), session.event()).await.expect("an event within 10 s")
}

/// The next records that the session is told of, pulled where they do not come with the signal.
async fn records(session: &Session, from: &im_core::Cursor) -> Vec<(u64, String)> {
    loop {
        let entries = match next(session).await {
            Event::Entries(entries) => entries.as_slice().to_vec(),
            Event::End(_) => match session.pull(from, 100).await.unwrap() {
                Pull::Page { entries, .. } => entries,
                Pull::Resync => panic!("resync"),
            },
            _ => continue,
        };
        return entries
            .into_iter()
            .map(|entry| (entry.record.seq.0, entry.record.content.to_string()))
            .collect();
    }
}

/// A transport sends of a page what fits: what is told next must follow that.
#[tokio::test]
async fn what_is_told_follows_what_was_pulled_and_not_what_the_page_had() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    let start = bob.fresh().await.unwrap().cursor;
    for name in ["m1", "m2", "m3"] {
        alice.send(text(&single, name, name)).await.unwrap();
    }
    let (mut after, mut got) = (start, 0);
    while got < 2 {
        let Pull::Page { entries, more } = bob.pull_fitting(&after, 100, |_| 1).await.unwrap() else {
            panic!("resync")
        };
        assert!(entries.len() <= 1);
        tokio::task::yield_now().await;
        if let Some(entry) = entries.last() {
            (after, got) = (entry.cursor.clone(), got + 1);
            assert!(more || got == 3, "the page ends after {got} of 3");
        }
    }
    while bob.try_event().is_some() {}
    alice.send(text(&single, "m4", "m4")).await.unwrap();
    loop {
        match next(&bob).await {
            Event::Entries(entries) => panic!("{entries:?} do not follow m2"),
            Event::End(_) => break,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_message_goes_from_one_session_to_the_other() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let cursor = bob.fresh().await.unwrap().cursor;
    let conversation = alice.open_single(&user("bob")).await.unwrap().id;
    let ack = alice.send(text(&conversation, "m1", "你好")).await.unwrap();
    assert_eq!((ack.seq, ack.duplicate), (Seq(1), false));
    assert_eq!(records(&bob, &cursor).await, [(1, "你好".to_owned())]);
    let again = alice.send(text(&conversation, "m1", "你好")).await.unwrap();
    assert_eq!((again.seq, again.created_at, again.duplicate), (ack.seq, ack.created_at, true));
    let other = alice.send(text(&conversation, "m1", "再见")).await.unwrap_err();
    assert!(matches!(other, ChatError::Refused(Refusal::Conflict)), "{other}");
    chat.shutdown().await;
}

#[tokio::test]
async fn who_is_no_member_is_refused_and_a_retry_after_leaving_is_acked() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let group = ConversationId::group("g").unwrap();
    let new = NewGroup { id: group.clone(), name: None, members: vec![user("bob")], client_msg_id: id("c") };
    alice.create_group(new).await.unwrap();
    let sent = bob.send(text(&group, "m", "hi")).await.unwrap();
    bob.change_members(&group, id("l"), MemberChange::Leave(vec![user("bob")])).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let refused = bob.send(text(&group, "m2", "still here?")).await.unwrap_err();
    assert!(matches!(refused, ChatError::Refused(Refusal::NotMember)), "{refused}");
    let again = bob.send(text(&group, "m", "hi")).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (sent.seq, true));
    let unknown = ConversationId::group("nowhere").unwrap();
    let refused = bob.send(text(&unknown, "m3", "?")).await.unwrap_err();
    assert!(matches!(refused, ChatError::Refused(Refusal::UnknownConversation)), "{refused}");
    chat.shutdown().await;
}

#[tokio::test]
async fn unread_counts_others_messages_and_clears_on_every_device() {
    let chat = engine().await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b1").await);
    let bob2 = connect(&chat, "bob", "b2").await;
    let single = alice.open_single(&user("bob")).await.unwrap().id;
    for number in 0..3 {
        let mut draft = text(&single, &format!("m{number}"), "x");
        draft.level = AckLevel::Stored;
        alice.send(draft).await.unwrap();
    }
    let unread = async |session: &Session| session.conversation(&single).await.unwrap().unread;
    assert_eq!((unread(&alice).await, unread(&bob).await), (0, 3));
    bob.mark_read(&single, Seq(2)).await.unwrap();
    assert_eq!((unread(&bob).await, unread(&bob2).await), (1, 1));
    loop {
        if let Event::State(version) = next(&bob2).await {
            // The creation of the conversation was a change of state too.
            if bob2.state(None).await.unwrap().version == version {
                break;
            }
        }
    }
    chat.shutdown().await;
}

#[tokio::test]
async fn a_newer_session_of_the_device_displaces_the_older() {
    let chat = engine().await;
    let first = connect(&chat, "alice", "a").await;
    let _second = connect(&chat, "alice", "a").await;
    loop {
        if let Event::Closed(reason) = next(&first).await {
            assert_eq!(reason, im_engine::CloseReason::Kicked);
            break;
        }
    }
    chat.shutdown().await;
}

#[tokio::test]
async fn a_group_over_the_threshold_is_read_by_its_members() {
    let chat = engine_with(|config| config.read_diffusion_threshold = 3).await;
    let (alice, bob) = (connect(&chat, "alice", "a").await, connect(&chat, "bob", "b").await);
    let group = ConversationId::group("big").unwrap();
    let members = vec![user("bob"), user("carol")];
    let new = NewGroup { id: group.clone(), name: None, members, client_msg_id: id("c") };
    alice.create_group(new).await.unwrap();
    let mut draft = text(&group, "m", "hello, all");
    draft.level = AckLevel::Stored;
    // The switch follows the creation; what is sent after it comes by head alone.
    let sent = alice.send(draft).await.unwrap();
    let mut cursor = bob.fresh().await.unwrap().cursor;
    loop {
        match next(&bob).await {
            Event::Heads(heads) => {
                let (id, head) = heads.last().unwrap();
                assert_eq!(*id, group);
                if head.seq >= sent.seq {
                    break;
                }
            }
            Event::Entries(entries) => cursor = entries.end().unwrap().clone(),
            Event::End(_) => {
                if let Pull::Page { entries, .. } = bob.pull(&cursor, 100).await.unwrap() {
                    cursor = entries.last().map_or(cursor, |entry| entry.cursor.clone());
                }
            }
            _ => {}
        }
    }
    chat.shutdown().await;
}

#[tokio::test]
async fn a_host_sends_without_a_session_and_shutdown_answers_what_waits() {
    let chat = Arc::new(engine().await);
    let conversation = chat.open_single(&user("host"), &user("bob")).await.unwrap().id;
    let sends = (0..100).map(|number| {
        let message = NewMessage::text(&user("host"), &conversation, format!("{number}"));
        let chat = chat.clone();
        tokio::spawn(async move { chat.send(message).await })
    });
    let sends: Vec<_> = sends.collect();
    chat.shutdown().await;
    for send in sends {
        match send.await.unwrap() {
            Ok(_) | Err(ChatError::Refused(Refusal::ShuttingDown)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
