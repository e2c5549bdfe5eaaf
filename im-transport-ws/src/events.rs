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

/// The frame of entries: made by the first session that needs it, shared by all that are told the same.
pub(crate) fn signal(entries: &Entries) -> &Bytes {
    entries.encoded(|entries| {
        let encoded: Vec<EncodedRecord> =
            entries.iter().map(|entry| EncodedRecord::new(&entry.record)).collect();
        let cursors = entries.iter().map(|entry: &Entry| entry.cursor.as_str());
        text_frame(frame::signal(cursors.zip(&encoded)))
    })
}

fn bare_signal(end: &Cursor) -> Bytes {
    event_frame(&wire::Event::Signal(wire::Signal { end: end.into(), entries: Vec::new() }))
}

fn event_frame(event: &wire::Event<'_, RecordView<'_>>) -> Bytes {
    text_frame(frame::event(event))
}
