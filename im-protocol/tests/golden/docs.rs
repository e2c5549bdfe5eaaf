//! The generated parts of docs/protocol.md: between `<!-- begin: WHAT -->` and `<!-- end -->`.

use std::fs;

use im_protocol::{ErrorCode, Event, Op};
use serde_json::{Value, json};

use crate::{case::File, generated, keep, laid_out, path, tables};

const DOCUMENT: &str = "../docs/protocol.md";
const BEGIN: &str = "<!-- begin: ";
const END: &str = "<!-- end -->";

#[test]
fn the_generated_parts_of_the_document_are_what_the_code_says() {
    let there = fs::read_to_string(path(DOCUMENT)).unwrap();
    let mut parts = there.split(BEGIN);
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (what, rest) = part.split_once(" -->").unwrap();
        let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{what} has no end"));
        text += &format!("{BEGIN}{what} -->\n{}{END}{after}", part_of(what));
    }
    keep(DOCUMENT, &text);
}

#[test]
fn the_document_has_every_operation_event_and_shared_type() {
    let document = fs::read_to_string(path(DOCUMENT)).unwrap();
    let operations = Op::NAMES.iter().flat_map(|name| {
        [format!("fields op.{name}"), format!("answer {name}"), format!("examples op.{name}")]
    });
    let events =
        Event::NAMES.iter().flat_map(|name| [format!("fields ev.{name}"), format!("examples ev.{name}")]);
    let types = ["Record", "Entry", "Mark", "Head", "Conversation", "Settings", "Member", "Limits", "Error"];
    let types = types.iter().map(|name| format!("fields {name}"));
    let tables = ["errors", "close codes"].map(str::to_owned);
    for what in operations.chain(events).chain(types).chain(tables) {
        assert!(document.contains(&format!("{BEGIN}{what} -->")), "docs/protocol.md lacks {what}");
    }
}

fn part_of(what: &str) -> String {
    let schema = im_protocol::schema();
    match what.split_once(' ') {
        Some(("fields", name)) => fields(&schema["$defs"][name]),
        Some(("answer", operation)) => fields(referred(&schema, &schema["x-ok"][operation])),
        Some(("examples", name)) => examples(&generated()[name]),
        _ if what == "errors" => tables::errors_markdown(),
        _ if what == "close codes" => tables::close_markdown(),
        _ => panic!("docs/protocol.md: what is {what:?}?"),
    }
}

fn referred<'a>(schema: &'a Value, reference: &Value) -> &'a Value {
    &schema["$defs"][reference["$ref"].as_str().unwrap().strip_prefix("#/$defs/").unwrap()]
}

fn fields(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object() else { return "No fields.\n".into() };
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap()).collect();
    let optional = properties.keys().map(String::as_str).filter(|name| !required.contains(name));
    let row = |name: &str, mark: &str| {
        let field = &properties[name];
        let about = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        format!("| `{name}`{mark} | {} | {about} |\n", kind(field))
    };
    let rows = required.iter().map(|name| row(name, "")).chain(optional.map(|name| row(name, "?")));
    format!("| Field | Type | |\n|---|---|---|\n{}", rows.collect::<String>())
}

/// The type of a field, for people.
fn kind(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        return name(reference.strip_prefix("#/$defs/").unwrap());
    }
    if let Some(names) = field["enum"].as_array() {
        return names
            .iter()
            .map(|name| format!("`{}`", name.as_str().unwrap()))
            .collect::<Vec<_>>()
            .join(" \\| ");
    }
    if let Some(choices) = field["anyOf"].as_array() {
        return kind(choices.iter().find(|choice| choice["type"] != "null").unwrap());
    }
    match &field["type"] {
        Value::Array(types) => kind(&json!({ "type": types[0], "items": field["items"] })),
        list if list == "array" => format!("list of {}", kind(&field["items"])),
        one => one.as_str().unwrap().into(),
    }
}

fn name(definition: &str) -> String {
    match definition {
        "Int" => "integer".into(),
        "Id" => "id".into(),
        "Opaque" => "opaque".into(),
        "Text" | "Token" => "string".into(),
        "Level" => "`logged` \\| `stored`".into(),
        "ReadMarks" => "`per_user` \\| `per_device`".into(),
        "ErrorCode" => "code".into(),
        shared => format!("[{shared}](#{})", shared.to_lowercase()),
    }
}

fn examples(file: &File) -> String {
    let mut out = String::from("```text\n");
    for case in &file.cases {
        out += &format!("// {}\n", case.about);
        for (arrow, frame) in [("→", &case.request), ("←", &case.answer), ("←", &case.event)] {
            if let Some(frame) = frame {
                out += &format!("{arrow} {}\n", laid_out(frame.get()));
            }
        }
    }
    out + "```\n"
}

/// Every code is named by an operation or is one that any request can get.
#[test]
fn the_document_names_every_error_code_outside_its_table() {
    let document = fs::read_to_string(path(DOCUMENT)).unwrap();
    let table = tables::errors_markdown();
    let prose = document.replace(&table, "");
    for code in ErrorCode::ALL {
        assert!(prose.contains(&format!("`{code}`")), "docs/protocol.md says nowhere who gets {code}");
    }
}
