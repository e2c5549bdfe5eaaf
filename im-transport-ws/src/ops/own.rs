//! mark_read, set, state, ping: the user's own state, and where everything stands.

use bytes::Bytes;
use im_engine::{ConversationId, Mark, Seq, SettingsChange};
use im_protocol::{Event, HeadView, Heads, Int, RecordView, frame, ok, op};

use super::{
    Asker, Refused, Served,
    conversations::{view, view_bytes},
    id, version,
};
use crate::outgoing::text_frame;

pub(super) async fn mark_read(asker: &Asker, re: Int, asked: op::MarkRead<'_>) -> Result<String, Refused> {
    let mark = asker.session.mark_read(&id(&asked.conversation)?, asked.seq.into()).await?;
    Ok(frame::answer(re, &ok::MarkRead { read: mark.into() }))
}

pub(super) async fn set(asker: &Asker, re: Int, asked: op::Set<'_>) -> Result<String, Refused> {
    let change = SettingsChange {
        nickname: asked.nickname.as_deref().map(Into::into),
        hidden: asked.hidden,
        undisturbed: asked.undisturbed,
        cleared: asked.cleared.map(Seq::from),
    };
    let state = asker.session.set(&id(&asked.conversation)?, &change).await?;
    Ok(frame::answer(re, &ok::Set { state: (&state).into() }))
}

pub(super) async fn state(asker: &Asker, re: Int, asked: op::State<'_>) -> Result<String, Refused> {
    let since = asked.since.as_ref().and_then(version);
    let state = asker.session.state(since).await?;
    // More changes than an answer can carry: list the conversations, a page at a time.
    let changes = state.changes.filter(|changes| asker.fitting(changes.iter().map(view_bytes)).is_none());
    let ok = ok::State {
        version: (&state.version).into(),
        changes: changes.iter().flatten().map(|changed| view(asker, changed)).collect(),
        all: changes.is_none(),
    };
    Ok(frame::answer(re, &ok))
}

pub(super) async fn ping(asker: &Asker, re: Int) -> Result<Served, Refused> {
    let heartbeat = asker.session.heartbeat().await?;
    let (first, rest) = paged(&heartbeat.heads, asker.page);
    let ok = ok::Ping {
        time: heartbeat.time.into(),
        end: heartbeat.end.as_ref().map(Into::into),
        state: (&heartbeat.state).into(),
        heads: first.iter().map(HeadView::from).collect(),
    };
    let mut answer = text_frame(frame::answer(re, &ok));
    if !rest.is_empty() {
        // Frames stand one behind the other on the wire, so several can be passed on as one.
        answer =
            [answer].into_iter().chain(heads_frames(rest, asker.page)).collect::<Vec<_>>().concat().into();
    }
    Ok(Served::Answer(answer))
}

/// The head of a large group, as the engine tells it.
type Head = (ConversationId, Mark);

/// The heads that fit into an answer, and the others.
pub(crate) fn paged(heads: &[Head], page: usize) -> (&[Head], &[Head]) {
    heads.split_at(heads.len().min(page))
}

/// The frames of events that tell of heads, a page each.
pub(crate) fn heads_frames(heads: &[Head], page: usize) -> impl Iterator<Item = Bytes> {
    heads.chunks(page).map(|heads| {
        let heads = heads.iter().map(HeadView::from).collect();
        text_frame(frame::event(&Event::<RecordView<'_>>::Heads(Heads { heads })))
    })
}
