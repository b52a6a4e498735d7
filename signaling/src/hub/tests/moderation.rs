//! Removing peers, keeping them out, closing the door: who may, what everybody is told, and what it costs.

use signaling_protocol::{Door, ErrorCode, LeaveReason, Outcome, ServerMessage};

use super::*;
use crate::hub::{EndReason, Grant, KeptOut, Subject, Whom};

/// A client that may do everything.
fn moderator(world: &mut World, letter: char) -> Client {
    world.grant = Some(Grant { may_kick: true, may_lock: true, ..Grant::default() });
    let client = world.join(letter, "lobby");
    world.grant = Some(Grant::default());
    client
}

fn of(subject: &str) -> Grant {
    Grant { subject: Subject::new(subject), ..Grant::default() }
}

impl World {
    fn kick(&mut self, client: &mut Client, to: PeerId, more: &str) {
        client.seq += 1;
        self.say(client, &format!(r#""type":"kick","seq":{},"ack":0,"to":"{to}"{more}"#, client.seq));
    }

    /// Says a sequenced frame.
    fn ask(&mut self, client: &mut Client, frame: &str) {
        client.seq += 1;
        self.say(client, &format!(r#"{frame},"seq":{},"ack":0"#, client.seq));
    }

    fn door(&mut self, client: &mut Client, door: &str) {
        client.seq += 1;
        self.say(client, &format!(r#""type":"door","seq":{},"ack":0,"door":"{door}""#, client.seq));
    }
}

#[test]
fn a_moderator_removes_a_peer_and_everybody_is_told_why() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let b = world.join('b', "lobby");
    let c = world.join('c', "lobby");
    world.heard(&a);
    world.heard(&c);
    world.kick(&mut a, b.peer, r#","reason":"too loud""#);

    let (error, code) = world.farewell(b.conn);
    assert_eq!(
        (error.code, &*error.message, error.temporary, code),
        (ErrorCode::Kicked, "too loud", false, 4204)
    );
    for other in [&a, &c] {
        let frames = world.frames(other.conn);
        let [ServerFrame { message: ServerMessage::PeerLeft(left), .. }] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        assert_eq!((left.peer, left.reason), (b.peer, LeaveReason::Kicked));
    }
    assert!(world.events.iter().any(|e| matches!(e, Event::Ended { reason: EndReason::Kicked, .. })));
}

#[test]
fn who_was_removed_does_not_come_back_by_itself_but_by_hand() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let b = world.join('b', "lobby");
    // Its connection is lost, and so it never hears of it.
    world.gone(&b);
    world.kick(&mut a, b.peer, "");

    let resume = format!(r#","resume":"{}""#, b.token);
    let conn = world.hello('b', "lobby", 0, &resume);
    assert_eq!(world.farewell(conn).1, 4204);
    world.pass_alive(world.hub.limits().kick_memory + secs(1), &[&a]);
    let conn = world.hello('b', "lobby", 0, &resume);
    assert_eq!(world.welcome(conn).outcome, Outcome::Resync);

    world.kick(&mut a, b.peer, "");
    assert_eq!(world.farewell(conn).1, 4204);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.welcome(conn).outcome, Outcome::New);
}

#[test]
fn a_ban_keeps_the_peer_out_until_it_ends() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let b = world.join('b', "lobby");
    world.kick(&mut a, b.peer, r#","ban_ms":60000"#);
    let (error, code) = world.farewell(b.conn);
    assert_eq!((error.code, error.retry_after_ms, code), (ErrorCode::Banned, Some(60_000), 4205));

    world.pass_alive(secs(59), &[&a]);
    for more in [String::new(), format!(r#","resume":"{}""#, b.token)] {
        let conn = world.hello('b', "lobby", 0, &more);
        assert!(matches!(world.farewell(conn).1, 4204 | 4205));
    }
    let elsewhere = world.hello('b', "hall", 0, "");
    assert_eq!(world.welcome(elsewhere).outcome, Outcome::New, "the ban is of one room");

    world.pass_alive(secs(1), &[&a]);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.welcome(conn).outcome, Outcome::New);
}

#[test]
fn a_ban_outlives_the_room_and_is_gone_when_it_ends() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let b = world.join('b', "lobby");
    world.kick(&mut a, b.peer, r#","ban_ms":600000"#);
    world.say(&a, r#""type":"bye","seq":2,"ack":0"#);
    assert_eq!(world.hub.counts().rooms, 0);
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.farewell(conn).1, 4205);
    world.pass(world.hub.limits().kick_memory);
    world.assert_empty();
}

#[test]
fn a_ban_of_a_subject_ends_its_other_sessions_and_is_not_lifted_by_a_new_secret() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    world.grant = Some(of("bo"));
    let phone = world.join('b', "lobby");
    let laptop = world.join('c', "lobby");
    world.grant = Some(of("cy"));
    let cy = world.join('d', "lobby");
    world.heard(&a);
    world.kick(&mut a, phone.peer, r#","ban_ms":60000"#);
    assert_eq!(world.heard(&a).len(), 2, "both of its sessions left");
    assert_eq!((world.close_code(phone.conn), world.close_code(laptop.conn)), (Some(4205), Some(4205)));
    assert_eq!(world.close_code(cy.conn), None);

    world.grant = Some(of("bo"));
    let conn = world.hello('e', "lobby", 0, "");
    assert_eq!(world.farewell(conn).1, 4205);
    world.grant = Some(of("bob"));
    let conn = world.hello('e', "lobby", 0, "");
    assert_eq!(world.welcome(conn).outcome, Outcome::New);
}

#[test]
fn without_the_grant_nobody_is_removed_and_no_door_moves() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.heard(&a);
    world.kick(&mut a, b.peer, "");
    world.door(&mut a, "locked");
    let frames = world.frames(a.conn);
    let refusals: Vec<_> = frames.iter().map(refusal).collect();
    assert_eq!(refusals, [(Some(1), ErrorCode::NotPermitted), (Some(2), ErrorCode::NotPermitted)]);
    assert_eq!(world.heard(&b), Vec::<String>::new());
    let c = world.join('c', "lobby");
    assert_eq!(world.close_code(c.conn), None);
}

#[test]
fn one_permission_is_not_the_other() {
    let mut world = World::new();
    world.grant = Some(Grant { may_kick: true, ..Grant::default() });
    let mut a = world.join('a', "lobby");
    world.grant = Some(Grant { may_lock: true, ..Grant::default() });
    let mut b = world.join('b', "lobby");
    world.heard(&a);
    world.door(&mut a, "locked");
    world.kick(&mut b, a.peer, "");
    for client in [&a, &b] {
        assert_eq!(refusal(&world.frames(client.conn)[0]).1, ErrorCode::NotPermitted);
    }
}

#[test]
fn nobody_and_oneself_cannot_be_removed() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let other = world.join('b', "hall");
    for to in [a.peer, other.peer] {
        world.kick(&mut a, to, "");
        assert_eq!(refusal(&world.frames(a.conn)[0]).1, ErrorCode::NoSuchPeer);
    }
    assert_eq!(world.close_code(other.conn), None, "a moderator of one room has no power in another");
}

#[test]
fn a_locked_room_keeps_newcomers_out_and_lets_its_members_come_back() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    let mut b = world.join('b', "lobby");
    world.heard(&a);
    world.door(&mut a, "locked");
    assert_eq!(
        (world.heard(&a), world.heard(&b)),
        (vec!["2:room locked".into()], vec!["1:room locked".into()])
    );
    world.door(&mut a, "locked");
    assert_eq!(world.heard(&b), Vec::<String>::new(), "nothing changed");

    let conn = world.hello('c', "lobby", 0, "");
    let (error, code) = world.farewell(conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::Locked, false, 4206));

    world.gone(&b);
    let welcome = world.resume(&mut b, 1);
    assert_eq!((welcome.outcome, welcome.room.door), (Outcome::Resumed, Door::Locked));
    let reloaded = world.hello('b', "lobby", 0, "");
    assert_eq!(world.welcome(reloaded).outcome, Outcome::New, "whoever is in may load the page anew");
    moderator(&mut world, 'd');

    world.door(&mut a, "open");
    let conn = world.hello('c', "lobby", 0, "");
    assert_eq!(world.welcome(conn).room.door, Door::Open);
}

#[test]
fn the_lock_is_gone_with_the_room() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    world.door(&mut a, "locked");
    world.say(&a, r#""type":"bye","seq":2,"ack":0"#);
    let c = world.join('c', "lobby");
    assert_eq!(world.close_code(c.conn), None);
}

#[test]
fn a_permission_is_that_of_the_latest_hello() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    world.resume(&mut a, 0);
    world.door(&mut a, "locked");
    assert_eq!(refusal(&world.frames(a.conn)[0]).1, ErrorCode::NotPermitted);
}

#[test]
fn the_operator_removes_by_session_or_by_peer_and_locks_what_exists() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let conn = world.hello('b', "lobby", 0, "");
    let b = world.welcome(conn);
    world.heard(&a);
    let reason = Some("maintenance".into());
    world.input(Input::Kick { whom: Whom::Session(b.session), ban: None, reason });
    assert_eq!(&*world.farewell(conn).0.message, "maintenance");
    assert_eq!(world.heard(&a), ["2:peer_left kicked"]);

    let room: signaling_protocol::RoomName = "lobby".parse().unwrap();
    world.input(Input::Door { room: room.clone(), door: Door::Locked });
    assert_eq!(world.heard(&a), ["3:room locked"]);
    world.input(Input::Door { room: "nowhere".parse().unwrap(), door: Door::Locked });

    let ban = Some(secs(3600));
    world.input(Input::Kick { whom: Whom::Peer(room.clone(), a.peer), ban, reason: None });
    assert_eq!(world.farewell(a.conn).1, 4205);
    // It is not there any more, nor is the room; a ban is possible all the same.
    world.input(Input::Kick { whom: Whom::Peer(room.clone(), b.peer), ban, reason: None });
    world.input(Input::Kick { whom: Whom::Peer(room, b.peer), ban: None, reason: None });
    let conn = world.hello('b', "lobby", 0, "");
    assert_eq!(world.farewell(conn).1, 4205);
    world.pass(secs(3600));
    world.assert_empty();
}

#[test]
fn a_user_and_its_peers_are_listed_and_let_in_again_together() {
    let lobby: signaling_protocol::RoomName = "lobby".parse().unwrap();
    let bo = || Subject::new("bo");
    for by_subject in [false, true] {
        let mut world = World::new();
        let mut a = moderator(&mut world, 'a');
        world.grant = Some(of("bo"));
        let phone = world.join('b', "lobby");
        world.grant = Some(Grant::default());
        let cy = world.join('c', "lobby");
        for peer in [phone.peer, cy.peer] {
            world.kick(&mut a, peer, r#","ban_ms":60000"#);
        }
        let mut listed: Vec<_> = world
            .hub
            .bans(world.now, &lobby)
            .into_iter()
            .map(|ban| (ban.peer.unwrap(), ban.subject, ban.remaining))
            .collect();
        listed.sort_by_key(|ban| ban.0 != phone.peer);
        assert_eq!(listed, [(phone.peer, bo(), secs(60)), (cy.peer, None, secs(60))]);

        let whom = if by_subject { KeptOut::Subject(bo().unwrap()) } else { KeptOut::Peer(phone.peer) };
        world.input(Input::Lift { room: "hall".parse().unwrap(), whom: whom.clone() });
        assert_eq!(world.hub.bans(world.now, &lobby).len(), 2, "a ban is of one room");
        world.input(Input::Lift { room: lobby.clone(), whom });
        assert_eq!(world.hub.bans(world.now, &lobby).len(), 1, "the other stays");
        let still = world.hello('c', "lobby", 0, "");
        assert_eq!(world.farewell(still).1, 4205);
        world.grant = Some(of("bo"));
        for letter in ['b', 'd'] {
            let conn = world.hello(letter, "lobby", 0, "");
            assert_eq!(world.welcome(conn).outcome, Outcome::New, "{letter}");
        }
    }
}

#[test]
fn a_user_whose_peer_is_no_longer_listed_is_listed_itself() {
    let mut world = World::with(Limits { bans_per_room: 1, ..Limits::default() });
    let mut a = moderator(&mut world, 'a');
    world.grant = Some(of("bo"));
    let b = world.join('b', "lobby");
    world.kick(&mut a, b.peer, r#","ban_ms":60000"#);
    let lobby = "lobby".parse().unwrap();
    let bans = world.hub.bans(world.now, &lobby);
    let [ban] = bans.as_slice() else { panic!("{bans:?}") };
    assert_eq!((ban.peer, &ban.subject), (None, &Subject::new("bo")));
    world.pass(secs(60));
    assert_eq!(world.hub.bans(world.now, &lobby), []);
}

#[test]
fn a_moderator_sees_who_is_kept_out_and_lets_them_in_again() {
    let mut world = World::new();
    let mut a = moderator(&mut world, 'a');
    world.grant = Some(of("bo"));
    let b = world.join('b', "lobby");
    world.kick(&mut a, b.peer, r#","ban_ms":60000"#);
    world.grant = Some(of("cy"));
    let mut c = world.join('c', "lobby");
    // Of one that was not there no name is known; of another room nothing is told.
    for (room, letter) in [("lobby", 'd'), ("hall", 'e')] {
        let peer = world.join(letter, "elsewhere").peer;
        let whom = Whom::Peer(room.parse().unwrap(), peer);
        world.input(Input::Kick { whom, ban: Some(secs(30)), reason: None });
    }
    world.pass_alive(secs(10), &[&a, &c]);
    world.heard(&a);
    world.heard(&c);
    world.ask(&mut a, r#""type":"bans""#);
    let frames = world.frames(a.conn);
    let [ServerFrame { message: ServerMessage::Bans(list), .. }] = frames.as_slice() else {
        panic!("{frames:?}")
    };
    let mut times: Vec<u64> = list.bans.iter().map(|ban| ban.ends_in_ms).collect();
    times.sort_unstable();
    assert_eq!(times, [20_000, 50_000]);
    assert!(list.bans.iter().any(|ban| ban.peer == b.peer));

    for frame in [r#""type":"bans""#.to_owned(), format!(r#""type":"lift","to":"{}""#, b.peer)] {
        world.ask(&mut c, &frame);
        let heard = world.heard(&c);
        assert!(heard.last().is_some_and(|word| word.ends_with(r#"error "not_permitted""#)), "{heard:?}");
    }
    world.grant = Some(of("bo"));
    let conn = world.hello('f', "lobby", 0, "");
    assert_eq!(world.farewell(conn).1, 4205, "with another secret it is the same user");
    for (to, answer) in [
        (b.peer.to_string(), "bans 1"),
        (b.peer.to_string(), r#"error "no_such_peer""#),
        ("?".into(), r#"error "no_such_peer""#),
    ] {
        world.ask(&mut a, &format!(r#""type":"lift","to":"{to}""#));
        let heard = world.heard(&a);
        assert!(heard.last().is_some_and(|word| word.ends_with(answer)), "{heard:?}");
    }
    for letter in ['b', 'f'] {
        let conn = world.hello(letter, "lobby", 0, "");
        assert_eq!(world.welcome(conn).outcome, Outcome::New);
    }
}

#[test]
fn bans_are_bounded_in_a_room_and_in_all_and_the_first_to_end_gives_way() {
    let limits = Limits { bans_per_room: 3, bans: 4, ..Limits::default() };
    let mut world = World::with(limits);
    let ids: Vec<PeerId> = ('a'..='h').map(|letter| world.join(letter, "elsewhere").peer).collect();
    let ban = |world: &mut World, room: &str, peer: PeerId, seconds| {
        let whom = Whom::Peer(room.parse().unwrap(), peer);
        world.input(Input::Kick { whom, ban: Some(secs(seconds)), reason: None });
    };
    let remaining = |world: &World, room: &str, peer: PeerId| {
        world.hub.bans.remaining(world.now, &room.parse().unwrap(), peer, None)
    };
    for (index, seconds) in [(0, 30), (1, 10), (2, 20), (3, 40)] {
        ban(&mut world, "lobby", ids[index], seconds);
    }
    assert_eq!(world.hub.counts().bans, 3);
    assert_eq!(remaining(&world, "lobby", ids[1]), None);
    assert_eq!(remaining(&world, "lobby", ids[2]), Some(secs(20)));

    ban(&mut world, "lobby", ids[2], 50);
    assert_eq!(remaining(&world, "lobby", ids[2]), Some(secs(50)), "the latest word counts");
    ban(&mut world, "hall", ids[4], 5);
    ban(&mut world, "hall", ids[5], 60);
    assert_eq!(world.hub.counts().bans, 4);
    assert_eq!(
        (remaining(&world, "hall", ids[4]), remaining(&world, "hall", ids[5])),
        (None, Some(secs(60)))
    );
    world.pass(secs(60));
    assert_eq!(world.hub.counts().bans, 0);
}
