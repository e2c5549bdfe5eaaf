//! conversations, open_single.

use im_engine::{BootstrapPage, ChatError, ConversationId, ConversationView, Fresh, Refusal};
use im_protocol::{self as wire, Id, Int, frame, ok, op};

use super::{Asker, Refused, id, record_bytes, wanted};

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
) -> Result<String, Refused> {
    if let Some(ids) = &asked.ids {
        return Ok(answer(asker, re, &some(asker, ids).await?, None));
    }
    let fresh = match asked.fresh {
        true => Some(asker.bootstrap.begin(asker.session.fresh().await?)),
        false => asker.bootstrap.fresh(),
    };
    let after = asked.after.as_ref().map(id).transpose()?;
    let page = page(asker, fresh.as_deref(), after, wanted(asked.max)).await?;
    asker.bootstrap.listed(&page);
    Ok(answer(asker, re, &page, fresh.as_deref().filter(|_| asked.fresh)))
}

/// A page by id; during a bootstrap without those that the store is not far enough for.
async fn page(
    asker: &Asker,
    fresh: Option<&Fresh>,
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

/// These conversations, without those that the user never was in, or that are still behind.
async fn some(asker: &Asker, ids: &[Id<'_>]) -> Result<BootstrapPage, Refused> {
    if ids.len() > asker.page {
        return Err(ChatError::from(Refusal::TooLarge { what: "ids", limit: asker.page }).into());
    }
    let ids = ids.iter().map(id).collect::<Result<Vec<ConversationId>, _>>()?;
    let fresh = asker.bootstrap.fresh_for(&ids);
    let mut some = asker.session.some_conversations(fresh.as_deref(), &ids).await?;
    some.conversations.sort_by(|a, b| id_of(a).cmp(id_of(b)));
    asker.bootstrap.fetched(&ids, &some);
    Ok(some)
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
