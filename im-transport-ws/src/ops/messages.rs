//! send, ack, pull, history.

use im_engine::{Ack, AckLevel, ChatResult, Direction, Draft, Entry, HistoryPage, HistoryRange, Pull, Seq};
use im_protocol::{EntryView, Int, Level, RecordView, frame, ok, op};

use super::{Asker, Refused, Served, cursor, error_frame, id, record_bytes, wanted};
use crate::{codes, outgoing::text_frame};

pub(super) async fn send(asker: &Asker, re: Int, asked: op::Send<'_>) -> Result<Served, Refused> {
    let draft = Draft {
        conversation: id(&asked.conversation)?,
        client_msg_id: id(&asked.client_msg_id)?,
        content_type: asked.content_type,
        content: asked.content.as_str().into(),
        level: match asked.ack.unwrap_or_default() {
            Level::Logged => AckLevel::Logged,
            Level::Stored => AckLevel::Stored,
        },
    };
    let acked = asker.session.begin_send(draft).await?;
    Ok(Served::Sending(Box::pin(async move { sent(re, acked.await) })))
}

fn sent(re: Int, acked: ChatResult<Ack>) -> bytes::Bytes {
    match acked {
        Ok(ack) => text_frame(ack_answer(re, &ack)),
        Err(error) => error_frame(Some(re), codes::error_body(&error)),
    }
}

/// The answer to a send, or to a change of members.
pub(super) fn ack_answer(re: Int, ack: &Ack) -> String {
    let ok = ok::Send {
        conversation: (&ack.conversation).into(),
        seq: ack.seq.into(),
        created_at: ack.created_at.into(),
        duplicate: ack.duplicate,
        level: match ack.level {
            AckLevel::Logged => Level::Logged,
            AckLevel::Stored => Level::Stored,
        },
    };
    frame::answer(re, &ok)
}

pub(super) fn ack(asker: &Asker, re: Option<Int>, asked: op::Ack<'_>) -> Result<Served, Refused> {
    if let Some(cursor) = cursor(&asked.cursor) {
        asker.session.ack(&cursor)?;
    }
    Ok(match re {
        Some(re) => Served::Answer(text_frame(frame::answer(re, &ok::Ack {}))),
        None => Served::Silent,
    })
}

pub(super) async fn pull(asker: &Asker, re: Int, asked: op::Pull<'_>) -> Result<String, Refused> {
    let resync = ok::Pull::<RecordView<'_>> { entries: Vec::new(), more: false, resync: true };
    let Some(after) = cursor(&asked.after) else { return Ok(frame::answer(re, &resync)) };
    // The engine takes it that the client stands on the last entry of a page: it must be the last one that is sent.
    let fitting = |entries: &[Entry]| {
        let sizes = entries.iter().map(|entry| record_bytes(&entry.record));
        asker.fitting(sizes).unwrap_or(entries.len())
    };
    let page = asker.session.pull_fitting(&after, wanted(asked.max), fitting).await?;
    let Pull::Page { entries, more } = &page else { return Ok(frame::answer(re, &resync)) };
    let entries = entries
        .iter()
        .map(|entry| EntryView { cursor: (&entry.cursor).into(), record: RecordView::from(&*entry.record) });
    Ok(frame::answer(re, &ok::Pull { entries: entries.collect(), more: *more, resync: false }))
}

pub(super) async fn history(asker: &Asker, re: Int, asked: op::History<'_>) -> Result<String, Refused> {
    let direction = if asked.backward { Direction::Backward } else { Direction::Forward };
    let range = HistoryRange {
        from: asked.from.map_or(Seq(1), Seq::from),
        to: asked.to.map(Seq::from),
        direction,
        max: wanted(asked.max),
    };
    let mut page = asker.session.history(&id(&asked.conversation)?, range).await?;
    cut(asker, &mut page, direction);
    let records = page.records.iter().map(|record| RecordView::from(&**record)).collect();
    Ok(frame::answer(re, &ok::History { records, more: page.more }))
}

/// Leaves away what makes an answer too long, at the page's far end.
fn cut(asker: &Asker, page: &mut HistoryPage, direction: Direction) {
    let sizes = page.records.iter().map(|record| record_bytes(record));
    let fitting = match direction {
        Direction::Forward => asker.fitting(sizes),
        Direction::Backward => asker.fitting(sizes.rev()),
    };
    let Some(fitting) = fitting.filter(|fitting| *fitting < page.records.len()) else { return };
    page.more = true;
    match direction {
        Direction::Forward => page.records.truncate(fitting),
        Direction::Backward => drop(page.records.drain(..page.records.len() - fitting)),
    }
}
