//! Sending inside the host's own transaction.

use im_core::{ChatResult, ContentHash, ContentType, Found, Outgoing, Receipt, RecordKind, Refusal, Result};
use sqlx::PgConnection;

use crate::{
    PgBackend,
    connect::{Inner, now},
    error::failed,
    rows::{Columns, receipt_columns},
};

const OPERATION: &str = "send_in";

/// How many columns a receipt has.
const RECEIPT: usize = 6;

/// What the host's transaction sees of a message before it is sent.
struct Seen {
    /// The conversation is there.
    is_known: bool,
    /// The sender is a member.
    is_member: bool,
    /// It is in the store already.
    found: Option<Found>,
    /// The hash of what waits in the outbox under the same key.
    waiting: Option<ContentHash>,
}

impl PgBackend {
    /// Sends a message inside the host's own transaction on this database: it is there, once, if and only if that commits.
    ///
    /// It is numbered after the commit, by whatever node looks first: within about 0.2 s, while at least one runs an engine on this
    /// store. No lock of the chat's is taken but on the new row, so a transaction may stay open as long as it likes. What the engine
    /// checks is checked here as far as the transaction sees it, and nothing is written where it is refused: the transaction goes on.
    /// The host's policy is asked when the message is appended; one that is refused then stands in
    /// [`PgOutbox::refused`](crate::PgOutbox::refused), with the reason.
    ///
    /// Returns where the message is, if an earlier send of it is in the store already; then nothing is written. Who wants its place at
    /// once sends the same message by the engine after the commit (`chat.send(message.into())`): it is stored once.
    ///
    /// The transaction's role must be allowed to read `messages`, `conversations` and `group_members` and to read and fill `outbox`.
    ///
    /// ```no_run
    /// # use im_core::{ConversationId, Outgoing, UserId};
    /// # use im_store_pg::PgBackend;
    /// # async fn example(chat_data: PgBackend, pool: sqlx::PgPool, shop: UserId, order: ConversationId)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE orders SET state = 'sent' WHERE id = 7").execute(&mut *transaction).await?;
    /// let message = Outgoing::text(&shop, &order, "Your order is on its way.");
    /// chat_data.send_in(&mut transaction, &message).await?;
    /// transaction.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A [`Refusal`]: [`NotMember`](Refusal::NotMember), [`UnknownConversation`](Refusal::UnknownConversation),
    /// [`TooLarge`](Refusal::TooLarge), [`Invalid`](Refusal::Invalid), [`Conflict`](Refusal::Conflict); or a failure of the
    /// database, after which Postgres takes no statement of the transaction but its rollback.
    ///
    /// # Cancel safety
    /// The message may have been written within the transaction: roll that back.
    pub async fn send_in(
        &self,
        transaction: &mut PgConnection,
        message: &Outgoing,
    ) -> ChatResult<Option<Receipt>> {
        check(message, self.inner.content_bytes)?;
        let hash = ContentHash::of(RecordKind::Message, message.content_type, &message.content);
        let seen = look(&self.inner, transaction, message).await?;
        // As everywhere, a retry is known also after the sender left.
        let known = seen.found.map(|found| found.hash).or(seen.waiting);
        match known {
            Some(known) if known == hash => return Ok(seen.found.map(|found| found.receipt)),
            Some(_) => return Err(Refusal::Conflict.into()),
            None if seen.is_member => {}
            None if seen.is_known => return Err(Refusal::NotMember.into()),
            None => return Err(Refusal::UnknownConversation.into()),
        }
        put(&self.inner, transaction, message, hash).await?;
        Ok(None)
    }
}

fn check(message: &Outgoing, limit: usize) -> Result<(), Refusal> {
    if message.content.len() > limit {
        return Err(Refusal::TooLarge { what: "content bytes", limit });
    }
    if message.content_type == ContentType::System || message.sender.is_system() {
        return Err(Refusal::Invalid("only the engine makes system records".into()));
    }
    if message.content.contains('\0') {
        return Err(Refusal::Invalid("Postgres cannot keep the character NUL in a text".into()));
    }
    Ok(())
}

async fn look(inner: &Inner, conn: &mut PgConnection, message: &Outgoing) -> Result<Seen> {
    // Sub-selects with a limit: each is looked up by its index, whatever the planner thinks of the tables.
    let sql = inner.sql(concat!(
        "SELECT m.*, EXISTS (SELECT 1 FROM {im}.conversations WHERE id = $2 AND type IS NOT NULL), \
         EXISTS (SELECT 1 FROM {im}.group_members WHERE conversation_id = $2 AND main_user = $3 AND left_after IS NULL), \
         (SELECT content_hash FROM {im}.outbox WHERE client_msg_id = $4 AND conversation_id = $2 AND send_from = $3 LIMIT 1) \
         FROM (SELECT) one LEFT JOIN LATERAL (SELECT ",
        receipt_columns!(),
        " FROM {im}.messages m WHERE m.part = $1 AND m.client_msg_id = $4 AND m.conversation_id = $2 AND m.send_from = $3 \
         LIMIT 1) m ON true"
    ));
    let row = sqlx::query(sql)
        .bind(inner.part(&message.conversation))
        .bind(message.conversation.as_str())
        .bind(message.sender.as_str())
        .bind(message.client_msg_id.as_str())
        .fetch_one(conn)
        .await
        .map_err(failed(OPERATION))?;
    let columns = Columns::new(&row, 0, OPERATION);
    let found = columns.optional_int(0)?.is_some().then(|| columns.found()).transpose()?;
    let waiting = columns.optional_int(RECEIPT + 2)?.map(|hash| ContentHash(hash.cast_unsigned()));
    Ok(Seen { is_known: columns.get(RECEIPT)?, is_member: columns.get(RECEIPT + 1)?, found, waiting })
}

async fn put(inner: &Inner, conn: &mut PgConnection, message: &Outgoing, hash: ContentHash) -> Result<()> {
    let sql = inner.sql(concat!(
        "INSERT INTO {im}.outbox (put_at, conversation_id, send_from, client_msg_id, content_type, content, content_hash) \
         VALUES (",
        now!(),
        ", $1, $2, $3, $4, $5, $6)"
    ));
    sqlx::query(sql)
        .bind(message.conversation.as_str())
        .bind(message.sender.as_str())
        .bind(message.client_msg_id.as_str())
        .bind(message.content_type.as_str())
        .bind(&*message.content)
        .bind(hash.0.cast_signed())
        .execute(conn)
        .await
        .map(drop)
        .map_err(failed(OPERATION))
}
