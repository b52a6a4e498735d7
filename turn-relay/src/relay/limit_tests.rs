//! Every limit really refuses, and refuses nothing else.

use super::testing::*;
use super::*;

fn world(limits: Limits, workers: u16) -> World {
    World::with(RelaySettings { limits, ..settings() }, workers)
}

fn rate(bytes_per_second: u64, packets_per_second: u32) -> Rate {
    Rate { bytes_per_second, packets_per_second }
}

const UNLIMITED: Rate = Rate { bytes_per_second: 0, packets_per_second: 0 };

/// Limits that nothing here reaches, but those that a test sets.
fn open() -> Limits {
    Limits {
        allocation_rate: UNLIMITED,
        user_rate: UNLIMITED,
        new_peers_per_minute: 0,
        user_new_peers_per_minute: 0,
        ..Limits::default()
    }
}

/// Alice's allocation number `n` on a worker, with channel 0x4000 to 8.8.8.8:1; its relayed socket.
fn call(world: &mut World, worker: usize, n: u8) -> SocketSlot {
    let (alice, from) = (Account::alice(), tuple(n));
    let answer = world.ask_at(worker, &from, &alice, Draft::new(ALLOCATE, n).udp());
    let bind = Draft::new(CHANNEL_BIND, n).channel(0x4000).peer("8.8.8.8:1");
    assert_eq!(world.ask_at(worker, &from, &alice, bind).code(), 0);
    world.slot(worker, answer.relayed())
}

/// How many of `packets` from the client of `call` pass, and why the last one did not.
fn sent(world: &mut World, worker: usize, n: u8, packets: usize, len: usize) -> (usize, Option<DropReason>) {
    let frame = channel_data(0x4000, &vec![0; len]);
    let verdicts = (0..packets).map(|_| world.workers[worker].route_client(world.now, &tuple(n), &frame));
    count(verdicts)
}

fn received(
    world: &mut World,
    worker: usize,
    on: SocketSlot,
    packets: usize,
    len: usize,
) -> (usize, Option<DropReason>) {
    let verdicts =
        (0..packets).map(|_| world.workers[worker].route_peer(world.now, on, peer("8.8.8.8:1"), len));
    count(verdicts)
}

fn count(verdicts: impl Iterator<Item = Verdict>) -> (usize, Option<DropReason>) {
    verdicts.fold((0, None), |(passed, dropped), verdict| match verdict {
        Verdict::Drop(reason) => (passed, Some(reason)),
        Verdict::ToPeer { .. } | Verdict::ToClient { .. } | Verdict::Control => (passed + 1, dropped),
    })
}

#[test]
fn more_allocations_than_an_address_may_have_get_486_whoever_asks() {
    let mut world = world(Limits { allocations_per_address: 2, ..open() }, 2);
    let ask = |world: &mut World, worker, from: &str, who: Account| {
        world.ask_at(worker, &udp(from), &who, Draft::new(ALLOCATE, 1).udp()).code()
    };
    assert_eq!(ask(&mut world, 0, "203.0.113.7:1", Account::alice()), 0);
    assert_eq!(ask(&mut world, 1, "203.0.113.7:2", Account::bob()), 0);
    assert_eq!(ask(&mut world, 0, "203.0.113.7:3", Account::bob()), 486);
    assert_eq!(ask(&mut world, 0, "203.0.113.8:3", Account::bob()), 0, "a neighbour");
    assert_eq!(ask(&mut world, 0, "[2001:db8:0:100::1]:1", Account::bob()), 0);
    assert_eq!(ask(&mut world, 1, "[2001:db8:0:1ff::1]:1", Account::bob()), 0);
    assert_eq!(ask(&mut world, 1, "[2001:db8:0:101::2]:1", Account::bob()), 486, "the same /56");
    assert_eq!(ask(&mut world, 1, "[2001:db8:0:200::1]:1", Account::bob()), 0);
    let release = Draft::new(REFRESH, 2).lifetime(0);
    world.ask_at(0, &udp("203.0.113.7:1"), &Account::alice(), release);
    assert_eq!(ask(&mut world, 1, "203.0.113.7:4", Account::bob()), 0);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn reserved_port_counts_for_the_address_that_claims_it() {
    let mut world = world(Limits { allocations_per_address: 2, ..open() }, 2);
    let (alice, pair) = (Account::alice(), Draft::new(ALLOCATE, 1).udp().with(0x0018, &[0x80]));
    let token = world.ask_at(0, &udp("203.0.113.7:1"), &alice, pair).token();
    let plain = Draft::new(ALLOCATE, 2).udp();
    assert_eq!(world.ask_at(0, &udp("203.0.113.7:2"), &alice, plain.clone()).code(), 486);
    let claim = Draft::new(ALLOCATE, 3).udp().with(0x0022, &token);
    assert_eq!(world.ask_at(1, &udp("203.0.113.99:1"), &alice, claim).code(), 0);
    assert_eq!(world.ask_at(0, &udp("203.0.113.7:3"), &alice, plain.clone()).code(), 0, "a place is free");
    assert_eq!(world.ask_at(0, &udp("203.0.113.99:2"), &alice, plain.clone()).code(), 0);
    assert_eq!(world.ask_at(0, &udp("203.0.113.99:3"), &alice, plain).code(), 486);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn packets_and_bytes_of_an_allocation_are_limited_in_each_direction_by_itself() {
    for (limit, len) in [(rate(0, 50), 10), (rate(100_000, 0), 2000)] {
        let mut world = world(Limits { allocation_rate: limit, ..open() }, 1);
        let slot = call(&mut world, 0, 1);
        let over = Some(DropReason::AllocationRate);
        assert_eq!(sent(&mut world, 0, 1, 200, len), (50, over));
        assert_eq!(received(&mut world, 0, slot, 200, len), (50, over), "the other direction has its own");
        world.advance(secs(1) / 2);
        assert_eq!(sent(&mut world, 0, 1, 200, len), (25, over));
        world.advance(secs(5));
        assert_eq!(
            received(&mut world, 0, slot, 200, len),
            (50, over),
            "no more than a second's worth at once"
        );
    }
}

#[test]
fn what_a_rate_drops_is_not_counted_as_traffic() {
    let mut world = world(Limits { allocation_rate: rate(0, 10), ..open() }, 1);
    call(&mut world, 0, 1);
    sent(&mut world, 0, 1, 100, 5);
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(0));
    let mut ended = world.events.iter().filter_map(|event| {
        let Event::AllocationEnded { traffic, .. } = event else { return None };
        Some(*traffic)
    });
    let traffic = ended.next();
    assert_eq!(traffic.map(|traffic| (traffic.to_peer_packets, traffic.to_peer_bytes)), Some((10, 50)));
}

#[test]
fn rates_of_a_user_are_shared_by_its_allocations_on_all_workers_and_by_nobody_else() {
    for (limit, len) in [(rate(0, 1000), 1), (rate(1_000_000, 0), 1000)] {
        let mut world = world(Limits { user_rate: limit, ..open() }, 2);
        let slots = [call(&mut world, 0, 1), call(&mut world, 1, 2)];
        let (mut passed, mut dropped) = (0, None);
        for turn in 0..40 {
            let worker = turn % 2;
            let (some, reason) = sent(&mut world, worker, [1, 2][worker], 100, len);
            passed += some;
            dropped = dropped.or(reason);
        }
        assert!(
            (950..=1000).contains(&passed),
            "{passed}: what one worker leased and did not use is missing"
        );
        assert_eq!(dropped, Some(DropReason::UserRate));
        assert_eq!(received(&mut world, 0, slots[0], 100, len), (100, None), "the other direction");
        let bob = udp("203.0.113.9:1");
        world.ask(&bob, &Account::bob(), Draft::new(ALLOCATE, 3).udp());
        world.ask(&bob, &Account::bob(), Draft::new(CHANNEL_BIND, 4).channel(0x4000).peer("8.8.8.8:1"));
        let verdict = world.route_client(&bob, &channel_data(0x4000, &vec![0; len]));
        assert!(matches!(verdict, Verdict::ToPeer { .. }), "{verdict:?}");
    }
}

#[test]
fn allocating_anew_does_not_renew_the_rate_of_a_user() {
    let mut world = world(Limits { user_rate: rate(0, 500), ..open() }, 1);
    call(&mut world, 0, 1);
    let release = Draft::new(REFRESH, 9).lifetime(0);
    assert_eq!(sent(&mut world, 0, 1, 1000, 1).0, 500);
    world.ask(&tuple(1), &Account::alice(), release.clone());
    call(&mut world, 0, 2);
    assert_eq!(sent(&mut world, 0, 2, 1000, 1).0, 0);
    world.ask(&tuple(2), &Account::alice(), release);
    world.advance(secs(2));
    call(&mut world, 0, 3);
    assert_eq!(sent(&mut world, 0, 3, 1000, 1).0, 500);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn new_peers_of_an_allocation_are_limited_at_every_door() {
    let mut world = world(Limits { new_peers_per_minute: 6, ..open() }, 1);
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0);
    let to = |port: u16| send_indication(&format!("8.8.8.8:{port}"), b"x");
    for _ in 0..3 {
        // The first is the channel's peer, and 2 to 5 use up the rest.
        for port in 1..=5 {
            let verdict = world.route_client(&tuple(1), &to(port));
            assert!(matches!(verdict, Verdict::ToPeer { .. }), "{port}: {verdict:?}");
        }
    }
    assert_eq!(world.route_client(&tuple(1), &to(6)), Verdict::Drop(DropReason::NewPeers));
    assert_eq!(world.permit(&tuple(1), "9.9.9.9:1"), 508);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:7"), 508);
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0, "known for long");
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0, "a refresh");
    world.advance(secs(10));
    assert_eq!(world.permit(&tuple(1), "4.4.4.4:1"), 0, "one more every ten seconds");
    assert_eq!(world.permit(&tuple(1), "1.1.1.1:1"), 508);
}

#[test]
fn new_peers_of_a_user_are_limited_on_all_workers_and_over_allocations() {
    let mut world = world(Limits { user_new_peers_per_minute: 4, ..open() }, 2);
    let alice = Account::alice();
    for n in 0..6_u8 {
        let (worker, from) = (usize::from(n % 2), tuple(n));
        world.ask_at(worker, &from, &alice, Draft::new(ALLOCATE, 1).udp());
        let permit = Draft::new(CREATE_PERMISSION, 2).peer(&format!("8.8.8.{n}:1"));
        let code = if n < 4 { 0 } else { 508 };
        assert_eq!(world.ask_at(worker, &from, &alice, permit).code(), code, "{n}");
        world.ask_at(worker, &from, &alice, Draft::new(REFRESH, 3).lifetime(0));
    }
}

#[test]
fn hundred_candidates_and_their_media_stay_within_the_default_limits() {
    let mut world = world(Limits::default(), 1);
    world.allocate(&tuple(1));
    for n in 0..100_u16 {
        let peer = format!("8.8.{n}.8:1000");
        assert_eq!(world.permit(&tuple(1), &peer), 0);
        let verdict = world.route_client(&tuple(1), &send_indication(&peer, b"check"));
        assert!(matches!(verdict, Verdict::ToPeer { .. }), "{n}: {verdict:?}");
    }
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.1.8:1000"), 0);
    // 20 Mbit/s for ten seconds, in frames that come 30 times a second.
    for _ in 0..300 {
        assert_eq!(sent(&mut world, 0, 1, 70, 1200), (70, None));
        world.advance(secs(1) / 30);
    }
}

#[test]
fn lifetimes_of_the_settings_are_granted() {
    let limits = Limits { default_lifetime: secs(120), max_lifetime: secs(240), ..open() };
    let mut world = world(limits, 1);
    for (n, asked, granted) in [(1, 0, 120), (2, 200, 200), (3, 5000, 240)] {
        let draft = Draft::new(ALLOCATE, 1).udp().lifetime(asked);
        assert_eq!(world.ask(&tuple(n), &Account::alice(), draft).lifetime(), granted);
    }
}

#[test]
fn no_answer_to_a_stranger_is_longer_than_documented() {
    // RFC.md: 2.5 times the request, with 28 bytes of IPv4 and UDP around both. The shortest request is a header.
    let mut world = World::new();
    let discovery = NatDiscovery { primary: addr("198.51.100.1:3478"), alternate: addr("198.51.100.2:3479") };
    let mut discovering = World::with(RelaySettings { nat_discovery: Some(discovery), ..settings() }, 1);
    for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        for world in [&mut world, &mut discovering] {
            let answer = world.send(&tuple(1), &Draft::new(method, 1).bytes()).expect("an answer");
            let (sent, received) = (20 + 28, answer.bytes.len() + 28);
            assert!(received * 10 <= sent * 25, "{method:#06x}: {received} bytes for {sent}");
        }
    }
}
