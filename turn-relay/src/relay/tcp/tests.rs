//! TCP allocations (RFC 6062) over a virtual clock: who gets one, who may be connected to, who may come in, what ends when.

use std::time::Duration;

use super::*;
use crate::address::Transport;
use crate::policy::PeerPolicy;
use crate::relay::tcp::paper::*;
use crate::relay::testing::*;
use crate::relay::*;

const BOTH_FAMILIES: [u8; 2] = [1, 2];

fn control() -> FiveTuple {
    tcp("203.0.1.7:40001")
}

/// A connection of the same client, for data.
fn data(n: u16) -> FiveTuple {
    tcp(&format!("203.0.1.7:{}", 41_000 + n))
}

fn allocate(world: &mut World, from: &FiveTuple) -> SocketAddr {
    let answer = world.ask(from, &Account::alice(), Draft::new(ALLOCATE, 1).tcp());
    assert!(answer.is_success(), "{}", answer.code());
    answer.relayed()
}

/// Alice's Connect; the answer, if one came at once.
fn connect(world: &mut World, from: &FiveTuple, to: &str) -> Option<Answer> {
    let nonce = world.nonce(0, from);
    let draft = Draft::new(CONNECT, 7).peer(to).sign(&Account::alice(), &nonce);
    world.send(from, &draft.bytes())
}

/// A Connect that gets through: the CONNECTION-ID.
fn connected(world: &mut World, from: &FiveTuple, to: &str) -> u32 {
    assert_eq!(connect(world, from, to), None, "the answer waits for the peer");
    world.peer_answers(true);
    let (to, answer) = world.sent.last().expect("an answer");
    assert!(to == from && answer.is_success(), "{}", answer.code());
    answer.connection()
}

/// Alice's ConnectionBind at a worker.
fn bind(world: &mut World, worker: usize, from: &FiveTuple, id: u32) -> u16 {
    bind_as(world, &Account::alice(), worker, from, id)
}

fn bind_as(world: &mut World, who: &Account, worker: usize, from: &FiveTuple, id: u32) -> u16 {
    world.ask_at(worker, from, who, Draft::new(CONNECTION_BIND, 8).connection(id)).code()
}

/// What a peer's connection was announced with, if it was.
fn announced(world: &World) -> Option<(FiveTuple, u32, SocketAddr)> {
    let (to, message) = world.sent.last()?;
    (message.kind == CONNECTION_ATTEMPT).then(|| (*to, message.connection(), message.peer()))
}

fn release(world: &mut World, from: &FiveTuple) {
    let before = world.sent.len();
    world.ask(from, &Account::alice(), Draft::new(REFRESH, 9).lifetime(0));
    assert!(world.sent[before..].iter().any(|(_, answer)| answer.kind == REFRESH | 0x0100));
}

#[test]
fn tcp_allocation_needs_a_stream_and_excludes_what_is_for_datagrams() {
    let mut world = World::new();
    let alice = Account::alice();
    let dtls = FiveTuple { transport: Transport::Dtls, ..control() };
    for from in [tuple(1), dtls] {
        assert_eq!(world.ask(&from, &alice, Draft::new(ALLOCATE, 1).tcp()).code(), 400, "{from:?}");
    }
    for (kind, value) in [(0x0018, &[0][..]), (0x0018, &[0x80]), (0x001A, &[]), (0x0022, &[7; 8])] {
        let draft = Draft::new(ALLOCATE, 2).tcp().with(kind, value);
        assert_eq!(world.ask(&control(), &alice, draft).code(), 400, "{kind:#06x}");
    }
    assert_eq!(world.opens, 0);
    let tls = FiveTuple { transport: Transport::Tls, ..control() };
    for (n, from) in [control(), tls].into_iter().enumerate() {
        let answer = world.ask(&from, &alice, Draft::new(ALLOCATE, 3).tcp().lifetime(1000));
        assert!(answer.is_success() && answer.lifetime() == 1000 && answer.mapped() == from.client.0);
        assert_eq!(world.opens, n + 1);
        release(&mut world, &from);
    }
    world.assert_empty();
}

#[test]
fn tcp_allocation_tries_other_ports_and_returns_what_it_took() {
    let mut world = World::with(RelaySettings { ports: (50_000, 50_003), ..settings() }, 1);
    world.taken = vec![50_000, 50_001, 50_002];
    let relayed = allocate(&mut world, &control());
    assert_eq!(relayed.port(), 50_003);
    world.exhausted = true;
    assert_eq!(world.ask(&data(1), &Account::alice(), Draft::new(ALLOCATE, 1).tcp()).code(), 508);
    world.input(0, Input::ClientGone(control()));
    world.settle();
    world.assert_empty();
}

#[test]
fn connect_is_answered_when_the_peer_is_and_the_bound_connection_is_joined() {
    for family in BOTH_FAMILIES {
        let mut world = World::new();
        let answer = world.ask(
            &control(),
            &Account::alice(),
            Draft::new(ALLOCATE, 1).tcp().with(0x0017, &[family, 0, 0, 0]),
        );
        let (relayed, to) = (answer.relayed(), if family == 1 { "8.8.8.8:5000" } else { "[2a00:9::1]:5000" });
        assert_eq!(connect(&mut world, &control(), to), None);
        let under_way: Vec<_> = world.peers.connecting.values().copied().collect();
        assert_eq!(under_way, [(relayed, peer(to))], "from the relayed address");
        let connection = world.peer_answers(true);
        let id = world.sent.last().unwrap().1.connection();
        assert_eq!(bind(&mut world, 0, &data(1), id), 0);
        assert_eq!(world.peers.joined, [((0, connection), data(1))].into());
        assert_eq!(bind(&mut world, 0, &data(2), id), 400, "bound already");
        world.input(0, Input::ClientGone(control()));
        world.settle();
        world.assert_empty();
    }
}

#[test]
fn peer_that_does_not_answer_or_refuses_gets_the_client_447() {
    let mut world = World::new();
    allocate(&mut world, &control());
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5000"), None);
    world.peer_answers(false);
    assert_eq!(world.sent.last().unwrap().1.code(), 447);

    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5000"), None);
    let before = world.sent.len();
    world.advance(secs(30) - Duration::from_millis(1));
    assert_eq!(world.sent.len(), before, "RFC 6062 wants at least 30 s");
    world.advance(Duration::from_millis(1));
    assert_eq!(world.sent.last().unwrap().1.code(), 447);
    assert!(world.peers.open.is_empty() && world.peers.connecting.is_empty());
}

#[test]
fn connect_to_a_connected_peer_gets_446_at_every_stage() {
    let mut world = World::new();
    let relayed = allocate(&mut world, &control());
    let again = |world: &mut World, to: &str| connect(world, &control(), to).expect("an answer").code();
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5000"), None);
    assert_eq!(again(&mut world, "8.8.8.8:5000"), 446, "under way");
    world.peer_answers(true);
    assert_eq!(again(&mut world, "8.8.8.8:5000"), 446, "waiting");
    let id = world.sent.iter().rev().find(|(_, answer)| answer.is_success()).unwrap().1.connection();
    assert_eq!(bind(&mut world, 0, &data(1), id), 0);
    assert_eq!(again(&mut world, "8.8.8.8:5000"), 446, "joined");
    assert_eq!(world.permit(&control(), "9.9.9.9:1"), 0);
    world.peer_connects(0, relayed, "9.9.9.9:7");
    assert_eq!(again(&mut world, "9.9.9.9:7"), 446, "it came by itself");
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5001"), None, "another port is another peer");
}

#[test]
fn connect_wants_a_tcp_allocation_and_a_peer() {
    let mut world = World::new();
    let alice = Account::alice();
    let code = |world: &mut World, who: &Account, draft| world.ask(&control(), who, draft).code();
    let to_peer = || Draft::new(CONNECT, 1).peer("8.8.8.8:1");
    assert_eq!(code(&mut world, &alice, to_peer()), 437, "no allocation");
    world.allocate(&control());
    assert_eq!(code(&mut world, &alice, to_peer()), 437, "one for datagrams");
    release(&mut world, &control());
    allocate(&mut world, &control());
    assert_eq!(code(&mut world, &Account::bob(), to_peer()), 441);
    assert_eq!(code(&mut world, &alice, Draft::new(CONNECT, 2)), 400);
    assert_eq!(code(&mut world, &alice, Draft::new(CONNECT, 3).with(0x0012, &[1])), 400);
    assert_eq!(code(&mut world, &alice, Draft::new(CONNECT, 4).peer("[2a00:9::1]:1")), 443);
    assert_eq!(code(&mut world, &alice, Draft::new(CONNECT, 5).peer("8.8.8.8:0")), 403);
    assert!(world.peers.open.is_empty());
}

#[test]
fn hostile_peers_are_refused_at_connect_and_at_accept() {
    let mut world = World::new();
    let mut relayed = BOTH_FAMILIES.map(|family| {
        let from = data(family.into());
        let draft = Draft::new(ALLOCATE, 1).tcp().with(0x0017, &[family, 0, 0, 0]);
        (from, world.ask(&from, &Account::alice(), draft).relayed())
    });
    relayed.sort_unstable_by_key(|(_, relayed)| relayed.is_ipv6());
    for hostile in [
        "0.0.0.0:1",
        "127.0.0.1:1",
        "10.1.2.3:1",
        "169.254.169.254:80",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "198.51.100.1:3478",
        "198.51.100.77:22",
        "[::]:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "[::ffff:8.8.8.8]:1",
        "[::127.0.0.1]:1",
        "[64:ff9b::7f00:1]:1",
        "[2002:7f00:1::1]:1",
        "[fe80::1]:1",
        "[fd00:ec2::254]:80",
        "[ff02::1]:1",
    ] {
        let (from, relayed) = relayed[usize::from(addr(hostile).is_ipv6())];
        assert_eq!(connect(&mut world, &from, hostile).expect("refused").code(), 403, "{hostile}");
        world.peer_connects(0, relayed, hostile);
        assert!(world.peers.open.is_empty() && announced(&world).is_none(), "{hostile}");
    }
}

#[test]
fn peer_without_permission_is_closed_at_once_and_one_with_is_announced() {
    let mut world = World::new();
    let relayed = allocate(&mut world, &control());
    world.peer_connects(0, relayed, "8.8.8.8:5000");
    assert!(world.peers.open.is_empty() && announced(&world).is_none());
    assert_eq!(world.events.last(), Some(&Event::Dropped(DropReason::NoPermission)));

    assert_eq!(world.permit(&control(), "8.8.8.8:1"), 0);
    let connection = world.peer_connects(0, relayed, "8.8.8.8:5000");
    let (to, id, from) = announced(&world).expect("an indication");
    assert_eq!((to, from), (control(), addr("8.8.8.8:5000")));
    assert_eq!(bind(&mut world, 0, &data(1), id), 0);
    assert_eq!(world.peers.joined, [((0, connection), data(1))].into());

    world.advance(secs(300));
    world.peer_connects(0, relayed, "8.8.8.8:5001");
    assert_eq!(world.peers.open.len(), 1, "the permission is over; what is joined stays");
}

#[test]
fn unbound_connections_of_both_kinds_are_closed_after_thirty_seconds() {
    let mut world = World::new();
    let relayed = allocate(&mut world, &control());
    assert_eq!(world.permit(&control(), "9.9.9.9:1"), 0);
    let made = connected(&mut world, &control(), "8.8.8.8:5000");
    world.peer_connects(0, relayed, "9.9.9.9:7");
    let (_, came, _) = announced(&world).unwrap();
    world.advance(secs(30) - Duration::from_millis(1));
    assert_eq!(world.peers.open.len(), 2);
    world.advance(Duration::from_millis(1));
    assert!(world.peers.open.is_empty());
    for id in [made, came] {
        assert_eq!(bind(&mut world, 0, &data(1), id), 400);
    }
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5000"), None, "it may be tried again");
}

#[test]
fn connection_bind_takes_a_known_id_of_the_same_user_on_a_connection_of_its_own() {
    let mut world = World::new();
    allocate(&mut world, &control());
    let id = connected(&mut world, &control(), "8.8.8.8:5000");
    assert_eq!(bind_as(&mut world, &Account::bob(), 0, &data(1), id), 400, "as unknown as any");
    assert_eq!(world.disconnected, [data(1)], "a wrong id costs the connection");
    assert_eq!(bind(&mut world, 0, &data(2), id ^ 1), 400);
    let without = world.ask(&data(3), &Account::alice(), Draft::new(CONNECTION_BIND, 1));
    assert_eq!(without.code(), 400);
    assert_eq!(bind(&mut world, 0, &tuple(1), id), 400, "over UDP");
    assert_eq!(bind(&mut world, 0, &control(), id), 400, "the control connection");
    assert!(world.peers.joined.is_empty());
    assert_eq!(bind(&mut world, 0, &data(4), id), 0);
}

#[test]
fn client_that_binds_at_another_worker_is_moved_to_the_peer_once() {
    let mut world = World::with(settings(), 2);
    allocate(&mut world, &control());
    let id = connected(&mut world, &control(), "8.8.8.8:5000");
    assert_eq!(bind_as(&mut world, &Account::bob(), 1, &data(1), id), 400, "moved, and refused there");
    assert_eq!(bind(&mut world, 1, &data(2), id), 0);
    assert_eq!(world.peers.moved, [(data(1), 0), (data(2), 0)]);
    assert_eq!(world.peers.joined.values().collect::<Vec<_>>(), [&data(2)]);
    assert!(world.peers.joined.keys().all(|(worker, _)| *worker == 0));
    assert_eq!(bind(&mut world, 1, &data(3), id), 400);
    assert_eq!(world.peers.moved.len(), 2, "an id that is used up moves nobody");
    world.input(0, Input::ClientGone(control()));
    world.settle();
    world.assert_empty();
}

#[test]
fn everything_of_a_tcp_allocation_ends_with_it() {
    for end in ["released", "expired", "closed"] {
        let mut world = World::new();
        let relayed = allocate(&mut world, &control());
        assert_eq!(world.permit(&control(), "9.9.9.9:1"), 0);
        let id = connected(&mut world, &control(), "8.8.8.8:5000");
        assert_eq!(bind(&mut world, 0, &data(1), id), 0);
        if end == "expired" {
            world.advance(secs(595));
            assert_eq!(world.permit(&control(), "9.9.9.9:1"), 0);
        }
        let waiting = connected(&mut world, &control(), "8.8.8.8:5001");
        world.peer_connects(0, relayed, "9.9.9.9:7");
        assert_eq!(connect(&mut world, &control(), "8.8.8.8:5002"), None);
        assert_eq!(world.peers.open.len(), 4);
        match end {
            "released" => release(&mut world, &control()),
            "expired" => world.advance(secs(5)),
            _ => {
                world.input(0, Input::ClientGone(control()));
                world.settle();
            }
        }
        world.assert_empty();
        let late =
            world.sent.iter().filter(|(_, answer)| answer.kind == 0x011A && answer.code() == 447).count();
        assert_eq!(late, usize::from(end != "closed"), "{end}: whoever is there learns that it failed");
        assert_eq!(bind(&mut world, 0, &data(2), waiting), 400, "{end}");
    }
}

#[test]
fn closed_connection_makes_room_and_its_bytes_are_counted_for_the_allocation() {
    let limits = Limits { connections_per_allocation: 1, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
    allocate(&mut world, &control());
    let id = connected(&mut world, &control(), "8.8.8.8:5000");
    assert_eq!(bind(&mut world, 0, &data(1), id), 0);
    let (_, connection) = *world.peers.joined.keys().next().unwrap();
    for (to_peer, to_client) in [(100, 0), (1, 20)] {
        let pauses = world.workers[0].count_joined(world.now, connection, to_peer, to_client);
        assert_eq!(pauses, [Duration::ZERO; 2]);
    }
    assert_eq!(connect(&mut world, &control(), "9.9.9.9:1").expect("refused").code(), 508);
    world.peer_closes(0, connection);
    assert_eq!(world.workers[0].count_joined(world.now, connection, 1000, 1000), [Duration::ZERO; 2]);
    assert_eq!(connect(&mut world, &control(), "9.9.9.9:1"), None);
    release(&mut world, &control());
    let ended = |event: &Event| {
        if let Event::AllocationEnded { traffic, .. } = event { Some(*traffic) } else { None }
    };
    let traffic = world.events.iter().rev().find_map(ended);
    let expected = Traffic { to_peer_bytes: 101, to_client_bytes: 20, ..Traffic::default() };
    assert_eq!(traffic, Some(expected));
}

#[test]
fn joined_connections_wait_as_long_as_the_rates_of_their_allocation_and_user_say() {
    let rate = |bytes_per_second| Rate { bytes_per_second, packets_per_second: 1 };
    for (allocation_rate, user_rate) in [(rate(100_000), rate(0)), (rate(0), rate(100_000))] {
        let limits = Limits { allocation_rate, user_rate, ..Limits::default() };
        let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
        allocate(&mut world, &control());
        for (n, peer) in (1..).zip(["8.8.8.8:5000", "9.9.9.9:1"]) {
            let id = connected(&mut world, &control(), peer);
            assert_eq!(bind(&mut world, 0, &data(n), id), 0);
        }
        let joined: Vec<PeerConnectionId> = world.peers.joined.keys().map(|(_, name)| *name).collect();
        let count = |world: &mut World, n: usize, bytes| {
            let pauses = world.workers[0].count_joined(world.now, joined[n], bytes, 0);
            assert_eq!(pauses[1], Duration::ZERO, "the other direction has a rate of its own");
            pauses[0].as_millis()
        };
        // A second's worth at once, and what is more is waited for: by whichever connection.
        assert_eq!(count(&mut world, 0, 100_000), 0);
        assert_eq!(count(&mut world, 1, 50_000), 500);
        assert_eq!(count(&mut world, 0, 50_000), 1000);
        world.advance(secs(2));
        assert_eq!(count(&mut world, 1, 100_000), 0);
        assert_eq!(count(&mut world, 1, 10_000), 100);
    }
}

#[test]
fn connections_are_limited_per_allocation_and_per_user_on_all_workers() {
    let limits = Limits { connections_per_allocation: 2, connections_per_user: 3, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
    let relayed = allocate(&mut world, &control());
    assert_eq!(world.permit(&control(), "9.9.9.9:1"), 0);
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:1"), None);
    world.peer_connects(0, relayed, "9.9.9.9:7");
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:3").expect("refused").code(), 508);
    world.peer_connects(0, relayed, "9.9.9.9:8");
    assert_eq!(world.peers.open.len(), 2);
    assert_eq!(world.events.last(), Some(&Event::Dropped(DropReason::TooManyConnections)));

    let second = tcp("203.0.2.7:40002");
    assert!(world.ask_at(1, &second, &Account::alice(), Draft::new(ALLOCATE, 1).tcp()).is_success());
    let mut codes = vec![];
    for port in 1..3 {
        let nonce = world.nonce(1, &second);
        let draft = Draft::new(CONNECT, port).peer(&format!("8.8.4.4:{port}"));
        let answer = world.send_at(1, &second, &draft.sign(&Account::alice(), &nonce).bytes());
        codes.push(answer.map(|answer| answer.code()));
    }
    assert_eq!(codes, [None, Some(486)]);
}

#[test]
fn clients_of_one_relay_connect_to_each_other_and_to_nothing_else_of_it() {
    let mut behind_nat = settings();
    behind_nat.relay_addresses[0].external = Some("192.0.2.99".parse().unwrap());
    let mut world = World::with(behind_nat, 1);
    let one = allocate(&mut world, &control());
    let other = tcp("203.0.2.7:40002");
    let two = allocate(&mut world, &other);
    let udp = world.allocate(&tuple(3)).relayed();
    assert_eq!(one.ip(), addr("192.0.2.99:1").ip());
    let inside = |outside: SocketAddr| SocketAddr::new(RELAY_V4.parse().unwrap(), outside.port());

    for refused in [udp, one, SocketAddr::new(one.ip(), 22), addr("198.51.100.1:3478")] {
        let code = connect(&mut world, &control(), &refused.to_string()).expect("refused").code();
        assert_eq!(code, 403, "{refused}: UDP, itself, no allocation, a listener");
    }
    assert_eq!(connect(&mut world, &control(), &two.to_string()), None);
    let (from, to) = *world.peers.connecting.values().next().unwrap();
    assert_eq!((from, to.0), (inside(one), inside(two)), "inside: a 1:1 NAT may not turn packets around");

    assert_eq!(world.permit(&other, &one.to_string()), 0);
    world.peer_connects(0, inside(two), &inside(one).to_string());
    let (told, _, shown) = announced(&world).expect("an indication");
    assert_eq!((told, shown), (other, one), "shown as the client knows it");
    world.peer_connects(0, inside(two), &inside(udp).to_string());
    assert!(announced(&world).is_none() || world.peers.open.len() == 2, "the port of a datagram allocation");
}

#[test]
fn datagrams_and_channels_have_no_business_with_a_tcp_allocation() {
    let mut world = World::with(
        RelaySettings { policy: PeerPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], vec![]), ..settings() },
        1,
    );
    let relayed = allocate(&mut world, &control());
    assert_eq!(world.permit(&control(), "8.8.8.8:1"), 0);
    assert_eq!(world.bind_channel(&control(), 0x4000, "8.8.8.8:1"), 403);
    let sent = world.route_client(&control(), &send_indication("8.8.8.8:1", b"x"));
    assert_eq!(sent, Verdict::Drop(DropReason::TcpAllocation));
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 1), Verdict::Drop(DropReason::TcpAllocation));
}

#[test]
fn connection_ids_are_drawn_at_random() {
    let mut world = World::new();
    allocate(&mut world, &control());
    let ids: Vec<u32> =
        (1..20).map(|port| connected(&mut world, &control(), &format!("8.8.8.8:{port}"))).collect();
    let bits = |of: fn(u32, u32) -> u32| ids.iter().copied().reduce(of).unwrap();
    assert_eq!(bits(|a, b| a | b), u32::MAX, "every bit is set in some");
    assert_eq!(bits(|a, b| a & b), 0, "and clear in some: nineteen ids agree on a bit once in 8,000 runs");
    assert!(ids.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 1));
}

#[test]
fn late_words_about_connections_that_are_gone_change_nothing() {
    let mut world = World::new();
    allocate(&mut world, &control());
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:1"), None);
    let ((_, connection), _) = world.peers.connecting.first_key_value().map(|(k, v)| (*k, *v)).unwrap();
    release(&mut world, &control());
    let before = world.sent.len();
    world.input(0, Input::PeerConnected(connection));
    world.input(0, Input::PeerGone(connection));
    world.settle();
    assert_eq!(world.sent.len(), before);
    world.assert_empty();
}

#[test]
fn dual_tcp_allocation_connects_from_the_address_of_the_peers_family_and_loses_one_at_a_time() {
    let mut world = World::new();
    let both =
        world.ask(&control(), &Account::alice(), Draft::new(ALLOCATE, 1).tcp().with(0x8000, &[2, 0, 0, 0]));
    let [v4, v6]: [SocketAddr; 2] = both.all_relayed().try_into().expect("two addresses");
    for (to, relayed) in [("8.8.8.8:5000", v4), ("[2a00:9::1]:5000", v6)] {
        assert_eq!(connect(&mut world, &control(), to), None);
        assert_eq!(world.peers.connecting.values().next(), Some(&(relayed, peer(to))));
        world.peer_answers(true);
    }
    let only_v6 = Draft::new(REFRESH, 3).with(0x0017, &[2, 0, 0, 0]).lifetime(0);
    assert!(world.ask(&control(), &Account::alice(), only_v6).is_success());
    assert_eq!(world.peers.open.len(), 1);
    assert_eq!(connect(&mut world, &control(), "[2a00:9::1]:5000").expect("refused").code(), 443);
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5000").expect("refused").code(), 446, "it stays");
    release(&mut world, &control());
    world.assert_empty();
}

#[test]
fn peer_that_is_denied_now_loses_its_connections_and_the_allocation_stays() {
    let mut world = World::new();
    allocate(&mut world, &control());
    let id = connected(&mut world, &control(), "8.8.8.8:5000");
    assert_eq!(bind(&mut world, 0, &data(1), id), 0);
    connected(&mut world, &control(), "8.8.8.8:5001");
    connected(&mut world, &control(), "9.9.9.9:5000");
    let policy = PeerPolicy::new(vec![], vec!["8.8.8.8/32".parse().unwrap()]);
    let settings = Arc::new(RelaySettings { policy, ..settings() });
    world.shared.apply(&settings).unwrap();
    world.input(0, Input::Settings(settings));
    world.settle();
    assert_eq!(world.peers.open.len(), 1, "that to 9.9.9.9");
    assert_eq!(connect(&mut world, &control(), "8.8.8.8:5002").expect("refused").code(), 403);
    release(&mut world, &control());
    world.assert_empty();
}
