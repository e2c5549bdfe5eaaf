//! The program: what it says when it starts or does not, and how it stops.
use std::{
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use crate::support::{Client, Process, program, refusal, soon, token};
use serde_json::Value;

#[tokio::test]
async fn it_says_where_it_is_and_what_an_ack_survives() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path(), &[]).await;
    assert!(server.said[0].starts_with("open http://127.0.0.1:"), "{:?}", server.said);
    assert!(server.said[1].contains("chat.db (sqlite)"), "{:?}", server.said);
    assert!(server.said[1].contains("a crash of the operating system"), "{:?}", server.said);
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_drains() {
    for signal in ["TERM", "INT"] {
        let data = tempfile::tempdir().unwrap();
        let mut server = Process::start(data.path(), &[]).await;
        let (alice, bob) = (token(&server.host, "alice").await, token(&server.host, "bob").await);
        let mut sender = Client::hello(&server.host, &alice).await;
        let reader = Client::hello(&server.host, &bob).await;
        let unknown = Client::connect(&server.host).await;
        let conversation = sender.open_single("bob").await;
        let mut acked = Vec::new();
        for number in 0..20 {
            acked.push(sender.send(&conversation, &format!("m{number}"), &format!("text {number}")).await);
        }
        server.signal(signal).await;
        for client in [sender, reader] {
            let (events, code) = client.end().await;
            assert!(events.iter().any(|event| event["ev"] == "draining"), "{events:?}");
            assert_eq!(code, Some(4000));
        }
        assert_eq!(unknown.end().await.1, Some(4000));
        assert_eq!(server.ended().await.code(), Some(0));

        let again = Process::start(data.path(), &[]).await;
        let mut reader = Client::hello(&again.host, &bob).await;
        for (number, seq) in acked.into_iter().enumerate() {
            let record = reader.record(&conversation, seq).await;
            assert_eq!(record["content"], Value::from(format!("text {number}")));
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Process::start(data.path(), &[]).await;
    // Connections are closed spread over some seconds; with these there is time for the second signal.
    let mut clients = Vec::new();
    for user in 0..20 {
        clients.push(Client::hello(&server.host, &token(&server.host, &format!("user {user}")).await).await);
    }
    server.signal("TERM").await;
    for client in &mut clients {
        client.draining().await;
    }
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(130));
}

/// A program that cannot start says why in one line, and that is all.
async fn refuses(arguments: &[&str], words: &[&str]) {
    let (code, text) = refusal(&mut program(arguments)).await;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("im-server: "), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_way_out() {
    let data = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    refuses(&["--bind", &addr, "--data", text(data.path())], &[&addr, "taken", "--bind 127.0.0.1:"]).await;
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "nothing was touched");
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("data");
    refuses(&["--bind", "127.0.0.1:0", "--data", text(&below)], &["data folder", text(&below)]).await;
    refuses(&["--bind", "127.0.0.1:0", "--data", text(file.path())], &["data folder", text(file.path())])
        .await;
    // Here not even root may make a file.
    #[cfg(target_os = "linux")]
    refuses(&["--bind", "127.0.0.1:0", "--data", "/proc"], &["data folder", "/proc"]).await;
}

#[tokio::test]
async fn a_database_in_use_is_named() {
    let data = tempfile::tempdir().unwrap();
    let first = Process::start(data.path(), &[]).await;
    refuses(
        &["--bind", "127.0.0.1:0", "--data", text(data.path())],
        &["chat.db", "another process", "--data"],
    )
    .await;
    // Whoever holds it is not disturbed.
    token(&first.host, "alice").await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_named() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Process::start(data.path(), &[]).await;
    server.signal("TERM").await;
    server.ended().await;
    // The schema version, PRAGMA user_version: four bytes from 60 on, the highest first (sqlite.org/fileformat.html).
    let mut file = std::fs::File::options().write(true).open(data.path().join("chat.db")).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&9999_u32.to_be_bytes()).unwrap();
    refuses(&["--bind", "127.0.0.1:0", "--data", text(data.path())], &["chat.db", "newer version"]).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(
        data.path().join("chat.db"),
        "not a database, but long enough to be taken for one\n".repeat(100),
    )
    .unwrap();
    refuses(&["--bind", "127.0.0.1:0", "--data", text(data.path())], &["chat.db"]).await;
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("im-server.toml");
    std::fs::write(&file, "log = \"info\"\nbnid = \"127.0.0.1:0\"\n").unwrap();
    refuses(&["--config", text(&file)], &["im-server.toml", "line 2", "bnid"]).await;
    refuses(&["--config", "no-such.toml"], &["no-such.toml"]).await;
    refuses(
        &["--hs256-key-files", "no-such.key", "--bind", "127.0.0.1:0", "--data", text(folder.path())],
        &["no-such.key"],
    )
    .await;
    let place = ["--bind", "127.0.0.1:0", "--data", text(folder.path())];
    refuses(&[&["--heartbeat-seconds", "100000"][..], &place].concat(), &["a setting", "heartbeat"]).await;
    refuses(&["--log", "im_engine=loudly"], &["log"]).await;
    refuses(&["--log", "warn,inof"], &["log", "\"inof\" is no level"]).await;

    let (code, text) = refusal(program(&[]).env("IM_BNID", "127.0.0.1:0")).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("IM_BNID"), "{text}");
    let (code, text) = refusal(&mut program(&["--bnid", "127.0.0.1:0"])).await;
    assert_eq!(code, Some(2));
    assert!(text.contains("--bnid"), "{text}");
}

#[tokio::test]
async fn flags_hold_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("im-server.toml");
    let named = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let content = format!("data = {:?}\nbind = \"127.0.0.1:0\"\nlog = \"off\"\n", named("by-file"));
    std::fs::write(&file, content).unwrap();
    let (by_flag, by_variable) = (named("by-flag"), named("by-variable"));
    for (arguments, variable, expected) in [
        (vec!["--data", &by_flag], Some(&by_variable), "by-flag"),
        (vec![], Some(&by_variable), "by-variable"),
        (vec![], None, "by-file"),
    ] {
        let mut command = program(&arguments);
        command.env("IM_CONFIG", &file).envs(variable.map(|value| ("IM_DATA", value)));
        let server = Process::of(command).await;
        assert!(server.said[1].contains(expected), "{:?}", server.said);
    }
}

#[tokio::test]
async fn a_key_of_the_environment_signs_tokens() {
    use jsonwebtoken::{EncodingKey, Header, encode};
    let data = tempfile::tempdir().unwrap();
    let secret = "a secret that has more than 32 bytes";
    let mut command = program(&["--bind", "127.0.0.1:0", "--data", text(data.path())]);
    command.env("IM_HS256_KEY", secret);
    let server = Process::of(command).await;
    let claims = serde_json::json!({ "sub": "alice", "exp": jsonwebtoken::get_current_timestamp() + 60 });
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    Client::hello(&server.host, &token).await;
}

#[tokio::test]
async fn log_lines_can_be_json() {
    let data = tempfile::tempdir().unwrap();
    let mut command =
        program(&["--bind", "127.0.0.1:0", "--data", text(data.path()), "--log-format", "json"]);
    command.stderr(std::process::Stdio::piped());
    let mut server = Process::of(command).await;
    server.signal("TERM").await;
    let lines = soon("the log", server.log()).await;
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(
        lines.contains(r#""message":"serving""#) && lines.contains("a crash of the operating system"),
        "{lines}"
    );
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
