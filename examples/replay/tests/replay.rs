//! The program itself, on the sample.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{path::Path, process::Output, time::Duration};

use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// More than a replay of the sample takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/ubuntu-irc.tsv");
/// How many messages it has.
const MESSAGES: u64 = 400;

async fn replay(file: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
    command.args(["--file", file, "--json"]).args(arguments).kill_on_drop(true);
    timeout(PATIENCE, command.output()).await.expect("the replay ends").unwrap()
}

/// Plays the sample; the figures of a replay in which nothing went wrong.
async fn right(arguments: &[&str]) -> Value {
    let output = replay(SAMPLE, arguments).await;
    let (out, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{log}");
    let figures: Value = serde_json::from_str(&out).unwrap();
    let wrong = ["lost", "duplicated", "disordered", "unread_wrong", "phantom", "differing", "refused"];
    for name in wrong.into_iter().chain(["unfinished"]) {
        assert_eq!(figures[name], 0, "{name}: {out}\n{log}");
    }
    assert_eq!(figures["messages"], MESSAGES);
    // Everybody sees what he says, and the fifteen others see most of it.
    assert!(figures["deliveries"].as_u64().unwrap() > 5 * MESSAGES, "{out}");
    for name in ["ack_p50_ms", "ack_p99_ms", "receive_p50_ms", "receive_p99_ms", "seconds"] {
        assert!(figures[name].as_f64().unwrap() > 0.0, "{name}: {out}");
    }
    figures
}

#[tokio::test]
async fn cuts_and_kills_lose_double_and_disorder_nothing() {
    let figures = right(&["--reconnect", "--kill-server", "3"]).await;
    assert_eq!(figures["kills"], 3);
    assert!(figures["reconnects"].as_u64().unwrap() >= 3);
}

/// Half of a day's members are above the threshold: the groups become large while people talk.
#[tokio::test]
async fn groups_become_large_while_people_talk() {
    let figures = right(&["--threshold", "8", "--reconnect", "--kill-server", "3"]).await;
    assert_eq!(figures["kills"], 3);
}

#[tokio::test]
async fn undisturbed() {
    let figures = right(&[]).await;
    assert_eq!((&figures["kills"], &figures["reconnects"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn what_cannot_be_played_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.tsv");
    std::fs::write(&file, "2005-02-08\t09:56\tcowbud\thi\nno tabs\n").unwrap();
    for (path, said) in [(file.as_path(), "line 2"), (Path::new("/no/such/file.tsv"), "/no/such/file.tsv")] {
        let output = replay(path.to_str().unwrap(), &[]).await;
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains(said) && log.lines().count() == 1, "{log}");
    }
}
