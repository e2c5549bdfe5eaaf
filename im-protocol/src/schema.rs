//! The JSON Schema of all frames, from the types.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::{ErrorBody, Event, Int, Op, RecordView, Request, SUBPROTOCOL};

/// The JSON Schema (2020-12) of all frames.
///
/// `$defs` has `Request`, `Answer` and `Event`; `op.NAME`, the own fields of each operation's request; `ev.NAME`, those of each
/// event; and the schema of each operation's `ok`, which `x-ok` names.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let operations = Op::schemas(&mut generator);
    let mut request = Request::json_schema(&mut generator);
    request.insert(
        "anyOf".into(),
        json!([{ "required": ["id"] }, { "properties": { "op": { "const": "ack" } } }]),
    );
    let event = Event::<RecordView<'_>>::json_schema(&mut generator);
    let answer = answer(&mut generator);
    let ok: Map<String, Value> =
        operations.into_iter().map(|(name, _, ok)| (name.into(), ok.into())).collect();
    let mut defs = generator.take_definitions(true);
    defs.insert("Request".into(), request.into());
    defs.insert("Answer".into(), answer.into());
    defs.insert("Event".into(), event.into());
    let any = ["Request", "Answer", "Event"].map(|name| json!({ "$ref": format!("#/$defs/{name}") }));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SUBPROTOCOL,
        "description": "Frames of the chat protocol. Members that are not listed are allowed and to be passed over.",
        "anyOf": any,
        "x-ok": ok,
        "$defs": defs,
    })
}

fn answer(generator: &mut SchemaGenerator) -> Schema {
    let re = generator.subschema_for::<Int>();
    let error = generator.subschema_for::<ErrorBody<'_>>();
    json_schema!({
        "description": "The answer to a request; `re` is its id, absent only where none could be read.",
        "oneOf": [
            { "type": "object", "properties": { "re": re, "ok": { "type": "object" } }, "required": ["re", "ok"] },
            { "type": "object", "properties": { "re": re, "error": error }, "required": ["error"] },
        ],
    })
}
