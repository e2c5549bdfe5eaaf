//! Opening a database.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::time::Duration;

use support::Schema;

#[tokio::test]
async fn ten_nodes_open_a_new_schema_at_once() {
    let schema = Schema::fresh();
    let nodes = (0..10).map(|_| schema.open());
    let opened =
        tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(nodes)).await.unwrap();
    assert_eq!(opened.len(), 10);
}
