//! How an application tests its own code against mocks of the backends: here, what it shows when the store is gone.
//!
//! With feature `mock` of `im-core` there is a mock of each trait. A call that nobody expects fails the test.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use im_core::{Error, ErrorKind, MockConversationStore, Outcome, Parts, StorePart, UserId, memory::Memory};
use im_engine::{ChatError, Engine};

/// What the application would put on its page.
async fn greeting(chat: &Engine, user: &UserId) -> String {
    match chat.conversations(user, None, 20).await {
        Ok((conversations, _)) => format!("{} chats", conversations.len()),
        Err(ChatError::Failed(error)) if error.is_transient() => "Chats are back in a moment.".to_owned(),
        Err(error) => format!("No chats: {error}"),
    }
}

#[tokio::test]
async fn the_page_says_that_chats_come_back_when_the_store_is_gone() {
    let memory = Memory::new();
    let mut conversations = MockConversationStore::new();
    conversations.expect_list().times(1).returning(|_, _, _, _| {
        let gone = Error::new(ErrorKind::Unavailable, "mock", "conversations.list", "no route to host");
        Err(gone.with_outcome(Outcome::NotDone))
    });
    let parts = Parts {
        store: Some(StorePart {
            conversations: Arc::new(conversations),
            ..Parts::from(&memory).store.unwrap()
        }),
        ..Parts::from(&memory)
    };
    let chat = Engine::builder(parts).start().await.unwrap();
    let alice = UserId::new("alice").unwrap();
    assert_eq!(greeting(&chat, &alice).await, "Chats are back in a moment.");
}
