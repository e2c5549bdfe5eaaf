//! The store: timelines for ever.

use std::sync::Arc;

use crate::connect::Inner;

/// The store part: [`MessageStore`](im_core::MessageStore), [`ConversationStore`](im_core::ConversationStore) and
/// [`UserState`](im_core::UserState).
#[derive(Debug, Clone)]
pub struct PgStore(pub(crate) Arc<Inner>);
