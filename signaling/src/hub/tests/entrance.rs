//! Knocking, passwords, and users who come by a second device.

use signaling_protocol::{Door, LeaveReason, Outcome};

use super::*;
use crate::hub::{Identity, Subject};

fn doorkeeper(world: &mut World) -> Client {
    world.grant = Some(Grant { may_lock: true, ..Grant::default() });
    let client = world.join('a', "lobby");
    world.grant = Some(Grant::default());
    client
}

/// A room whose door is to be knocked at, and who keeps it.
fn lobby(world: &mut World) -> Client {
    let mut a = doorkeeper(world);
    world.order(&mut a, r#""type":"door","door":"knock""#);
    assert_eq!(world.heard(&a), ["1:room knock"]);
    a
}

impl World {
    fn order(&mut self, client: &mut Client, fields: &str) {
        client.seq += 1;
        self.say(client, &format!(r#"{fields},"seq":{},"ack":0"#, client.seq));
    }

    fn answer(&mut self, client: &mut Client, answer: &str, to: PeerId) {
        self.order(client, &format!(r#""type":"{answer}","to":"{to}""#));
    }

    /// The code by which a hello is turned away.
    fn turned_away(&mut self, letter: char, more: &str) -> u16 {
        let conn = self.hello(letter, "lobby", 0, more);
        self.farewell(conn).1
    }
}

fn peer(letter: char) -> PeerId {
    PeerId::derive(&"lobby".parse().unwrap(), &(letter.to_string().repeat(42) + "A").parse().unwrap())
}

#[test]
fn who_knocks_is_told_to_come_back_and_enters_once_admitted() {
    let mut world = World::new();
    let mut a = lobby(&mut world);
    let conn = world.hello('b', "lobby", 0, r#","name":"Bo""#);
    let (error, code) = world.farewell(conn);
    assert_eq!(
        (error.code, error.temporary, error.retry_after_ms, code),
        (ErrorCode::Knocking, true, Some(3000), 4104)
    );
    let frames = world.frames(a.conn);
    let ServerMessage::Knock(knock) = &frames[0].message else { panic!("{frames:?}") };
    assert_eq!((knock.peer, knock.name.as_ref().map(|name| name.as_str())), (peer('b'), Some("Bo")));

    world.pass_alive(secs(3), &[&a]);
    assert_eq!(world.turned_away('b', ""), 4104);
    world.frames(a.conn).iter().for_each(|frame| assert_eq!(frame.seq, 0, "it was told already: {frame:?}"));
    world.answer(&mut a, "admit", peer('b'));
    assert_eq!(world.heard(&a), ["3:knock_ended"]);
    let b = world.join('b', "lobby");
    assert_eq!(b.peer, peer('b'));
    assert_eq!(world.heard(&a), ["4:peer_joined"]);
    assert_eq!(world.hub.counts().waiting, 0);

    // It was admitted once; after it has left it knocks again.
    world.say(&b, r#""type":"bye","seq":1,"ack":0"#);
    assert_eq!(world.turned_away('b', ""), 4104);
}

#[test]
fn who_is_denied_is_sent_away_for_a_while() {
    let mut world = World::new();
    let mut a = lobby(&mut world);
    world.turned_away('b', "");
    world.answer(&mut a, "deny", peer('b'));
    assert_eq!(world.turned_away('b', ""), 4209);
    world.pass_alive(secs(59), &[&a]);
    assert_eq!(world.turned_away('b', ""), 4209);
    world.pass_alive(secs(1), &[&a]);
    assert_eq!(world.turned_away('b', ""), 4104);
}

#[test]
fn who_does_not_come_back_for_the_answer_is_forgotten() {
    let mut world = World::new();
    let mut a = lobby(&mut world);
    world.turned_away('b', "");
    world.heard(&a);
    world.pass_alive(secs(15), &[&a]);
    assert!(world.heard(&a).contains(&"3:knock_ended".to_owned()));
    assert_eq!(world.hub.counts().waiting, 0);
    world.answer(&mut a, "admit", peer('b'));
    assert_eq!(refusal(&world.frames(a.conn)[0]).1, ErrorCode::NoSuchPeer);

    // Who is admitted and does not come is forgotten, too.
    world.turned_away('b', "");
    world.answer(&mut a, "admit", peer('b'));
    world.pass_alive(secs(60), &[&a]);
    assert_eq!(world.turned_away('b', ""), 4104);
}

#[test]
fn nobody_waits_longer_than_ten_minutes() {
    let mut world = World::new();
    let a = lobby(&mut world);
    for _ in 0..199 {
        assert_eq!(world.turned_away('b', ""), 4104);
        world.pass_alive(secs(3), &[&a]);
    }
    assert_eq!(world.turned_away('b', ""), 4104);
    world.pass_alive(secs(3), &[&a]);
    assert_eq!(world.turned_away('b', ""), 4209);
    assert!(world.heard(&a).contains(&"3:knock_ended".to_owned()));
}

#[test]
fn as_many_wait_as_may_and_no_more() {
    let mut world = World::with(Limits { knocks: 2, ..Limits::default() });
    let a = lobby(&mut world);
    assert_eq!(['b', 'c', 'd'].map(|letter| world.turned_away(letter, "")), [4104, 4104, 4102]);
    assert_eq!(world.heard(&a).len(), 2);
    assert_eq!(world.hub.counts().waiting, 2);
}

#[test]
fn who_may_open_the_door_comes_in_and_is_told_who_waits() {
    let mut world = World::new();
    let a = lobby(&mut world);
    world.turned_away('b', "");
    let plain = world.join_as('c', Grant { may_kick: true, may_lock: true, ..Grant::default() });
    assert_eq!(world.heard(&plain), ["1:knock"]);
    world.gone(&a);

    // Granted while connected.
    world.grant = Some(Grant::default());
    world.pass_alive(secs(1), &[&plain]);
    assert_eq!(world.turned_away('d', ""), 4104);
}

#[test]
fn one_who_may_not_open_the_door_neither_hears_nor_answers_who_knocks() {
    let mut world = World::new();
    let mut a = doorkeeper(&mut world);
    let mut b = world.join('b', "lobby");
    world.order(&mut a, r#""type":"door","door":"knock""#);
    world.turned_away('c', "");
    assert_eq!(world.heard(&b), ["1:room knock"]);
    world.answer(&mut b, "admit", peer('c'));
    assert_eq!(refusal(&world.frames(b.conn)[0]).1, ErrorCode::NotPermitted);
    assert_eq!(world.turned_away('c', ""), 4104);

    world.say(&b, r#""type":"token","seq":0,"ack":0,"token":"t""#);
    let (session, _) = world.shown.remove(0);
    world.input(Input::Grant { session, verdict: Ok(Grant { may_lock: true, ..Grant::default() }) });
    assert_eq!(world.heard(&b), ["3:granted", "4:knock"]);
}

#[test]
fn when_the_door_moves_nobody_knocks_any_more() {
    for (door, code) in [("open", None), ("locked", Some(4206))] {
        let mut world = World::new();
        let mut a = lobby(&mut world);
        world.turned_away('b', "");
        world.order(&mut a, &format!(r#""type":"door","door":"{door}""#));
        assert_eq!(world.hub.counts().waiting, 0);
        let conn = world.hello('b', "lobby", 0, "");
        assert_eq!(world.close_code(conn), code);
    }
}

#[test]
fn members_come_back_through_any_door_and_whoever_waits_goes_with_the_room() {
    let mut world = World::new();
    let mut a = doorkeeper(&mut world);
    let mut b = world.join('b', "lobby");
    world.order(&mut a, r#""type":"door","door":"knock""#);
    world.gone(&b);
    assert_eq!(world.resume(&mut b, 0).outcome, Outcome::Resumed);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.welcome(conn).outcome, Outcome::New);
    b.conn = conn;

    world.turned_away('c', "");
    world.say(&b, r#""type":"bye","seq":1,"ack":0"#);
    world.order(&mut a, r#""type":"bye""#);
    world.assert_empty();
}

#[test]
fn a_room_may_begin_with_its_door_closed() {
    let mut world = World::with(Limits { door: Door::Knock, ..Limits::default() });
    assert_eq!(world.turned_away('b', ""), 4104);
    world.assert_empty();
    let a = doorkeeper(&mut world);
    assert_eq!(world.turned_away('b', ""), 4104);
    assert_eq!(world.heard(&a), ["1:knock"]);

    let mut world = World::with(Limits { door: Door::Locked, ..Limits::default() });
    assert_eq!(world.turned_away('b', ""), 4206);
    let a = doorkeeper(&mut world);
    assert_eq!(world.close_code(a.conn), None);
}

#[test]
fn newcomers_have_to_know_the_password_and_members_do_not() {
    let mut world = World::new();
    let mut a = doorkeeper(&mut world);
    let mut b = world.join('b', "lobby");
    world.order(&mut a, r#""type":"door","door":"open","password":"sesame""#);
    let frames = world.frames(b.conn);
    let ServerMessage::RoomChanged(changed) = &frames[0].message else { panic!("{frames:?}") };
    assert!(changed.password);

    assert_eq!(world.turned_away('c', ""), 4210);
    assert_eq!(world.turned_away('c', r#","password":"Sesame""#), 4210);
    assert_eq!(world.turned_away('c', r#","password":"""#), 4210);
    let conn = world.hello('c', "lobby", 0, r#","password":"sesame""#);
    assert!(world.welcome(conn).room.password);
    world.gone(&b);
    assert_eq!(world.resume(&mut b, 1).outcome, Outcome::Resumed);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.close_code(conn), None);

    // Moving the door leaves the password as it is; an empty one takes it away.
    world.order(&mut a, r#""type":"door","door":"locked""#);
    world.order(&mut a, r#""type":"door","door":"open""#);
    assert_eq!(world.turned_away('d', ""), 4210);
    world.order(&mut a, r#""type":"door","door":"open","password":"""#);
    let conn = world.hello('d', "lobby", 0, "");
    assert!(!world.welcome(conn).room.password);
}

#[test]
fn a_password_is_guessed_ten_times_and_then_every_six_seconds() {
    let mut world = World::new();
    let mut a = doorkeeper(&mut world);
    world.order(&mut a, r#""type":"door","door":"open","password":"sesame""#);
    for _ in 0..10 {
        assert_eq!(world.turned_away('b', r#","password":"guess""#), 4210);
    }
    for password in ["guess", "sesame"] {
        let conn = world.hello('b', "lobby", 0, &format!(r#","password":"{password}""#));
        let (error, code) = world.farewell(conn);
        assert_eq!((code, error.retry_after_ms), (4101, Some(6000)), "the right one learns as little");
    }
    assert_eq!(world.turned_away('b', ""), 4210, "whoever tries none is told that there is one");
    world.pass_alive(secs(6), &[&a]);
    let conn = world.hello('b', "lobby", 0, r#","password":"sesame""#);
    assert_eq!(world.close_code(conn), None);
}

#[test]
fn a_user_comes_by_several_devices_or_replaces_or_is_turned_away_as_granted() {
    let of = |identity| Grant { subject: Subject::new("bo"), identity, ..Grant::default() };
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let phone = world.join_as('b', of(Identity::Several));
    let laptop = world.join_as('c', of(Identity::Several));
    world.heard(&a);

    world.grant = Some(of(Identity::Reject));
    assert_eq!(world.turned_away('d', ""), 4211);
    assert_eq!((world.close_code(phone.conn), world.close_code(laptop.conn)), (None, None));

    let tablet = world.join_as('d', of(Identity::Replace));
    for former in [&phone, &laptop] {
        assert_eq!(world.farewell(former.conn).1, 4203);
    }
    let left = world.frames(a.conn).into_iter().filter_map(|frame| {
        if let ServerMessage::PeerLeft(left) = frame.message { Some(left.reason) } else { None }
    });
    assert_eq!(left.collect::<Vec<_>>(), [LeaveReason::Replaced; 2]);

    // The same device is the same device: a page that is loaded anew is not turned away by itself.
    world.grant = Some(of(Identity::Reject));
    let anew = world.hello('d', "lobby", 0, "");
    assert_eq!(world.close_code(anew), None);
    assert_eq!(world.close_code(tablet.conn), Some(4203));
    // Another user, and one whom nobody names, are others.
    world.join_as('e', Grant { subject: Subject::new("cy"), ..of(Identity::Reject) });
    world.join_as('f', Grant { subject: None, ..of(Identity::Reject) });
    world.join_as('g', Grant { subject: None, ..of(Identity::Reject) });
}

#[test]
fn a_user_who_replaces_the_only_member_finds_a_fresh_room() {
    let of = |identity| Grant { subject: Subject::new("bo"), identity, ..Grant::default() };
    let mut world = World::new();
    world.join_as('b', of(Identity::Several));
    let c = world.join_as('c', of(Identity::Replace));
    assert_eq!(world.close_code(c.conn), None);
    assert_eq!(world.hub.counts().sessions, 1);
}
