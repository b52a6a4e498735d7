//! How allocations begin and end (RFC 8656 sections 7 and 8), and what becomes of their ports.

use std::net::IpAddr;

use rand::SeedableRng as _;

use super::testing::*;
use super::*;
use crate::address::Transport;

fn allocate() -> Draft {
    Draft::new(ALLOCATE, 1).udp()
}

fn even_port(reserve: bool) -> Draft {
    allocate().with(0x0018, &[if reserve { 0x80 } else { 0 }])
}

fn with_ports(ports: (u16, u16)) -> World {
    World::with(RelaySettings { ports, ..settings() }, 2)
}

/// A client of a fresh five-tuple, the same prefix as others.
fn nth(n: usize) -> FiveTuple {
    udp(&format!("203.{}.{}.1:4000", n / 250, n % 250))
}

#[test]
fn second_allocate_on_a_five_tuple_gets_437() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    let again = world.ask(&tuple(1), &Account::alice(), Draft::new(ALLOCATE, 9).udp());
    assert_eq!(again.code(), 437);
    assert_eq!(world.opens, 1);
}

#[test]
fn other_transports_get_442_and_a_missing_one_400() {
    let mut world = World::new();
    let alice = Account::alice();
    let sctp_relay = Draft::new(ALLOCATE, 1).with(0x0019, &[132, 0, 0, 0]);
    assert_eq!(world.ask(&tuple(1), &alice, sctp_relay).code(), 442);
    assert_eq!(world.ask(&tuple(1), &alice, Draft::new(ALLOCATE, 2)).code(), 400);
}

#[test]
fn requested_address_family_chooses_the_relay_address() {
    let mut world = World::new();
    let alice = Account::alice();
    let v6 = world.ask(&tuple(1), &alice, allocate().with(0x0017, &[2, 0, 0, 0]));
    assert_eq!(v6.relayed().ip(), RELAY_V6.parse::<IpAddr>().unwrap());
    let v4 = world.ask(&tuple(2), &alice, allocate().with(0x0017, &[1, 0, 0, 0]));
    assert_eq!(v4.relayed().ip(), RELAY_V4.parse::<IpAddr>().unwrap());
}

#[test]
fn unknown_family_and_a_family_without_relay_address_get_440() {
    let alice = Account::alice();
    let mut only_v4 = settings();
    only_v4.relay_addresses.truncate(1);
    let mut world = World::with(only_v4, 1);
    assert_eq!(world.ask(&tuple(1), &alice, allocate().with(0x0017, &[7, 0, 0, 0])).code(), 440);
    assert_eq!(world.ask(&tuple(1), &alice, allocate().with(0x0017, &[2, 0, 0, 0])).code(), 440);
}

#[test]
fn client_that_asks_for_no_family_gets_ipv6_where_there_is_no_ipv4() {
    let mut only_v6 = settings();
    only_v6.relay_addresses.remove(0);
    let mut world = World::with(only_v6, 1);
    assert!(world.ask(&tuple(1), &Account::alice(), allocate()).relayed().is_ipv6());
    assert_eq!(world.ask(&tuple(2), &Account::alice(), allocate().with(0x0017, &[1, 0, 0, 0])).code(), 440);
}

#[test]
fn attributes_that_exclude_each_other_get_400() {
    let mut world = World::new();
    let token = [1; 8];
    for draft in [
        even_port(true).with(0x0022, &token),
        allocate().with(0x0022, &token).with(0x0017, &[1, 0, 0, 0]),
        allocate().with(0x0022, &token).with(0x8000, &[2, 0, 0, 0]),
        allocate().with(0x0017, &[1, 0, 0, 0]).with(0x8000, &[2, 0, 0, 0]),
        even_port(true).with(0x8000, &[2, 0, 0, 0]),
        allocate().with(0x8000, &[1, 0, 0, 0]),
        allocate().with(0x8000, &[3, 0, 0, 0]),
    ] {
        assert_eq!(world.ask(&tuple(1), &Account::alice(), draft).code(), 400);
    }
    assert_eq!(world.opens, 0);
}

#[test]
fn lifetime_is_kept_between_ten_minutes_and_an_hour() {
    let mut world = World::new();
    for (n, asked, granted) in
        [(1, 1, 600), (2, 600, 600), (3, 1800, 1800), (4, 3600, 3600), (5, u32::MAX, 3600)]
    {
        let answer = world.ask(&tuple(n), &Account::alice(), allocate().lifetime(asked));
        assert_eq!(answer.lifetime(), granted, "{asked}");
        let answer = world.ask(&tuple(n), &Account::alice(), Draft::new(REFRESH, 2).lifetime(asked));
        assert_eq!(answer.lifetime(), granted, "{asked}");
    }
    assert_eq!(world.ask(&tuple(6), &Account::alice(), allocate()).lifetime(), 600);
    assert_eq!(
        world.ask(&tuple(7), &Account::alice(), allocate().lifetime(0)).lifetime(),
        600,
        "0 ends only what stands"
    );
}

#[test]
fn allocation_lives_to_its_last_second_and_not_beyond() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(300));
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(299));
    assert!(matches!(world.route_peer(relayed, "8.8.8.8:1", 1), Verdict::ToClient { .. }));
    let slot = world.slot(0, relayed);
    // The driver is late: nothing has ended the allocation yet, and still nothing passes.
    world.now += secs(1);
    let late = world.workers[0].route_peer(world.now, slot, peer("8.8.8.8:1"), 1);
    assert_eq!(late, Verdict::Drop(DropReason::NoAllocation));
    let late = world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"x"));
    assert_eq!(late, Verdict::Drop(DropReason::NoAllocation));
    world.advance(secs(0));
    world.assert_empty();
}

#[test]
fn refresh_moves_the_end_and_its_absence_gets_437_afterwards() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    world.advance(secs(599));
    assert_eq!(world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 2)).lifetime(), 600);
    world.advance(secs(599));
    assert_eq!(world.workers[0].allocations(), 1);
    world.advance(secs(1));
    world.assert_empty();
    assert_eq!(world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 3)).code(), 437);
}

#[test]
fn refresh_of_the_other_family_gets_443() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    for family in [2, 9] {
        let refresh = Draft::new(REFRESH, family).with(0x0017, &[family, 0, 0, 0]).lifetime(0);
        assert_eq!(world.ask(&tuple(1), &Account::alice(), refresh).code(), 443);
    }
    let refresh = Draft::new(REFRESH, 3).with(0x0017, &[1, 0, 0, 0]);
    assert_eq!(world.ask(&tuple(1), &Account::alice(), refresh).code(), 0);
}

#[test]
fn refresh_with_lifetime_zero_ends_the_allocation_and_its_event_counts_the_traffic() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    world.route_client(&tuple(1), &send_indication("8.8.8.8:1", &[0; 100]));
    world.route_peer(relayed, "8.8.8.8:1", 1000);
    world.route_peer(relayed, "8.8.8.8:2", 10);
    world.route_peer(relayed, "9.9.9.9:2", 10_000);
    world.advance(secs(10));
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 3).lifetime(0));
    let Some(Event::AllocationEnded { reason, duration, traffic, username, .. }) =
        world.events.iter().find(|event| matches!(event, Event::AllocationEnded { .. }))
    else {
        panic!("no event");
    };
    assert_eq!((*reason, *duration, &**username), (EndReason::Released, secs(10), "alice"));
    let expected =
        Traffic { to_peer_bytes: 100, to_peer_packets: 1, to_client_bytes: 1010, to_client_packets: 2 };
    assert_eq!(*traffic, expected);
    world.assert_empty();
}

#[test]
fn closed_tcp_connection_ends_its_allocation() {
    let mut world = World::new();
    let client = tcp("203.0.1.7:40001");
    world.allocate(&client);
    world.input(0, Input::ClientGone(client));
    world.settle();
    world.assert_empty();
}

#[test]
fn connection_is_closed_when_its_allocation_expires() {
    for transport in Transport::ALL {
        let mut world = World::new();
        let client = FiveTuple { transport, ..udp("203.0.1.7:40001") };
        world.allocate(&client);
        world.allocate(&tuple(2));
        world.advance(secs(600));
        let closed: &[FiveTuple] = if transport == Transport::Udp { &[] } else { &[client] };
        assert_eq!(world.disconnected, closed, "{transport}");
    }
}

#[test]
fn five_tuples_that_differ_in_their_transport_alone_are_different_clients() {
    let mut world = World::new();
    for transport in Transport::ALL {
        world.allocate(&FiveTuple { transport, ..udp("203.0.1.7:40001") });
    }
    assert_eq!(world.shared.allocations(), 4);
}

#[test]
fn client_that_goes_while_its_socket_is_being_opened_leaves_nothing() {
    let mut world = World::new();
    let client = tcp("203.0.1.7:40001");
    let nonce = world.nonce(0, &client);
    let wall = world.wall();
    let request = even_port(true).sign(&Account::alice(), &nonce).bytes();
    world.input(0, Input::Message { from: client, bytes: &request, wall });
    world.input(0, Input::ClientGone(client));
    world.settle();
    assert_eq!(world.opens, 1);
    world.assert_empty();
}

#[test]
fn port_that_another_process_holds_is_passed_over() {
    let mut world = with_ports((50_000, 50_019));
    world.taken = (50_000..=50_019).filter(|port| *port != 50_013).collect();
    let granted =
        (1..40).filter(|n| world.ask(&tuple(*n), &Account::alice(), allocate()).code() == 0).count();
    assert_eq!(granted, 1, "one port is free, and sixteen tries find it sooner or later");
    assert_eq!(world.shared.claimed_ports(), 1, "ports tried in vain are given back");
}

#[test]
fn want_of_descriptors_gets_508_at_once() {
    let mut world = World::new();
    world.exhausted = true;
    assert_eq!(world.ask(&tuple(1), &Account::alice(), allocate()).code(), 508);
    assert_eq!(world.opens, 1);
    world.assert_empty();
}

#[test]
fn every_port_of_the_range_can_be_had_and_then_508() {
    let mut world = with_ports((50_000, 50_019));
    let mut ports: Vec<u16> = (0..20)
        .map(|n| world.ask_at(n % 2, &nth(n), &Account::alice(), allocate()).relayed().port())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (50_000..=50_019).collect::<Vec<u16>>());
    assert_eq!(world.ask(&nth(20), &Account::alice(), allocate()).code(), 508);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn ports_are_drawn_at_random() {
    let ports = |seed| -> Vec<u16> {
        let mut world = World::seeded(settings(), 1, seed);
        (0..20).map(|n| world.ask(&nth(n), &Account::alice(), allocate()).relayed().port()).collect()
    };
    let (one, other) = (ports(1), ports(2));
    assert_ne!(one, other);
    assert_eq!(one, ports(1), "drawn from the generator that was handed in, and from nothing else");
    let mut steps: Vec<i32> = one.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect();
    steps.sort_unstable();
    steps.dedup();
    assert!(steps.len() > 15, "neither counted up nor strided: {one:?}");
}

/// Of a good generator: chi-square of 64 classes has a mean of 63 and a standard deviation of 11.
#[test]
fn ports_are_spread_evenly_and_say_nothing_about_the_next_ones() {
    const DRAWS: usize = 20_000;
    let world = with_ports((49_152, 65_535));
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let ip = RELAY_V4.parse().unwrap();
    let mut draw = || {
        let port = world.shared.claim(ip, shared::Want::Any, &mut rng).unwrap();
        world.shared.release(ip, port);
        port.0
    };
    let ports: Vec<u16> = (0..DRAWS).map(|_| draw()).collect();
    let chi_square = |numbers: &mut dyn Iterator<Item = u16>| {
        let mut classes = [0.0_f64; 64];
        numbers.for_each(|number| classes[usize::from(number % 16_384 / 256)] += 1.0);
        let expected = classes.iter().sum::<f64>() / 64.0;
        classes.iter().map(|count| (count - expected).powi(2) / expected).sum::<f64>()
    };
    let spread = chi_square(&mut ports.iter().copied());
    assert!(spread < 130.0, "{spread}");
    for lag in 1..=8 {
        let steps = &mut ports.windows(lag + 1).map(|pair| pair[lag].wrapping_sub(pair[0]));
        let correlated = chi_square(steps);
        assert!(correlated < 130.0, "{correlated} from {lag} before");
    }
}

#[test]
fn reservation_tokens_are_drawn_at_random() {
    let mut world = World::new();
    let tokens: Vec<u64> = (0..24)
        .map(|n| u64::from_be_bytes(world.ask(&nth(n), &Account::alice(), even_port(true)).token()))
        .collect();
    let bits = |of: fn(u64, u64) -> u64| tokens.iter().copied().reduce(of).unwrap();
    assert_eq!(bits(|a, b| a | b), u64::MAX, "every bit is set in some");
    assert_eq!(bits(|a, b| a & b), 0, "and clear in some");
}

#[test]
fn more_allocations_than_a_user_may_have_get_486_on_all_workers_together() {
    let limits = Limits { allocations_per_user: 3, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
    for n in 0..3 {
        assert_eq!(world.ask_at(n % 2, &nth(n), &Account::alice(), allocate()).code(), 0);
    }
    assert_eq!(world.ask_at(0, &nth(3), &Account::alice(), allocate()).code(), 486);
    assert_eq!(world.ask_at(1, &nth(4), &Account::alice(), allocate()).code(), 486);
    assert_eq!(world.ask_at(1, &nth(5), &Account::bob(), allocate()).code(), 0, "bob has his own");
    world.ask_at(0, &nth(0), &Account::alice(), Draft::new(REFRESH, 2).lifetime(0));
    assert_eq!(world.ask_at(1, &nth(6), &Account::alice(), allocate()).code(), 0);
}

#[test]
fn credentials_minted_anew_do_not_renew_the_quota() {
    let limits = Limits { allocations_per_minted_user: 2, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
    let carol = |n: u64| Account::minted("carol", wall_epoch() + secs(1000 + n));
    assert_eq!(world.ask(&nth(0), &carol(0), allocate()).code(), 0);
    assert_eq!(world.ask(&nth(1), &carol(1), allocate()).code(), 0);
    assert_eq!(world.ask(&nth(2), &carol(2), allocate()).code(), 486);
}

#[test]
fn more_allocations_than_the_server_may_have_get_508() {
    let limits = Limits { allocations: 2, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
    assert_eq!(world.ask_at(0, &nth(0), &Account::alice(), allocate()).code(), 0);
    assert_eq!(world.ask_at(1, &nth(1), &Account::bob(), allocate()).code(), 0);
    assert_eq!(world.ask_at(1, &nth(2), &Account::bob(), allocate()).code(), 508);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn even_port_is_even_and_returns_what_it_took() {
    let mut world = with_ports((50_000, 50_019));
    for round in 0..5 {
        for n in 0..10 {
            let answer = world.ask(&nth(n), &Account::alice(), even_port(false));
            assert_eq!(answer.relayed().port() % 2, 0, "round {round}");
            assert_eq!(answer.attribute(0x0022), None);
        }
        assert_eq!(world.ask(&nth(11), &Account::alice(), even_port(false)).code(), 508);
        assert_eq!(world.shared.claimed_ports(), 10, "no sibling port is held");
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn reserved_port_is_the_next_one_and_its_token_gets_it_at_either_worker() {
    for second_worker in [0, 1] {
        let mut world = with_ports((50_000, 50_019));
        let first = world.ask(&nth(0), &Account::alice(), even_port(true));
        assert_eq!(world.shared.claimed_ports(), 2);
        let token = allocate().with(0x0022, &first.token());
        let second = world.ask_at(second_worker, &nth(1), &Account::alice(), token.clone());
        assert_eq!(second.relayed().port(), first.relayed().port() + 1, "{}", second.code());
        assert_eq!(world.sockets[second_worker].len(), 1 + usize::from(second_worker == 0));
        assert_eq!(
            world.ask_at(second_worker, &nth(2), &Account::alice(), token).code(),
            508,
            "used already"
        );
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn reservation_is_held_for_thirty_seconds_and_then_returned() {
    let mut world = with_ports((50_000, 50_019));
    let token = world.ask(&nth(0), &Account::alice(), even_port(true)).token();
    world.advance(secs(29));
    assert_eq!(world.shared.claimed_ports(), 2);
    world.advance(secs(1));
    assert_eq!(world.shared.claimed_ports(), 1);
    assert_eq!(world.sockets[0].len(), 1);
    for worker in [0, 1] {
        let late = allocate().with(0x0022, &token);
        assert_eq!(world.ask_at(worker, &nth(1), &Account::alice(), late).code(), 508);
    }
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn reservation_of_another_user_and_invented_tokens_get_508() {
    let mut world = with_ports((50_000, 50_019));
    let token = world.ask(&nth(0), &Account::alice(), even_port(true)).token();
    for worker in [0, 1] {
        let stolen = allocate().with(0x0022, &token);
        assert_eq!(world.ask_at(worker, &nth(1), &Account::bob(), stolen).code(), 508);
    }
    for invented in 0..=255 {
        let invented = allocate().with(0x0022, &[invented; 8]);
        assert_eq!(world.ask(&nth(1), &Account::alice(), invented).code(), 508);
    }
    assert_eq!(world.shared.claimed_ports(), 2, "the reservation still stands");
}

#[test]
fn reserved_port_counts_as_an_allocation_until_it_is_given_back() {
    let limits = Limits { allocations_per_user: 4, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
    let (alice, delete) = (Account::alice(), Draft::new(REFRESH, 2).lifetime(0));
    for (n, held) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(world.ask(&nth(n), &alice, even_port(true)).code(), 0);
        assert_eq!(world.ask(&nth(n), &alice, delete.clone()).code(), 0);
        assert_eq!(world.shared.allocations(), held, "the reserved ports are still held");
    }
    assert_eq!(world.ask(&nth(3), &alice, even_port(true)).code(), 486, "three held, and a pair is two more");
    assert_eq!(world.ask(&nth(3), &alice, allocate()).code(), 0);
    world.advance(secs(30));
    assert_eq!(world.shared.allocations(), 1, "nobody came for the reserved ones");
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn allocation_with_a_token_takes_over_the_place_of_the_reservation_at_either_worker() {
    for second_worker in [0, 1] {
        let limits = Limits { allocations: 2, allocations_per_user: 2, ..Limits::default() };
        let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
        let token = world.ask(&nth(0), &Account::alice(), even_port(true)).token();
        let second = allocate().with(0x0022, &token);
        assert_eq!(world.ask_at(second_worker, &nth(1), &Account::alice(), second).code(), 0);
        assert_eq!(world.shared.allocations(), 2);
        world.advance(secs(31));
        assert_eq!(world.ask_at(second_worker, &nth(2), &Account::alice(), allocate()).code(), 508);
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn even_pair_finds_the_only_pair_and_gets_508_where_there_is_none() {
    let mut world = with_ports((50_001, 50_004));
    let pair = world.ask(&nth(0), &Account::alice(), even_port(true));
    assert_eq!(pair.relayed().port(), 50_002);
    assert_eq!(world.ask(&nth(1), &Account::alice(), even_port(true)).code(), 508, "50004 has no successor");
    assert_eq!(world.ask(&nth(1), &Account::alice(), even_port(false)).relayed().port(), 50_004);
    assert_eq!(world.ask(&nth(2), &Account::alice(), allocate()).relayed().port(), 50_001);
}

#[test]
fn worker_that_does_not_hand_over_in_time_costs_508_and_its_late_socket_is_closed() {
    let mut world = with_ports((50_000, 50_019));
    let token = world.ask(&nth(0), &Account::alice(), even_port(true)).token();
    let nonce = world.nonce(1, &nth(1));
    let wall = world.wall();
    let request = allocate().with(0x0022, &token).sign(&Account::alice(), &nonce).bytes();
    world.input(1, Input::Message { from: nth(1), bytes: &request, wall });
    let claim = world.queue.pop_front().unwrap();
    world.advance(secs(2));
    assert_eq!(world.sent.last().unwrap().1.code(), 508);
    world.carry_out(claim.0, claim.1);
    world.settle();
    assert_eq!(world.sockets[1].len(), 0);
    assert_eq!(world.shared.claimed_ports(), 1);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn many_allocations_come_and_go_without_a_trace() {
    let mut world = World::new();
    let alice = Account::alice();
    for round in 0..5000_u32 {
        let client = udp(&format!("203.{}.{}.1:4000", round / 200 % 200, round % 200));
        assert_eq!(world.ask(&client, &alice, allocate()).code(), 0);
        assert_eq!(world.ask(&client, &alice, Draft::new(REFRESH, 2).lifetime(0)).code(), 0);
        world.sent.clear();
        world.advance(secs(41));
    }
    world.assert_empty();
    assert!(world.workers[0].allocations.capacity() < 16, "one at a time needs no room for many");
    assert!(world.workers[0].seats.capacity() < 16);
}

#[test]
fn external_address_is_what_clients_are_told() {
    let mut behind_nat = settings();
    behind_nat.relay_addresses[0].external = Some("192.0.2.99".parse().unwrap());
    let mut world = World::with(behind_nat, 1);
    let relayed = world.allocate(&tuple(1)).relayed();
    assert_eq!(relayed.ip(), "192.0.2.99".parse::<IpAddr>().unwrap());
    assert_eq!(world.sockets[0].iter().next().unwrap().1, &(RELAY_V4.parse().unwrap(), relayed.port()));
}
