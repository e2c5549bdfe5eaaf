//! The clauses of [`im_core::Outbox`].

use std::sync::Arc;

use im_core::{ConversationId, Outbox, Outgoing, Place, Refusal, UserId, Waiting};

use crate::{
    Data, Fixture, Verdict, Violation,
    support::{group, make_group, store_of, user},
    violation::{ensure, ensure_eq},
};

/// An outbox, and who may send where.
struct Bed {
    data: Box<dyn Data>,
    outbox: Arc<dyn Outbox>,
    sender: UserId,
    conversation: ConversationId,
}

impl Bed {
    async fn open(fixture: &dyn Fixture) -> Result<Self, Violation> {
        let data = fixture.fresh().await?;
        let parts = data.node().await?;
        let store = store_of(&parts)?;
        let (sender, conversation) = (user("alice")?, group("g")?);
        make_group(store, &conversation, &[&sender]).await?;
        let outbox = store.outbox.clone().ok_or_else(|| {
            Violation::new("the outbox is missing: declare it, `lacks { outbox: \"why\" }`")
        })?;
        Ok(Self { data, outbox, sender, conversation })
    }

    fn message(&self, text: &str) -> Outgoing {
        Outgoing::text(&self.sender, &self.conversation, text)
    }

    /// Sends texts in one transaction.
    async fn sent(&self, texts: &[&str]) -> Verdict {
        let mut host = self.data.host().await?;
        for text in texts {
            host.send(&self.message(text)).await?;
        }
        host.commit().await
    }

    /// Everything that waits, in pages of two.
    async fn all(&self) -> Result<Vec<Waiting>, Violation> {
        let (mut all, mut after) = (Vec::<Waiting>::new(), None::<Place>);
        loop {
            let page = self.outbox.waiting(after, 2).await?;
            ensure!(page.len() <= 2, "a page of at most 2 brought {}", page.len());
            for waiting in &page {
                ensure!(Some(waiting.place) > after, "{:?} after {after:?}", waiting.place);
                after = Some(waiting.place);
            }
            let is_last = page.len() < 2;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn texts(&self) -> Result<Vec<String>, Violation> {
        Ok(self.all().await?.iter().map(|waiting| waiting.message.content.to_string()).collect())
    }
}

/// Clause 1: a message is there from the commit on, as it was sent; what is rolled back never is.
///
/// # Errors
/// The violation that was found.
pub async fn committed(fixture: &dyn Fixture) -> Verdict {
    let bed = Bed::open(fixture).await?;
    let (mut kept, mut given_up) = (bed.data.host().await?, bed.data.host().await?);
    let message = bed.message("it's \"quoted\" \\ 字 👋");
    kept.send(&message).await?;
    given_up.send(&bed.message("never")).await?;
    ensure_eq!(bed.texts().await?, [""; 0], "what waits before a commit");
    given_up.roll_back().await?;
    kept.commit().await?;
    let waiting: Vec<_> = bed.all().await?.into_iter().map(|waiting| waiting.message).collect();
    ensure_eq!(waiting, [message], "what waits after the commit");
    Ok(())
}

/// Clause 2: a transaction that began first and commits last is found, also when what came after it is gone.
///
/// # Errors
/// The violation that was found.
pub async fn never_passed(fixture: &dyn Fixture) -> Verdict {
    let bed = Bed::open(fixture).await?;
    let mut late = bed.data.host().await?;
    late.send(&bed.message("late")).await?;
    for text in ["one", "two", "three"] {
        bed.sent(&[text]).await?;
        let waiting = bed.all().await?;
        ensure_eq!(waiting.len(), 1, "messages that wait");
        bed.outbox.done(&[waiting[0].place]).await?;
        ensure_eq!(bed.texts().await?, [""; 0], "what waits after it is done");
    }
    late.commit().await?;
    for _ in 0..2 {
        ensure_eq!(bed.texts().await?, ["late"], "what waits after a late commit");
    }
    Ok(())
}

/// Clause 3: in ascending places, each transaction's in the order of its sends, after those of all that were over.
///
/// # Errors
/// The violation that was found.
pub async fn in_order(fixture: &dyn Fixture) -> Verdict {
    let bed = Bed::open(fixture).await?;
    let texts: Vec<_> = (0..12).map(|n| n.to_string()).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    for some in texts.chunks(3) {
        bed.sent(some).await?;
    }
    ensure_eq!(bed.texts().await?, texts, "what waits");
    Ok(())
}

/// Clause 4: a message waits until it is done or refused, it alone; a refused one is kept aside with the refusal, once.
///
/// # Errors
/// The violation that was found.
pub async fn kept(fixture: &dyn Fixture) -> Verdict {
    let bed = Bed::open(fixture).await?;
    bed.sent(&["done", "waits", "refused", "waits too"]).await?;
    let waiting = bed.all().await?;
    ensure_eq!(waiting.len(), 4, "messages that wait");
    let refusal = (waiting[2].place, Refusal::NotMember);
    bed.outbox.done(&[waiting[0].place]).await?;
    bed.outbox.refuse(std::slice::from_ref(&refusal)).await?;
    // Who comes too late changes nothing.
    bed.outbox.done(&[waiting[0].place, waiting[2].place]).await?;
    bed.outbox.refuse(&[(waiting[0].place, Refusal::Conflict), refusal]).await?;
    ensure_eq!(bed.texts().await?, ["waits", "waits too"], "what waits");
    let refused = bed.data.refused_sends().await?;
    ensure_eq!(refused, [(waiting[2].message.clone(), "not_member".to_owned())], "what was refused");
    bed.data.reopen().await?;
    ensure_eq!(bed.data.refused_sends().await?, refused, "what was refused, after a restart");
    Ok(())
}
