//! Conversations and their members, as the store keeps them.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Conversation, ConversationChange, ConversationId, DeviceId, Incarnation, Mark, Member, Membership,
    NewConversation, Result, Seq, UserId,
};

/// The owner of conversations and members.
///
/// # Contract
/// 1. **Create once.** Creating again what is there with the same kind and name answers the first; with another kind or name
///    the result of that one is none.
/// 2. **In record order.** A change at or below the conversation's applied sequence id changes nothing, so a replay is
///    harmless; others take effect in the order given, all or nothing.
/// 3. **Members at a record.** The members at a sequence id are those whose interval contains it, whatever was applied since.
/// 4. **Settings stay.** Who leaves and joins again finds nickname, settings and read mark as they were.
/// 5. **State version.** A change of membership raises the state version of the users it concerns, of nobody else.
/// 6. **Fenced.** Changes for another store incarnation fail with
///    [`OtherIncarnation`](crate::ErrorKind::OtherIncarnation) and change nothing.
/// 7. **Unapplied.** A membership names the first stored record of kind [`Members`](crate::RecordKind::Members) above the
///    conversation's applied sequence id, if there is one.
/// 8. **Exact pages.** Pages by id are complete under concurrent changes of other rows.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ConversationStore: fmt::Debug + Send + Sync + 'static {
    /// Creates conversations; see clause 1.
    ///
    /// # Errors
    /// A transient error leaves the outcome unknown; a repeat is safe.
    ///
    /// # Cancel safety
    /// The outcome is unknown.
    async fn create(&self, conversations: &[NewConversation]) -> Result<Vec<Option<Conversation>>>;

    /// Conversations by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn get(&self, ids: &[ConversationId]) -> Result<Vec<Option<Conversation>>>;

    /// A user's conversations, left ones too, by ascending id (bytewise) after `after`, at most `max`.
    /// The read marks are those of `device` where devices have their own.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn list(
        &self,
        user: &UserId,
        device: &Option<DeviceId>,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<Membership>>;

    /// The large groups that a user is a member of now, by ascending id after `after`, at most `max`.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn large_groups(
        &self,
        user: &UserId,
        after: &Option<ConversationId>,
        max: usize,
    ) -> Result<Vec<ConversationId>>;

    /// What users are and have in conversations; none where a user never was a member.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn memberships(
        &self,
        wanted: &[(ConversationId, UserId)],
        device: &Option<DeviceId>,
    ) -> Result<Vec<Option<Membership>>>;

    /// The members at a sequence id, by ascending user id after `after`, at most `max`.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn members(
        &self,
        conversation: &ConversationId,
        at: Seq,
        after: &Option<UserId>,
        max: usize,
    ) -> Result<Vec<Member>>;

    /// How many members a conversation has now.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn count_members(&self, conversation: &ConversationId) -> Result<usize>;

    /// Applies what records do to their conversations; see clauses 2, 5 and 6. Only the fan-out worker calls this.
    ///
    /// # Errors
    /// A transient error leaves the outcome unknown; a repeat is safe.
    ///
    /// # Cancel safety
    /// The outcome is unknown, but all or nothing.
    async fn apply_members(&self, store: &Incarnation, changes: &[ConversationChange]) -> Result<()>;

    /// The place of the last change applied to each conversation; zero where there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    async fn applied(&self, ids: &[ConversationId]) -> Result<Vec<Mark>>;
}
