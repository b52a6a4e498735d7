//! How a hub ends: who is asked to leave when, and who is closed.

use signaling_protocol::{ErrorCode, GoAway, ServerFrame, ServerMessage};

use super::*;
use crate::hub::EndReason;

impl World {
    fn send_away(&mut self, window: Duration, url: Option<&str>) {
        self.input(Input::GoAway { window, url: url.map(Into::into) });
    }

    /// When this client was asked to leave, in milliseconds, and where to.
    fn asked(&mut self, client: &Client) -> GoAway {
        match self.frames(client.conn).pop() {
            Some(ServerFrame { seq: 0, message: ServerMessage::GoAway(away), .. }) => away,
            other => panic!("not a goaway: {other:?}"),
        }
    }
}

#[test]
fn departures_are_spread_evenly_over_the_window_and_a_room_leaves_together() {
    const ROOMS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut world = World::new();
    let clients: Vec<Client> = ROOMS
        .iter()
        .flat_map(|room| ['a', 'b'].map(|letter| (room, letter)))
        .map(|(room, letter)| world.join(letter, room))
        .collect();
    world.send_away(secs(60), None);
    let mut times: Vec<u64> = Vec::new();
    for pair in clients.chunks(2) {
        let [one, other] = [&pair[0], &pair[1]].map(|client| world.asked(client).in_ms);
        assert!(one.abs_diff(other) <= 1_000, "{one} {other}");
        times.push(one.min(other));
    }
    times.sort_unstable();
    assert_eq!(times, [0, 12_000, 24_000, 36_000, 48_000]);
}

#[test]
fn a_large_room_takes_no_more_than_its_share_of_a_short_window() {
    let mut world = World::new();
    let clients: Vec<Client> = ('a'..='j').map(|letter| world.join(letter, "lobby")).collect();
    world.send_away(ms(500), None);
    let mut times: Vec<u64> = clients.iter().map(|client| world.asked(client).in_ms).collect();
    times.sort_unstable();
    assert_eq!(times, (0..10).map(|n| n * 50).collect::<Vec<_>>());
}

#[test]
fn who_was_asked_to_leave_stays_connected_is_heard_and_may_come_back_nowhere_here() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.send_away(secs(20), Some("https://b.example"));
    let away = world.asked(&b);
    assert_eq!(away.url.as_deref(), Some("https://b.example"));

    world.signal(&mut a, b.peer, "1");
    assert_eq!(world.heard(&b), ["1:signal 1"]);

    world.gone(&b);
    let again = world.hello('b', "lobby", 0, &format!(r#","resume":"{}""#, b.token));
    let words: Vec<String> = world.frames(again).iter().map(word).collect();
    assert_eq!(words, ["0:goaway 0 https://b.example", "0:error \"going_away\""]);
    assert_eq!(world.close_code(again), Some(4000));
    assert_eq!(world.close_code(a.conn), None);
}

#[test]
fn a_drain_that_was_called_off_lets_newcomers_in() {
    let mut world = World::new();
    world.send_away(secs(20), Some("https://b.example"));
    let refused = world.hello('a', "lobby", 0, "");
    assert_eq!(world.close_code(refused), Some(4000));
    world.input(Input::Stay);
    world.join('a', "lobby");
}

#[test]
fn drain_closes_everyone_with_4000_forgets_everything_and_turns_away_who_comes() {
    let mut world = World::new();
    let a = world.join('a', "lobby");
    let b = world.join('b', "hall");
    world.gone(&b);
    world.input(Input::Drain);
    let (error, code) = world.farewell(a.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::GoingAway, true, 4000));
    world.assert_empty();
    assert!(world.events.iter().any(|e| matches!(e, Event::Ended { reason: EndReason::Drained, .. })));

    let late = world.hello('c', "lobby", 0, "");
    assert_eq!(world.farewell(late).1, 4000);
    assert!(world.events.contains(&Event::TurnedAway { code: CloseCode::GoingAway }));
    world.assert_empty();
}

#[test]
fn who_calls_off_a_drain_too_late_lets_nobody_in() {
    let mut world = World::new();
    world.send_away(secs(20), None);
    world.input(Input::Drain);
    world.input(Input::Stay);
    let late = world.hello('a', "lobby", 0, "");
    assert_eq!(world.close_code(late), Some(4000));
    world.assert_empty();
}
