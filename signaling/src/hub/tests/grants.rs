//! What a client may do by its grant, how that is renewed while it is connected, and what happens when it runs out.

use signaling_protocol::{Granted, LeaveReason, Outcome};

use super::*;
use crate::hub::{EndReason, Subject, Unproven};

fn expiring(world: &World, after: u64) -> Grant {
    Grant { expires: Some(world.now + secs(after)), ..Grant::default() }
}

fn of(subject: &str) -> Grant {
    Grant { subject: Subject::new(subject), ..Grant::default() }
}

impl World {
    fn show_token(&mut self, client: &Client) {
        self.say(client, r#""type":"token","seq":0,"ack":0,"token":"another""#);
    }

    /// Answers the token that was shown first.
    fn verified(&mut self, verdict: Result<Grant, Unproven>) {
        let (session, token) = self.shown.remove(0);
        assert_eq!(token, "another");
        self.input(Input::Grant { session, verdict });
    }
}

#[test]
fn without_a_grant_a_client_may_come_back_and_nothing_else() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    world.grant = None;
    let newcomer = world.hello('b', "lobby", 0, "");
    let (error, code) = world.farewell(newcomer);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::Unauthorized, false, 4207));

    world.gone(&a);
    assert_eq!(world.resume(&mut a, 0).outcome, Outcome::Resumed);
    let anew = world.hello('a', "lobby", 0, "");
    assert_eq!(world.farewell(anew).1, 4207);
    assert_eq!(world.close_code(a.conn), None, "what stands stays as it is");
}

#[test]
fn a_session_stays_with_the_user_who_began_it() {
    let mut world = World::new();
    world.grant = Some(of("ada"));
    let a = world.join('a', "lobby");
    world.grant = Some(of("eve"));
    let conn = world.hello('a', "lobby", 0, &format!(r#","resume":"{}""#, a.token));
    assert_eq!(world.farewell(conn).1, 4207);
    assert_eq!(world.close_code(a.conn), None);

    world.show_token(&a);
    world.verified(Ok(of("eve")));
    let frames = world.frames(a.conn);
    assert_eq!(refusal(&frames[0]).1, ErrorCode::TokenRefused);
}

#[test]
fn a_client_that_may_not_publish_hears_and_is_not_heard() {
    let mut world = World::new();
    world.grant = Some(Grant { may_publish: false, ..Grant::default() });
    let mut a = world.join('a', "lobby");
    world.grant = Some(Grant::default());
    let mut b = world.join('b', "lobby");
    world.heard(&a);
    world.signal(&mut a, b.peer, "1");
    assert_eq!(refusal(&world.frames(a.conn)[0]), (Some(1), ErrorCode::NotPermitted));
    assert_eq!(world.heard(&b), Vec::<String>::new());
    world.signal(&mut b, a.peer, "2");
    assert_eq!(world.heard(&a), ["3:signal 2"]);
}

#[test]
fn the_name_and_the_role_that_were_granted_are_what_the_others_see() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let (role, name) = ("host".parse().ok(), "Bo of Sales".parse().ok());
    world.grant = Some(Grant { role, name, may_kick: true, ..expiring(&world, 60) });
    let conn = world.hello('b', "lobby", 0, r#","name":"The Director""#);
    let welcome = world.welcome(conn);
    let expected = Granted {
        role: "host".parse().ok(),
        may_publish: true,
        may_kick: true,
        may_lock: false,
        expires_in_ms: Some(60_000),
    };
    assert_eq!(welcome.granted, expected);
    let frames = world.frames(a.conn);
    let ServerMessage::PeerJoined(joined) = &frames[0].message else { panic!("{frames:?}") };
    assert_eq!(joined.name.as_ref().map(|name| name.as_str()), Some("Bo of Sales"));
    assert_eq!(joined.role.as_ref().map(|role| role.as_str()), Some("host"));

    let conn = world.hello('c', "lobby", 0, "");
    let seen = world.welcome(conn).room.peers;
    let roles: Vec<_> = seen.iter().filter_map(|peer| peer.role.as_ref()).map(|role| role.as_str()).collect();
    assert_eq!(roles, ["host"]);
}

#[test]
fn a_session_ends_with_its_grant_also_while_it_is_away() {
    let mut world = World::new();
    let other = world.join('o', "lobby");
    world.grant = Some(expiring(&world, 12));
    let here = world.join('a', "lobby");
    let away = world.join('b', "lobby");
    world.pass_alive(secs(11), &[&here, &other]);
    world.gone(&away);
    assert_eq!(world.close_code(here.conn), None);
    world.heard(&other);
    world.pass_alive(secs(1), &[&here, &other]);

    let (error, code) = world.farewell(here.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::TokenExpired, false, 4208));
    let left: Vec<_> = world
        .frames(other.conn)
        .into_iter()
        .filter_map(
            |frame| if let ServerMessage::PeerLeft(left) = frame.message { Some(left.reason) } else { None },
        )
        .collect();
    assert_eq!(left, [LeaveReason::TokenExpired; 2]);
    assert!(world.events.iter().any(|e| matches!(e, Event::Ended { reason: EndReason::TokenExpired, .. })));
    assert_eq!(world.hub.counts().sessions, 1);
}

#[test]
fn a_further_token_renews_the_grant_while_the_client_stays_connected() {
    let mut world = World::new();
    world.grant = Some(expiring(&world, 5));
    let a = world.join('a', "lobby");
    world.show_token(&a);
    let renewed = Grant { may_lock: true, ..expiring(&world, 60) };
    world.verified(Ok(renewed));
    let frames = world.frames(a.conn);
    let ServerMessage::Granted(granted) = &frames[0].message else { panic!("{frames:?}") };
    assert_eq!((frames[0].seq, granted.may_lock, granted.expires_in_ms), (1, true, Some(60_000)));
    world.pass_alive(secs(59), &[&a]);
    assert_eq!(world.close_code(a.conn), None);
    world.pass_alive(secs(1), &[&a]);
    assert_eq!(world.close_code(a.conn), Some(4208));
}

#[test]
fn a_further_token_that_is_not_good_changes_nothing() {
    let mut world = World::new();
    world.grant = Some(expiring(&world, 5));
    let a = world.join('a', "lobby");
    for (unproven, code, temporary) in [
        (Unproven::Refused, ErrorCode::TokenRefused, false),
        (Unproven::Unverified, ErrorCode::TokenUnverified, true),
    ] {
        world.show_token(&a);
        world.verified(Err(unproven));
        let frames = world.frames(a.conn);
        assert_eq!(refusal(&frames[0]), (None, code));
        let ServerMessage::Error(error) = &frames[0].message else { panic!("{frames:?}") };
        assert_eq!(error.temporary, temporary);
    }
    world.pass_alive(secs(5), &[&a]);
    assert_eq!(world.close_code(a.conn), Some(4208));
}

#[test]
fn one_token_of_a_session_is_verified_at_a_time() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    world.show_token(&a);
    world.show_token(&a);
    assert_eq!(world.shown.len(), 1);
    assert_eq!(refusal(&world.frames(a.conn)[0]).1, ErrorCode::TokenUnverified);
    world.verified(Ok(Grant::default()));
    world.show_token(&a);
    assert_eq!(world.shown.len(), 1);

    // It ends meanwhile; the answer is about nobody.
    world.say(&a, r#""type":"bye","seq":1,"ack":0"#);
    world.verified(Ok(Grant::default()));
    world.assert_empty();
}

#[test]
fn coming_back_with_a_grant_renews_it_and_without_one_does_not() {
    let mut world = World::new();
    world.grant = Some(expiring(&world, 10));
    let mut a = world.join('a', "lobby");
    world.grant = None;
    assert_eq!(world.resume(&mut a, 0).granted.expires_in_ms, Some(10_000));
    world.grant = Some(expiring(&world, 60));
    a.token = world.resume(&mut a, 0).resume.as_str().to_owned();
    world.grant = None;
    assert_eq!(world.resume(&mut a, 0).granted.expires_in_ms, Some(60_000));
}

#[test]
fn the_relay_is_for_those_to_whom_it_was_granted() {
    let mut world = World::new();
    world.grant = Some(Grant { turn: false, ..Grant::default() });
    let conn = world.hello('a', "lobby", 0, "");
    let session = world.welcome(conn).session;
    assert!(!world.hub.may_relay(session));
    let a = Client { conn, ..world.join('b', "lobby") };
    world.heard(&a);

    for turn in [true, true, false] {
        world.show_token(&a);
        world.verified(Ok(Grant { turn, ..Grant::default() }));
    }
    assert_eq!(world.refreshes, [session], "fresh servers are asked for once, when the relay is granted");
}
