//! The schemas that are checked in are those of the types, and PROTOCOL.md's examples fit them.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};
use signaling_protocol::schema;

const DOCUMENT: &str = include_str!("../../PROTOCOL.md");

/// `WRITE_SCHEMA=1 cargo test -p signaling-protocol --test schema` writes them.
#[test]
fn the_files_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    for (name, value) in [
        ("client.json", schema::client()),
        ("server.json", schema::server()),
        ("asyncapi.json", schema::asyncapi()),
    ] {
        let (path, text) = (folder.join(name), format!("{value:#}\n"));
        if std::env::var_os("WRITE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{} is stale; run the test with WRITE_SCHEMA=1", path.display());
    }
}

#[test]
fn every_example_fits_and_none_does_without_a_field_that_is_required() {
    for (side, schema) in [("client", schema::client()), ("server", schema::server())] {
        let validator = jsonschema::validator_for(&schema).unwrap();
        let examples = examples(side);
        assert!(examples.len() >= 8, "{side}");
        for example in examples {
            let problem = validator.validate(&example).err().map(|error| error.to_string());
            assert_eq!(problem, None, "{example}");
            for field in ["type", "seq", "ack"] {
                assert!(!validator.is_valid(&without(&example, field)), "{field}: {example}");
            }
            assert_fields_matter(&validator, &example);
        }
    }
}

#[test]
fn what_the_parser_refuses_the_schema_refuses() {
    let client = jsonschema::validator_for(&schema::client()).unwrap();
    let hello = &examples("client")[0];
    for (field, value) in [
        ("secret", json!("short")),
        ("instance", json!("a b")),
        ("name", json!("x".repeat(65))),
        ("seq", json!(1)),
        ("ack", json!(-1)),
        ("ack", json!(9_007_199_254_740_992_u64)),
    ] {
        let mut wrong = hello.clone();
        wrong[field] = value;
        assert!(!client.is_valid(&wrong), "{wrong}");
        assert!(signaling_protocol::ClientFrame::parse(wrong.to_string().as_bytes()).is_err(), "{wrong}");
    }
    let both = json!({
        "type": "signal", "seq": 1, "ack": 0, "to": "x", "negotiation": "n", "description": {}, "candidate": null,
    });
    for wrong in [both.clone(), without(&without(&both, "candidate"), "description")] {
        assert!(!client.is_valid(&wrong), "{wrong}");
        assert!(signaling_protocol::ClientFrame::parse(wrong.to_string().as_bytes()).is_err(), "{wrong}");
    }
    let later = json!({"type": "ack", "seq": 0, "ack": 0, "of_a_later_version": true});
    assert!(client.is_valid(&later), "fields that are not known are skipped");
}

#[test]
fn every_reference_of_the_asyncapi_document_leads_somewhere() {
    let document = schema::asyncapi();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 30, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    assert_eq!(document["asyncapi"], "3.0.0");
}

/// What is left out of an example's required fields is missed: of the fields that say who and what.
fn assert_fields_matter(validator: &Validator, example: &Value) {
    let wanted = [
        "secret",
        "instance",
        "to",
        "from",
        "negotiation",
        "session",
        "peer",
        "room",
        "version",
        "in_ms",
        "text",
        "code",
    ];
    let optional = |field: &str| field == "code" && example["type"] == "report";
    for field in wanted.into_iter().filter(|field| example.get(field).is_some() && !optional(field)) {
        assert!(!validator.is_valid(&without(example, field)), "{field}: {example}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                references.push(reference.clone());
            }
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn without(example: &Value, field: &str) -> Value {
    let mut less = example.clone();
    less.as_object_mut().expect("an object").remove(field);
    less
}

/// The fenced blocks of one side.
fn examples(side: &str) -> Vec<Value> {
    let fence = format!("```json {side}\n");
    let blocks = DOCUMENT
        .split(fence.as_str())
        .skip(1)
        .map(|block| block.split("```").next().expect("split gives a part"));
    blocks.map(|block| serde_json::from_str(block).expect("JSON")).collect()
}
