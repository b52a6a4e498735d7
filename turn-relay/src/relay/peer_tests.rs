//! Who may be reached and who is heard (RFC 8656 sections 9 to 12): permissions, channels, data, our own addresses.

use std::net::SocketAddr;

use super::testing::*;
use super::*;
use crate::frame::ChannelNumber;
use crate::policy::PeerPolicy;

const DENIED: Verdict = Verdict::Drop(DropReason::NoPermission);

fn number(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).unwrap()
}

fn allowing(nets: &[&str]) -> RelaySettings {
    let allow = nets.iter().map(|net| net.parse().unwrap()).collect();
    RelaySettings { policy: PeerPolicy::new(allow, vec![]), ..settings() }
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::ToPeer { .. } | Verdict::ToClient { .. })
}

#[test]
fn data_flows_both_ways_over_a_channel_and_by_indications() {
    let mut world = World::new();
    let client = tuple(1);
    let relayed = world.allocate(&client).relayed();
    assert_eq!(world.bind_channel(&client, 0x4001, "8.8.8.8:5000"), 0);
    assert_eq!(world.permit(&client, "9.9.9.9:1"), 0);
    let via = world.slot(0, relayed);

    let to_bound = world.route_client(&client, &channel_data(0x4001, b"abc"));
    assert_eq!(
        to_bound,
        Verdict::ToPeer { via, to: peer("8.8.8.8:5000"), start: 4, len: 3, dont_fragment: false }
    );
    let to_permitted = world.route_client(&client, &send_indication("9.9.9.9:7", b"abcd"));
    assert_eq!(
        to_permitted,
        Verdict::ToPeer { via, to: peer("9.9.9.9:7"), start: 36, len: 4, dont_fragment: false }
    );

    let from_bound = world.route_peer(relayed, "8.8.8.8:5000", 3);
    assert_eq!(from_bound, Verdict::ToClient { to: client, header: Header::Channel(number(0x4001)) });
    let Verdict::ToClient { to, header: Header::DataIndication { peer: from, .. } } =
        world.route_peer(relayed, "9.9.9.9:8", 3)
    else {
        panic!("no indication");
    };
    assert_eq!((to, from), (client, peer("9.9.9.9:8")));
}

#[test]
fn without_permission_nothing_passes_in_either_direction() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    assert_eq!(world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"x")), DENIED);
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 1), DENIED);
    let unbound = world.route_client(&tuple(1), &channel_data(0x4000, b"x"));
    assert_eq!(unbound, Verdict::Drop(DropReason::NoChannel));
}

#[test]
fn without_allocation_nothing_passes() {
    let mut world = World::new();
    for frame in [channel_data(0x4000, b"x"), send_indication("8.8.8.8:1", b"x")] {
        assert_eq!(world.route_client(&tuple(1), &frame), Verdict::Drop(DropReason::NoAllocation));
    }
    let stray = world.workers[0].route_peer(world.now, SocketSlot(77), peer("8.8.8.8:1"), 1);
    assert_eq!(stray, Verdict::Drop(DropReason::NoAllocation));
    for draft in [
        Draft::new(CREATE_PERMISSION, 1).peer("8.8.8.8:1"),
        Draft::new(CHANNEL_BIND, 1).channel(0x4000).peer("8.8.8.8:1"),
        Draft::new(REFRESH, 1),
    ] {
        assert_eq!(world.ask(&tuple(1), &Account::alice(), draft).code(), 437);
    }
}

#[test]
fn permission_is_for_every_port_of_an_address_and_for_no_other_address() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    for port in [1, 2, 65_535] {
        assert!(passes(world.route_client(&tuple(1), &send_indication(&format!("8.8.8.8:{port}"), b"x"))));
        assert!(passes(world.route_peer(relayed, &format!("8.8.8.8:{port}"), 1)));
    }
    assert_eq!(world.route_peer(relayed, "8.8.8.9:1", 1), DENIED);
    let port_zero = world.route_client(&tuple(1), &send_indication("8.8.8.8:0", b"x"));
    assert_eq!(port_zero, Verdict::Drop(DropReason::PeerForbidden));
}

#[test]
fn permission_lasts_five_minutes_unless_refreshed() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(299));
    assert!(passes(world.route_peer(relayed, "8.8.8.8:1", 1)));
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(299));
    assert!(passes(world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"x"))));
    world.advance(secs(1));
    assert_eq!(world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"x")), DENIED);
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 1), DENIED);
}

#[test]
fn channel_lasts_ten_minutes_but_passes_nothing_without_its_permission() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(3600));
    world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1");
    world.advance(secs(300));
    assert_eq!(world.route_client(&tuple(1), &channel_data(0x4000, b"x")), DENIED);
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 1), DENIED);
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(299));
    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
    world.permit(&tuple(1), "8.8.8.8:1");
    world.advance(secs(1));
    let unbound = world.route_client(&tuple(1), &channel_data(0x4000, b"x"));
    assert_eq!(unbound, Verdict::Drop(DropReason::NoChannel));
    let header = match world.route_peer(relayed, "8.8.8.8:1", 1) {
        Verdict::ToClient { header, .. } => header,
        verdict @ (Verdict::ToPeer { .. } | Verdict::Control | Verdict::Drop(_)) => panic!("{verdict:?}"),
    };
    assert!(matches!(header, Header::DataIndication { .. }));
}

#[test]
fn channel_and_peer_are_bound_one_to_one() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0, "a refresh");
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:2"), 400);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:1"), 400);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:2"), 0, "another port is another peer");
    world.advance(secs(599));
    world.allocate(&tuple(2));
    assert_eq!(world.bind_channel(&tuple(2), 0x4000, "8.8.8.8:2"), 0, "channels are an allocation's own");
}

#[test]
fn expired_channel_may_be_bound_to_another_peer() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 9).lifetime(3600));
    world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1");
    world.advance(secs(600));
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "9.9.9.9:1"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:1"), 0);
}

#[test]
fn channel_bind_without_number_or_peer_or_out_of_range_gets_400() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    let alice = Account::alice();
    let bind = |transaction| Draft::new(CHANNEL_BIND, transaction);
    assert_eq!(world.ask(&tuple(1), &alice, bind(1).peer("8.8.8.8:1")).code(), 400);
    assert_eq!(world.ask(&tuple(1), &alice, bind(2).channel(0x4000)).code(), 400);
    assert_eq!(world.bind_channel(&tuple(1), 0x3FFF, "8.8.8.8:1"), 400);
    assert_eq!(world.bind_channel(&tuple(1), 0x8000, "8.8.8.8:1"), 400);
    assert_eq!(world.bind_channel(&tuple(1), 0x7FFF, "8.8.8.8:1"), 0);
}

#[test]
fn strict_channels_end_where_rfc8656_ends_them() {
    let mut world = World::with(RelaySettings { strict_channels: true, ..settings() }, 1);
    world.allocate(&tuple(1));
    assert_eq!(world.bind_channel(&tuple(1), 0x4FFF, "8.8.8.8:1"), 0);
    for (number, address) in [(0x5000, "8.8.8.8:2"), (0x7FFF, "9.9.9.9:1")] {
        assert_eq!(world.bind_channel(&tuple(1), number, address), 400, "{number:#x}");
        assert_eq!(
            world.route_client(&tuple(1), &channel_data(number, b"x")),
            Verdict::Drop(DropReason::NoChannel)
        );
    }
    assert_eq!(
        world.route_client(&tuple(1), &send_indication("9.9.9.9:1", b"x")),
        DENIED,
        "nothing was permitted"
    );
}

#[test]
fn create_permission_takes_several_peers_and_takes_all_or_none() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    let alice = Account::alice();
    let several =
        |last: &str| Draft::new(CREATE_PERMISSION, 2).peer("8.8.8.8:1").peer("9.9.9.9:1").peer(last);
    assert_eq!(world.ask(&tuple(1), &alice, several("10.0.0.1:1")).code(), 403);
    assert_eq!(world.ask(&tuple(1), &alice, several("[2a00:9::1]:1")).code(), 443);
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 1), DENIED);
    assert_eq!(world.ask(&tuple(1), &alice, several("1.1.1.1:1")).code(), 0);
    for from in ["8.8.8.8:1", "9.9.9.9:1", "1.1.1.1:1"] {
        assert!(passes(world.route_peer(relayed, from, 1)));
    }
    assert_eq!(world.ask(&tuple(1), &alice, Draft::new(CREATE_PERMISSION, 3)).code(), 400, "no peer at all");
}

#[test]
fn permissions_and_channels_are_bounded_with_508() {
    let limits = Limits { permissions: 2, channels: 2, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
    world.allocate(&tuple(1));
    let alice = Account::alice();
    let three = ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]
        .iter()
        .fold(Draft::new(CREATE_PERMISSION, 4), |d, p| d.peer(p));
    assert_eq!(world.ask(&tuple(1), &alice, three).code(), 508);
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 0);
    assert_eq!(world.permit(&tuple(1), "9.9.9.9:1"), 0);
    assert_eq!(world.permit(&tuple(1), "1.1.1.1:1"), 508);
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:2"), 0, "the same address again");
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:2"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4002, "8.8.8.8:3"), 508);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "8.8.8.8:2"), 0, "a refresh");
    world.advance(secs(300));
    assert_eq!(world.permit(&tuple(1), "1.1.1.1:1"), 0, "expired ones make room");
}

#[test]
fn hostile_peers_are_refused_at_every_door() {
    let mut world = World::new();
    let v4 = world.allocate(&tuple(1)).relayed();
    let v6 =
        world.ask(&tuple(2), &Account::alice(), Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]));
    let v6 = v6.relayed();
    for (client, relayed, hostile) in [
        (1, v4, "0.0.0.0:1"),
        (1, v4, "127.0.0.1:1"),
        (1, v4, "127.255.255.254:1"),
        (1, v4, "10.1.2.3:1"),
        (1, v4, "169.254.169.254:80"),
        (1, v4, "224.0.0.1:1"),
        (1, v4, "255.255.255.255:1"),
        (2, v6, "[::]:1"),
        (2, v6, "[::1]:1"),
        (2, v6, "[::ffff:127.0.0.1]:1"),
        (2, v6, "[::ffff:8.8.8.8]:1"),
        (2, v6, "[::127.0.0.1]:1"),
        (2, v6, "[64:ff9b::7f00:1]:1"),
        (2, v6, "[2002:7f00:1::1]:1"),
        (2, v6, "[fe80::1]:1"),
        (2, v6, "[fd00:ec2::254]:80"),
        (2, v6, "[ff02::1]:1"),
    ] {
        assert_eq!(world.permit(&tuple(client), hostile), 403, "{hostile}");
        assert_eq!(world.bind_channel(&tuple(client), 0x4000, hostile), 403, "{hostile}");
        assert_eq!(world.route_client(&tuple(client), &send_indication(hostile, b"x")), DENIED, "{hostile}");
        assert_eq!(world.route_peer(relayed, hostile, 1), DENIED, "{hostile}");
    }
}

/// To the host itself it is loopback: whoever allows every address did not mean that.
#[test]
fn unspecified_address_is_refused_even_where_every_address_is_allowed() {
    let mut world = World::with(allowing(&["0.0.0.0/0", "::/0"]), 1);
    world.allocate(&tuple(1));
    world.ask(&tuple(2), &Account::alice(), Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]));
    assert_eq!(world.permit(&tuple(1), "10.1.2.3:1"), 0);
    assert_eq!(world.permit(&tuple(2), "[fd00::1]:1"), 0);
    for (client, unspecified) in [(1, "0.0.0.0:1"), (2, "[::]:1"), (2, "[64:ff9b::]:1"), (2, "[2002::1]:1")] {
        assert_eq!(world.permit(&tuple(client), unspecified), 403, "{unspecified}");
        assert_eq!(world.bind_channel(&tuple(client), 0x4000, unspecified), 403, "{unspecified}");
    }
}

#[test]
fn v4_mapped_peer_does_not_pass_for_its_v4_address() {
    let mut world = World::with(allowing(&["127.0.0.0/8", "::/0"]), 1);
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), "127.0.0.1:1"), 0);
    assert_eq!(world.permit(&tuple(1), "[::ffff:127.0.0.1]:1"), 443);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "[::ffff:127.0.0.1]:1"), 443);
    let sent = world.route_client(&tuple(1), &send_indication("[::ffff:127.0.0.1]:1", b"x"));
    assert_eq!(sent, Verdict::Drop(DropReason::PeerFamily));
}

#[test]
fn allowed_range_may_be_reached() {
    let mut world = World::with(allowing(&["10.0.0.0/8"]), 1);
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), "10.1.2.3:1"), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "10.1.2.3:1"), 0);
    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
    assert_eq!(world.permit(&tuple(1), "192.168.0.1:1"), 403);
}

#[test]
fn two_clients_of_one_relay_reach_each_other_across_workers_and_nobody_reaches_what_else_is_there() {
    let mut world = World::with(settings(), 2);
    let alice = Account::alice();
    let one = world.allocate(&tuple(1)).relayed();
    let other = world.ask_at(1, &tuple(2), &alice, Draft::new(ALLOCATE, 1).udp()).relayed();
    let dead = SocketAddr::new(one.ip(), if one.port() == 50_500 { 50_501 } else { 50_500 });
    let dead = if dead == other { SocketAddr::new(one.ip(), 50_502) } else { dead };
    let relay = format!("{RELAY_V4}:1");

    assert_eq!(world.permit(&tuple(1), &relay), 0, "a permission knows no port");
    assert_eq!(world.ask_at(1, &tuple(2), &alice, Draft::new(CREATE_PERMISSION, 2).peer(&relay)).code(), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, &other.to_string()), 0);
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, &dead.to_string()), 403);
    assert_eq!(world.bind_channel(&tuple(1), 0x4002, &format!("{RELAY_V4}:3478")), 403);
    assert_eq!(world.bind_channel(&tuple(1), 0x4003, &format!("{RELAY_V4}:22")), 403);

    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
    let slot = world.slot(1, other);
    assert!(passes(world.workers[1].route_peer(world.now, slot, PeerAddr(one), 1)));
    for forbidden in [dead.to_string(), format!("{RELAY_V4}:3478"), format!("{RELAY_V4}:22")] {
        let out = world.route_client(&tuple(1), &send_indication(&forbidden, b"x"));
        assert_eq!(out, Verdict::Drop(DropReason::PeerForbidden), "{forbidden}");
        let back = world.route_peer(one, &forbidden, 1);
        assert_eq!(back, Verdict::Drop(DropReason::PeerForbidden), "{forbidden}");
    }

    world.ask_at(1, &tuple(2), &alice, Draft::new(REFRESH, 3).lifetime(0));
    let gone = world.route_client(&tuple(1), &channel_data(0x4000, b"x"));
    assert_eq!(gone, Verdict::Drop(DropReason::PeerForbidden), "the other allocation is over");
}

#[test]
fn two_clients_behind_an_external_address_reach_each_other_by_it() {
    let mut behind_nat = settings();
    behind_nat.relay_addresses[0].external = Some("192.0.2.99".parse().unwrap());
    let mut world = World::with(behind_nat, 1);
    let one = world.allocate(&tuple(1)).relayed();
    let other = world.allocate(&tuple(2)).relayed();
    assert_eq!((one.ip(), other.ip()), (addr("192.0.2.99:1").ip(), addr("192.0.2.99:1").ip()));
    let inside = |outside: SocketAddr| SocketAddr::new(RELAY_V4.parse().unwrap(), outside.port());

    assert_eq!(world.bind_channel(&tuple(1), 0x4000, &other.to_string()), 0);
    assert_eq!(world.permit(&tuple(2), &one.to_string()), 0);
    let Verdict::ToPeer { to, .. } = world.route_client(&tuple(1), &channel_data(0x4000, b"x")) else {
        panic!("dropped");
    };
    assert_eq!(to.0, inside(other), "sent to the real address: a 1:1 NAT may not turn packets around");
    let received = world.route_peer(inside(other), &inside(one).to_string(), 1);
    let Verdict::ToClient { header: Header::DataIndication { peer: shown, .. }, .. } = received else {
        panic!("{received:?}");
    };
    assert_eq!(shown.0, one, "shown as the client knows it");
    let back = world.route_peer(inside(one), &inside(other).to_string(), 1);
    assert_eq!(back, Verdict::ToClient { to: tuple(1), header: Header::Channel(number(0x4000)) });
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "192.0.2.99:22"), 403);
}

#[test]
fn own_addresses_that_relay_nothing_are_refused() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), "198.51.100.77:1"), 403);
    let mut public = settings();
    public.own_addresses = vec!["8.8.4.4".parse().unwrap()];
    public.listeners = vec![addr("9.9.9.9:3478")];
    let mut world = World::with(public, 1);
    world.allocate(&tuple(1));
    world.ask(&tuple(2), &Account::alice(), Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]));
    assert_eq!(world.permit(&tuple(1), "8.8.4.4:1"), 403);
    assert_eq!(world.permit(&tuple(1), "9.9.9.9:1"), 403);
    assert_eq!(world.permit(&tuple(2), "[64:ff9b::8.8.4.4]:1"), 403, "behind a translator");
    assert_eq!(world.permit(&tuple(2), "[64:ff9b::8.8.8.8]:1"), 0);
}

#[test]
fn own_address_may_be_allowed_but_our_listeners_never() {
    for listener in ["198.51.100.1:3478", "0.0.0.0:3478"] {
        let mut open = allowing(&["198.51.100.0/24"]);
        open.listeners = vec![addr(listener)];
        let mut world = World::with(open, 1);
        let relayed = world.allocate(&tuple(1)).relayed();
        assert_eq!(world.bind_channel(&tuple(1), 0x4000, "198.51.100.1:9"), 0);
        assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
        assert_eq!(world.bind_channel(&tuple(1), 0x4001, "198.51.100.1:3478"), 403);
        let looped = world.route_client(&tuple(1), &send_indication("198.51.100.1:3478", b"x"));
        assert_eq!(looped, Verdict::Drop(DropReason::PeerForbidden));
        let back = world.route_peer(relayed, "198.51.100.1:3478", 1);
        assert_eq!(back, Verdict::Drop(DropReason::PeerForbidden));
    }
}

#[test]
fn wildcard_listener_is_not_reached_through_another_loopback_address() {
    let mut open = allowing(&["127.0.0.0/8"]);
    open.listeners = vec![addr("0.0.0.0:3478")];
    let mut world = World::with(open, 1);
    world.allocate(&tuple(1));
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "127.0.0.2:9"), 0);
    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
    assert_eq!(world.bind_channel(&tuple(1), 0x4001, "127.0.0.2:3478"), 403);
    let looped = world.route_client(&tuple(1), &send_indication("127.0.0.2:3478", b"x"));
    assert_eq!(looped, Verdict::Drop(DropReason::PeerForbidden));
}

#[test]
fn operator_may_forbid_hairpin() {
    let policy = PeerPolicy::new(vec![], vec![format!("{RELAY_V4}/32").parse().unwrap()]);
    let mut world = World::with(RelaySettings { policy, ..settings() }, 1);
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), &format!("{RELAY_V4}:1")), 403);
}

#[test]
fn peers_of_the_other_family_get_443() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    assert_eq!(world.permit(&tuple(1), "[2a00:9::1]:1"), 443);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "[2a00:9::1]:1"), 443);
    let sent = world.route_client(&tuple(1), &send_indication("[2a00:9::1]:1", b"x"));
    assert_eq!(sent, Verdict::Drop(DropReason::PeerFamily));
}

#[test]
fn ipv6_allocation_relays_ipv6() {
    let mut world = World::new();
    let v6 = Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]);
    let relayed = world.ask(&tuple(1), &Account::alice(), v6).relayed();
    assert_eq!(world.permit(&tuple(1), "8.8.8.8:1"), 443);
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "[2a00:9::1]:1"), 0);
    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b"x"))));
    assert!(passes(world.route_peer(relayed, "[2a00:9::1]:1", 1)));
}

#[test]
fn dont_fragment_of_a_send_indication_reaches_the_driver() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    world.permit(&tuple(1), "8.8.8.8:1");
    let frame = Draft::new(0x0016, 1).peer("8.8.8.8:1").with(0x001A, b"").with(0x0013, b"x").bytes();
    let Verdict::ToPeer { dont_fragment, .. } = world.route_client(&tuple(1), &frame) else {
        panic!("dropped")
    };
    assert!(dont_fragment);
}

#[test]
fn dont_fragment_between_the_families_is_ignored() {
    let mut world = World::new();
    // Over UDP it is, and behind a stream it is not.
    for (client, expected) in [(udp("[2001:db8::7]:1"), false), (tcp("[2001:db8::7]:1"), true)] {
        world.allocate(&client);
        world.permit(&client, "8.8.8.8:1");
        let frame = Draft::new(0x0016, 1).peer("8.8.8.8:1").with(0x001A, b"").with(0x0013, b"x").bytes();
        let verdict = world.route_client(&client, &frame);
        let Verdict::ToPeer { dont_fragment, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(dont_fragment, expected, "{client:?}");
    }
}

#[test]
fn empty_datagrams_pass_and_oversize_ones_do_not() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1");
    assert!(passes(world.route_client(&tuple(1), &channel_data(0x4000, b""))));
    assert!(passes(world.route_peer(relayed, "8.8.8.8:1", 0)));
    assert!(passes(world.route_peer(relayed, "8.8.8.8:1", 65_500)));
    assert_eq!(world.route_peer(relayed, "8.8.8.8:1", 65_501), Verdict::Drop(DropReason::TooLarge));
}

#[test]
fn indications_carry_transaction_ids_of_their_own() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    let mut seen: Vec<Verdict> = Vec::new();
    for _ in 0..300 {
        let verdict = world.route_peer(relayed, "8.8.8.8:1", 1);
        assert!(passes(verdict) && !seen.contains(&verdict));
        seen.push(verdict);
    }
}
