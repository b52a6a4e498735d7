//! PROTOCOL.md says what the code does: its examples parse, every message has one, its tables are complete.

use std::collections::BTreeSet;

use serde_json::Value;
use signaling_protocol::{
    ClientFrame, ClientMessage, CloseCode, ErrorCode, PeerId, Report, ResyncReason, Retry, ServerFrame,
    ServerMessage,
};

const DOCUMENT: &str = include_str!("../../PROTOCOL.md");

#[test]
fn every_example_says_whose_frame_it_is() {
    let fences: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("```json")).collect();
    assert!(fences.iter().all(|fence| matches!(*fence, "```json client" | "```json server")), "{fences:?}");
    assert_eq!(fences.len(), examples("client").len() + examples("server").len());
}

#[test]
fn every_client_message_has_an_example_that_parses_and_has_only_known_fields() {
    let mut seen = BTreeSet::new();
    for example in examples("client") {
        let frame =
            ClientFrame::parse(example.as_bytes()).unwrap_or_else(|error| panic!("{error}: {example}"));
        let (name, fields) = client_fields(&frame.message);
        let value: Value = serde_json::from_str(&example).unwrap();
        for field in value.as_object().unwrap().keys() {
            assert!(
                ["type", "seq", "ack"].contains(&field.as_str()) || fields.contains(&field.as_str()),
                "{field}"
            );
        }
        seen.insert(name);
    }
    let all = [
        "ack",
        "admit",
        "bans",
        "bye",
        "candidate",
        "deny",
        "description",
        "door",
        "hello",
        "hello again",
        "kick",
        "lift",
        "pong",
        "report",
        "token",
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn every_server_message_has_an_example_that_reads_and_writes_the_same() {
    let mut seen = BTreeSet::new();
    for example in examples("server") {
        let frame = ServerFrame::parse(&example).unwrap_or_else(|error| panic!("{error}: {example}"));
        let mut written = serde_json::to_value(&frame.message).unwrap();
        let fields = written.as_object_mut().unwrap();
        fields.insert("seq".into(), frame.seq.into());
        fields.insert("ack".into(), frame.ack.into());
        assert_eq!(written, serde_json::from_str::<Value>(&example).unwrap());
        assert_eq!(frame.seq != 0, is_sequenced(&frame), "{example}");
        seen.insert(server_name(&frame.message));
    }
    let all = [
        "ack",
        "bans",
        "error",
        "goaway",
        "granted",
        "ice",
        "knock",
        "knock_ended",
        "notice",
        "peer_changed",
        "peer_joined",
        "peer_left",
        "ping",
        "room_changed",
        "signal",
        "welcome",
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn the_table_of_close_codes_is_the_one_in_the_code() {
    let told: Vec<(u16, String, String)> = rows()
        .filter_map(|cells| Some((cells[0].parse().ok()?, cells[1].clone(), cells.get(2)?.clone())))
        .collect();
    let expected = CloseCode::ALL.map(|code| {
        let range = match code.retry() {
            Retry::Now => "come back now",
            Retry::After => "wait, come back",
            Retry::Never => "stay away",
        };
        (code.code(), format!("`{}`", code.name()), range.to_owned())
    });
    assert_eq!(told, expected);
}

#[test]
fn errors_that_leave_the_connection_standing_are_told_apart() {
    let told: BTreeSet<String> = rows()
        .filter(|cells| cells.len() == 3 && matches!(cells[2].as_str(), "yes" | "no"))
        .map(|cells| cells[0].clone())
        .collect();
    let standing = STANDING;
    let expected =
        standing.map(|code| format!("`{}`", serde_json::to_value(code).unwrap().as_str().unwrap()));
    assert_eq!(told, BTreeSet::from(expected));
}

#[test]
fn every_reason_of_a_resync_is_explained() {
    let row = DOCUMENT.lines().find(|line| line.starts_with("| `reason`")).unwrap();
    for reason in
        [ResyncReason::Unknown, ResyncReason::Expired, ResyncReason::Overflow, ResyncReason::Replaced]
    {
        assert!(row.contains(&format!("`{}` (", serde_json::to_value(reason).unwrap().as_str().unwrap())));
    }
}

#[test]
fn the_peer_ids_of_the_examples_are_the_hashes_that_the_document_describes() {
    let hello = ClientFrame::parse(examples("client")[0].as_bytes()).unwrap();
    let ClientMessage::Hello(ada) = hello.message else { panic!("the first example is a hello") };
    let welcome = ServerFrame::parse(&examples("server")[0]).unwrap();
    let ServerMessage::Welcome(welcome) = welcome.message else { panic!("the first answer is a welcome") };
    let [seen] = welcome.room.peers.as_slice() else { panic!("Bo sees Ada") };
    assert_eq!(PeerId::derive(&welcome.room.name, &ada.secret), seen.peer);
    assert_eq!(welcome.peer.is_polite_towards(&seen.peer), seen.polite);
    assert!(DOCUMENT.contains(&format!("# {}", seen.peer)), "the shell command says what it prints");
}

/// Errors that leave the connection standing, and are sequenced.
const STANDING: [ErrorCode; 6] = [
    ErrorCode::NoSuchPeer,
    ErrorCode::NotDelivered,
    ErrorCode::UnknownType,
    ErrorCode::NotPermitted,
    ErrorCode::TokenRefused,
    ErrorCode::TokenUnverified,
];

/// The fenced blocks of one side, in the order in which they are read.
fn examples(side: &str) -> Vec<String> {
    let fence = format!("```json {side}\n");
    let blocks = DOCUMENT.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("split gives a part").to_owned()).collect()
}

/// The cells of every row of every table.
fn rows() -> impl Iterator<Item = Vec<String>> {
    DOCUMENT.lines().filter(|line| line.starts_with("| ")).map(|line| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
}

/// A new message does not compile until it is named here.
fn client_fields(message: &ClientMessage) -> (&'static str, &'static [&'static str]) {
    match message {
        ClientMessage::Hello(hello) if hello.resume.is_some() => {
            ("hello again", &["secret", "instance", "name", "resume", "token", "password", "attempt"])
        }
        ClientMessage::Hello(_) => ("hello", &["secret", "instance", "name", "token", "password", "attempt"]),
        ClientMessage::Signal(signal) if signal.payload.field() == "candidate" => {
            ("candidate", &["to", "negotiation", "candidate"])
        }
        ClientMessage::Signal(_) => ("description", &["to", "negotiation", "description"]),
        ClientMessage::Bye => ("bye", &[]),
        ClientMessage::Kick(_) => ("kick", &["to", "ban_ms", "reason"]),
        ClientMessage::Bans => ("bans", &[]),
        ClientMessage::Lift(_) => ("lift", &["to"]),
        ClientMessage::Admit(_) => ("admit", &["to"]),
        ClientMessage::Deny(_) => ("deny", &["to"]),
        ClientMessage::Door(_) => ("door", &["door", "password"]),
        ClientMessage::Ack => ("ack", &[]),
        ClientMessage::Pong => ("pong", &[]),
        ClientMessage::Token(_) => ("token", &["token"]),
        ClientMessage::Report(Report::TurnError { .. }) => ("report", &["kind", "url", "code"]),
        ClientMessage::Report(Report::Unknown) | ClientMessage::Unknown => ("unknown", &[]),
    }
}

/// A new message does not compile until it is named here.
fn server_name(message: &ServerMessage) -> &'static str {
    match message {
        ServerMessage::Welcome(_) => "welcome",
        ServerMessage::PeerJoined(_) => "peer_joined",
        ServerMessage::PeerChanged(_) => "peer_changed",
        ServerMessage::PeerLeft(_) => "peer_left",
        ServerMessage::RoomChanged(_) => "room_changed",
        ServerMessage::Knock(_) => "knock",
        ServerMessage::KnockEnded(_) => "knock_ended",
        ServerMessage::Bans(_) => "bans",
        ServerMessage::Signal(_) => "signal",
        ServerMessage::Granted(_) => "granted",
        ServerMessage::Ice(_) => "ice",
        ServerMessage::Error(_) => "error",
        ServerMessage::Notice(_) => "notice",
        ServerMessage::GoAway(_) => "goaway",
        ServerMessage::Ping => "ping",
        ServerMessage::Ack => "ack",
    }
}

fn is_sequenced(frame: &ServerFrame) -> bool {
    match &frame.message {
        ServerMessage::PeerJoined(_)
        | ServerMessage::PeerChanged(_)
        | ServerMessage::PeerLeft(_)
        | ServerMessage::RoomChanged(_)
        | ServerMessage::Notice(_)
        | ServerMessage::Knock(_)
        | ServerMessage::KnockEnded(_)
        | ServerMessage::Bans(_)
        | ServerMessage::Signal(_)
        | ServerMessage::Granted(_)
        | ServerMessage::Ice(_) => true,
        ServerMessage::Error(error) => STANDING.contains(&error.code),
        ServerMessage::Welcome(_) | ServerMessage::GoAway(_) | ServerMessage::Ping | ServerMessage::Ack => {
            false
        }
    }
}
