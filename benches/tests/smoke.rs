//! Every work runs for a moment on every backend and says what it must.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn run(args: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_im-bench")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks a line; whether it has a raw limit.
fn check(line: &Value, work: &str, backend: &str) -> bool {
    assert_eq!((line["work"].as_str(), line["backend"].as_str()), (Some(work), Some(backend)), "{line}");
    assert!(line["rss_kb"].as_u64().unwrap() > 0, "{line}");
    for name in ["rate", "limit", "ratio", "p50_ms", "p99_ms", "load", "case", "unit", "p999_ms"] {
        assert!(line.get(name).is_some(), "{name} is missing in {line}");
    }
    if cfg!(target_os = "linux") {
        assert!(line["steal"].as_f64().is_some_and(|share| (0.0..1.0).contains(&share)), "{line}");
    }
    let positive = |name: &str| line[name].as_f64().is_some_and(|figure| figure > 0.0);
    if work == "idle" {
        assert!(
            line["rate"].is_null() && line["p99_ms"].is_null() && line["rss_kb_per_connection"].is_number(),
            "{line}"
        );
    } else {
        assert!(positive("rate") && positive("p50_ms") && positive("p99_ms"), "{line}");
        assert!(line["p50_ms"].as_f64() <= line["p99_ms"].as_f64(), "{line}");
        assert!(line.get("rss_kb_per_connection").is_none(), "{line}");
    }
    if line["limit"].is_null() {
        assert!(line["ratio"].is_null(), "{line}");
        return false;
    }
    if let (Some(rate), Some(limit)) = (line["rate"].as_f64(), line["limit"].as_f64()) {
        let ratio = line["ratio"].as_f64().unwrap();
        assert!((ratio - rate / limit).abs() < 1e-6, "{line}");
    }
    true
}

/// Name the servers: `cargo xtask test` starts them; `cargo xtask services up` says what to set.
const SERVERS: [(&str, &str); 2] = [("pg", "IM_TEST_POSTGRES"), ("redis", "IM_TEST_REDIS")];

fn smoke(work: &str, backends: &[&str], lines: usize, limited_in_memory: bool, more: &[&str]) {
    for backend in backends {
        for (_, server) in SERVERS.iter().filter(|(needs, _)| needs == backend) {
            assert!(
                std::env::var(server).is_ok(),
                "{server} names no server: run `cargo xtask test`, or `cargo xtask services up` and set it"
            );
        }
        // What the length of a history costs is asked where it is on a disk, and on a cold one where the file is ours.
        let lines = match (work, *backend) {
            ("history", "pg") => lines + 2,
            ("history", "sqlite") => lines + 3,
            _ => lines,
        };
        let mut args = vec![work, "--backend", backend, "--seconds", "0.1", "--json"];
        args.extend_from_slice(more);
        let (space, printed): (Vec<_>, Vec<_>) =
            run(&args).into_iter().partition(|line| line["work"] == "space");
        assert_eq!(printed.len(), lines, "{printed:?}");
        let has = |name: &str| printed.iter().filter(|line| line[name].is_number()).count();
        // A server's own reads are not seen, and a file's processor time is this process's.
        assert_eq!(has("disk_kb_per_page"), if (work, *backend) == ("history", "sqlite") { 2 } else { 0 });
        let is_beside = SERVERS.iter().any(|(server, _)| server == backend);
        for name in ["own_cpu_us", "server_cpu_us", "limit_server_cpu_us"] {
            assert_eq!(has(name), if work == "send" && is_beside { 2 } else { 0 }, "{name}");
        }
        for line in printed {
            // Nothing bare receives.
            let is_limited = (*backend != "memory" || limited_in_memory)
                && (work != "presence" || *backend == "redis")
                && work != "neighbours"
                && !line["case"].as_str().unwrap().ends_with("-receive");
            assert_eq!(check(&line, work, backend), is_limited, "{line}");
        }
        let measured = *backend == "pg" && ["fanout", "history"].contains(&work);
        assert_eq!(!space.is_empty(), measured, "{space:?}");
        space.iter().for_each(check_space);
    }
}

/// Rows take their room, and the indexes no less than when they are made anew. Of an entry that shares a row with others there is at
/// least the number of its record.
fn check_space(line: &Value) {
    let figure = |name: &str| line[name].as_f64().unwrap();
    let least = if line["case"].as_str().unwrap().ends_with("/inbox") { 4.0 } else { 50.0 };
    let bytes = figure("table_bytes") + figure("index_bytes");
    assert!((figure("rate") - bytes / figure("rows")).abs() < 1e-6 && figure("rate") > least, "{line}");
    assert!(
        figure("index_bytes_anew") > 0.0 && figure("dead_rows") <= figure("dead_rows_before_vacuum"),
        "{line}"
    );
}

const ALL: [&str; 4] = ["memory", "sqlite", "pg", "redis"];
/// Redis keeps no history.
const KEEPING: [&str; 3] = ["memory", "sqlite", "pg"];
/// Frames do not come from the database.
const LOCAL: [&str; 2] = ["memory", "sqlite"];

#[test]
fn send() {
    smoke("send", &ALL, 8, false, &["--rate", "0.5"]);
}

#[test]
fn fanout() {
    smoke("fanout", &ALL, 4, false, &["--rate", "0.5"]);
}

#[test]
fn presence() {
    smoke("presence", &ALL, 3, false, &[]);
}

#[test]
fn neighbours() {
    smoke("neighbours", &ALL, 3, false, &[]);
}

#[test]
fn ws() {
    smoke("ws", &LOCAL, 9, true, &["--rate", "0.5", "--connections", "50"]);
}

#[test]
fn idle() {
    smoke("idle", &LOCAL, 1, true, &["--connections", "200"]);
}

#[test]
fn history() {
    smoke("history", &KEEPING, 2, false, &["--rate", "0.5", "--rows", "5000"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for args in [
        ["send", "--rate", "1.5"],
        ["send", "--seconds", "0"],
        ["history", "--rows", "10"],
        ["send", "--backend", "pg"],
        ["send", "--backend", "redis"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_im-bench"));
        for (_, server) in SERVERS {
            command.env_remove(server);
        }
        let output = command.args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let frames = ["ws", "--backend", "pg", "--postgres", "postgres://nobody@127.0.0.1:1/none"];
    let output = Command::new(env!("CARGO_BIN_EXE_im-bench")).args(frames).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
