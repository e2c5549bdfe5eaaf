//! What a session's client is told without having asked.

use bytes::Bytes;
use im_engine::{CloseReason, Cursor, Entries, Entry, Event};
use im_protocol::{self as wire, EncodedRecord, RecordView, frame};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{codes, farewell::End, ops::heads_frames, outgoing::text_frame, wire::Wire};

/// Tells the client of an event; the last one ends the connection.
pub(crate) fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    event: Event,
    page: usize,
) -> Result<(), End> {
    match event {
        Event::Entries(entries) => wire.push(entries),
        Event::End(end) => wire.push(bare_signal(&end)),
        Event::State(version) => {
            wire.push(event_frame(&wire::Event::State(wire::StateChanged { version: (&version).into() })));
        }
        Event::Heads(heads) => heads_frames(&heads, page).for_each(|frame| wire.push(frame)),
        Event::Draining => wire.push(draining()),
        Event::Closed(reason) => {
            if reason == CloseReason::Kicked {
                let reason = "replaced".into();
                wire.push(event_frame(&wire::Event::Kicked(wire::Kicked { reason })));
            }
            return Err(End::Close(codes::close_code(reason)));
        }
        _ => {}
    }
    Ok(())
}

/// The server stops soon.
pub(crate) fn draining() -> Bytes {
    event_frame(&wire::Event::Draining(wire::Draining {}))
}

/// The frames of entries, one for each signal that brought some: made by the first session that needs them, shared by all that
/// are told the same.
pub(crate) fn signals(entries: &Entries) -> &Bytes {
    entries.encoded(|entries| {
        let mut frames = entries.parts().map(signal);
        match frames.next() {
            Some(only) if frames.len() == 0 => only,
            first => first.into_iter().chain(frames).collect::<Vec<Bytes>>().concat().into(),
        }
    })
}

fn signal(entries: &[Entry]) -> Bytes {
    let encoded: Vec<EncodedRecord> = entries.iter().map(|entry| EncodedRecord::new(&entry.record)).collect();
    let cursors = entries.iter().map(|entry: &Entry| entry.cursor.as_str());
    text_frame(frame::signal(cursors.zip(&encoded)))
}

fn bare_signal(end: &Cursor) -> Bytes {
    event_frame(&wire::Event::Signal(wire::Signal { end: end.into(), entries: Vec::new() }))
}

fn event_frame(event: &wire::Event<'_, RecordView<'_>>) -> Bytes {
    text_frame(frame::event(event))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use im_engine::{
        ClientMsgId, ContentHash, ContentType, ConversationId, DeviceId, Engine, Hello, Identity, Notice,
        Notifier, Ordinal, Platform, Record, RecordKind, Seq, Signal, Signals, SyncInbox, Timestamp, UserId,
        memory::Memory,
    };
    use im_protocol::EntryView;

    use super::*;

    fn record(number: u64) -> Arc<Record> {
        let content: Arc<str> = format!("\"{number}\"\n").repeat(30).into();
        Arc::new(Record {
            conversation: ConversationId::group("g").unwrap(),
            seq: Seq(number),
            ordinal: Ordinal(number),
            created_at: Timestamp(0),
            sender: UserId::new("x").unwrap(),
            device: None,
            send_to: None,
            client_msg_id: ClientMsgId::new("m").unwrap(),
            hole_after: None,
            kind: RecordKind::Message,
            content_type: ContentType::Text,
            hash: ContentHash::of(RecordKind::Message, ContentType::Text, &content),
            content,
        })
    }

    /// What a session is told when notices come together, each with so many entries; and those, notice by notice.
    async fn told(notices: &[usize]) -> (Vec<Event>, Vec<Vec<Entry>>) {
        let (backend, user) = (Memory::new(), UserId::new("u").unwrap());
        let mut stands = backend.inbox().anchor(&user).await.unwrap();
        let notifier = backend.notifier();
        let chat = Engine::builder(backend).start().await.unwrap();
        let identity = Identity {
            user: user.clone(),
            device: DeviceId::new("d").unwrap(),
            platform: Platform::new("p").unwrap(),
        };
        let hello = Hello { cursor: Some(stands.clone()), state: None };
        let (session, _) = chat.connect(identity, hello).await.unwrap();
        let (mut numbers, mut sent, mut parts) = (1.., Vec::new(), Vec::new());
        for count in notices {
            let entry = |number| Entry { cursor: Cursor::new(format!("c{number}")), record: record(number) };
            let entries: Vec<Entry> = numbers.by_ref().take(*count).map(entry).collect();
            let users = vec![(user.clone(), Some(stands.clone()))];
            let signal = Signal {
                users,
                records: (0..*count as u32).collect(),
                cursors: entries.iter().map(|entry| entry.cursor.clone()).collect(),
            };
            stands = entries.last().unwrap().cursor.clone();
            let records = entries.iter().map(|entry| entry.record.clone()).collect();
            sent.push((chat.node().clone(), Notice::Signals(Signals { records, signals: vec![signal] })));
            parts.push(entries);
        }
        notifier.notify(sent).await.unwrap();
        let mut events = Vec::new();
        while !events.iter().any(|event| matches!(event, Event::Entries(_))) {
            events.push(session.event().await);
        }
        events.extend(std::iter::from_fn(|| session.try_event()));
        (events, parts)
    }

    #[tokio::test]
    async fn signals_told_at_once_are_the_frames_that_they_are_alone() {
        for notices in [&[1][..], &[2], &[1, 1], &[1, 3, 2, 1]] {
            let (events, parts) = told(notices).await;
            let mut told = events.iter().filter_map(|event| match event {
                Event::Entries(entries) => Some(entries),
                _ => None,
            });
            let entries = told.next().unwrap();
            assert!(told.next().is_none() && entries.parts().len() == notices.len(), "told at once");
            let frame = |part: &Vec<Entry>| {
                let entries = part.iter().map(|entry| EntryView {
                    cursor: (&entry.cursor).into(),
                    record: EncodedRecord::new(&entry.record),
                });
                let entries = entries.collect();
                let end = part.last().unwrap().cursor.as_str().into();
                text_frame(frame::event(&wire::Event::Signal(wire::Signal { end, entries })))
            };
            assert_eq!(signals(entries), &parts.iter().map(frame).collect::<Vec<_>>().concat());
        }
    }
}
