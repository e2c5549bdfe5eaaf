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

fn smoke(work: &str, lines: usize, limited_in_memory: bool, more: &[&str]) {
    for backend in ["memory", "sqlite"] {
        // What the length of a history costs is asked where there is a file.
        let lines = if (work, backend) == ("history", "sqlite") { lines + 2 } else { lines };
        let mut args = vec![work, "--backend", backend, "--seconds", "0.25", "--json"];
        args.extend_from_slice(more);
        let printed = run(&args);
        assert_eq!(printed.len(), lines, "{printed:?}");
        for line in printed {
            assert_eq!(check(&line, work, backend), backend == "sqlite" || limited_in_memory, "{line}");
        }
    }
}

#[test]
fn send() {
    smoke("send", 6, false, &["--rate", "0.5"]);
}

#[test]
fn fanout() {
    smoke("fanout", 4, false, &["--rate", "0.5"]);
}

#[test]
fn ws() {
    smoke("ws", 9, true, &["--rate", "0.5", "--connections", "50"]);
}

#[test]
fn idle() {
    smoke("idle", 1, true, &["--connections", "200"]);
}

#[test]
fn history() {
    smoke("history", 2, false, &["--rate", "0.5", "--rows", "5000"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for args in [["send", "--rate", "1.5"], ["send", "--seconds", "0"], ["history", "--rows", "10"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_im-bench")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
