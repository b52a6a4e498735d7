//! Presence, signals, acknowledgements, pings, credentials.

use signaling_protocol::{ErrorCode, LeaveReason, PeerState, ServerMessage};

use super::*;
use crate::hub::Counts;

#[test]
fn the_first_peer_of_a_room_finds_it_empty_and_the_second_finds_the_first() {
    let mut world = World::new();
    let conn = world.hello('a', "lobby", 0, r#","name":"Ada""#);
    let first = world.welcome(conn);
    assert_eq!(first.room.name.as_str(), "lobby");
    assert!(first.room.peers.is_empty());

    let conn = world.hello('b', "lobby", 0, "");
    let second = world.welcome(conn);
    let [seen] = second.room.peers.as_slice() else { panic!("one other peer") };
    assert_eq!((seen.peer, seen.state), (first.peer, PeerState::Here));
    assert_eq!((seen.instance.as_str(), seen.name.as_ref().unwrap().as_str()), ("run-a", "Ada"));
    assert!(second.room.version > first.room.version);
}

#[test]
fn members_are_told_who_joined_and_both_sides_agree_on_who_is_polite() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let conn = world.hello('b', "lobby", 0, r#","name":"Bo""#);
    let welcome = world.welcome(conn);

    let [ServerFrame { seq: 1, message: ServerMessage::PeerJoined(joined), .. }] = &world.frames(a.conn)[..]
    else {
        panic!("a peer_joined")
    };
    assert_eq!((joined.peer, joined.resync, joined.version), (welcome.peer, false, welcome.room.version));
    assert_eq!((joined.instance.as_str(), joined.name.as_ref().unwrap().as_str()), ("run-b", "Bo"));
    assert_eq!(joined.polite, a.peer < welcome.peer);
    assert_eq!(welcome.room.peers[0].polite, welcome.peer < a.peer);
}

#[test]
fn rooms_do_not_hear_of_each_other() {
    let mut world = World::new();
    let a = world.join('a', "one");
    let mut b = world.join('b', "two");
    world.signal(&mut b, a.peer, "1");
    assert_eq!(world.heard(&a), Vec::<String>::new());
    assert_eq!(world.heard(&b), ["1:error \"no_such_peer\""]);
    assert_eq!(world.hub.counts().rooms, 2);
}

#[test]
fn a_signal_is_relayed_as_it_was_with_the_sender_written_by_the_hub() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    a.seq += 1;
    let forged = format!(
        r#""type":"signal","seq":1,"ack":0,"to":"{to}","from":"{to}","negotiation":"x","description":{{"sdp": "v=0"}}"#,
        to = b.peer
    );
    world.say(&a, &forged);

    let [ServerFrame { seq: 1, message: ServerMessage::Signal(signal), .. }] = &world.frames(b.conn)[..]
    else {
        panic!("a signal")
    };
    assert_eq!((signal.from, signal.negotiation.as_str()), (a.peer, "x"));
    assert_eq!((signal.payload.field(), signal.payload.raw().get()), ("description", r#"{"sdp": "v=0"}"#));
}

#[test]
fn a_signal_to_nobody_and_one_to_oneself_are_answered_with_no_such_peer() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let (nobody, oneself) = ("x".repeat(22).parse().unwrap(), a.peer);
    world.signal(&mut a, nobody, "1");
    world.signal(&mut a, oneself, "2");
    world.say(&a, r#""type":"signal","seq":3,"ack":0,"to":"?","negotiation":"n","candidate":3"#);
    let answers: Vec<_> = world.frames(a.conn).iter().map(refusal).collect();
    assert_eq!(answers, [1, 2, 3].map(|re| (Some(re), ErrorCode::NoSuchPeer)));
}

#[test]
fn a_repeated_frame_is_ignored_and_a_gap_is_the_end_of_the_connection() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.signal_as(&a, 1, b.peer, "1");
    world.signal_as(&a, 1, b.peer, "1");
    assert_eq!(world.heard(&b), ["1:signal 1"]);

    world.signal_as(&a, 3, b.peer, "3");
    let (error, code) = world.farewell(a.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::BadFrame, false, 4200));
    assert_eq!(error.message, "sequence: expected 2, got 3");
    assert_eq!(world.heard(&b), ["2:peer away"]);
}

#[test]
fn an_ack_of_a_frame_that_was_never_sent_is_the_end_of_the_connection() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let _b = world.join('b', "lobby");
    world.ack(&a, 1);
    assert_eq!(world.close_code(a.conn), None);
    world.ack(&a, 2);
    assert_eq!(world.farewell(a.conn).1, 4200);
}

#[test]
fn an_ack_that_is_behind_changes_nothing() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let _b = world.join('b', "lobby");
    world.ack(&a, 1);
    world.ack(&a, 0);
    assert_eq!((world.close_code(a.conn), world.hub.counts().buffered_frames), (None, 0));
}

#[test]
fn a_second_hello_is_the_end_of_the_connection() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let secret = "a".repeat(42) + "A";
    world.say(&a, &format!(r#""type":"hello","seq":0,"ack":0,"secret":"{secret}","instance":"i""#));
    assert_eq!(world.farewell(a.conn).1, 4200);
}

#[test]
fn a_malformed_frame_closes_with_its_code_and_says_what_is_wrong() {
    for (text, name, code) in
        [("not json", ErrorCode::BadFrame, 4200), (&"x".repeat(65_537), ErrorCode::TooLarge, 4201)]
    {
        let mut world = World::new();
        let a = world.join('a', "lobby");
        let error = ClientFrame::parse(text.as_bytes()).unwrap_err();
        let said = error.to_string();
        world.input(Input::Malformed { conn: a.conn, error });
        let (error, closed) = world.farewell(a.conn);
        assert_eq!((error.code, error.message.as_ref(), closed), (name, said.as_str(), code));
    }
}

#[test]
fn bye_ends_the_session_at_once_and_the_room_with_its_last_peer() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.say(&a, r#""type":"bye","seq":1,"ack":1"#);
    assert_eq!((world.close_code(a.conn), world.heard(&b)), (Some(1000), vec!["1:peer_left bye".to_owned()]));

    world.say(&b, r#""type":"bye","seq":1,"ack":1"#);
    assert_eq!(world.close_code(b.conn), Some(1000));
    world.assert_empty();
}

#[test]
fn an_unknown_type_is_answered_and_the_ninth_is_the_end_of_the_connection() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    world.say(&a, r#""type":"dance","seq":1,"ack":0"#);
    for _ in 0..7 {
        world.say(&a, r#""type":"dance","seq":0,"ack":0"#);
    }
    let answers: Vec<_> = world.frames(a.conn).iter().map(refusal).collect();
    assert_eq!(answers[0], (Some(1), ErrorCode::UnknownType));
    assert_eq!(answers[1..], [(None, ErrorCode::UnknownType); 7]);

    assert_eq!(world.close_code(a.conn), None);
    world.say(&a, r#""type":"dance","seq":0,"ack":0"#);
    assert_eq!(world.farewell(a.conn).1, 4200);
}

#[test]
fn a_frame_is_acknowledged_within_a_second_or_by_the_sixteenth() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.frames(a.conn);
    world.signal(&mut a, b.peer, "1");
    world.pass(ms(999));
    assert_eq!(world.heard(&a), Vec::<String>::new());
    world.pass(ms(1));
    let [ServerFrame { seq: 0, ack: 1, message: ServerMessage::Ack }] = world.frames(a.conn)[..] else {
        panic!("an ack")
    };

    for n in 2..=16 {
        world.signal(&mut a, b.peer, &n.to_string());
    }
    assert_eq!(world.heard(&a), Vec::<String>::new());
    world.signal(&mut a, b.peer, "17");
    let [ServerFrame { seq: 0, ack: 17, message: ServerMessage::Ack }] = world.frames(a.conn)[..] else {
        panic!("an ack")
    };
    world.pass(secs(2));
    assert_eq!(world.heard(&a), Vec::<String>::new(), "nothing is acknowledged twice");
}

#[test]
fn any_frame_carries_the_acknowledgement() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    world.frames(a.conn);
    world.signal(&mut a, b.peer, "1");
    world.signal(&mut b, a.peer, "2");
    assert_eq!(world.frames(a.conn)[0].ack, 1);
    world.pass(secs(2));
    assert_eq!(world.heard(&a), Vec::<String>::new());
}

#[test]
fn a_ping_is_sent_every_interval() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    world.pass(ms(9_999));
    assert_eq!(world.heard(&a), Vec::<String>::new());
    world.pass(ms(1));
    assert_eq!(world.heard(&a), ["0:ping"]);
    world.say(&a, r#""type":"pong","seq":0,"ack":0"#);
    world.pass(secs(10));
    assert_eq!(world.heard(&a), ["0:ping"]);
}

#[test]
fn silence_for_the_interval_and_the_deadline_ends_the_connection_but_not_the_session() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    world.pass(ms(5_000));
    world.say(&a, r#""type":"pong","seq":0,"ack":0"#);
    world.pass(ms(14_999));
    assert_eq!(world.close_code(a.conn), None);
    world.pass(ms(1));
    let (error, code) = world.farewell(a.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::PingTimeout, true, 4001));
    assert_eq!(world.hub.counts(), Counts { rooms: 1, sessions: 1, timers: 1, ..Counts::default() });
}

#[test]
fn a_lost_connection_is_told_as_away_and_after_the_grace_as_left() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.gone(&a);
    assert_eq!(world.heard(&b), ["1:peer away"]);

    let alive = b.clone();
    world.pass_alive(ms(29_999), &[&alive]);
    assert!(!world.heard(&b).iter().any(|word| word.contains("left")));
    world.pass(ms(1));
    let mut left = None;
    for frame in world.frames(b.conn) {
        if let ServerMessage::PeerLeft(message) = frame.message {
            left = Some(message);
        }
    }
    let left = left.expect("a peer_left");
    assert_eq!((left.peer, left.reason), (a.peer, LeaveReason::Expired));
    assert_eq!(world.hub.counts().sessions, 1);
}

#[test]
fn a_peer_that_joins_meanwhile_sees_who_is_away() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    world.gone(&a);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.welcome(conn).room.peers[0].state, PeerState::Away);
}

#[test]
fn credentials_are_refreshed_in_time_while_the_client_is_here() {
    let mut world = World::new();
    world.ice = credentials(secs(20));
    let conn = world.hello('a', "lobby", 0, "");
    let welcome = world.welcome(conn);
    assert_eq!((welcome.ice.expires_in_ms, welcome.ice.refresh_in_ms), (Some(20_000), Some(5_000)));
    world.pass(ms(4_999));
    assert!(world.refreshes.is_empty());
    world.pass(ms(1));
    assert_eq!(world.refreshes, [welcome.session]);

    world.frames(conn);
    world.input(Input::Ice { session: welcome.session, ice: credentials(secs(20)) });
    let [ServerFrame { seq: 1, message: ServerMessage::Ice(ice), .. }] = &world.frames(conn)[..] else {
        panic!("an ice")
    };
    assert_eq!(ice.servers, credentials(secs(20)).servers);

    world.input(Input::Gone { conn, why: GoneReason::Closed });
    world.pass(secs(20));
    assert_eq!(world.refreshes.len(), 1, "nobody is there to use them");
}

#[test]
fn coming_back_does_not_postpone_fresh_credentials() {
    let mut world = World::new();
    world.ice = credentials(secs(20));
    let mut a = world.join('a', "lobby");
    for _ in 0..3 {
        world.pass(ms(1_500));
        a.token = world.resume(&mut a, 0).resume.as_str().to_owned();
    }
    assert!(world.refreshes.is_empty());
    world.pass(ms(500));
    assert_eq!(world.refreshes.len(), 1, "five seconds after the first ones");

    world.gone(&a);
    let session = world.refreshes[0];
    world.input(Input::Ice { session, ice: credentials(secs(20)) });
    world.pass(secs(15));
    world.resume(&mut a, 0);
    world.pass(secs(5));
    assert_eq!(world.refreshes.len(), 2, "what was minted for nobody is minted again");
}

#[test]
fn the_session_that_credentials_are_minted_for_is_the_one_that_begins_or_resumes() {
    let mut world = World::new();
    let hello = |more: &str| {
        let secret = "a".repeat(42) + "A";
        let text =
            format!(r#"{{"type":"hello","seq":0,"ack":0,"secret":"{secret}","instance":"run-a"{more}}}"#);
        let ClientMessage::Hello(hello) = ClientFrame::parse(text.as_bytes()).unwrap().message else {
            panic!("a hello")
        };
        hello
    };
    let room = "lobby".parse().unwrap();
    let expected = world.hub.session_for(&room, 0, &hello(""));
    let conn = world.hello('a', "lobby", 0, "");
    let welcome = world.welcome(conn);
    assert_eq!(welcome.session, expected);

    let resume = format!(r#","resume":"{}""#, welcome.resume.as_str());
    assert_eq!(world.hub.session_for(&room, 0, &hello(&resume)), expected);
    assert_ne!(world.hub.session_for(&room, 0, &hello("")), expected);
}
