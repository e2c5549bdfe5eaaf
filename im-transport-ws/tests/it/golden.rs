//! The golden frames of the protocol, replayed against a server.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Server, within};

fn golden(prefix: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../im-protocol/golden");
    let mut found = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.starts_with(prefix) {
            let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            found.extend(golden["cases"].as_array().unwrap().iter().map(|case| (name.clone(), case.clone())));
        }
    }
    assert!(!found.is_empty());
    found
}

/// The names that stand in a value, and of what type: what a client relies on.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.first().map_or(json!([]), |first| json!([shape(first)])),
        Value::String(_) => json!("string"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("bool"),
        Value::Null => Value::Null,
    }
}

/// Every golden request is read by the server, and answered to its id, whatever there is to say.
#[tokio::test]
async fn every_golden_request_is_understood() {
    let server = Server::start().await;
    let mut client = server.client("alice").await;
    for (name, case) in golden("op.") {
        client.text(case["request"].to_string()).await;
        if case["request"]["id"].is_null() {
            continue;
        }
        let answer = within(client.answer()).await;
        assert_eq!(answer["re"], case["request"]["id"], "{name}: {answer}");
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert!(!["malformed", "missing_op", "unknown_op", "wrong_type"].contains(&code), "{name}: {answer}");
    }
}

/// Frames that cannot be read get the golden errors, to the letter.
#[tokio::test]
async fn what_cannot_be_read_gets_the_golden_error() {
    let server = Server::start().await;
    for kind in ["error.malformed", "error.missing_op", "error.unknown_op", "error.wrong_type"] {
        for (name, case) in golden(kind) {
            let mut client = server.client("alice").await;
            let text = case["text"].as_str().map_or_else(|| case["request"].to_string(), str::to_owned);
            client.text(&*text).await;
            let answer = client.answer().await;
            assert_eq!(answer["error"]["code"], case["answer"]["error"]["code"], "{name}: {text}");
            assert_eq!(answer["re"], case["answer"]["re"], "{name}: {text}");
        }
    }
}

/// The golden story of a single conversation: what is the same on every server has the golden shape.
#[tokio::test]
async fn answers_have_their_golden_shape() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    let send = golden("op.send")[0].1.clone();
    let mut request = send["request"].clone();
    request["conversation"] = json!(single);
    let answer = alice.ask(request).await;
    assert_eq!(shape(&answer), shape(&send["answer"]));
    for (name, request) in [
        ("op.ack", json!({"op": "ack", "cursor": "x"})),
        ("op.mark_read", json!({"op": "mark_read", "conversation": single, "seq": 0})),
        ("op.set", json!({"op": "set", "conversation": single, "hidden": true})),
    ] {
        let case = golden(name).into_iter().find(|(_, case)| case["answer"]["ok"].is_object()).unwrap().1;
        let answer = alice.ask(request).await;
        assert_eq!(shape(&answer), shape(&case["answer"]), "{name}");
    }
}
