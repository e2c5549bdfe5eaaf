//! What an opening says of servers that cannot be used.

use std::time::Duration;

use crate::support::{CLUSTER, fresh_prefix, named, server::Server};
use fred::{
    interfaces::ClientLike,
    types::{Builder, config::Config},
};
use im_core::{Durability, ErrorKind};
use im_sync_redis::{RedisBackend, RedisBuilder};

fn builder(url: &str) -> RedisBuilder {
    RedisBackend::builder(url).unwrap().command_timeout(Duration::from_secs(2))
}

/// An opening that fails: how, and what it says.
async fn refused(url: &str) -> (ErrorKind, String) {
    let opened = tokio::time::timeout(Duration::from_secs(20), builder(url).open());
    let error = opened.await.expect("it says so in time").map(drop).unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn what_an_ack_survives_is_said() {
    for (settings, durability, loss) in [
        ("--appendonly yes --appendfsync always", Durability::Synced, 0),
        ("--appendonly yes --appendfsync everysec", Durability::Buffered, 10),
        ("--appendonly no", Durability::Memory, 10),
    ] {
        let server = Server::start(settings);
        let redis = builder(&server.url()).open().await.unwrap();
        let report = redis.report();
        assert_eq!((report.durability, report.loss_window.as_secs()), (durability, loss), "{settings}");
        assert_eq!((report.masters, report.has_replicas), (1, false));
    }
}

#[tokio::test]
async fn a_server_that_evicts_keys_is_refused() {
    let server = Server::start("--maxmemory-policy allkeys-lru");
    let (kind, why) = refused(&server.url()).await;
    assert!(kind == ErrorKind::Invalid && why.contains("allkeys-lru") && why.contains("noeviction"), "{why}");
}

#[tokio::test]
async fn a_wrong_password_is_denied() {
    let server = Server::start("--requirepass secret");
    let place = server.url().replace("redis://", "");
    for url in [format!("redis://:wrong@{place}"), format!("redis://{place}")] {
        let (kind, why) = refused(&url).await;
        assert_eq!(kind, ErrorKind::Denied, "{why}");
        assert!(!why.contains("wrong@"), "{why}");
    }
    builder(&format!("redis://:secret@{place}")).open().await.unwrap();
}

#[tokio::test]
async fn a_replica_is_refused() {
    let (master, server) = (Server::start("--appendonly no"), Server::start("--appendonly no"));
    server.ask(&["replicaof", "127.0.0.1", &master.port().to_string()]);
    let (kind, why) = refused(&server.url()).await;
    assert!(kind == ErrorKind::Unavailable && why.contains("slave"), "{why}");
}

#[tokio::test]
async fn a_server_without_tls_and_a_port_without_a_server_are_said() {
    let server = Server::start("--appendonly no");
    let (kind, why) = refused(&server.url().replace("redis://", "rediss://")).await;
    assert!(
        matches!(kind, ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Timeout),
        "{kind:?} {why}"
    );
    let url = server.url();
    drop(server);
    let (kind, why) = refused(&url).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{why}");
}

/// It would mix answers up while slots move.
#[tokio::test]
async fn a_hosts_client_of_a_cluster_that_follows_redirections_is_refused() {
    for (redirections, is_refused) in [(5, true), (0, false)] {
        let config = Config::from_url(&named(CLUSTER)).unwrap();
        let mut host = Builder::from_config(config);
        host.with_connection_config(|connection| connection.max_redirections = redirections);
        let client = host.build().unwrap();
        client.init().await.unwrap();
        match RedisBackend::with_client(client.clone()).prefix(fresh_prefix()).open().await {
            Err(error) => {
                assert!(is_refused && error.to_string().contains("max_redirections"), "{error}");
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
            Ok(redis) => {
                assert!(!is_refused, "{redirections} redirections");
                redis.close().await;
            }
        }
        client.quit().await.unwrap();
    }
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let url = "redis://127.0.0.1:1";
    for builder in [
        builder(url).prefix(""),
        builder(url).prefix("a{b"),
        builder(url).prefix("a:b"),
        builder(url).partitions(0),
        builder(url).partitions(1025),
        builder(url).expiry(Duration::ZERO),
        builder(url).inbox_entries(0),
        builder(url).dedupe_window(Duration::from_millis(10)),
        builder(url).presence_ttl(Duration::ZERO),
        builder(url).command_timeout(Duration::ZERO),
    ] {
        let error = builder.open().await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Invalid, false), "{error}");
    }
    for url in ["", "redis", "http://127.0.0.1", "redis://127.0.0.1:port"] {
        assert!(RedisBackend::builder(url).is_err(), "{url}");
    }
}

#[tokio::test]
async fn a_log_keeps_its_number_of_partitions() {
    let server = Server::start("--appendonly no");
    let open = async |partitions| {
        let redis = builder(&server.url()).partitions(partitions).open().await.unwrap();
        im_core::MessageLog::info(&redis.log()).await.unwrap()
    };
    let info = open(4).await;
    let redis = builder(&server.url()).partitions(4).open().await.unwrap();
    im_core::MessageLog::open_epoch(&redis.log(), im_core::Epoch(1), &info.incarnation).await.unwrap();
    assert_eq!(open(8).await.partitions, 4, "the log that is there has four");
}
