use super::*;

const SECRET: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn parse(text: &str) -> Result<ClientFrame, FrameError> {
    ClientFrame::parse(text.as_bytes())
}

fn close_code(text: &str) -> u16 {
    parse(text).expect_err("the frame is refused").close_code().code()
}

#[test]
fn a_payload_arrives_byte_for_byte() {
    let raw = r#"{ "type" : "offer", "sdp":"v=0\r\n😀", "n":1.50e3, "dup":1,"dup":2 }"#;
    let text =
        format!(r#"{{"type":"signal","seq":1,"ack":0,"to":"x","negotiation":"n","description":{raw}}}"#);
    let ClientMessage::Signal(signal) = parse(&text).unwrap().message else { panic!("a signal") };
    assert_eq!(signal.payload.raw().get(), raw);
}

#[test]
fn a_null_candidate_is_a_candidate() {
    let text = r#"{"type":"signal","seq":1,"ack":0,"to":"x","negotiation":"n","candidate":null}"#;
    let ClientMessage::Signal(signal) = parse(text).unwrap().message else { panic!("a signal") };
    assert_eq!((signal.payload.field(), signal.payload.raw().get()), ("candidate", "null"));
}

#[test]
fn a_signal_with_both_payloads_or_none_is_refused() {
    let signal =
        |rest: &str| format!(r#"{{"type":"signal","seq":1,"ack":0,"to":"x","negotiation":"n"{rest}}}"#);
    assert_eq!(close_code(&signal("")), 4200);
    assert_eq!(close_code(&signal(r#","description":1,"candidate":2"#)), 4200);
    assert_eq!(close_code(&signal(r#","description":1,"description":2"#)), 4200);
}

#[test]
fn a_recipient_that_is_no_peer_id_is_nobody() {
    let text = r#"{"type":"signal","seq":1,"ack":0,"to":"nobody","negotiation":"n","candidate":1}"#;
    let ClientMessage::Signal(signal) = parse(text).unwrap().message else { panic!("a signal") };
    assert_eq!(signal.to, None);
}

#[test]
fn a_kick_has_bounds() {
    let kick = |rest: &str| parse(&format!(r#"{{"type":"kick","seq":1,"ack":0,"to":"nobody"{rest}}}"#));
    let ClientMessage::Kick(read) = kick(r#","ban_ms":604800000,"reason":"""#).unwrap().message else {
        panic!("a kick")
    };
    assert_eq!(read, Kick { to: None, ban: Some(crate::MAX_BAN), reason: None });
    for rest in [r#","ban_ms":604800001"#, r#","ban_ms":-1"#, r#","ban_ms":1.5"#, r#","reason":7"#] {
        assert!(matches!(kick(rest), Err(FrameError::BadShape(_))), "{rest}");
    }
    let long = format!(r#","reason":"{}""#, "x".repeat(65));
    assert!(matches!(kick(&long), Err(FrameError::BadShape(_))));
}

#[test]
fn a_door_is_open_or_locked_or_to_be_knocked_at() {
    assert!(parse(r#"{"type":"door","seq":1,"ack":0,"door":"knock","password":"x"}"#).is_ok());
    let long = "x".repeat(129);
    assert_eq!(
        close_code(&format!(r#"{{"type":"door","seq":1,"ack":0,"door":"open","password":"{long}"}}"#)),
        4200
    );
    assert!(parse(r#"{"type":"door","seq":1,"ack":0,"door":"locked"}"#).is_ok());
    assert_eq!(close_code(r#"{"type":"door","seq":1,"ack":0,"door":"ajar"}"#), 4200);
    assert_eq!(close_code(r#"{"type":"door","seq":1,"ack":0}"#), 4200);
}

#[test]
fn what_is_not_a_frame_is_refused_with_4200() {
    for text in [
        "",
        "not json",
        "[]",
        "1",
        "null",
        "{}",
        r#"{"type":"ack","seq":0}"#,
        r#"{"type":"ack","ack":0}"#,
        r#"["pong",0,0]"#,
        r#" ["bye",1,0]"#,
    ] {
        assert_eq!(close_code(text), 4200, "{text}");
    }
    for seq in ["-1", "1.0", "1e3", "\"1\"", "9007199254740992", "18446744073709551616", "null"] {
        assert_eq!(close_code(&format!(r#"{{"type":"bye","seq":{seq},"ack":0}}"#)), 4200, "{seq}");
    }
    assert_eq!(close_code(r#"{"type":"ack","seq":0,"ack":0} {}"#), 4200);
    assert!(parse("\r\n\t {\"type\":\"ack\",\"seq\":0,\"ack\":0} ").is_ok());
    assert_eq!(close_code(r#"{"type":"ack","type":"ack","seq":0,"ack":0}"#), 4200);
    assert_eq!(close_code(r#"{"type":7,"seq":0,"ack":0}"#), 4200);
}

#[test]
fn a_sequenced_type_needs_a_seq_and_the_others_must_not_have_one() {
    assert_eq!(close_code(r#"{"type":"bye","seq":0,"ack":0}"#), 4200);
    assert!(parse(r#"{"type":"bye","seq":1,"ack":0}"#).is_ok());
    for kind in ["ack", "pong"] {
        assert_eq!(close_code(&format!(r#"{{"type":"{kind}","seq":1,"ack":0}}"#)), 4200);
        assert!(parse(&format!(r#"{{"type":"{kind}","seq":0,"ack":0}}"#)).is_ok());
    }
}

#[test]
fn an_unknown_type_is_a_frame_with_or_without_a_place_in_the_sequence() {
    for seq in [0, 9] {
        let frame = parse(&format!(r#"{{"type":"dance","seq":{seq},"ack":2,"to":{{}}}}"#)).unwrap();
        assert!(matches!(frame, ClientFrame { ack: 2, message: ClientMessage::Unknown, .. }));
        assert_eq!(frame.seq, seq);
    }
}

#[test]
fn a_report_of_a_failed_allocation_is_read_and_bounded() {
    let report = |rest: &str| format!(r#"{{"type":"report","seq":0,"ack":2,"kind":"turn_error"{rest}}}"#);
    let frame =
        parse(&report(r#","url":"turn:relay.example?transport=udp","code":401,"text":"Unauthorized""#))
            .unwrap();
    let ClientMessage::Report(read) = frame.message else { panic!("a report") };
    assert_eq!(read, Report::TurnError { url: "turn:relay.example?transport=udp".into(), code: 401 });

    assert_eq!(close_code(&report("")), 4200);
    assert_eq!(close_code(&report(r#","url":1,"code":401"#)), 4200);
    assert_eq!(close_code(&report(r#","url":"turn:a","code":-1"#)), 4200);
    assert_eq!(close_code(&report(&format!(r#","url":"{}","code":401"#, "u".repeat(257)))), 4200);
    assert_eq!(
        close_code(r#"{"type":"report","seq":1,"ack":0,"kind":"turn_error","url":"turn:a","code":401}"#),
        4200
    );
    let later = parse(r#"{"type":"report","seq":0,"ack":0,"kind":"mood","url":[1]}"#).unwrap();
    assert!(matches!(later.message, ClientMessage::Report(Report::Unknown)));
}

#[test]
fn a_hello_is_read_whole_and_refused_with_4202_when_a_field_is_outside_its_bounds() {
    let hello = |secret: &str, instance: &str, rest: &str| {
        format!(r#"{{"type":"hello","seq":0,"ack":3,"secret":"{secret}","instance":"{instance}"{rest}}}"#)
    };
    let frame = parse(&hello(SECRET, "i", r#","name":"Ada","resume":"t","later":[]"#)).unwrap();
    let ClientMessage::Hello(read) = frame.message else { panic!("a hello") };
    assert_eq!((frame.ack, read.instance.as_str(), read.name.unwrap().as_str()), (3, "i", "Ada"));
    assert_eq!(read.resume.unwrap().as_str(), "t");

    assert!(parse(&hello(SECRET, "i", r#","name":null,"resume":null"#)).is_ok());
    assert_eq!(close_code(&hello("short", "i", "")), 4202);
    assert_eq!(close_code(&hello(SECRET, "", "")), 4202);
    assert_eq!(close_code(&hello(SECRET, &"i".repeat(33), "")), 4202);
    assert_eq!(close_code(&hello(SECRET, "i", &format!(r#","name":"{}""#, "n".repeat(65)))), 4202);
    assert_eq!(close_code(&hello(SECRET, "i", &format!(r#","resume":"{}""#, "t".repeat(129)))), 4202);
    assert_eq!(close_code(&format!(r#"{{"type":"hello","seq":0,"ack":0,"secret":"{SECRET}"}}"#)), 4202);
}

#[test]
fn a_frame_above_64_kib_is_refused_with_4201() {
    let frame = |padding: usize| format!(r#"{{"type":"ack","seq":0,"ack":0,"x":"{}"}}"#, "x".repeat(padding));
    let room = MAX_FRAME_BYTES - frame(0).len();
    assert!(parse(&frame(room)).is_ok());
    assert_eq!(close_code(&frame(room + 1)), 4201);
}

#[test]
fn a_refusal_quotes_nothing_that_the_client_sent() {
    for text in [
        r#"{"type":"hello","seq":0,"ack":0,"secret":"HUSH","instance":"i"}"#,
        r#"{"type":"hello","seq":0,"ack":0,"secret":["HUSH"],"instance":"HUSH"}"#,
        r#"{"type":"signal","seq":1,"ack":0,"to":{"HUSH":1},"negotiation":"n","candidate":1}"#,
        r#"{"type":"signal","seq":1,"ack":0,"to":"x","negotiation":true,"candidate":1}"#,
        r#"{"type":"bye","seq":"HUSH","ack":0}"#,
        "HUSH",
    ] {
        assert!(!parse(text).unwrap_err().to_string().contains("HUSH"), "{text}");
    }
}
