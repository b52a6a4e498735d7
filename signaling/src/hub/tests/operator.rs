//! What the operator sees, says and changes, and what a webhook would hear.

use signaling_protocol::{Door, Notice};

use super::*;
use crate::hub::{EndReason, Event, Traffic};

#[test]
fn looking_shows_rooms_and_peers_as_they_are() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.join('c', "hall");
    world.pass_alive(secs(3), &[&a, &b]);
    world.signal(&mut a, b.peer, "1");
    world.gone(&b);

    let lobby = "lobby".parse().unwrap();
    let (room, peers) = world.hub.room(world.now, &lobby).expect("it exists");
    assert_eq!((room.name.as_str(), room.door, room.peers, room.here), ("lobby", Door::Open, 2, 1));
    assert_eq!((room.age, peers.iter().map(|peer| peer.age).max()), (secs(3), Some(secs(3))));
    let traffic = |peer: PeerId| {
        let view = peers.iter().find(|view| view.peer == peer).expect("it is in the room");
        (view.received, view.sent)
    };
    // Three pongs and the signal; welcome, b's coming and its going.
    assert_eq!(traffic(a.peer), (4, 3));
    // Three pongs; welcome and the signal.
    assert_eq!(traffic(b.peer), (3, 2));
    assert_eq!(world.hub.room(world.now, &"nowhere".parse().unwrap()), None);
}

#[test]
fn pages_cover_all_rooms_once_also_across_holes() {
    let mut world = World::new();
    const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    let clients = NAMES.map(|room| world.join('x', room));
    for hole in [1, 4] {
        world.say(&clients[hole], r#""type":"bye","seq":1,"ack":0"#);
    }
    let (mut seen, mut place) = (Vec::new(), Some(0));
    while let Some(from) = place {
        let page = world.hub.rooms_from(world.now, from, 2);
        assert!(page.rooms.len() <= 2);
        seen.extend(page.rooms.into_iter().map(|room| room.name.as_str().to_owned()));
        place = page.next;
    }
    seen.sort();
    assert_eq!(seen, ["a", "c", "d", "f", "g"]);
}

#[test]
fn a_notice_is_sequenced_for_everybody_in_the_room_and_nobody_else() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    let c = world.join('c', "hall");
    world.heard(&a);
    world.gone(&b);
    world.heard(&a);
    let notice = Notice { text: "noon".parse().unwrap() };
    world.input(Input::Notice { room: "lobby".parse().unwrap(), notice: notice.clone() });
    world.input(Input::Notice { room: "nowhere".parse().unwrap(), notice });
    assert_eq!(world.heard(&a), ["3:notice noon"]);
    assert_eq!(world.heard(&c), Vec::<String>::new());
    world.resume(&mut b, 0);
    assert_eq!(world.heard(&b), ["1:notice noon"]);
}

#[test]
fn a_shorter_time_between_pings_holds_for_who_is_here_already() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let limits = Limits { ping_interval: secs(2), ping_deadline: secs(1), ..Limits::default() };
    world.input(Input::Limits(Box::new(limits)));
    world.pass(ms(3_001));
    assert_eq!(world.close_code(a.conn), Some(4001));
}

#[test]
fn rooms_and_peers_begin_and_end_once_whatever_their_connections_do() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    world.gone(&a);
    world.resume(&mut a, 0);
    // Another session of the same peer: a reload of its page.
    let again = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.gone(&b);
    world.pass_alive(secs(40), &[&again]);
    world.input(Input::Drain);

    let told: Vec<String> = world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::RoomStarted { room } => Some(format!("{} started", room.as_str())),
            Event::RoomEnded { room, lived } => {
                Some(format!("{} ended after {}", room.as_str(), lived.as_secs()))
            }
            Event::Joined { peer, .. } => Some(format!("{} joined", if *peer == a.peer { "a" } else { "b" })),
            Event::Left { peer, reason, .. } => {
                Some(format!("{} left {reason:?}", if *peer == a.peer { "a" } else { "b" }))
            }
            Event::Started { .. }
            | Event::Resumed { .. }
            | Event::Away { .. }
            | Event::Overflowed { .. }
            | Event::Ended { .. }
            | Event::TurnedAway { .. }
            | Event::Relayed { .. }
            | Event::Refused { .. } => None,
        })
        .collect();
    let expected =
        ["lobby started", "a joined", "b joined", "b left Expired", "a left Drained", "lobby ended after 40"];
    assert_eq!(told, expected);
}

#[test]
fn the_end_of_a_session_tells_what_it_carried() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    world.signal(&mut a, b.peer, "1");
    world.gone(&b);
    world.resume(&mut b, 0);
    world.say(&b, r#""type":"bye","seq":1,"ack":1"#);
    let ended = world.events.iter().find_map(|event| {
        let Event::Ended { reason: EndReason::Bye, traffic, .. } = event else { return None };
        Some(*traffic)
    });
    // Bye; two welcomes, the signal and its repetition.
    assert_eq!(ended, Some(Traffic { received: 1, sent: 4 }));
}
