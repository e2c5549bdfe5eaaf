//! Log and store on the same data: equal incarnations say that a message is written once and nothing copies it.

use std::sync::Arc;

use im_core::{
    ConversationId, Direction, History, HistoryQuery, Mark, Partition, Parts, Position, Receipt, Record,
    RecordKind, Seq,
};

use crate::{
    Fixture, Verdict, Violation,
    support::{Log, group, make_group, membership, message, of_kind, one, store_of, together, user, version},
    violation::{ensure, ensure_eq},
};

/// What was appended is in the store when the append is answered: the record, its key, its place in the log, its sender's read
/// mark, and that it changes members; and it is so after a restart. The numbering is one.
///
/// # Errors
/// The violation that was found.
pub async fn written_once(fixture: &dyn Fixture) -> Verdict {
    let data = fixture.fresh().await?;
    let parts = data.node().await?;
    let (id, alice) = (group("g")?, user("alice")?);
    let equal = async |parts: &Parts| -> Result<bool, Violation> {
        let log = Log::open(parts).await?.log.info().await?.incarnation;
        Ok(store_of(parts)?.messages.info().await?.incarnation == log)
    };
    ensure!(
        equal(&parts).await?,
        "log and store have different incarnations: declare it, `lacks {{ same_data: \"why\" }}`"
    );
    let store = store_of(&parts)?.clone();
    make_group(&store, &id, &[&alice]).await?;
    let before = version(&store, &alice).await?;
    let mut senders = Vec::new();
    for sender in 0..4 {
        let (parts, id) = (data.node().await?, id.clone());
        senders.push(async move {
            let log = Log::open(&parts).await?;
            for n in 0..10 {
                let append = message(&id, &format!("sender {sender}"), &n.to_string(), "text")?;
                let receipt = log.store(&append).await?;
                there(
                    &parts,
                    log.partition(&id),
                    &append.at(receipt.mark, receipt.created_at, None),
                    receipt,
                )
                .await?;
            }
            Ok(())
        });
    }
    together(senders).await?;
    let log = Log::open(&parts).await?;
    let own = log.store(&message(&id, "alice", "own", "text")?).await?;
    ensure_eq!(membership(&store, &id, &alice, &None).await?.read, own.mark, "the mark of a sender");
    ensure_eq!(version(&store, &alice).await?, before, "the version of a sender");
    let members = log.store(&of_kind(&id, "alice", "members", "{}", RecordKind::Members)?).await?;
    let unapplied = membership(&store, &id, &alice, &None).await?.unapplied;
    ensure_eq!(unapplied, Some(members.mark.seq), "the change of members that is not applied");

    let parts = data.reopen().await?;
    ensure!(equal(&parts).await?, "log and store have different incarnations after a restart");
    let timeline = Log::open(&parts).await?.timeline(&id).await?;
    let records: Vec<_> = timeline.iter().map(|record| record.record.clone()).collect();
    ensure_eq!(history(&parts, &id).await?, records, "history and log after a restart");
    ensure_eq!(records.len(), 42, "records");
    Ok(())
}

/// A record stands in every look-up of the store as it stands in the log.
async fn there(parts: &Parts, partition: Partition, record: &Record, receipt: Receipt) -> Verdict {
    let store = &store_of(parts)?.messages;
    let found = one(store.find(&[record.key()]).await?)?;
    ensure_eq!(
        found.map(|found| (found.receipt, found.hash)),
        Some((receipt, record.hash)),
        "the key in the store"
    );
    let got = one(store.get(&[(record.conversation.clone(), record.seq)]).await?)?;
    ensure_eq!(got.as_deref(), Some(record), "the record in the store");
    let last = one(store.last(std::slice::from_ref(&record.conversation)).await?)?;
    let head = last.map_or(Mark::default(), |last| last.mark());
    ensure!(head >= record.mark(), "the store ends at {head:?}, below {:?}", record.mark());
    let above = store
        .above(partition, Position { offset: receipt.position.offset - 1, ..receipt.position }, 1)
        .await?;
    ensure_eq!(one(above)?.position, receipt.position, "its place in the log, as the store tells it");
    Ok(())
}

async fn history(parts: &Parts, conversation: &ConversationId) -> Result<Vec<Arc<Record>>, Violation> {
    let whole = HistoryQuery {
        conversation: conversation.clone(),
        from: Seq(1),
        to: None,
        direction: Direction::Forward,
        max: 1000,
    };
    match store_of(parts)?.messages.history(&whole).await? {
        History::Page { records, more: false, .. } => Ok(records),
        other => Err(Violation::new(format!("{other:?}, where a whole timeline was due"))),
    }
}
