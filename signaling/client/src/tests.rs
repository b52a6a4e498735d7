//! What the simulation of the server's tests does not reach: codes, waits, frames of later versions, the pace.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signaling_protocol::{
    ClientFrame, ClientMessage, Door, Kick, MAX_BAN, Payload, PeerId, Report, ServerMessage, SetDoor,
};

use super::{Client, ConnId, Event, Identity, Input, Moderation, Output};

const OTHER: &str = "RWihKyg-JAfjKb8X6tqGQj";

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing")]
fn start() -> Instant {
    Instant::now()
}

fn client() -> Client {
    let secret = ("a".repeat(42) + "A").parse().unwrap();
    let instance = "run".parse().unwrap();
    Client::new(Identity { secret, instance, name: None, token: None, password: None })
}

fn welcome(outcome: &str, ack: u64, limits: &Value) -> String {
    json!({
        "type": "welcome", "seq": 0, "ack": ack, "session": "mXcAAAAAA9s", "peer": "4IWcmX3pZURISnMilXPPaO",
        "resume": "YW5vdGhlciBvcGFxdWUgdG9rZW4", "outcome": outcome, "features": [], "limits": limits,
        "ping": {"interval_ms": 10_000, "deadline_ms": 5_000}, "grace_ms": 30_000, "ice": {"servers": []},
        "room": {"name": "lobby", "version": 1, "peers": []},
    })
    .to_string()
}

fn limits(rate: u64) -> Value {
    json!({"message_bytes": 65_536, "messages_per_second": rate, "message_burst": rate, "replay_messages": 20, "replay_bytes": 4_096})
}

/// A client whose session stands on its first connection.
fn open(now: Instant) -> Client {
    let mut client = client();
    client.handle(now, Input::Connect).for_each(drop);
    client.handle(now, Input::Opened(ConnId(1))).for_each(drop);
    hear(&mut client, now, 1, &welcome("new", 0, &limits(100)));
    assert!(client.is_open());
    client
}

fn hear(client: &mut Client, now: Instant, conn: u64, text: &str) -> Vec<Output> {
    client.handle(now, Input::Text { conn: ConnId(conn), text }).collect()
}

fn signal(client: &mut Client, now: Instant) -> Vec<Output> {
    let to: PeerId = OTHER.parse().unwrap();
    let raw = serde_json::value::RawValue::from_string("{\"a\":\n1}".into()).unwrap();
    let payload = Payload::Candidate(raw);
    client.handle(now, Input::Signal { to, negotiation: "a\"b".parse().unwrap(), payload }).collect()
}

fn sent(outputs: &[Output]) -> Vec<Value> {
    let text = |output: &Output| match output {
        Output::Send { text, .. } => Some(serde_json::from_str(text).unwrap()),
        Output::Connect { .. } | Output::Disconnect(_) | Output::Event(_) => None,
    };
    outputs.iter().filter_map(text).collect()
}

/// The waits that a connection is asked for with.
fn wait(outputs: &[Output]) -> Option<(Duration, Duration)> {
    outputs.iter().find_map(|output| match output {
        Output::Connect { after, within, .. } => Some((*after, *within)),
        Output::Send { .. } | Output::Disconnect(_) | Output::Event(_) => None,
    })
}

fn is_over(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Event(Event::Ended(_))))
}

#[test]
fn the_range_of_a_close_code_says_whether_it_comes_back() {
    let now = start();
    for (code, comes_back) in [
        (None, true),
        (Some(4000), true),
        (Some(4099), true),
        (Some(4150), true),
        (Some(4203), false),
        (Some(1000), false),
    ] {
        let mut client = open(now);
        let outputs: Vec<_> = client.handle(now, Input::Closed { conn: ConnId(1), code }).collect();
        assert_eq!((wait(&outputs).is_some(), is_over(&outputs)), (comes_back, !comes_back), "{code:?}");
    }
}

#[test]
fn what_the_server_asks_to_wait_is_waited_and_the_rest_is_drawn_from_a_window_that_doubles() {
    let now = start();
    let mut client = open(now);
    let error = r#"{"type":"error","seq":0,"ack":0,"code":"rate_limited","message":"x","temporary":true,"retry_after_ms":1990}"#;
    hear(&mut client, now, 1, error);
    let mut waits = Vec::new();
    for conn in 1..=8 {
        let code = (conn == 1).then_some(4101);
        let outputs: Vec<_> = client.handle(now, Input::Closed { conn: ConnId(conn), code }).collect();
        let (after, within) = wait(&outputs).unwrap();
        waits.push((after.as_millis(), within.as_millis()));
    }
    let windows = [0, 500, 1000, 2000, 4000, 8000, 8000, 8000];
    let expected: Vec<_> =
        windows.iter().enumerate().map(|(n, window)| (if n == 0 { 1990 } else { 0 }, *window)).collect();
    assert_eq!(waits, expected);
}

#[test]
fn a_frame_of_a_later_version_is_skipped_and_its_place_counts() {
    let now = start();
    let mut client = open(now);
    hear(&mut client, now, 1, r#"{"type":"of_2030","seq":1,"ack":0}"#);
    let left =
        format!(r#"{{"type":"peer_left","seq":2,"ack":0,"peer":"{OTHER}","reason":"bye","version":2}}"#);
    let outputs = hear(&mut client, now, 1, &left);
    assert!(
        matches!(&outputs[..], [Output::Event(Event::Frame { seq: 2, message: ServerMessage::PeerLeft(_) })]),
        "{outputs:?}"
    );
    assert!(hear(&mut client, now, 1, &left).is_empty(), "what arrives twice is ignored");
}

#[test]
fn a_gap_makes_it_come_again_and_say_how_far_it_is() {
    let now = start();
    let mut client = open(now);
    let outputs = hear(&mut client, now, 1, r#"{"type":"of_2030","seq":2,"ack":0}"#);
    assert_eq!(wait(&outputs), Some((Duration::ZERO, Duration::ZERO)));
    let hello = sent(&client.handle(now, Input::Opened(ConnId(2))).collect::<Vec<_>>());
    assert_eq!((&hello[0]["ack"], &hello[0]["resume"]), (&json!(0), &json!("YW5vdGhlciBvcGFxdWUgdG9rZW4")));
    assert!(
        hear(&mut client, now, 1, r#"{"type":"ping","seq":0,"ack":0}"#).is_empty(),
        "of the one that was given up"
    );
}

#[test]
fn a_signal_is_one_line_of_json_and_goes_out_again_until_it_is_acknowledged() {
    let now = start();
    let mut client = open(now);
    let outputs = signal(&mut client, now);
    let Some(Output::Send { text, .. }) = outputs.last() else { panic!("{outputs:?}") };
    assert!(!text.contains('\n'));
    assert_eq!(
        sent(&outputs),
        [
            json!({"seq": 1, "ack": 0, "type": "signal", "to": OTHER, "negotiation": "a\"b", "candidate": {"a": 1}})
        ]
    );

    client.handle(now, Input::Connect).for_each(drop);
    client.handle(now, Input::Opened(ConnId(2))).for_each(drop);
    let again = sent(&hear(&mut client, now, 2, &welcome("resumed", 0, &limits(100))));
    assert_eq!(again[1]["seq"], 1);
    hear(&mut client, now, 2, r#"{"type":"ack","seq":0,"ack":1}"#);
    assert_eq!(client.unacknowledged(), 0);
}

#[test]
fn it_sends_no_faster_than_four_fifths_of_the_rate_and_the_rest_follows_in_time() {
    let now = start();
    let mut client = open(now);
    hear(&mut client, now, 1, &welcome("new", 0, &limits(10)));
    let at_once: usize = (0..12).map(|_| sent(&signal(&mut client, now)).len()).sum();
    assert_eq!(at_once, 8);
    let due = client.deadline().unwrap();
    assert_eq!(due - now, Duration::from_millis(125));
    assert_eq!(sent(&client.handle(due, Input::Timeout).collect::<Vec<_>>())[0]["seq"], 9);
}

#[test]
fn when_more_is_outstanding_than_may_be_kept_a_fresh_session_says_so() {
    let now = start();
    let mut client = open(now);
    let outputs: Vec<_> = (0..21).flat_map(|_| signal(&mut client, now)).collect();
    assert!(wait(&outputs).is_some());
    let hello = sent(&client.handle(now, Input::Opened(ConnId(2))).collect::<Vec<_>>());
    assert_eq!((&hello[0]["resume"], client.unacknowledged()), (&Value::Null, 0));
}

#[test]
fn silence_ends_a_connection_and_a_bye_that_is_not_answered_the_client() {
    let now = start();
    let mut client = open(now);
    assert_eq!(client.deadline(), Some(now + Duration::from_secs(15)));
    let later = now + Duration::from_secs(15);
    assert!(wait(&client.handle(later, Input::Timeout).collect::<Vec<_>>()).is_some());

    let mut client = open(now);
    let bye = sent(&client.handle(now, Input::Bye).collect::<Vec<_>>());
    assert_eq!((&bye[0]["type"], &bye[0]["seq"]), (&json!("bye"), &json!(1)));
    assert_eq!(client.deadline(), Some(now + Duration::from_secs(1)));
    assert!(is_over(&client.handle(now + Duration::from_secs(1), Input::Timeout).collect::<Vec<_>>()));
}

fn texts(outputs: &[Output]) -> Vec<&str> {
    let mut texts = Vec::new();
    for output in outputs {
        if let Output::Send { text, .. } = output {
            texts.push(text.as_str());
        }
    }
    texts
}

#[test]
fn what_is_done_to_a_room_is_kept_and_read_as_it_was_meant() {
    let now = start();
    let mut client = open(now);
    let to: PeerId = OTHER.parse().unwrap();
    let reason = "\"please\"".parse().ok();
    let kick = |ban| Moderation::Kick { to, ban, reason: reason.clone() };
    let read_kick = |ban| ClientMessage::Kick(Kick { to: Some(to), ban, reason: reason.clone() });
    let door = |password: Option<&str>| password.map(|password| password.parse().unwrap());
    let set = |password| ClientMessage::Door(SetDoor { door: Door::Knock, password: door(password) });
    let cases = [
        (kick(None), read_kick(None)),
        (kick(Some(Duration::from_millis(1500))), read_kick(Some(Duration::from_millis(1500)))),
        (kick(Some(2 * MAX_BAN)), read_kick(Some(MAX_BAN))),
        (Moderation::Bans, ClientMessage::Bans),
        (Moderation::Lift { to }, ClientMessage::Lift(Some(to))),
        (Moderation::Door { door: Door::Knock, password: None }, set(None)),
        (Moderation::Door { door: Door::Knock, password: door(Some("")) }, set(Some(""))),
        (Moderation::Door { door: Door::Knock, password: door(Some("\"a\n")) }, set(Some("\"a\n"))),
        (Moderation::Admit { to }, ClientMessage::Admit(Some(to))),
        (Moderation::Deny { to }, ClientMessage::Deny(Some(to))),
    ];
    for (seq, (moderation, meant)) in (1..).zip(cases) {
        let outputs: Vec<_> = client.handle(now, Input::Moderate(&moderation)).collect();
        assert!(matches!(outputs[0], Output::Event(Event::Kept(kept)) if kept == seq), "{outputs:?}");
        let frame = ClientFrame::parse(texts(&outputs)[0].as_bytes()).unwrap();
        assert_eq!((frame.seq, format!("{:?}", frame.message)), (seq, format!("{meant:?}")));
        // A password is not shown.
        if let (ClientMessage::Door(read), ClientMessage::Door(meant)) = (frame.message, meant) {
            assert_eq!(read, meant);
        }
    }
    assert_eq!(client.unacknowledged(), 10);
}

#[test]
fn a_token_is_shown_at_once_and_with_every_hello_and_a_password_too() {
    let now = start();
    let identity = Identity {
        secret: ("a".repeat(42) + "A").parse().unwrap(),
        instance: "run".parse().unwrap(),
        name: None,
        token: "first".parse().ok(),
        password: "sesame".parse().ok(),
    };
    let mut client = Client::new(identity);
    let hello = |client: &mut Client, conn| {
        client.handle(now, Input::Connect).for_each(drop);
        let outputs: Vec<_> = client.handle(now, Input::Opened(ConnId(conn))).collect();
        let ClientMessage::Hello(hello) = ClientFrame::parse(texts(&outputs)[0].as_bytes()).unwrap().message
        else {
            panic!("{outputs:?}")
        };
        (hello.token.unwrap(), hello.password.unwrap().as_str().to_owned())
    };
    assert_eq!(hello(&mut client, 1), ("first".parse().unwrap(), "sesame".to_owned()));
    assert!(
        texts(&client.handle(now, Input::Token("second".parse().unwrap())).collect::<Vec<_>>()).is_empty()
    );
    assert_eq!(hello(&mut client, 2).0, "second".parse().unwrap());
    hear(&mut client, now, 2, &welcome("new", 0, &limits(100)));
    let outputs: Vec<_> = client.handle(now, Input::Token("third".parse().unwrap())).collect();
    let frame = ClientFrame::parse(texts(&outputs)[0].as_bytes()).unwrap();
    assert!(matches!(frame.message, ClientMessage::Token(token) if token.as_str() == "third"));
    // Its end is the end of the session, and with another it comes in again.
    assert!(is_over(
        &client.handle(now, Input::Closed { conn: ConnId(2), code: Some(4208) }).collect::<Vec<_>>()
    ));
    client.handle(now, Input::Token("fourth".parse().unwrap())).for_each(drop);
    assert_eq!(hello(&mut client, 3).0, "fourth".parse().unwrap());
}

#[test]
fn a_relay_that_fails_is_reported_if_there_is_a_connection_and_the_server_takes_the_url() {
    let now = start();
    let mut client = open(now);
    let long = "x".repeat(257);
    for (url, told) in [("turn:\"a\"", true), (&long[..256], true), (&long, false)] {
        let outputs: Vec<_> = client.handle(now, Input::TurnError { url, code: 701 }).collect();
        let read = texts(&outputs).first().map(|text| ClientFrame::parse(text.as_bytes()).unwrap().message);
        let meant = Report::TurnError { url: url.into(), code: 701 };
        assert_eq!(read.is_some(), told);
        assert!(read.is_none_or(|read| matches!(read, ClientMessage::Report(report) if report == meant)));
    }
    let mut nowhere = self::client();
    assert_eq!(nowhere.handle(now, Input::TurnError { url: "turn:a", code: 401 }).count(), 0);
}

/// The token of a frame.
fn token(text: &str) -> Option<String> {
    let message = ClientFrame::parse(text.as_bytes()).unwrap().message;
    if let ClientMessage::Hello(hello) = message {
        return hello.token.map(|token| token.as_str().to_owned());
    }
    let ClientMessage::Token(token) = message else { return None };
    Some(token.as_str().to_owned())
}

#[test]
fn a_token_that_comes_between_hello_and_welcome_is_shown_after_that() {
    let now = start();
    let mut client = client();
    client.handle(now, Input::Connect).for_each(drop);
    client.handle(now, Input::Opened(ConnId(1))).for_each(drop);
    assert_eq!(client.handle(now, Input::Token("late".parse().unwrap())).count(), 0);
    let outputs = hear(&mut client, now, 1, &welcome("new", 0, &limits(100)));
    assert_eq!(texts(&outputs).into_iter().filter_map(token).collect::<Vec<_>>(), ["late"]);
}

#[test]
fn a_token_that_is_refused_does_not_take_the_place_of_the_one_before() {
    let now = start();
    for (answer, shown) in [
        (
            r#"{"type":"error","seq":1,"ack":0,"code":"token_refused","message":"x","temporary":false}"#,
            "good",
        ),
        (
            r#"{"type":"error","seq":1,"ack":0,"code":"token_unverified","message":"x","temporary":true}"#,
            "further",
        ),
        (
            r#"{"type":"granted","seq":1,"ack":0,"may_publish":true,"may_kick":false,"may_lock":false}"#,
            "further",
        ),
    ] {
        let mut client = open(now);
        for token in ["good", "further"] {
            client.handle(now, Input::Token(token.parse().unwrap())).for_each(drop);
        }
        hear(&mut client, now, 1, answer);
        client.handle(now, Input::Connect).for_each(drop);
        let outputs: Vec<_> = client.handle(now, Input::Opened(ConnId(2))).collect();
        assert_eq!(token(texts(&outputs)[0]).as_deref(), Some(shown), "{answer}");
    }
}
