//! The switch of a group to read diffusion (读扩散).

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use im_core::{Append, ClientMsgId, ContentHash, ContentType, ConversationId, Record, RecordKind, UserId};
use lru::LruCache;
use tokio::time::Instant;

use crate::{
    commit::Commit,
    error::{ChatError, ChatResult},
};

/// How long a mode record is given to come back in the log before it is asked for again.
const AGAIN: Duration = Duration::from_secs(10);
/// How many groups are remembered that were asked to switch.
const ASKED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// Appends the mode record of a group that has grown to the threshold.
#[derive(Debug)]
pub(crate) struct Switch {
    threshold: usize,
    /// Not owned: the committers end when the engine lets go of them.
    commit: Weak<Commit>,
    asked: Mutex<LruCache<ConversationId, Instant>>,
}

impl Switch {
    pub(crate) fn new(threshold: usize, commit: Weak<Commit>) -> Self {
        Self { threshold, commit, asked: Mutex::new(LruCache::new(ASKED)) }
    }

    /// Asks for the switch of a group whose record went to so many inboxes. Any record of the group will do until it has
    /// switched, so that neither a full queue nor a crash can lose it, and no delivery waits for it; again and again is once,
    /// by its fixed client message id.
    pub(crate) fn consider(&self, record: &Record, members: usize) {
        // The mode record itself is the last that goes to the inboxes.
        if members < self.threshold || record.kind == RecordKind::Large || record.conversation.is_single() {
            return;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(&record.conversation).is_some_and(|since| since.elapsed() < AGAIN) {
            return;
        }
        match self.ask(record) {
            Ok(()) => drop(asked.put(record.conversation.clone(), Instant::now())),
            Err(error) => tracing::warn!(%error, conversation = %record.conversation, "not switched yet"),
        }
    }

    fn ask(&self, record: &Record) -> ChatResult<()> {
        let Some(commit) = self.commit.upgrade() else { return Ok(()) };
        // Nobody waits for the answer: it comes as a record.
        drop(commit.enqueue(mode_record(record)?, None)?);
        Ok(())
    }
}

fn mode_record(record: &Record) -> Result<Append, ChatError> {
    let (kind, content_type) = (RecordKind::Large, ContentType::System);
    let client_msg_id = ClientMsgId::new("large")?;
    Ok(Append {
        conversation: record.conversation.clone(),
        sender: UserId::system(),
        device: None,
        send_to: None,
        client_msg_id,
        kind,
        content_type,
        content: "{}".into(),
        hash: ContentHash::of(kind, content_type, "{}"),
        floor: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use im_core::{Mark, Seq, Timestamp, memory::Memory};

    use super::*;
    use crate::{
        Config,
        commit::tests::{append, committer, logged},
    };

    fn record(kind: RecordKind) -> Record {
        let conversation = ConversationId::group("g").unwrap();
        let place = Mark { seq: Seq(1), ..Mark::default() };
        Append { conversation, kind, ..append("m") }.at(place, Timestamp(0), None)
    }

    #[tokio::test]
    async fn a_full_queue_puts_the_switch_off_to_the_next_record() {
        let memory = Memory::new();
        let (commit, task) = committer(&memory, &Config { commit_queue: 1, ..Config::default() }).await;
        let commit = Arc::new(commit);
        let switch = Switch::new(3, Arc::downgrade(&commit));
        let sent = commit.enqueue(append("fills the queue"), None).unwrap();
        switch.consider(&record(RecordKind::Members), 3);
        tokio::join!(task, async {
            sent.await.unwrap();
            switch.consider(&record(RecordKind::Message), 2);
            switch.consider(&record(RecordKind::Large), 3);
            switch.consider(&record(RecordKind::Message), 3);
            switch.consider(&record(RecordKind::Message), 3);
            drop(commit);
        });
        assert_eq!(logged(&memory).await, ["fills the queue", "{}"]);
    }
}
