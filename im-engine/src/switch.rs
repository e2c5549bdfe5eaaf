//! The switch of a group to read diffusion (读扩散).

use std::sync::{Arc, Weak};

use im_core::{
    Append, ClientMsgId, ContentHash, ContentType, ErrorKind, MessageStore, Outcome, Record, RecordKind,
    Result, UserId,
};

use crate::{commit::Commit, epoch::Numbering, error::ChatError};

/// Appends the mode record of a group that has grown to the threshold.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) threshold: usize,
    pub(crate) messages: Arc<dyn MessageStore>,
    pub(crate) numbering: Arc<Numbering>,
    /// Not owned: the committers end when the engine lets go of them.
    pub(crate) commit: Weak<Commit>,
}

impl Switch {
    /// Appends the record before the batch's checkpoint moves, so that a crash cannot lose it; again and again is once, by its
    /// fixed client message id.
    pub(crate) async fn consider(&self, record: &Record, members: usize) -> Result<()> {
        if record.kind != RecordKind::Members || members < self.threshold {
            return Ok(());
        }
        let epoch = self.numbering.current().epoch;
        let mode = mode_record(record)?;
        // A replay may come when the log has long forgotten the key.
        if self.messages.find(&[mode.key()]).await?.into_iter().flatten().next().is_some() {
            return Ok(());
        }
        let commit = self.commit.upgrade().ok_or_else(|| transient("shutting down"))?;
        match commit.enqueue_patiently(mode, epoch).await {
            Ok(_) => Ok(()),
            Err(ChatError::Failed(error)) => Err(error),
            Err(ChatError::Refused(refusal)) => Err(transient(&refusal.to_string())),
        }
    }
}

fn transient(message: &str) -> im_core::Error {
    im_core::Error::new(ErrorKind::Unavailable, "engine", "fanout.switch", message)
        .with_outcome(Outcome::NotDone)
}

fn mode_record(record: &Record) -> Result<Append> {
    let (kind, content_type) = (RecordKind::Large, ContentType::System);
    let client_msg_id = ClientMsgId::new("large").map_err(|error| {
        im_core::Error::new(ErrorKind::Other, "engine", "fanout.switch", error.to_string())
    })?;
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
