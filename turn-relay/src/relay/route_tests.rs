//! Routes: what a driver may relay by itself. That every change is named is checked after every input of every test
//! ([`testing::World`]); here is what the routes are.

use std::time::Duration;

use super::testing::*;
use super::*;
use crate::frame::ChannelNumber;
use crate::policy::PeerPolicy;

const TICKET: u16 = 0x8030;
const PEER: &str = "8.8.8.8:5000";

fn bound() -> (World, SocketAddr) {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(3600));
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, PEER), 0);
    (world, relayed)
}

fn routes(world: &World) -> Vec<Route> {
    world.books.iter().flat_map(|book| book.all(world.now)).collect()
}

fn until(world: &World) -> Option<Duration> {
    routes(world).first().map(|route| route.until - world.now)
}

#[test]
fn route_is_a_bound_channel_and_ends_with_what_ends_first_of_binding_permission_and_allocation() {
    let (mut world, relayed) = bound();
    let route = Route {
        client: tuple(1),
        channel: ChannelNumber::new(0x4001).unwrap(),
        relayed,
        peer: peer(PEER),
        until: world.now + secs(300),
        ours: false,
        user: 0,
    };
    assert_eq!(routes(&world), [route]);
    world.advance(secs(200));
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0);
    assert_eq!(until(&world), Some(secs(300)));
    world.advance(secs(200));
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0);
    assert_eq!(until(&world), Some(secs(200)), "the binding ends first");
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(600));
    world.advance(secs(200));
    assert_eq!(routes(&world), []);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, PEER), 0);
    assert_eq!(until(&world), Some(secs(300)));
    world.advance(secs(399));
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, PEER), 0);
    assert_eq!(until(&world), Some(secs(1)), "the allocation ends first");
}

#[test]
fn permission_without_a_channel_is_no_route() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), PEER), 0);
    assert_eq!(routes(&world), []);
}

#[test]
fn routes_are_gone_with_their_allocation() {
    let (mut world, _) = bound();
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(0));
    assert_eq!(routes(&world), []);
}

#[test]
fn client_of_a_connection_has_no_routes() {
    let mut world = World::new();
    let client = tcp("203.0.1.7:40000");
    world.allocate(&client);
    assert_eq!(world.bind_channel(&client, 0x4001, PEER), 0);
    assert_eq!(routes(&world), []);
}

#[test]
fn reload_that_denies_the_peer_takes_the_route_away() {
    let (mut world, _) = bound();
    let denied = PeerPolicy::new(vec![], vec!["8.8.8.0/24".parse().unwrap()]);
    world.reload(RelaySettings { policy: denied, ..settings() });
    assert_eq!(routes(&world), []);
}

#[test]
fn route_to_our_own_address_is_for_other_clients_only_and_none_leads_to_a_listener() {
    // An address of ours that the operator allows is ours all the same.
    for allowed in [vec![], vec!["0.0.0.0/0".parse().unwrap()]] {
        let mut world =
            World::with(RelaySettings { policy: PeerPolicy::new(allowed, vec![]), ..settings() }, 1);
        world.allocate(&tuple(1));
        let other = world.allocate(&tuple(2)).relayed().to_string();
        assert_eq!(world.bind_channel(&tuple(1), 0x4001, &other), 0);
        assert_eq!(routes(&world).iter().map(|route| route.ours).collect::<Vec<_>>(), [true]);
    }

    let (mut world, _) = bound();
    let allowed = PeerPolicy::new(vec!["8.8.8.0/24".parse().unwrap()], vec![]);
    world.reload(RelaySettings { policy: allowed.clone(), ..settings() });
    assert_eq!(routes(&world).len(), 1);
    world.reload(RelaySettings { policy: allowed, listeners: vec![addr(PEER)], ..settings() });
    assert_eq!(routes(&world), []);
}

#[test]
fn what_routes_carried_counts_for_the_allocation_and_against_its_rates() {
    let mut world = World::new();
    let rate = Rate { bytes_per_second: 1000, packets_per_second: 0 };
    let limits = Limits { allocation_rate: rate, ..Limits::default() };
    world.reload(RelaySettings { limits, ..settings() });
    world.allocate(&tuple(1));
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, PEER), 0);
    assert!(matches!(world.route_client(&tuple(1), &channel_data(0x4001, b"abc")), Verdict::ToPeer { .. }));

    let id = *world.workers[0].ids.keys().next().unwrap();
    let traffic = Traffic { to_peer_bytes: 70_000, to_peer_packets: 70, ..Traffic::default() };
    let now = world.now;
    let [to_peer, to_client] = world.workers[0].carried(now, id, &traffic).unwrap();
    assert!(to_peer.allocation[0] > 69_000_000_000, "70 s of a thousand bytes a second: {to_peer:?}");
    assert_eq!(to_client.allocation[0], 0);
    let over = world.route_client(&tuple(1), &channel_data(0x4001, b"abc"));
    assert_eq!(over, Verdict::Drop(DropReason::AllocationRate));
    let view = world.workers[0].find(now, id).unwrap();
    assert_eq!((view.traffic.to_peer_bytes, view.traffic.to_peer_packets), (70_003, 71));

    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(0));
    assert_eq!(world.workers[0].carried(now, id, &traffic), None);
}

#[test]
fn paces_are_those_of_the_limits() {
    let mut world = World::new();
    let rate = Rate { bytes_per_second: 1_000_000, packets_per_second: 1000 };
    let limits = Limits {
        allocation_rate: rate,
        user_rate: Rate { bytes_per_second: 0, packets_per_second: 0 },
        ..Limits::default()
    };
    world.reload(RelaySettings { limits, ..settings() });
    let (allocation, user) = world.workers[0].paces();
    let pace = |nanoseconds: u64| ScaledPace { scaled_cost: nanoseconds << 16, depth: 1_000_000_000 };
    assert_eq!(allocation, [pace(1000), pace(1_000_000)]);
    assert_eq!(user, [ScaledPace::default(); 2]);
}

#[test]
fn client_on_the_move_has_no_routes_until_it_speaks_from_its_new_address() {
    let mut world = World::new();
    let answer = world.ask(&tuple(1), &Account::alice(), Draft::new(ALLOCATE, 1).udp().with(TICKET, b""));
    let ticket = answer.attribute(TICKET).expect("a ticket");
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, PEER), 0);
    assert_eq!(routes(&world).len(), 1);
    world.ask(&tuple(2), &Account::alice(), Draft::new(REFRESH, 2).with(TICKET, &ticket));
    assert_eq!(routes(&world), []);
    world.route_client(&tuple(2), &channel_data(0x4001, b"x"));
    world.follow_routes();
    assert_eq!(routes(&world).iter().map(|route| route.client).collect::<Vec<_>>(), [tuple(2)]);
}
