//! What is refused when a backend is opened, and in which words.

use im_core::ErrorKind;
use im_sync_nats::{NatsBackend, NatsBuilder};

use crate::support::{Program, Server};

async fn refused(builder: NatsBuilder) -> (ErrorKind, String) {
    let error = builder.open().await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn what_the_server_is_is_said() {
    for program in [Program::Installed, Program::Newest] {
        let server = Server::start(program, "");
        let nats = server.builder().open().await.unwrap();
        assert!(nats.report().version.starts_with("2."), "{:?}", nats.report());
        assert_eq!(nats.report().max_payload, 1 << 20);
    }
}

#[tokio::test]
async fn who_may_not_sign_in_is_denied() {
    for program in [Program::Installed, Program::Newest] {
        let server = Server::start(program, "--user chat --pass secret");
        let place = server.url().replace("nats://", "");
        for url in [format!("nats://chat:wrong@{place}"), format!("nats://{place}")] {
            assert!(!format!("{:?}", NatsBackend::builder(&url)).contains("wrong"));
            let (kind, why) = refused(NatsBackend::builder(&url)).await;
            assert_eq!(kind, ErrorKind::Denied, "{why}");
            assert!(!why.contains("wrong"), "{why}");
        }
        NatsBackend::connect(&format!("nats://chat:secret@{place}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_signs_in() {
    let server = Server::start(Program::Newest, "--auth s3cr3t");
    let place = server.url().replace("nats://", "");
    NatsBackend::connect(&format!("nats://s3cr3t@{place}")).await.unwrap();
    let options = async_nats::ConnectOptions::with_token("s3cr3t".into());
    server.builder().options(options).open().await.unwrap();
    assert_eq!(refused(server.builder()).await.0, ErrorKind::Denied);
}

#[tokio::test]
async fn a_server_without_tls_and_a_port_without_a_server_are_said() {
    let server = Server::start(Program::Newest, "");
    let (kind, why) = refused(NatsBackend::builder(&server.url().replace("nats://", "tls://"))).await;
    assert!(matches!(kind, ErrorKind::Denied | ErrorKind::Unavailable), "{kind:?}: {why}");
    server.kill();
    let (kind, why) = refused(server.builder()).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{why}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let at = || NatsBackend::builder("nats://127.0.0.1:1");
    for builder in [
        at().prefix(""),
        at().prefix("a.b"),
        at().prefix("a b"),
        at().prefix("x".repeat(65)),
        at().request_timeout(std::time::Duration::ZERO),
        NatsBackend::builder("no url at all"),
    ] {
        assert_eq!(refused(builder).await.0, ErrorKind::Invalid);
    }
}
