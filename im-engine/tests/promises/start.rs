//! What the engine refuses to start with.

use std::time::Duration;

use im_core::{ErrorKind, memory::Memory};
use im_engine::{Config, Engine};

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused() {
    let mut config = Config::default();
    config.page = 0;
    let refused = Engine::builder(Memory::new()).config(config).start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("page is 0"), "{refused}");
}

#[tokio::test]
async fn so_is_a_presence_whose_nodes_are_dead_at_once() {
    let memory = Memory::builder().presence_ttl(Duration::ZERO).build();
    let refused = Engine::builder(memory).start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("presence ttl"), "{refused}");
}
