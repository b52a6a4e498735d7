//! The contract for programs: the frames of both sides as JSON Schema (draft 07), and the whole as an AsyncAPI 3 document.
//!
//! Generated from the types of this crate and checked in below `schema/`, where a test compares them. They say the shape of frames;
//! what a client does with them is in `PROTOCOL.md`. Fields that are not known are allowed, as everywhere in the protocol.

use std::borrow::Cow;

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
    json_schema,
};
use serde_json::{Map, Value, json};

use crate::client::{ClientMessage, Hello, Report, Signal};
use crate::json::{MAX_FRAME_BYTES, MAX_FRAME_DEPTH};
use crate::moderation::{Door, Kick, MAX_BAN, SetDoor};
use crate::name::{AccessToken, DisplayName, Negotiation, Password, PeerId};
use crate::server::{RelayedSignal, ServerMessage};
use crate::{MAX_SEQ, SUBPROTOCOL};

/// The frames that a client may send.
#[must_use]
pub fn client() -> Value {
    // What a client may leave out, not what another would write.
    document::<ClientMessage>("client", Contract::Deserialize)
}

/// The frames that the server may send.
#[must_use]
pub fn server() -> Value {
    document::<ServerMessage>("server", Contract::Serialize)
}

/// The channel, its messages in both directions and their shapes, from the server's point of view as AsyncAPI wants it.
#[must_use]
pub fn asyncapi() -> Value {
    let (mut schemas, mut messages, mut channel) = (Map::new(), Map::new(), Map::new());
    let mut side = |name: &str, document: Value| {
        let Value::Object(mut document) = document else { return Vec::new() };
        let definitions = document.remove("definitions").unwrap_or_default();
        schemas.extend(definitions.as_object().cloned().unwrap_or_default());
        let mut names = Vec::new();
        for frame in document.remove("oneOf").and_then(|all| all.as_array().cloned()).unwrap_or_default() {
            let kind = frame["properties"]["type"]["const"].as_str().unwrap_or_default().to_owned();
            let key = format!("{name}.{kind}");
            let summary = frame["description"].clone();
            messages.insert(key.clone(), json!({ "name": kind, "summary": summary, "payload": frame }));
            channel.insert(key.clone(), json!({ "$ref": format!("#/components/messages/{key}") }));
            names.push(json!({ "$ref": format!("#/channels/room/messages/{key}") }));
        }
        names
    };
    let heard = side("client", client());
    let said = side("server", server());
    let document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "WebRTC signaling",
            "version": SUBPROTOCOL,
            "description": format!(
                "A room in which peers exchange descriptions and candidates. A client's frame is at most {MAX_FRAME_BYTES} bytes of UTF-8 and \
                 nested at most {MAX_FRAME_DEPTH} deep. PROTOCOL.md says when which frame is sent, and how a session is resumed; its frames travel as \
                 server-sent events and by POST as well."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            "room": {
                "address": "/v1/rooms/{room}/ws",
                "parameters": { "room": { "description": "1 to 64 of the characters A-Z a-z 0-9 . _ ~ -, neither . nor .." } },
                "messages": channel,
                "bindings": { "ws": { "method": "GET", "bindingVersion": "0.1.0" } },
            },
        },
        "operations": {
            "hear": { "action": "receive", "channel": { "$ref": "#/channels/room" }, "messages": heard },
            "say": { "action": "send", "channel": { "$ref": "#/channels/room" }, "messages": said },
        },
        "components": { "messages": messages, "schemas": schemas },
    });
    moved(document)
}

/// One side's frames: one of its messages, and the envelope around each.
fn document<T: JsonSchema>(side: &str, contract: Contract) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.contract = contract);
    let mut document = settings.into_generator().into_root_schema_for::<T>().to_value();
    document["title"] = format!("{SUBPROTOCOL}: a frame of the {side}").into();
    for frame in document["oneOf"].as_array_mut().into_iter().flatten() {
        let kind = frame["properties"]["type"]["const"].as_str().unwrap_or_default();
        let seq = match is_sequenced(kind) {
            Some(true) => json!({ "type": "integer", "minimum": 1, "maximum": MAX_SEQ }),
            Some(false) => json!({ "const": 0 }),
            None => json!({ "type": "integer", "minimum": 0, "maximum": MAX_SEQ }),
        };
        frame["properties"]["seq"] = seq;
        frame["properties"]["ack"] = json!({ "type": "integer", "minimum": 0, "maximum": MAX_SEQ });
        if let Some(required) = frame["required"].as_array_mut() {
            required.extend(["seq", "ack"].map(Value::from));
        }
    }
    document
}

/// Whether frames of this type take a place in the sequence; `None`: some do.
fn is_sequenced(kind: &str) -> Option<bool> {
    match kind {
        "hello" | "token" | "ack" | "pong" | "report" | "welcome" | "goaway" | "ping" => Some(false),
        "error" => None,
        _ => Some(true),
    }
}

/// AsyncAPI keeps schemas elsewhere.
fn moved(value: Value) -> Value {
    match value {
        Value::String(text) => text.replace("#/definitions/", "#/components/schemas/").into(),
        Value::Array(items) => items.into_iter().map(moved).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, moved(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// Written by hand as its parser is: the wire's shapes are not the types'.
impl JsonSchema for ClientMessage {
    fn schema_name() -> Cow<'static, str> {
        "ClientMessage".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let frame = |kind: &str, what: &str, body: Option<Schema>| {
            let mut schema = json_schema!({
                "description": what,
                "type": "object",
                "properties": { "type": { "const": kind } },
                "required": ["type"],
            });
            if let Some(body) = body {
                schema.insert("allOf".to_owned(), json!([body]));
            }
            schema
        };
        let hello = generator.subschema_for::<Hello>();
        let signal = generator.subschema_for::<Signal>();
        let kick = generator.subschema_for::<Kick>();
        let report = generator.subschema_for::<Report>();
        let door = generator.subschema_for::<SetDoor>();
        let token = generator.subschema_for::<AccessToken>();
        let token =
            json_schema!({ "type": "object", "properties": { "token": token }, "required": ["token"] });
        let to = json_schema!({ "properties": { "to": { "type": "string" } }, "required": ["to"] });
        json_schema!({
            "oneOf": [
                frame("hello", "The first frame of a connection: who the client is and which session it resumes.", Some(hello)),
                frame("signal", "A description or candidate for one other peer.", Some(signal)),
                frame("bye", "The client leaves for good.", None),
                frame("kick", "Removes another peer.", Some(kick)),
                frame("bans", "Asks who is kept out of the room.", None),
                frame("lift", "Lets a peer in again that is kept out.", Some(to.clone())),
                frame("door", "Opens or closes the room to newcomers.", Some(door)),
                frame("admit", "Lets a peer in that knocks.", Some(to.clone())),
                frame("deny", "Turns a peer away that knocks.", Some(to)),
                frame("token", "A fresh token for the session.", Some(token)),
                frame("ack", "Carries nothing but the envelope's ack.", None),
                frame("pong", "Answers a ping.", None),
                frame("report", "Something that only the client can see and only the operator can mend.", Some(report)),
            ],
        })
    }
}

/// The payload is another program's: any JSON.
const PAYLOADS: [&str; 2] = ["description", "candidate"];

impl JsonSchema for Signal {
    fn schema_name() -> Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let negotiation = generator.subschema_for::<Negotiation>();
        json_schema!({
            "type": "object",
            // What is no peer id is nobody's, and is answered as such.
            "properties": { "to": { "type": "string" }, "negotiation": negotiation },
            "required": ["to", "negotiation"],
            "oneOf": PAYLOADS.map(|field| json!({ "required": [field] })),
        })
    }
}

impl JsonSchema for RelayedSignal {
    fn schema_name() -> Cow<'static, str> {
        "RelayedSignal".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (from, negotiation) =
            (generator.subschema_for::<PeerId>(), generator.subschema_for::<Negotiation>());
        json_schema!({
            "description": "What another peer sent.",
            "type": "object",
            "properties": { "from": from, "negotiation": negotiation },
            "required": ["from", "negotiation"],
            "oneOf": PAYLOADS.map(|field| json!({ "required": [field] })),
        })
    }
}

impl JsonSchema for Kick {
    fn schema_name() -> Cow<'static, str> {
        "Kick".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reason = generator.subschema_for::<Option<DisplayName>>();
        let most = u64::try_from(MAX_BAN.as_millis()).unwrap_or(u64::MAX);
        json_schema!({
            "type": "object",
            "properties": {
                "to": { "type": "string" },
                "ban_ms": { "type": ["integer", "null"], "minimum": 0, "maximum": most },
                "reason": reason,
            },
            "required": ["to"],
        })
    }
}

impl JsonSchema for SetDoor {
    fn schema_name() -> Cow<'static, str> {
        "SetDoor".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (door, password) =
            (generator.subschema_for::<Door>(), generator.subschema_for::<Option<Password>>());
        json_schema!({
            "type": "object",
            "properties": { "door": door, "password": password },
            "required": ["door"],
        })
    }
}

impl JsonSchema for Report {
    fn schema_name() -> Cow<'static, str> {
        "Report".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": {
                "kind": { "type": "string" },
                "url": { "type": "string", "maxLength": 256 },
                "code": { "type": "integer", "minimum": 0, "maximum": 65_535 },
            },
            "required": ["kind"],
        })
    }
}
