//! Every golden frame is valid by the schema that is checked in; a frame that lacks something is not.
//!
//! The validator knows the few keywords that our schema uses, and refuses a schema with another one. (The jsonschema crate
//! would bring some forty crates and one more licence for this test.)

use std::fs;

use serde_json::{Map, Value};

use crate::{checked_in, path};

struct Validator(Value);

impl Validator {
    fn checked_in() -> Self {
        Self(serde_json::from_str(&fs::read_to_string(path("schema/im.v1.schema.json")).unwrap()).unwrap())
    }

    fn is_valid(&self, frame: &Value) -> bool {
        self.fits(&self.0, frame)
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let Value::Object(keywords) = schema else { return schema == &Value::Bool(true) };
        keywords.iter().all(|(keyword, argument)| self.keyword(keyword, argument, keywords, value))
    }

    fn keyword(&self, keyword: &str, argument: &Value, all: &Map<String, Value>, value: &Value) -> bool {
        let fitting = || argument.as_array().unwrap().iter().filter(|one| self.fits(one, value)).count();
        match keyword {
            "$schema" | "$defs" | "title" | "description" | "x-ok" | "format" | "default" => true,
            "$ref" => self.fits(self.referred(argument.as_str().unwrap()), value),
            "anyOf" => fitting() > 0,
            "oneOf" => fitting() == 1,
            "const" => argument == value,
            "enum" => argument.as_array().unwrap().contains(value),
            "type" => match argument {
                Value::Array(types) => types.iter().any(|one| is_of(one, value)),
                one => is_of(one, value),
            },
            "required" => {
                let names = argument.as_array().unwrap().iter();
                value
                    .as_object()
                    .is_none_or(|object| names.into_iter().all(|n| object.contains_key(n.as_str().unwrap())))
            }
            "properties" => value.as_object().is_none_or(|object| {
                let known = |(name, value): (&String, &Value)| {
                    argument.get(name).is_none_or(|one| self.fits(one, value))
                };
                object.iter().all(known)
            }),
            "items" => {
                value.as_array().is_none_or(|items| items.iter().all(|item| self.fits(argument, item)))
            }
            "minimum" => value.as_i64().is_none_or(|number| number >= argument.as_i64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= argument.as_u64().unwrap()),
            "minLength" => length(value).is_none_or(|length| length >= argument.as_u64().unwrap()),
            "maxLength" => length(value).is_none_or(|length| length <= argument.as_u64().unwrap()),
            other => panic!("the validator does not know {other} of {all:?}"),
        }
    }

    fn referred(&self, reference: &str) -> &Value {
        &self.0["$defs"][reference.strip_prefix("#/$defs/").unwrap()]
    }
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

/// The `ok` of an answer, by the schema that `x-ok` names for the operation.
fn ok_is_valid(validator: &Validator, operation: &str, answer: &Value) -> bool {
    answer.get("ok").is_none_or(|ok| validator.fits(&validator.0["x-ok"][operation], ok))
}

#[test]
fn every_golden_frame_is_valid_by_the_schema() {
    let validator = Validator::checked_in();
    for (name, file) in checked_in() {
        let wrong = ["error.missing_op", "error.unknown_op", "error.wrong_type"].contains(&name.as_str());
        for case in &file.cases {
            let frames = case.frames().skip(usize::from(wrong && case.request.is_some()));
            for frame in frames {
                assert!(validator.is_valid(&serde_json::from_str(frame).unwrap()), "{name}: {frame}");
            }
            if let (Some(operation), Some(answer)) = (name.strip_prefix("op."), &case.answer) {
                let answer = serde_json::from_str(answer.get()).unwrap();
                assert!(ok_is_valid(&validator, operation, &answer), "{name}: {answer}");
            }
        }
    }
}

#[test]
fn a_frame_that_cannot_be_decoded_is_not_valid_by_the_schema() {
    let validator = Validator::checked_in();
    for name in ["error.missing_op", "error.unknown_op", "error.wrong_type"] {
        for case in &checked_in()[name].cases {
            let request = serde_json::from_str(case.request.as_ref().unwrap().get()).unwrap();
            assert!(!validator.is_valid(&request), "{name}: {request}");
        }
    }
}

#[test]
fn every_field_of_an_answer_that_the_schema_requires_is_missed() {
    let validator = Validator::checked_in();
    for (name, file) in checked_in() {
        let Some(operation) = name.strip_prefix("op.") else { continue };
        for answer in file.cases.iter().filter_map(|case| case.answer.as_ref()) {
            let answer: Value = serde_json::from_str(answer.get()).unwrap();
            let required = validator.referred(validator.0["x-ok"][operation]["$ref"].as_str().unwrap());
            for field in required["required"].as_array().into_iter().flatten() {
                let mut lacking = answer.clone();
                lacking["ok"].as_object_mut().unwrap().remove(field.as_str().unwrap());
                assert!(!ok_is_valid(&validator, operation, &lacking), "{name} without {field}");
            }
        }
    }
}
