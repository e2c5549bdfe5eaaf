//! What a server answers over HTTP, and who may sign in.
use std::{path::Path, time::Duration};

use crate::support::{Client, http, soon, token};
use im_server::{Config, DevLogin, KeySource, Secret, Server, TokenAlgorithm, TokenKey};
use tokio::{io::AsyncReadExt, net::TcpStream};

const JSON: &str = "content-type: application/json";

fn config(data: &Path) -> Config {
    Config { bind: "127.0.0.1:0".parse().unwrap(), data: data.to_owned(), ..Config::default() }
}

async fn server(config: Config) -> (Server, String) {
    let server = Server::start(config).await.unwrap();
    let host = server.addr().to_string();
    (server, host)
}

async fn login(host: &str, headers: &[&str], body: &str) -> (u16, String) {
    http(host, "POST /dev/login", headers, body).await
}

#[tokio::test]
async fn files_come_from_the_program() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let (status, page) = http(&host, "GET /", &[], "").await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("content-type: text/html; charset=utf-8"), "{page}");
    assert!(page.contains("content-security-policy: ") && page.contains("<html"), "{page}");

    let (status, script) = http(&host, "GET /client/src/index.js", &[], "").await;
    assert_eq!(status, 200, "{script}");
    assert!(script.contains("content-type: text/javascript; charset=utf-8"), "{script}");
    let tag = script.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let known = format!("if-none-match: {tag}");
    assert_eq!(http(&host, "GET /client/src/index.js", &[&known], "").await.0, 304);

    for absent in [
        "/nothing",
        "/client/nothing",
        "/client/package.json",
        "/client/test/fake-server.mjs",
        "/client/test/clock.mjs",
        "/../Cargo.toml",
    ] {
        assert_eq!(http(&host, &format!("GET {absent}"), &[], "").await.0, 404, "{absent}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_healthy_server_says_so() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let (status, answer) = http(&host, "GET /health", &[], "").await;
    assert_eq!(status, 200);
    assert!(answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_token_of_the_development_login_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let (first, host) = server(config(data.path())).await;
    let token = token(&host, "alice").await;
    let key = data.path().join("dev-login.key");
    let before = std::fs::read(&key).unwrap();
    first.shutdown().await;

    let (second, host) = server(config(data.path())).await;
    Client::hello(&host, &token).await;
    assert_eq!(std::fs::read(&key).unwrap(), before);
    second.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_reads_the_key() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("made");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = folder.join("dev-login.key");
    let (first, _) = server(config(&folder)).await;
    assert_eq!((mode(&folder), mode(&key)), (0o700, 0o600));
    first.shutdown().await;

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (second, _) = server(config(&folder)).await;
    assert_eq!(mode(&key), 0o600, "a copy of the folder had opened it");
    second.shutdown().await;
}

#[tokio::test]
async fn the_development_login_takes_only_what_a_page_of_its_own_sends() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let alice = r#"{"user":"alice"}"#;
    for local in ["localhost", "localhost:8080", "127.0.0.1", "127.5.5.5:80", "[::1]:8080", "LOCALHOST"] {
        let (status, answer) = login(&host, &[JSON, &format!("host: {local}")], alice).await;
        assert_eq!(status, 200, "{local}: {answer}");
    }
    for foreign in
        ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8080", "localhost.evil.example", "@", ""]
    {
        let (status, answer) = login(&host, &[JSON, &format!("host: {foreign}")], alice).await;
        assert!(status == 403 || status == 400, "{foreign}: {answer}");
    }
    // What a proxy passes on names this machine as its host, unless it is told not to.
    for passed_on in [
        "x-forwarded-for: 203.0.113.9",
        "forwarded: for=203.0.113.9",
        "x-real-ip: 203.0.113.9",
        "via: 1.1 proxy",
        "origin: https://chat.example.com",
        "origin: null",
    ] {
        let (status, answer) = login(&host, &[JSON, "host: 127.0.0.1:8080", passed_on], alice).await;
        assert_eq!(status, 403, "{passed_on}: {answer}");
    }
    let own = &[JSON, "host: localhost:8080", "origin: http://localhost:8080"];
    assert_eq!(login(&host, own, alice).await.0, 200, "a page of its own");
    assert_eq!(login(&host, &["content-type: text/plain"], alice).await.0, 415, "a form of another site");
    assert_eq!(login(&host, &[JSON], r#"{"user":""}"#).await.0, 422);
    assert_eq!(login(&host, &[JSON], r#"{"user":"#).await.0, 400);
    let long = format!(r#"{{"user":"{}"}}"#, "a".repeat(10_000));
    assert_eq!(login(&host, &[JSON], &long).await.0, 413);
    assert_eq!(http(&host, "GET /dev/login", &[], "").await.0, 405);
    server.shutdown().await;
}

#[tokio::test]
async fn the_development_login_is_off_unless_it_is_safe_or_asked_for() {
    let alice = r#"{"user":"alice"}"#;
    let keys = || {
        let secret = Secret::new("0123456789abcdef0123456789abcdef");
        vec![TokenKey {
            algorithm: TokenAlgorithm::Hs256,
            source: KeySource::Here("the test".to_owned(), secret),
        }]
    };
    let everywhere = || "0.0.0.0:0".parse().unwrap();
    let foreign = &[JSON, "host: chat.example"];
    for (name, change, local, from_elsewhere) in [
        ("off", (|c| c.dev_login = DevLogin::Off) as fn(&mut Config), 403, 403),
        ("allow-anyone", |c| c.dev_login = DevLogin::AllowAnyone, 200, 200),
    ] {
        let data = tempfile::tempdir().unwrap();
        let mut config = config(data.path());
        change(&mut config);
        let (server, host) = server(config).await;
        assert_eq!(login(&host, &[JSON], alice).await.0, local, "{name}");
        assert_eq!(login(&host, foreign, alice).await.0, from_elsewhere, "{name}");
        server.shutdown().await;
    }
    for (name, bind, token_keys) in
        [("all addresses", everywhere(), Vec::new()), ("a token key", "127.0.0.1:0".parse().unwrap(), keys())]
    {
        let data = tempfile::tempdir().unwrap();
        let config = Config { bind, token_keys, ..config(data.path()) };
        let server = Server::start(config).await.unwrap();
        let host = format!("127.0.0.1:{}", server.addr().port());
        let (status, answer) = login(&host, &[JSON], alice).await;
        assert_eq!(status, 403, "{name}: {answer}");
        assert!(answer.contains("--dev-login allow-anyone"), "{name}: {answer}");
        assert!(!data.path().join("dev-login.key").exists(), "{name}");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_token_that_is_not_ours_opens_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let token = token(&host, "alice").await;
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    let (client, answer) = Client::try_hello(&host, &forged).await;
    assert_eq!(answer["error"]["code"], "unauthorized", "{answer}");
    assert_eq!(client.end().await.1, Some(4501));
    server.shutdown().await;
}

#[tokio::test]
async fn two_users_talk() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let mut alice = Client::hello(&host, &token(&host, "alice").await).await;
    let mut bob = Client::hello(&host, &token(&host, "bob").await).await;
    let conversation = alice.open_single("bob").await;
    let seq = alice.send(&conversation, "m1", "你好").await;
    let record = bob.record(&conversation, seq).await;
    assert_eq!((record["from"].as_str(), record["content"].as_str()), (Some("alice"), Some("你好")));
    server.shutdown().await;
    assert_eq!(alice.end().await.1, Some(4000));
    assert_eq!(bob.end().await.1, Some(4000));
}

#[tokio::test]
async fn a_server_that_is_dropped_takes_no_more_connections() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    drop(server);
    soon("a refusal", async { while TcpStream::connect(&host).await.is_ok() {} }).await;
}

/// A connection that asks for nothing is closed; hyper's own clock says when, so the test waits for the real 10 s.
#[tokio::test]
async fn a_client_that_asks_nothing_is_closed() {
    let data = tempfile::tempdir().unwrap();
    let (server, host) = server(config(data.path())).await;
    let mut silent = TcpStream::connect(&host).await.unwrap();
    let started = std::time::Instant::now();
    let mut answer = Vec::new();
    soon("the end", silent.read_to_end(&mut answer)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(9));
    server.shutdown().await;
}
