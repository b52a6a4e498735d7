//! Coming back: resume, takeover, lost welcomes, resync and its reasons, replacement.

use signaling_protocol::{ErrorCode, Outcome, ResyncReason, ServerMessage};

use super::*;
use crate::hub::{EndReason, GoneReason, Grant};

#[test]
fn a_client_that_comes_back_gets_what_it_missed_right_after_the_welcome() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    world.signal(&mut a, b.peer, "2");
    world.gone(&b);
    world.signal(&mut a, b.peer, "3");

    let welcome = world.resume(&mut b, 1);
    assert_eq!((welcome.outcome, welcome.reason), (Outcome::Resumed, None));
    assert_eq!(world.heard(&b), ["2:signal 2", "3:signal 3"]);
    assert_eq!(world.heard(&a), ["1:peer_joined", "2:peer away", "3:peer here"]);
}

#[test]
fn the_welcome_tells_what_arrived_so_that_the_client_sends_the_rest_again() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    world.gone(&a);

    let conn = world.hello('a', "lobby", 0, &format!(r#","resume":"{}""#, a.token));
    assert_eq!(world.frames(conn)[0].ack, 1);
    a.conn = conn;
    world.signal(&mut a, b.peer, "2");
    assert_eq!(world.heard(&b), ["1:signal 1", "2:peer away", "3:peer here", "4:signal 2"]);
}

#[test]
fn a_second_connection_with_the_token_takes_over_and_nobody_notices() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    let former = a.clone();
    let welcome = world.resume(&mut a, 1);
    assert_eq!(welcome.outcome, Outcome::Resumed);
    let (error, code) = world.farewell(former.conn);
    assert_eq!((error.code, code), (ErrorCode::Replaced, 4203));
    assert_eq!(world.heard(&b), Vec::<String>::new());

    world.input(Input::Gone { conn: former.conn, why: GoneReason::Closed });
    world.signal_as(&former, 1, b.peer, "9");
    assert_eq!(world.heard(&b), Vec::<String>::new(), "the former connection is nobody's");
}

#[test]
fn a_hello_that_was_held_up_does_not_throw_out_the_later_connection() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let token = format!(r#","resume":"{}""#, a.token);
    world.next_conn = 9;
    world.resume(&mut a, 0);
    world.ack(&a, 0);
    for more in [token.as_str(), ""] {
        world.next_conn = 1;
        world.closed.clear();
        let late = world.hello('a', "lobby", 0, more);
        assert_eq!(world.farewell(late).1, 4203);
        assert_eq!(world.close_code(a.conn), None);
    }
}

#[test]
fn a_hello_that_was_overtaken_is_known_by_its_count_whenever_its_connection_came() {
    let mut world = World::new();
    let ada = world.join('a', "lobby");
    let hello = |attempt: u64| format!(r#","resume":"{}","attempt":{attempt}"#, ada.token);
    let third = world.hello('a', "lobby", 0, &hello(3));
    assert_eq!(world.welcome(third).outcome, Outcome::Resumed);
    let second = world.hello('a', "lobby", 0, &hello(2));
    assert_eq!((world.close_code(second), world.close_code(third)), (Some(4203), None));

    // One on the way said it twice: the answer to the second is the one that is read.
    let again = world.hello('a', "lobby", 0, &hello(3));
    assert_eq!(world.welcome(again).outcome, Outcome::Resumed);
    // A fifth that was first to connect and last to say hello.
    let (resume, late_conn) = (
        format!(
            r#"{{"type":"hello","seq":0,"ack":0,"secret":"{}A","instance":"run-a"{}}}"#,
            "a".repeat(42),
            hello(5)
        ),
        ConnId(0),
    );
    let ClientMessage::Hello(fifth) = ClientFrame::parse(resume.as_bytes()).unwrap().message else {
        panic!("a hello")
    };
    world.input(Input::Attach {
        conn: late_conn,
        room: "lobby".parse().unwrap(),
        ack: 0,
        hello: fifth,
        grant: Some(Grant::default()),
        ice: IceServers::default(),
    });
    assert_eq!(world.welcome(late_conn).outcome, Outcome::Resumed);
    assert_eq!(world.close_code(again), Some(4203));
}

#[test]
fn when_the_welcome_is_lost_the_old_token_still_opens_the_session() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    for _ in 0..3 {
        let welcome = world.resume(&mut a, 0);
        assert_eq!(welcome.outcome, Outcome::Resumed);
        assert_ne!(welcome.resume.as_str(), a.token);
    }
}

#[test]
fn a_frame_on_the_new_connection_ends_the_old_token() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    world.resume(&mut a, 0);
    world.ack(&a, 0);
    let welcome = world.resume(&mut a, 0);
    assert_eq!((welcome.outcome, welcome.reason), (Outcome::Resync, Some(ResyncReason::Unknown)));
}

#[test]
fn the_new_token_opens_the_session_before_and_after_it_was_confirmed() {
    for confirmed in [false, true] {
        let mut world = World::new();
        let mut a = world.join('a', "lobby");
        a.token = world.resume(&mut a, 0).resume.as_str().to_owned();
        if confirmed {
            world.ack(&a, 0);
        }
        assert_eq!(world.resume(&mut a, 0).outcome, Outcome::Resumed);
    }
}

#[test]
fn a_token_opens_the_session_until_the_last_moment_of_the_grace() {
    for (after, outcome) in [(29_999, Outcome::Resumed), (30_000, Outcome::Resync)] {
        let mut world = World::new();
        let mut a = world.join('a', "lobby");
        world.gone(&a);
        world.pass(ms(after));
        assert_eq!(world.resume(&mut a, 0).outcome, outcome, "{after}");
    }
}

#[test]
fn each_reason_of_a_resync_is_told() {
    let mut world = World::new();
    let keep = world.join('k', "lobby");

    let mut unknown = world.join('a', "lobby");
    unknown.token = "made-up".into();
    assert_eq!(world.resume(&mut unknown, 0).reason, Some(ResyncReason::Unknown));

    let mut expired = world.join('b', "lobby");
    world.say(&expired, r#""type":"bye","seq":1,"ack":0"#);
    assert_eq!(world.resume(&mut expired, 0).reason, Some(ResyncReason::Expired));

    let mut replaced = world.join('c', "lobby");
    world.join('c', "lobby");
    assert_eq!(world.resume(&mut replaced, 0).reason, Some(ResyncReason::Replaced));

    world.heard(&keep);
    let mut overflow = world.join('d', "lobby");
    assert_eq!(world.resume(&mut overflow, 0).outcome, Outcome::Resumed);
}

#[test]
fn a_token_of_an_earlier_start_of_the_server_is_unknown() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    world.hub = Hub::new(Limits::default(), ChaCha20Rng::seed_from_u64(2));
    let before = a.peer;
    let welcome = world.resume(&mut a, 0);
    assert_eq!((welcome.outcome, welcome.reason), (Outcome::Resync, Some(ResyncReason::Unknown)));
    assert_eq!(welcome.peer, before, "the peer id outlives the server");
}

#[test]
fn another_run_of_the_client_does_not_resume() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let secret = "a".repeat(42) + "A";
    let text = format!(
        r#"{{"type":"hello","seq":0,"ack":0,"secret":"{secret}","instance":"other","resume":"{}"}}"#,
        a.token
    );
    let ClientMessage::Hello(hello) = ClientFrame::parse(text.as_bytes()).unwrap().message else { panic!() };
    let conn = ConnId(99);
    let room = "lobby".parse().unwrap();
    world.input(Input::Attach {
        conn,
        room,
        ack: 0,
        hello,
        grant: Some(Grant::default()),
        ice: IceServers::default(),
    });
    assert_eq!(world.welcome(conn).reason, Some(ResyncReason::Replaced));
}

#[test]
fn the_token_of_another_peer_is_worth_nothing() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    b.token = a.token.clone();
    let welcome = world.resume(&mut b, 0);
    assert_eq!((welcome.outcome, welcome.peer), (Outcome::Resync, b.peer));
    assert_eq!(world.close_code(a.conn), None);
}

#[test]
fn a_hello_that_acknowledges_the_future_is_turned_away_and_the_session_stands() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let conn = world.hello('a', "lobby", 1, &format!(r#","resume":"{}""#, a.token));
    assert_eq!(world.farewell(conn).1, 4202);
    assert_eq!(world.resume(&mut a, 0).outcome, Outcome::Resumed);
}

#[test]
fn a_hello_that_wants_what_it_has_acknowledged_gets_a_resync() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let _b = world.join('b', "lobby");
    world.ack(&a, 1);
    let welcome = world.resume(&mut a, 0);
    assert_eq!((welcome.outcome, welcome.reason), (Outcome::Resync, Some(ResyncReason::Overflow)));
}

#[test]
fn the_same_secret_without_a_token_replaces_the_session_and_the_others_are_told() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    let again = world.join('a', "lobby");
    assert_eq!(again.peer, a.peer);
    let (error, code) = world.farewell(a.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::Replaced, false, 4203));
    assert_eq!(world.heard(&b), ["1:peer_joined again"]);
    assert_eq!((world.hub.counts().sessions, world.hub.counts().attached), (2, 2));
    assert!(world.events.iter().any(|e| matches!(e, Event::Ended { reason: EndReason::Replaced, .. })));
}

#[test]
fn sequences_start_anew_after_a_resync() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    let a = world.join('a', "lobby");
    world.signal_as(&a, 1, b.peer, "2");
    world.signal(&mut b, a.peer, "3");
    assert_eq!(world.heard(&b), ["1:signal 1", "2:peer_joined again", "3:signal 2"]);
    assert_eq!(world.heard(&a), ["1:signal 3"]);
}

#[test]
fn a_slow_reader_whose_frames_are_all_kept_can_resume() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    world.input(Input::Gone { conn: b.conn, why: GoneReason::SlowReader });
    world.frames(b.conn);
    assert_eq!(world.resume(&mut b, 0).outcome, Outcome::Resumed);
    assert_eq!(world.heard(&b), ["1:signal 1"]);
}

#[test]
fn what_was_seen_is_not_sent_again_and_nothing_is_kept_of_it() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    assert_eq!(world.hub.counts().buffered_frames, 2);
    world.ack(&b, 1);
    world.ack(&a, 1);
    let counts = world.hub.counts();
    assert_eq!((counts.buffered_frames, counts.buffered_bytes), (0, 0));
}

#[test]
fn the_snapshot_of_a_resume_is_newer_than_what_is_replayed() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    world.gone(&a);
    world.join('b', "lobby");
    let welcome = world.resume(&mut a, 0);
    let [ServerFrame { message: ServerMessage::PeerJoined(joined), .. }] = &world.frames(a.conn)[..] else {
        panic!("a peer_joined")
    };
    assert!(joined.version < welcome.room.version);
    assert_eq!(welcome.room.peers[0].peer, joined.peer);
}

#[test]
fn a_pong_that_does_not_acknowledge_what_was_sent_before_its_ping_tells_of_a_loss() {
    let mut world = World::new();
    let (mut ada, mut bob) = (world.join('a', "lobby"), world.join('b', "lobby"));
    world.ack(&ada, 1);
    world.signal(&mut ada, bob.peer, "1");
    world.pass(secs(10));
    // After the ping: nothing of the pong's.
    world.signal(&mut ada, bob.peer, "2");
    world.say(&bob, r#""type":"pong","seq":0,"ack":1"#);
    assert_eq!(world.close_code(bob.conn), None);
    world.pass(secs(10));
    world.say(&bob, r#""type":"pong","seq":0,"ack":1"#);
    assert_eq!(world.close_code(bob.conn), Some(4002));
    assert_eq!(world.resume(&mut bob, 1).outcome, Outcome::Resumed);
    assert_eq!(world.heard(&bob), ["2:signal 2", "3:peer away", "4:peer here"][..1]);
}
