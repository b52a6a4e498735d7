//! Allocations with a relayed address of each family (RFC 8656 sections 7.2 and 8).

use std::net::SocketAddr;

use super::testing::*;
use super::*;

const V6_PEER: &str = "[2a00:9::1]:5000";
const V4_PEER: &str = "8.8.8.8:5000";

fn dual() -> Draft {
    Draft::new(ALLOCATE, 1).udp().with(0x8000, &[2, 0, 0, 0])
}

fn refresh(family: u8, lifetime: u32) -> Draft {
    Draft::new(REFRESH, 40 + family).with(0x0017, &[family, 0, 0, 0]).lifetime(lifetime)
}

/// Alice's dual allocation on worker 0, with a permission for a peer of each family.
fn standing(world: &mut World) -> [SocketAddr; 2] {
    let answer = world.ask(&tuple(1), &Account::alice(), dual());
    assert_eq!(answer.attribute(0x8001), None, "nothing is missing");
    assert_eq!(world.permit(&tuple(1), V4_PEER), 0);
    assert_eq!(world.permit(&tuple(1), V6_PEER), 0);
    answer.all_relayed().try_into().expect("two addresses")
}

/// Family, code of ADDRESS-ERROR-CODE.
fn lacking(answer: &Answer) -> (u8, u16) {
    let value = answer.attribute(0x8001).expect("ADDRESS-ERROR-CODE");
    (value[0], u16::from(value[2] & 7) * 100 + u16::from(value[3]))
}

fn passes(world: &mut World, peer: &str) -> bool {
    matches!(world.route_client(&tuple(1), &send_indication(peer, b"x")), Verdict::ToPeer { .. })
}

#[test]
fn dual_allocation_answers_with_an_address_of_each_family() {
    let mut world = World::new();
    let [v4, v6] = standing(&mut world);
    assert_eq!((v4.ip().to_string(), v6.ip().to_string()), (RELAY_V4.into(), RELAY_V6.into()));
    assert_eq!(world.sockets[0].len(), 2);
    assert_eq!(world.shared.claimed_ports(), 2);
    let Some(Event::AllocationStarted { relayed, additional, .. }) =
        world.events.iter().find(|event| matches!(event, Event::AllocationStarted { .. }))
    else {
        panic!("no event");
    };
    assert_eq!((*relayed, *additional), (v4, Some(v6)));
}

#[test]
fn additional_family_is_understood_by_the_number_of_its_draft() {
    let mut world = World::new();
    let draft = Draft::new(ALLOCATE, 1).udp().with(0x8032, &[2, 0, 0, 0]);
    assert_eq!(world.ask(&tuple(1), &Account::alice(), draft).all_relayed().len(), 2);
    let something_else = Draft::new(ALLOCATE, 2).udp().with(0x8032, b"a name");
    assert_eq!(world.ask(&tuple(2), &Account::alice(), something_else).all_relayed().len(), 1);
}

#[test]
fn data_leaves_and_enters_through_the_socket_of_its_family() {
    let mut world = World::new();
    let relayed = standing(&mut world);
    for (bound, peer_address, number) in [(relayed[0], V4_PEER, 0x4000), (relayed[1], V6_PEER, 0x4001)] {
        let slot = world.slot(0, bound);
        let sent = world.route_client(&tuple(1), &send_indication(peer_address, b"x"));
        assert!(matches!(sent, Verdict::ToPeer { via, .. } if via == slot), "{sent:?}");
        assert_eq!(world.bind_channel(&tuple(1), number, peer_address), 0);
        let sent = world.route_client(&tuple(1), &channel_data(number, b"x"));
        assert!(matches!(sent, Verdict::ToPeer { via, to, .. } if via == slot && to == peer(peer_address)));
        let received = world.route_peer(bound, peer_address, 1);
        assert!(matches!(received, Verdict::ToClient { to, .. } if to == tuple(1)), "{received:?}");
    }
}

#[test]
fn dual_allocation_counts_for_two_and_gives_both_back() {
    let limits = Limits { allocations: 5, allocations_per_user: 3, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ports: (50_000, 50_009), ..settings() }, 1);
    for round in 0..200_u32 {
        let client = udp(&format!("203.0.{}.9:{}", round % 200, 1000 + round));
        assert_eq!(world.ask(&client, &Account::alice(), dual()).code(), 0, "round {round}");
        assert_eq!(world.shared.allocations(), 2);
        if round % 2 == 0 {
            world.ask(&client, &Account::alice(), Draft::new(REFRESH, 2).lifetime(0));
        } else {
            world.advance(secs(600));
        }
        world.assert_empty();
        world.sent.clear();
    }
}

#[test]
fn with_room_for_one_more_only_ipv4_is_given_and_508_said_for_ipv6() {
    let limits = Limits { allocations: 3, allocations_per_user: 3, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
    standing(&mut world);
    let answer = world.ask(&tuple(2), &Account::alice(), dual());
    assert_eq!((answer.code(), answer.all_relayed().len()), (0, 1));
    assert!(answer.relayed().is_ipv4());
    assert_eq!(lacking(&answer), (2, 508));
    assert_eq!(world.ask(&tuple(3), &Account::alice(), dual()).code(), 508);
    assert_eq!(world.shared.allocations(), 3);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn family_without_relay_address_is_said_to_be_unsupported_and_the_other_is_given() {
    for (kept, missing) in [(0, 2), (1, 1)] {
        let mut single = settings();
        single.relay_addresses = vec![single.relay_addresses[kept]];
        let mut world = World::with(single, 1);
        let answer = world.ask(&tuple(1), &Account::alice(), dual());
        assert_eq!((answer.code(), answer.all_relayed().len()), (0, 1));
        assert_eq!(answer.relayed().is_ipv4(), kept == 0);
        assert_eq!(lacking(&answer), (missing, 440));
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn family_whose_ports_are_used_up_is_said_to_be_full_and_the_other_is_given() {
    for (full, missing) in [(1, 1), (2, 2)] {
        let mut world = World::with(RelaySettings { ports: (50_000, 50_001), ..settings() }, 1);
        for n in 10..12 {
            let single = Draft::new(ALLOCATE, 1).udp().with(0x0017, &[full, 0, 0, 0]);
            assert_eq!(world.ask(&tuple(n), &Account::alice(), single).code(), 0);
        }
        let answer = world.ask(&tuple(1), &Account::alice(), dual());
        assert_eq!((answer.code(), answer.all_relayed().len()), (0, 1));
        assert_eq!(lacking(&answer), (missing, 508));
        assert_eq!(world.shared.allocations(), 3);
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn family_that_cannot_be_bound_is_done_without_and_none_at_all_gets_508() {
    let mut world = World::new();
    world.unbindable = vec![RELAY_V4.parse().unwrap()];
    let answer = world.ask(&tuple(1), &Account::alice(), dual());
    assert!(answer.relayed().is_ipv6());
    assert_eq!(lacking(&answer), (1, 508));
    world.unbindable = vec![RELAY_V6.parse().unwrap()];
    let answer = world.ask(&tuple(2), &Account::alice(), dual());
    assert!(answer.relayed().is_ipv4());
    assert_eq!(lacking(&answer), (2, 508));
    world.exhausted = true;
    assert_eq!(world.ask(&tuple(3), &Account::alice(), dual()).code(), 508);
    assert_eq!(world.shared.allocations(), 2);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn refresh_of_one_family_with_lifetime_zero_leaves_the_other() {
    for (gone, left) in [((1, V4_PEER), (2, V6_PEER)), ((2, V6_PEER), (1, V4_PEER))] {
        let mut world = World::new();
        let alice = Account::alice();
        standing(&mut world);
        assert_eq!(world.ask(&tuple(1), &alice, refresh(gone.0, 0)).lifetime(), 0);
        assert_eq!((world.shared.claimed_ports(), world.shared.allocations()), (1, 1));
        assert!(!passes(&mut world, gone.1) && passes(&mut world, left.1));
        // Longer than answers are kept for repetition.
        world.advance(secs(41));
        assert_eq!(world.permit(&tuple(1), gone.1), 443);
        assert_eq!(world.bind_channel(&tuple(1), 0x4000, gone.1), 443);
        assert_eq!(world.ask(&tuple(1), &alice, refresh(gone.0, 600)).code(), 443);
        assert_eq!(world.ask(&tuple(1), &alice, refresh(gone.0, 0)).code(), 443);
        assert_eq!(world.workers[0].allocations(), 1);
        assert_eq!(world.ask(&tuple(1), &alice, refresh(left.0, 0)).lifetime(), 0);
        world.assert_empty();
        let ends = world.events.iter().filter(|event| matches!(event, Event::AllocationEnded { .. }));
        assert_eq!(ends.count(), 1);
    }
}

#[test]
fn refresh_of_one_family_prolongs_that_one_alone() {
    let mut world = World::new();
    let alice = Account::alice();
    standing(&mut world);
    world.advance(secs(400));
    assert_eq!(world.ask(&tuple(1), &alice, refresh(2, 600)).lifetime(), 600);
    world.advance(secs(199));
    assert_eq!((world.permit(&tuple(1), V4_PEER), world.permit(&tuple(1), V6_PEER)), (0, 0));
    assert_eq!(world.shared.claimed_ports(), 2);
    // The driver is late: nothing has closed the socket yet, and still nothing passes.
    let [v4] = world.sockets[0]
        .iter()
        .filter(|(_, at)| at.0.is_ipv4())
        .map(|(slot, _)| slot)
        .collect::<Vec<_>>()[..]
    else {
        panic!("no IPv4 socket");
    };
    world.now += secs(1);
    assert!(!passes(&mut world, V4_PEER) && passes(&mut world, V6_PEER));
    let slot = SocketSlot(u32::try_from(v4).unwrap());
    let late = world.workers[0].route_peer(world.now, slot, peer(V4_PEER), 1);
    assert_eq!(late, Verdict::Drop(DropReason::NoAllocation));
    world.advance(secs(0));
    assert_eq!((world.shared.claimed_ports(), world.shared.allocations()), (1, 1));
    world.advance(secs(400));
    world.assert_empty();
}

#[test]
fn refresh_without_a_family_prolongs_or_ends_both() {
    let mut world = World::new();
    let alice = Account::alice();
    standing(&mut world);
    world.advance(secs(500));
    world.ask(&tuple(1), &alice, Draft::new(REFRESH, 2));
    world.advance(secs(599));
    assert_eq!(world.shared.claimed_ports(), 2);
    world.ask(&tuple(1), &alice, Draft::new(REFRESH, 3).lifetime(0));
    world.assert_empty();
}

#[test]
fn even_port_holds_for_both_addresses_of_a_dual_allocation() {
    let mut world = World::with(RelaySettings { ports: (50_000, 50_005), ..settings() }, 1);
    for n in 0..3 {
        let answer = world.ask(&tuple(n), &Account::alice(), dual().with(0x0018, &[0]));
        assert_eq!(answer.all_relayed().iter().filter(|address| address.port() % 2 == 0).count(), 2);
    }
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn client_that_goes_while_its_two_sockets_are_being_opened_leaves_nothing() {
    for answered in [0, 1] {
        let mut world = World::new();
        let client = tcp("203.0.1.7:40001");
        let nonce = world.nonce(0, &client);
        let wall = world.wall();
        let request = dual().sign(&Account::alice(), &nonce).bytes();
        world.input(0, Input::Message { from: client, bytes: &request, wall });
        for _ in 0..answered {
            let (worker, open) = world.queue.pop_front().unwrap();
            world.carry_out(worker, open);
        }
        world.input(0, Input::ClientGone(client));
        world.settle();
        assert_eq!(world.opens, answered + 1);
        world.assert_empty();
    }
}
