//! Settings that change under live allocations.

use std::net::SocketAddr;

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::testing::*;
use super::*;
use crate::credentials::{Credentials, Secret};
use crate::policy::PeerPolicy;

const PEER: &str = "8.8.8.8:53";

fn with_users(users: &[(&str, &str)], realm: &str, secrets: &[&str]) -> RelaySettings {
    let users = users.iter().map(|(name, password)| ((*name).to_owned(), (*password).to_owned()));
    let secrets = secrets.iter().map(|secret| Secret::new(*secret)).collect();
    RelaySettings { credentials: Credentials::new(realm, users, secrets), ..settings() }
}

fn denying(network: &str) -> RelaySettings {
    RelaySettings { policy: PeerPolicy::new(vec![], vec![network.parse().unwrap()]), ..settings() }
}

/// Alice on `client`, with a channel to [`PEER`].
fn calls(world: &mut World, client: &FiveTuple) -> SocketAddr {
    let relayed = world.allocate(client).relayed();
    assert_eq!(world.bind_channel(client, 0x4000, PEER), 0);
    relayed
}

fn passes(world: &mut World, client: &FiveTuple) -> bool {
    matches!(world.route_client(client, &channel_data(0x4000, b"x")), Verdict::ToPeer { .. })
}

fn revoked(world: &World) -> usize {
    let of = |event: &&Event| matches!(event, Event::AllocationEnded { reason: EndReason::Revoked, .. });
    world.events.iter().filter(of).count()
}

#[test]
fn reload_of_the_same_settings_leaves_everything_as_it_is() {
    let mut world = World::new();
    let relayed = calls(&mut world, &tuple(1));
    world.reload(settings());
    assert!(passes(&mut world, &tuple(1)));
    assert!(matches!(world.route_peer(relayed, PEER, 9), Verdict::ToClient { .. }));
    world.advance(secs(599));
    assert_eq!(world.workers[0].allocations(), 1, "its lifetime is what it was");
    world.advance(secs(2));
    world.assert_empty();
}

#[test]
fn removed_user_and_changed_password_end_their_allocations_and_no_others() {
    for users in [&[("bob", "builder")][..], &[("alice", "another"), ("bob", "builder")]] {
        let mut world = World::new();
        calls(&mut world, &tuple(1));
        assert!(world.ask(&tuple(2), &Account::bob(), Draft::new(ALLOCATE, 1).udp()).is_success());
        world.reload(with_users(users, REALM, &["north"]));
        assert!(!passes(&mut world, &tuple(1)));
        assert_eq!(
            (revoked(&world), world.workers[0].allocations(), world.shared.claimed_ports()),
            (1, 1, 1)
        );
        let refused = world.ask(&tuple(1), &Account::alice(), Draft::new(ALLOCATE, 2).udp());
        assert_eq!(refused.code(), 401);
        world.reload(with_users(&[], REALM, &["north"]));
        world.assert_empty();
    }
}

#[test]
fn connection_of_a_revoked_allocation_is_closed() {
    let mut world = World::new();
    world.allocate(&tcp("203.0.1.7:40001"));
    world.reload(with_users(&[], REALM, &["north"]));
    assert_eq!(world.disconnected, [tcp("203.0.1.7:40001")]);
}

#[test]
fn removed_secret_ends_what_it_authorised_and_a_new_one_beside_it_does_not() {
    let mut world = World::new();
    let minted = Account::minted("carol", world.wall() + secs(60));
    assert!(world.ask(&tuple(1), &minted, Draft::new(ALLOCATE, 1).udp()).is_success());
    world.reload(with_users(&[], REALM, &["south", "north"]));
    // Expired meanwhile: that alone never ended an allocation.
    world.advance(secs(120));
    world.reload(with_users(&[], REALM, &["north", "west"]));
    assert_eq!((revoked(&world), world.workers[0].allocations()), (0, 1));
    world.reload(with_users(&[], REALM, &["south", "west"]));
    assert_eq!(revoked(&world), 1);
    world.assert_empty();
}

#[test]
fn another_realm_is_for_newcomers_and_leaves_live_allocations() {
    let mut world = World::new();
    calls(&mut world, &tuple(1));
    world.reload(with_users(&[("alice", "wonderland")], "example.net", &[]));
    world.reload(with_users(&[("alice", "wonderland")], "example.com", &[]));
    assert!(passes(&mut world, &tuple(1)));
    // Signed with the key of the old realm, which is the one that its client knows.
    assert!(world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 4)).is_success());
    let challenge = world.send(&tuple(2), &Draft::new(ALLOCATE, 5).udp().bytes()).expect("a challenge");
    assert_eq!(challenge.attribute(0x0014).as_deref(), Some(&b"example.com"[..]));
}

#[test]
fn peer_that_is_denied_now_loses_its_permission_and_the_allocation_stays() {
    let mut world = World::new();
    let relayed = calls(&mut world, &tuple(1));
    assert_eq!(world.permit(&tuple(1), "9.9.9.9:1"), 0);
    world.reload(denying("8.8.0.0/16"));
    assert!(!passes(&mut world, &tuple(1)));
    assert_eq!(world.route_peer(relayed, PEER, 9), Verdict::Drop(DropReason::NoPermission));
    assert!(matches!(world.route_peer(relayed, "9.9.9.9:1", 9), Verdict::ToClient { .. }));
    assert_eq!(world.permit(&tuple(1), PEER), 403);
    assert_eq!((revoked(&world), world.workers[0].allocations()), (0, 1));
    // Allowed again, it needs a permission again.
    world.reload(settings());
    assert!(!passes(&mut world, &tuple(1)));
    let again = Draft::new(CREATE_PERMISSION, 7).peer(PEER);
    assert!(world.ask(&tuple(1), &Account::alice(), again).is_success());
    assert!(passes(&mut world, &tuple(1)));
}

#[test]
fn denied_ipv6_peer_loses_its_permission_too() {
    let mut world = World::new();
    let draft = Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]);
    let relayed = world.ask(&tuple(1), &Account::alice(), draft).relayed();
    for peer in ["[2001:4860:4860::8888]:1", "[2a00::1]:1"] {
        assert_eq!(world.permit(&tuple(1), peer), 0);
    }
    world.reload(denying("2001:4860::/32"));
    assert!(matches!(world.route_peer(relayed, "[2001:4860:4860::8888]:1", 9), Verdict::Drop(_)));
    assert!(matches!(world.route_peer(relayed, "[2a00::1]:1", 9), Verdict::ToClient { .. }));
}

#[test]
fn lower_limits_hold_for_newcomers_and_cut_nobody() {
    let mut world = World::new();
    for client in 1..=3 {
        world.allocate(&tuple(client));
    }
    let tight = |allocations, allocations_per_user| RelaySettings {
        limits: Limits { allocations, allocations_per_user, ..Limits::default() },
        ..settings()
    };
    let allocate = |world: &mut World, transaction| {
        world.ask(&tuple(4), &Account::alice(), Draft::new(ALLOCATE, transaction).udp()).code()
    };
    world.reload(tight(100, 2));
    assert_eq!((allocate(&mut world, 1), world.workers[0].allocations()), (486, 3));
    world.reload(tight(2, 100));
    assert_eq!((allocate(&mut world, 2), world.workers[0].allocations()), (508, 3));
    world.reload(tight(100, 100));
    assert_eq!(allocate(&mut world, 3), 0);
}

#[test]
fn unauthenticated_answers_follow_their_new_rate() {
    let mut world = World::new();
    let rate = |unauthenticated_answers| RelaySettings {
        limits: Limits { unauthenticated_answers, ..Limits::default() },
        ..settings()
    };
    world.reload(rate(1));
    let answered = |world: &mut World| {
        (0..50).filter(|n| world.send(&tuple(1), &Draft::new(BINDING, *n).bytes()).is_some()).count()
    };
    assert_eq!(answered(&mut world), 2);
    world.reload(rate(0));
    assert_eq!(answered(&mut world), 50);
}

#[test]
fn rates_of_traffic_follow_their_new_limits() {
    let mut world = World::new();
    calls(&mut world, &tuple(1));
    let rate = Rate { bytes_per_second: 0, packets_per_second: 2 };
    let passed = |world: &mut World| (0..10).filter(|_| passes(world, &tuple(1))).count();
    assert_eq!(passed(&mut world), 10);
    for limits in [
        Limits { allocation_rate: rate, ..Limits::default() },
        Limits { user_rate: rate, ..Limits::default() },
    ] {
        world.advance(secs(60));
        world.reload(RelaySettings { limits, ..settings() });
        assert_eq!(passed(&mut world), 2);
    }
    world.reload(settings());
    // What was used of the old allowance comes back first.
    world.advance(secs(1));
    assert_eq!(passed(&mut world), 10);
}

#[test]
fn new_port_range_and_relay_address_are_for_newcomers() {
    let mut world = World::new();
    let old = calls(&mut world, &tuple(1));
    let ip = "198.51.100.2".parse().unwrap();
    world.reload(RelaySettings {
        ports: (60_000, 60_001),
        relay_addresses: vec![RelayAddress { ip, external: None }],
        ..settings()
    });
    let new = world.allocate(&tuple(2)).relayed();
    assert!(new.ip() == ip && (60_000..=60_001).contains(&new.port()), "{new}");
    assert!(passes(&mut world, &tuple(1)));
    // The two still reach each other, and nothing else on the address that is no relay address any more.
    assert_eq!(world.permit(&tuple(2), &old.to_string()), 0);
    let slot = world.slot(0, new);
    assert!(matches!(
        world.workers[0].route_peer(world.now, slot, PeerAddr(old), 9),
        Verdict::ToClient { .. }
    ));
    let other = PeerAddr(SocketAddr::new(old.ip(), 22));
    assert_eq!(
        world.workers[0].route_peer(world.now, slot, other, 9),
        Verdict::Drop(DropReason::PeerForbidden)
    );
    world.advance(secs(601));
    world.assert_empty();
}

#[test]
fn another_external_address_is_told_to_newcomers() {
    let mut world = World::new();
    calls(&mut world, &tuple(1));
    let relay_addresses = vec![RelayAddress {
        ip: RELAY_V4.parse().unwrap(),
        external: Some("93.184.216.34".parse().unwrap()),
    }];
    world.reload(RelaySettings { relay_addresses, ..settings() });
    assert_eq!(world.allocate(&tuple(2)).relayed().ip().to_string(), "93.184.216.34");
    assert!(passes(&mut world, &tuple(1)));
}

#[test]
fn relay_addresses_are_not_taken_without_end() {
    let world = World::new();
    let with = |n: u8| RelaySettings {
        relay_addresses: vec![RelayAddress { ip: [198, 51, 100, n].into(), external: None }],
        ..settings()
    };
    // Two were there from the start.
    for n in 2..=63 {
        world.shared.apply(&with(n)).unwrap();
    }
    assert_eq!(world.shared.apply(&with(64)), Err(TooManyAddresses));
    world.shared.apply(&with(63)).unwrap();
}

#[test]
fn claim_of_a_revoked_user_gets_nothing_and_leaves_nothing() {
    let mut world = World::with(settings(), 2);
    let pair = Draft::new(ALLOCATE, 1).udp().with(0x0018, &[0x80]);
    let token = world.ask(&tuple(1), &Account::alice(), pair).token();
    let nonce = world.nonce(1, &tuple(2));
    let claim = Draft::new(ALLOCATE, 2).udp().with(0x0022, &token).sign(&Account::alice(), &nonce).bytes();
    let wall = world.wall();
    world.input(1, Input::Message { from: tuple(2), bytes: &claim, wall });
    // Before the other worker has answered.
    let settings = Arc::new(with_users(&[], REALM, &["north"]));
    world.input(1, Input::Settings(Arc::clone(&settings)));
    world.settle();
    assert_eq!(world.workers[1].allocations(), 0);
    world.input(0, Input::Settings(settings));
    world.settle();
    world.advance(secs(31));
    world.assert_empty();
}

/// What a random run of reloads may choose from.
struct Choice {
    users: Vec<(&'static str, &'static str)>,
    secrets: Vec<&'static str>,
    denied: Option<&'static str>,
}

impl Choice {
    fn random(rng: &mut ChaCha20Rng) -> Self {
        let users = [("alice", "wonderland"), ("alice", "other"), ("bob", "builder")];
        Self {
            users: users.into_iter().filter(|_| rng.random_bool(0.7)).collect(),
            secrets: ["north", "south"].into_iter().filter(|_| rng.random_bool(0.7)).collect(),
            denied: [None, Some("8.8.0.0/16"), Some("9.0.0.0/8")].choose(rng).copied().flatten(),
        }
    }

    fn settings(&self, rng: &mut ChaCha20Rng) -> RelaySettings {
        let mut users = self.users.clone();
        users.dedup_by_key(|(name, _)| *name);
        let deny = self.denied.map(|network| network.parse().unwrap()).into_iter().collect();
        let realm = *["example.org", "example.net"].choose(rng).unwrap();
        RelaySettings { policy: PeerPolicy::new(vec![], deny), ..with_users(&users, realm, &self.secrets) }
    }
}

#[test]
fn random_reloads_lose_nothing_of_allocations_that_stay_authorised() {
    let seed: u64 =
        std::env::var("TURN_RELAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TURN_RELAY_SEED={seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut tally = [0_usize; 3];
    for _ in 0..100 {
        let mut world = World::seeded(settings(), 2, rng.random());
        // Alice, Bob, and Carol by a secret; each may be revoked, and nobody comes back.
        let carol = Account::minted("carol", world.wall() + secs(3600));
        let mut live: Vec<(usize, FiveTuple, SocketAddr, &str)> = Vec::new();
        for (n, who) in (0_u8..).zip([Account::alice(), Account::bob(), carol].iter().cycle().take(9)) {
            let (worker, client) = (usize::from(n % 2), tuple(n));
            let allocated = world.ask_at(worker, &client, who, Draft::new(ALLOCATE, 1).udp());
            let bind = Draft::new(CHANNEL_BIND, 3).channel(0x4000).peer(PEER);
            assert!(world.ask_at(worker, &client, who, bind).is_success());
            live.push((worker, client, allocated.relayed(), ["alice", "bob", "carol"][usize::from(n % 3)]));
        }
        let mut permitted = true;
        for _ in 0..6 {
            let choice = Choice::random(&mut rng);
            let new = choice.settings(&mut rng);
            let backed = |name: &str| match name {
                "carol" => choice.secrets.contains(&"north"),
                "alice" => {
                    choice.users.iter().find(|(user, _)| *user == "alice") == Some(&("alice", "wonderland"))
                }
                name => choice.users.iter().any(|(user, _)| *user == name),
            };
            world.reload(new);
            let before = live.len();
            live.retain(|(.., name)| backed(name));
            permitted &= choice.denied != Some("8.8.0.0/16");
            tally[0] += before - live.len();
            assert_eq!(world.workers.iter().map(Relay::allocations).sum::<usize>(), live.len());
            for (worker, client, relayed, _) in &live {
                let slot = world.slot(*worker, *relayed);
                let out = world.workers[*worker].route_client(world.now, client, &channel_data(0x4000, b"x"));
                let back = world.workers[*worker].route_peer(world.now, slot, peer(PEER), 9);
                assert_eq!(matches!(out, Verdict::ToPeer { .. }), permitted);
                assert_eq!(matches!(back, Verdict::ToClient { .. }), permitted);
                tally[1 + usize::from(permitted)] += 1;
            }
            world.advance(secs(rng.random_range(0..40)));
        }
        world.advance(secs(601));
        world.assert_empty();
    }
    assert!(tally.iter().all(|count| *count > 50), "revoked, cut, passed: {tally:?}");
}
