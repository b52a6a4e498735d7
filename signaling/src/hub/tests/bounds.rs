//! Every limit from both sides.

use signaling_protocol::{ErrorCode, Outcome, ResyncReason};

use super::*;

#[test]
fn a_room_takes_as_many_peers_as_it_may_and_turns_the_next_away() {
    let mut world = World::with(Limits { peers_per_room: 2, ..Limits::default() });
    let a = world.join('a', "lobby");
    world.join('b', "lobby");
    let third = world.hello('c', "lobby", 0, "");
    let (error, code) = world.farewell(third);
    assert_eq!(
        (error.code, error.temporary, error.retry_after_ms, code),
        (ErrorCode::RoomFull, true, Some(5000), 4102)
    );

    world.join('c', "hall");
    world.join('a', "lobby");
    assert_eq!(world.close_code(a.conn), Some(4203), "who is in the room already may come again");
}

#[test]
fn a_hub_takes_as_many_rooms_as_it_may_and_turns_the_next_away() {
    let mut world = World::with(Limits { rooms: 2, ..Limits::default() });
    let a = world.join('a', "one");
    world.join('b', "two");
    world.join('c', "two");
    let conn = world.hello('d', "three", 0, "");
    let (error, code) = world.farewell(conn);
    assert_eq!((error.code, error.retry_after_ms, code), (ErrorCode::Overloaded, Some(5000), 4100));

    world.say(&a, r#""type":"bye","seq":1,"ack":0"#);
    world.join('d', "three");
}

#[test]
fn a_hub_takes_as_many_sessions_as_it_may_and_turns_the_next_away() {
    let mut world = World::with(Limits { sessions: 2, ..Limits::default() });
    world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.gone(&b);
    let conn = world.hello('c', "lobby", 0, "");
    assert_eq!(world.farewell(conn).1, 4100);

    world.join('b', "lobby");
    assert_eq!(world.hub.counts().sessions, 2);
}

#[test]
fn a_burst_passes_and_one_frame_more_closes_with_the_time_to_wait() {
    let mut world = World::with(Limits { messages_per_second: 10, message_burst: 5, ..Limits::default() });
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    for n in 1..=5 {
        world.signal(&mut a, b.peer, &n.to_string());
    }
    assert_eq!(world.close_code(a.conn), None);
    world.pass(ms(100));
    world.signal(&mut a, b.peer, "6");
    assert_eq!(world.close_code(a.conn), None);
    world.signal(&mut a, b.peer, "7");
    let (error, code) = world.farewell(a.conn);
    assert_eq!(
        (error.code, error.temporary, error.retry_after_ms, code),
        (ErrorCode::RateLimited, true, Some(500), 4101)
    );
}

#[test]
fn what_was_too_much_is_not_lost_when_the_client_waits_and_resumes() {
    let mut world = World::with(Limits { messages_per_second: 10, message_burst: 5, ..Limits::default() });
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    for n in 1..=6 {
        world.signal(&mut a, b.peer, &n.to_string());
    }
    assert_eq!(world.farewell(a.conn).1, 4101);
    world.frames(b.conn);

    world.pass(ms(500));
    let welcome = world.resume(&mut a, 0);
    assert_eq!(welcome.outcome, Outcome::Resumed);
    world.signal_as(&a, 6, b.peer, "6");
    assert_eq!(world.heard(&b), ["7:peer here", "8:signal 6"]);
}

#[test]
fn coming_back_does_not_fill_the_bucket() {
    let mut world = World::with(Limits { messages_per_second: 10, message_burst: 2, ..Limits::default() });
    let mut a = world.join('a', "lobby");
    world.ack(&a, 0);
    world.ack(&a, 0);
    world.pass(ms(100));
    a.token = world.resume(&mut a, 0).resume.as_str().to_owned();
    world.ack(&a, 0);
    assert_eq!(world.farewell(a.conn).1, 4101);
}

#[test]
fn replacing_oneself_does_not_fill_the_bucket_either() {
    let mut world = World::with(Limits { messages_per_second: 10, message_burst: 2, ..Limits::default() });
    let a = world.join('a', "lobby");
    world.ack(&a, 0);
    let a = world.join('a', "lobby");
    world.ack(&a, 0);
    assert_eq!(world.farewell(a.conn).1, 4101);
}

#[test]
fn a_peer_that_connects_again_and_again_is_turned_away_and_the_room_hears_no_more_of_it() {
    let limits = Limits { messages_per_second: 10, message_burst: 20, hello_frames: 10, ..Limits::default() };
    for resume in [false, true] {
        let mut world = World::with(limits.clone());
        let mut a = world.join('a', "lobby");
        let b = world.join('b', "lobby");
        let again = |world: &mut World, a: &Client| {
            let more = if resume { format!(r#","resume":"{}""#, a.token) } else { String::new() };
            world.hello('a', "lobby", 0, &more)
        };
        for _ in 0..2 {
            a.conn = again(&mut world, &a);
            a.token = world.welcome(a.conn).resume.as_str().to_owned();
        }
        world.heard(&b);

        let refused = again(&mut world, &a);
        let (error, code) = world.farewell(refused);
        assert_eq!(
            (error.code, error.retry_after_ms, code),
            (ErrorCode::RateLimited, Some(2000), 4101),
            "resume: {resume}"
        );
        assert_eq!(world.close_code(a.conn), None, "the connection that it has stays");
        assert_eq!(world.heard(&b), Vec::<String>::new());

        world.pass(ms(2000));
        let back = again(&mut world, &a);
        world.welcome(back);
    }
}

#[test]
fn ordinary_reconnecting_is_never_refused() {
    let mut world = World::new();
    let mut a = world.join('a', "lobby");
    for _ in 0..1000 {
        world.gone(&a);
        world.pass(ms(100));
        a.token = world.resume(&mut a, 0).resume.as_str().to_owned();
    }
}

#[test]
fn a_ring_takes_as_many_frames_as_it_may_and_overflows_at_the_next() {
    let mut world = World::with(Limits { replay_messages: 3, ..Limits::default() });
    let mut a = world.join('a', "lobby");
    let mut b = world.join('b', "lobby");
    for n in 1..=3 {
        world.signal(&mut a, b.peer, &n.to_string());
    }
    assert_eq!(world.close_code(b.conn), None);
    world.frames(a.conn);

    world.signal(&mut a, b.peer, "4");
    let (error, code) = world.farewell(b.conn);
    assert_eq!((error.code, error.temporary, code), (ErrorCode::SlowReader, true, 4002));
    assert_eq!(world.heard(&a), ["2:error \"not_delivered\"", "3:peer away"]);
    world.ack(&a, 3);
    let welcome = world.resume(&mut b, 0);
    assert_eq!((welcome.outcome, welcome.reason), (Outcome::Resync, Some(ResyncReason::Overflow)));
    assert_eq!(world.heard(&a), ["4:peer_joined again"]);
}

#[test]
fn a_ring_takes_as_many_bytes_as_it_may_and_overflows_at_the_next() {
    // {"type":"signal","from":"<22>","negotiation":"n","candidate":"<1000>"} and the overhead of 96.
    let frame = 17 + 32 + 18 + 12 + 1002 + 1 + 96;
    for (replay_bytes, kept) in [(2 * frame, true), (2 * frame - 1, false)] {
        let mut world = World::with(Limits { replay_bytes, ..Limits::default() });
        let b = world.join('b', "lobby");
        let mut a = world.join('a', "lobby");
        world.ack(&b, 1);
        world.gone(&b);
        world.frames(a.conn);
        for _ in 0..2 {
            world.signal(&mut a, b.peer, &format!("\"{}\"", "x".repeat(1000)));
        }
        let expected: &[&str] = if kept { &[] } else { &["2:error \"not_delivered\""] };
        assert_eq!(world.heard(&a), expected);
    }
}

#[test]
fn when_all_sessions_together_hold_too_much_only_who_holds_much_overflows() {
    let limits = Limits { replay_total_bytes: 4000, replay_reserve: 1500, ..Limits::default() };
    let kilobyte = format!("\"{}\"", "x".repeat(1000));
    let mut world = World::with(limits);
    let greedy = world.join('a', "lobby");
    let modest = world.join('b', "lobby");
    let mut sender = world.join('c', "lobby");
    world.ack(&greedy, 2);
    world.ack(&modest, 1);
    for _ in 0..3 {
        world.signal(&mut sender, greedy.peer, &kilobyte);
    }
    assert!(world.events.iter().all(|event| !matches!(event, Event::Overflowed { .. })));

    world.signal(&mut sender, modest.peer, &kilobyte);
    assert_eq!(world.close_code(modest.conn), None, "it is within what everyone may hold");
    world.signal(&mut sender, greedy.peer, &kilobyte);
    assert_eq!(world.close_code(greedy.conn), Some(4002));
    assert!(world.hub.counts().buffered_bytes < 4000);
}

#[test]
fn an_idle_session_is_small() {
    // A target, not a law: 5 KiB resident for each idle connection, of which the hub may have a tenth.
    assert!(
        size_of::<crate::hub::session::Session>() <= 432,
        "{}",
        size_of::<crate::hub::session::Session>()
    );
}

#[test]
fn a_session_that_overflows_while_away_costs_nothing_more_and_later_senders_are_told() {
    let mut world = World::with(Limits { replay_messages: 2, ..Limits::default() });
    let mut a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    world.gone(&b);
    world.ack(&a, 2);
    for n in 1..=4 {
        world.signal(&mut a, b.peer, &n.to_string());
    }
    let answers: Vec<_> = world.frames(a.conn)[2..].iter().map(refusal).collect();
    assert_eq!(answers, [3, 4].map(|re| (Some(re), ErrorCode::NotDelivered)));
    let counts = world.hub.counts();
    assert_eq!(counts.buffered_frames, 2, "the two answers to the sender: {counts:?}");
    assert_eq!(world.events.iter().filter(|e| matches!(e, Event::Overflowed { .. })).count(), 1);
}

#[test]
fn one_that_overflows_by_the_news_of_anothers_overflow_is_closed_too() {
    let mut world = World::with(Limits { replay_messages: 3, ..Limits::default() });
    let a = world.join('a', "lobby");
    let b = world.join('b', "lobby");
    let c = world.join('c', "lobby");
    let mut d = world.join('d', "lobby");
    // a holds 3 frames, b 2, c 1, d none: each close tells the next.
    world.signal(&mut d, b.peer, "1");
    world.signal(&mut d, c.peer, "1");
    world.signal(&mut d, c.peer, "2");
    world.signal(&mut d, a.peer, "2");
    assert_eq!([&a, &b, &c].map(|client| world.close_code(client.conn)), [Some(4002); 3]);
    assert_eq!(world.close_code(d.conn), Some(4002), "three peers away and one error are four frames");
    assert_eq!(world.hub.counts().attached, 0);
    world.pass(secs(30));
    world.assert_empty();
}
