//! conversations, open_single.

use std::sync::Arc;

use im_engine::{BootstrapPage, ChatError, ConversationId, ConversationView, Fresh, Refusal};
use im_protocol::{self as wire, Id, Int, frame, ok, op};

use super::{Asker, Refused, Served, id, record_bytes, wanted};
use crate::outgoing::text_frame;

pub(super) async fn open_single(
    asker: &Asker,
    re: Int,
    asked: op::OpenSingle<'_>,
) -> Result<String, Refused> {
    let made = asker.session.open_single(&id(&asked.user)?).await?;
    let conversation = asker.session.conversation(&made.id).await?;
    Ok(frame::answer(re, &ok::OpenSingle { conversation: view(asker, &conversation) }))
}

pub(super) async fn conversations(
    asker: &Asker,
    re: Int,
    asked: op::Conversations<'_>,
    fresh: Option<Arc<Fresh>>,
) -> Result<Served, Refused> {
    if let Some(ids) = &asked.ids {
        let some = some(asker, ids).await?;
        return Ok(Served::Answer(text_frame(answer(asker, re, &some, None))));
    }
    let begins = match asked.fresh {
        true => Some(Arc::new(asker.session.fresh().await?)),
        false => None,
    };
    let after = asked.after.as_ref().map(id).transpose()?;
    let page = page(asker, begins.as_ref().or(fresh.as_ref()), after, wanted(asked.max)).await?;
    let frame = text_frame(answer(asker, re, &page, begins.as_deref()));
    Ok(match begins {
        Some(fresh) => Served::Fresh(frame, fresh),
        None => Served::Answer(frame),
    })
}

/// A page by id; during a bootstrap without those that the store is not far enough for.
async fn page(
    asker: &Asker,
    fresh: Option<&Arc<Fresh>>,
    after: Option<ConversationId>,
    max: usize,
) -> Result<BootstrapPage, Refused> {
    let mut page = match fresh {
        Some(fresh) => asker.session.bootstrap(fresh, after, max).await?,
        None => {
            let (conversations, more) = asker.session.conversations(after, max).await?;
            BootstrapPage { conversations, behind: Vec::new(), more }
        }
    };
    cut(asker, &mut page);
    Ok(page)
}

/// Leaves away what makes an answer too long.
fn cut(asker: &Asker, page: &mut BootstrapPage) {
    if let Some(fitting) = asker.fitting(page.conversations.iter().map(view_bytes))
        && fitting < page.conversations.len()
    {
        page.more = true;
        page.conversations.truncate(fitting);
        let last = page.conversations.last().map(id_of).cloned();
        page.behind.retain(|behind| Some(behind) < last.as_ref());
    }
}

/// About what a conversation takes in a frame.
pub(super) fn view_bytes(view: &ConversationView) -> usize {
    /// Marks, settings, names, ids.
    const OVERHEAD: usize = 1024;
    view.last.as_ref().map_or(0, |record| record_bytes(record)) + OVERHEAD
}

fn id_of(view: &ConversationView) -> &ConversationId {
    &view.membership.conversation.id
}

/// These conversations, without those that the user never was in.
async fn some(asker: &Asker, ids: &[Id<'_>]) -> Result<BootstrapPage, Refused> {
    let mut conversations = Vec::new();
    if ids.len() > asker.page {
        return Err(ChatError::from(Refusal::TooLarge { what: "ids", limit: asker.page }).into());
    }
    for wanted in ids {
        match asker.session.conversation(&id(wanted)?).await {
            Ok(view) => conversations.push(view),
            Err(ChatError::Refused(Refusal::NotMember | Refusal::UnknownConversation)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(BootstrapPage { conversations, behind: Vec::new(), more: false })
}

fn answer(asker: &Asker, re: Int, page: &BootstrapPage, begins: Option<&Fresh>) -> String {
    let last = page.conversations.last().map(id_of).max(page.behind.last());
    let ok = ok::Conversations {
        conversations: page.conversations.iter().map(|one| view(asker, one)).collect(),
        behind: page.behind.iter().map(Id::from).collect(),
        next: last.filter(|_| page.more).map(Id::from),
        cursor: begins.map(|fresh| (&fresh.cursor).into()),
        state: begins.map(|fresh| (&fresh.state).into()),
    };
    frame::answer(re, &ok)
}

/// A conversation as the session's user sees it.
pub(super) fn view<'a>(asker: &Asker, view: &'a ConversationView) -> wire::ConversationView<'a> {
    wire::ConversationView::new(asker.session.user(), &view.membership, view.head, view.last.as_deref())
}
