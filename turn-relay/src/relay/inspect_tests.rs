//! What the operator sees and does: pages, ends, revocations.

use std::collections::BTreeSet;

use super::testing::*;
use super::*;

fn ids(page: &AllocationPage) -> Vec<AllocationId> {
    page.allocations.iter().map(|view| view.id).collect()
}

fn client(n: u16) -> FiveTuple {
    udp(&format!("203.{}.{}.7:4000", n >> 8, n & 0xFF))
}

#[test]
fn pages_show_every_allocation_once_while_others_come_and_go() {
    let limits = Limits { unauthenticated_answers: 0, allocations_per_user: 5000, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ports: (10_000, 20_000), ..settings() }, 1);
    for n in 0..2500 {
        world.allocate(&client(n));
    }
    let standing: BTreeSet<_> = (0..2500).filter(|n| n % 5 != 0).map(client).collect();
    let (mut seen, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(place) = from {
        let page = world.workers[0].page(world.now, place, None, 100);
        assert!(page.allocations.len() <= 100);
        seen.extend(page.allocations.iter().map(|view| view.client));
        from = page.next;
        // A fifth of them ends meanwhile, and new ones take their places.
        let n = pages * 5;
        world.ask(&client(n), &Account::alice(), Draft::new(REFRESH, 2).lifetime(0));
        world.allocate(&client(5000 + n));
        pages += 1;
    }
    let all: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!(all.len(), seen.len(), "one was shown twice");
    assert!(standing.is_subset(&all), "one that stood all the while was not shown");
}

#[test]
fn page_of_a_user_shows_that_user_alone_and_looks_at_a_bounded_number_of_others() {
    let limits = Limits { unauthenticated_answers: 0, allocations_per_user: 5000, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ports: (10_000, 20_000), ..settings() }, 1);
    for n in 0..1500 {
        world.allocate(&client(n));
    }
    let carol = Account::minted("carol", wall_epoch() + secs(100));
    assert!(world.ask(&client(2000), &carol, Draft::new(ALLOCATE, 1).udp()).is_success());
    let first = world.workers[0].page(world.now, 0, Some("carol"), 10);
    assert_eq!((ids(&first), first.next), (vec![], Some(1024)), "a page ends where its work does");
    let second = world.workers[0].page(world.now, 1024, Some("carol"), 10);
    assert_eq!(second.allocations.len(), 1);
    assert_eq!(*second.allocations[0].username, *carol.name, "the id stands for the time-limited username");
    assert_eq!(ids(&world.workers[0].page(world.now, 1024, Some(&carol.name), 10)), ids(&second));
    assert_eq!(world.workers[0].page(world.now, 0, Some("alice"), 10).allocations.len(), 10);
}

#[test]
fn view_tells_age_rest_and_live_traffic() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0);
    world.advance(secs(60));
    world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"hello"));
    world.route_peer(relayed, "8.8.8.8:1", 1000);
    let view = world.workers[0].page(world.now, 0, None, 1).allocations.remove(0);
    assert_eq!((view.client, view.relayed, &*view.username), (tuple(1), relayed, "alice"));
    assert_eq!((view.age, view.expires_in), (secs(60), secs(540)));
    let traffic =
        Traffic { to_peer_bytes: 5, to_peer_packets: 1, to_client_bytes: 1000, to_client_packets: 1 };
    assert_eq!(view.traffic, traffic);
    assert_eq!(world.workers[0].find(world.now, view.id), Some(view));
}

#[test]
fn allocation_that_the_operator_ends_is_gone_and_its_event_says_so() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    world.allocate(&tcp("203.0.9.7:1"));
    for view in world.workers[0].page(world.now, 0, None, 10).allocations {
        for _ in 0..2 {
            world.input(0, Input::End { id: view.id, reason: EndReason::Operator });
            world.settle();
        }
        assert_eq!(world.workers[0].find(world.now, view.id), None);
    }
    let ended = |event: &&Event| matches!(event, Event::AllocationEnded { reason: EndReason::Operator, .. });
    assert_eq!(world.events.iter().filter(ended).count(), 2);
    assert_eq!(world.disconnected, [tcp("203.0.9.7:1")], "a client over TCP learns it at once");
    world.assert_empty();
}

#[test]
fn revoked_user_gets_403_to_every_request_until_the_time_is_over_or_the_refusal_lifted() {
    let mut world = World::with(settings(), 2);
    let carol = Account::minted("carol", wall_epoch() + secs(3600));
    world.ask(&tuple(1), &carol, Draft::new(ALLOCATE, 1).udp());
    let until = world.now + secs(100);
    world.shared.revocations().revoke(world.now, "carol", until).unwrap();
    for (worker, draft) in [(0, Draft::new(REFRESH, 2)), (1, Draft::new(ALLOCATE, 3).udp())] {
        let client = tuple(1 + u8::try_from(worker).unwrap());
        let answer = world.ask_at(worker, &client, &carol, draft);
        assert_eq!(answer.code(), 403);
        assert!(answer.is_signed_by(&carol));
    }
    let stranger = Account::new(&carol.name, "wrong");
    assert_eq!(world.ask(&tuple(3), &stranger, Draft::new(ALLOCATE, 1).udp()).code(), 401, "no oracle");
    assert_eq!(world.ask(&tuple(4), &Account::bob(), Draft::new(ALLOCATE, 1).udp()).code(), 0);
    world.advance(secs(99));
    assert_eq!(world.ask(&tuple(2), &carol, Draft::new(ALLOCATE, 4).udp()).code(), 403);
    world.advance(secs(1));
    assert_eq!(world.ask(&tuple(2), &carol, Draft::new(ALLOCATE, 5).udp()).code(), 0);

    world.shared.revocations().revoke(world.now, &carol.name, world.now + secs(100)).unwrap();
    assert_eq!(world.ask(&tuple(5), &carol, Draft::new(ALLOCATE, 6).udp()).code(), 403, "by the whole name");
    assert!(world.shared.revocations().lift(world.now, &carol.name));
    assert!(!world.shared.revocations().lift(world.now, &carol.name));
    assert_eq!(world.ask(&tuple(5), &carol, Draft::new(ALLOCATE, 7).udp()).code(), 0);
}

#[test]
fn reserved_port_is_not_handed_to_a_user_revoked_meanwhile() {
    let mut world = World::with(settings(), 2);
    let even = Draft::new(ALLOCATE, 1).udp().with(0x0018, &[0x80]);
    let token = world.ask(&tuple(1), &Account::alice(), even).token();
    let nonce = world.nonce(1, &tuple(2));
    let claim = Draft::new(ALLOCATE, 2).udp().with(0x0022, &token).sign(&Account::alice(), &nonce).bytes();
    let wall = world.wall();
    world.input(1, Input::Message { from: tuple(2), bytes: &claim, wall });
    world.shared.revocations().revoke(world.now, "alice", world.now + secs(9)).unwrap();
    world.settle();
    assert_eq!(world.sent.last().unwrap().1.code(), 403);
    assert_eq!(world.workers[1].allocations(), 0);
    world.advance(secs(3600));
    world.assert_empty();
}

#[test]
fn no_more_users_are_revoked_than_there_is_room_for_and_expired_ones_make_room() {
    let (revocations, now) = (Revocations::default(), epoch());
    for n in 0..MAX_REVOKED {
        revocations.revoke(now, &n.to_string(), now + secs(10)).unwrap();
    }
    assert_eq!(revocations.revoke(now, "one more", now + secs(10)), Err(TooManyRevoked));
    revocations.revoke(now, "7", now + secs(20)).expect("a new time for one that is there");
    revocations.revoke(now + secs(10), "one more", now + secs(20)).expect("the others are over");
    let page = revocations.page(now + secs(10), None, 10);
    assert_eq!(page, [("7".into(), now + secs(20)), ("one more".into(), now + secs(20))]);
    assert_eq!(revocations.page(now + secs(10), Some("7"), 10).len(), 1);
    assert_eq!(revocations.page(now + secs(20), None, 10), []);
}
