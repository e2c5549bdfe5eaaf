//! The golden frames, the JSON Schema and the tables of docs/protocol.md: generated from the types, compared with what is
//! checked in, and read back. `IM_GOLDEN=write` writes them anew.

#![allow(clippy::unwrap_used)]

mod case;
mod docs;
mod errors;
mod events;
mod layout;
mod operations;
mod people;
mod replay;
mod tables;
mod validate;

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use case::File;
use im_protocol::{ErrorCode, Event, Op};
use layout::laid_out;

/// A path from the crate's folder on.
fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// Compares a generated text with the file, or writes it.
fn keep(relative: &str, text: &str) {
    let path = path(relative);
    if env::var("IM_GOLDEN").is_ok_and(|mode| mode == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Other tests may be reading it.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "{relative} is not what the types say; IM_GOLDEN=write cargo test -p im-protocol writes it"
    );
}

/// Everything generated, by its name.
fn generated() -> BTreeMap<String, File> {
    let files = operations::files().into_iter().chain(events::files()).chain(errors::files());
    files.map(|file| (file.name.clone(), file)).collect()
}

/// What is checked in, by its name.
fn checked_in() -> BTreeMap<String, File> {
    let names = fs::read_dir(path("golden")).unwrap().map(|entry| entry.unwrap().path());
    let is_example = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".json") && !name.starts_with("table.")
    };
    let examples = names.filter(is_example);
    let read = |path: PathBuf| {
        let file: File = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(path.file_stem().unwrap().to_string_lossy(), file.name);
        (file.name.clone(), file)
    };
    examples.map(read).collect()
}

#[test]
fn the_golden_frames_are_what_the_types_say() {
    for (name, file) in generated() {
        keep(&format!("golden/{name}.json"), &(laid_out(&serde_json::to_string(&file).unwrap()) + "\n"));
    }
}

#[test]
fn every_operation_event_and_error_has_examples_and_nothing_else_has() {
    let operations = Op::NAMES.iter().map(|name| format!("op.{name}"));
    let events = Event::NAMES.iter().map(|name| format!("ev.{name}"));
    let errors = ErrorCode::ALL.iter().map(|code| format!("error.{code}"));
    let mut names: Vec<_> = operations.chain(events).chain(errors).collect();
    names.sort();
    let there: Vec<_> = checked_in().into_keys().collect();
    assert_eq!(there, names);
    assert!(checked_in().values().all(|file| !file.cases.is_empty()));
}

#[test]
fn the_tables_are_what_the_code_says() {
    keep("golden/table.errors.json", &tables::errors_json());
    keep("golden/table.close.json", &tables::close_json());
}

#[test]
fn the_schema_is_what_the_types_say() {
    let schema = serde_json::to_string_pretty(&im_protocol::schema()).unwrap();
    keep("schema/im.v1.schema.json", &(schema + "\n"));
}
