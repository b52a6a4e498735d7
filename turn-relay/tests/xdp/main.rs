//! Channel data in the network driver: the binary with `--xdp`, between clients and peers in networks of their own.
//! Takes root; without it each test says loudly that it was skipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../client/mod.rs"]
mod client;
mod endings;
#[path = "../forged/mod.rs"]
mod forged;
mod frames;
mod lab;
#[path = "../namespace/mod.rs"]
mod namespace;
#[path = "../process/mod.rs"]
mod process;

use std::net::SocketAddr;

use client::{BINDING, Client, Message, Received};
use forged::Flood;
use frames::{Draft, Headers, Sniffer};
use lab::{Lab, Peer, SERVER, SERVER6};

const CHANNEL: u16 = 0x4001;
const PEERS: &[&str] = &["--allow-peer", "10.82.0.2/32,fd82::2/128,10.81.0.2/32"];
/// Of payloads: none, odd ones, audio, video.
const SIZES: [usize; 8] = [0, 1, 2, 3, 17, 160, 1199, 1200];

/// A client with a channel to a peer, both of them having heard of each other: the next packets go through the driver.
fn met(client: &mut Client, peer: &Peer) -> SocketAddr {
    let family = client::family(peer.address().is_ipv4());
    let relayed = client.allocate_with(&[family]).relayed().expect("an allocation");
    assert!(client.bind_channel(CHANNEL, peer.address()).is_success());
    client.send_channel(CHANNEL, b"first");
    assert_eq!(peer.receive(), (b"first".to_vec(), relayed));
    peer.send(b"first", relayed);
    assert_eq!(client.receive(), Received::Channel(CHANNEL, b"first".to_vec()));
    relayed
}

/// Sends `rounds` of payloads both ways, each of which must arrive as it was; tells how many that is in each direction.
fn talk(client: &mut Client, peer: &Peer, relayed: SocketAddr, rounds: u8) -> u64 {
    for round in 0..rounds {
        for size in SIZES {
            let data: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap() ^ round).collect();
            client.send_channel(CHANNEL, &data);
            assert_eq!(peer.receive(), (data.clone(), relayed));
            peer.send(&data, relayed);
            assert_eq!(client.receive(), Received::Channel(CHANNEL, data));
        }
    }
    u64::from(rounds) * SIZES.len() as u64
}

/// Nothing came to the client before the answer to this request.
fn assert_nothing_came(client: &mut Client) {
    let mut request = BINDING.to_be_bytes().to_vec();
    request.extend([0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    client.send_raw(&request);
    let first = client.receive_raw();
    let is_answer = Message::decode(&first).is_some_and(|message| message.is_success());
    assert!(is_answer, "{}", first.escape_ascii());
}

fn assert_in_driver(lab: &Lab, sent: u64) {
    lab.until("counts are read back", |lab| {
        lab.metric("relayed_packets_total{direction=\"to_client\"}") > sent
    });
    lab.until("packets in the driver", |lab| {
        let (to_peer, to_client) = lab.in_driver();
        // One in five seconds looks after the neighbours.
        to_peer > sent / 2 && to_client > sent / 2
    });
}

#[test]
fn channel_data_crosses_the_driver_both_ways_unchanged_and_is_counted() {
    Lab::run(PEERS, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        let sent = talk(&mut client, &peer, relayed, 5);
        assert_in_driver(lab, sent);
        assert!(client.release().is_success());
        let said = lab.relay.wait_for("allocation ended");
        let bytes = 5 + 5 * SIZES.iter().sum::<usize>() as u64;
        for direction in ["to_peer", "to_client"] {
            assert_eq!(lab.metric(&format!("relayed_packets_total{{direction=\"{direction}\"}}")), sent + 1);
            assert_eq!(lab.metric(&format!("relayed_bytes_total{{direction=\"{direction}\"}}")), bytes);
            assert!(said.contains(&format!("{direction}_bytes={bytes}")), "{said}");
        }
    });
}

#[test]
fn headers_in_the_driver_are_those_of_user_space() {
    Lab::run(PEERS, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = client.allocate();
        assert!(client.bind_channel(CHANNEL, peer.address()).is_success());
        // The first packet in each direction goes through user space, the second does not.
        let mut seen = Vec::new();
        for data in [b"one", b"two"] {
            let (mut at_peer, mut at_client) = (Sniffer::new(&lab.peers), Sniffer::new(&lab.clients));
            let mut draft = Draft::new(client.local_addr(), SERVER.parse().unwrap(), &channel_data(data));
            // AF41 with ECT(0).
            draft.traffic_class = 0x8a;
            draft.send(&lab.clients, None);
            assert_eq!(peer.receive().0, data);
            socket2::SockRef::from(&peer.0).set_tos_v4(0xba).unwrap();
            peer.send(data, relayed);
            assert_eq!(client.receive(), Received::Channel(CHANNEL, data.to_vec()));
            seen.push((at_peer.next(peer.address(), data), at_client.next(client.local_addr(), data)));
        }
        let headers = |traffic_class, dont_fragment| Headers { traffic_class, ttl: 64, dont_fragment };
        assert_eq!(seen, [(headers(0x8a, false), headers(0xba, true)); 2]);
        lab.until("one each in the driver", |lab| lab.in_driver() == (1, 1));
    });
}

#[test]
fn both_sides_may_be_behind_one_interface_and_either_of_ipv6() {
    Lab::run(PEERS, |lab| {
        let mut sent = 0;
        let near = Peer::new(&lab.clients, "10.81.0.2");
        let mut client = lab.client();
        let relayed = met(&mut client, &near);
        sent += talk(&mut client, &near, relayed, 2);
        for (server, peer) in [(SERVER, "fd82::2"), (SERVER6, "fd82::2"), (SERVER6, "10.82.0.2")] {
            let (mut client, peer) = (lab.client_at(server), lab.peer(peer));
            let relayed = met(&mut client, &peer);
            sent += talk(&mut client, &peer, relayed, 2);
        }
        assert_in_driver(lab, sent);
    });
}

#[test]
fn two_clients_of_one_relay_reach_each_other_in_the_driver() {
    Lab::run(PEERS, |lab| {
        let other = lab.client_in(&lab.peers, SERVER);
        reach_each_other(lab, lab.client(), other);
    });
}

#[test]
fn two_clients_behind_one_interface_reach_each_other_in_the_driver_where_its_address_is_allowed_too() {
    Lab::run(&["--allow-peer", "10.82.0.0/24"], |lab| reach_each_other(lab, lab.client(), lab.client()));
}

fn reach_each_other(lab: &Lab, mut one: Client, mut other: Client) {
    let (at_one, at_other) = (one.allocate(), other.allocate());
    assert!(one.bind_channel(CHANNEL, at_other).is_success());
    assert!(other.bind_channel(CHANNEL, at_one).is_success());
    let rounds: usize = 20;
    for size in SIZES.repeat(rounds) {
        let data = vec![0x5a; size];
        one.send_channel(CHANNEL, &data);
        assert_eq!(other.receive(), Received::Channel(CHANNEL, data.clone()));
        other.send_channel(CHANNEL, &data);
        assert_eq!(one.receive(), Received::Channel(CHANNEL, data));
    }
    let sent = 2 * (rounds * SIZES.len()) as u64;
    assert_in_driver(lab, sent - 1);
    // What goes through both counts for both.
    assert!(other.release().is_success() && one.release().is_success());
    assert_eq!(lab.metric("relayed_packets_total{direction=\"to_peer\"}"), sent);
    assert_eq!(lab.metric("relayed_packets_total{direction=\"to_client\"}"), sent);
    one.send_channel(CHANNEL, b"too late");
    assert_nothing_came(&mut other);
}

#[test]
fn nothing_passes_between_a_client_and_strangers() {
    Lab::run(PEERS, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        // Another host; another client on the same channel; the same channel from the peer's side.
        lab.peers.run("ip address add 10.82.0.3/24 dev p1");
        lab.peer("10.82.0.3").send(b"stranger", relayed);
        lab.client().send_channel(CHANNEL, b"stranger");
        peer.send(&channel_data(b"looks like some"), SERVER.parse().unwrap());
        client.send_channel(CHANNEL + 1, b"not bound");
        peer.send(b"known", relayed);
        assert_eq!(client.receive(), Received::Channel(CHANNEL, b"known".to_vec()));
        client.send_channel(CHANNEL, b"known");
        assert_eq!(peer.receive(), (b"known".to_vec(), relayed));
        // A peer may well send what looks like channel data.
        peer.send(&channel_data(b"looks like some"), relayed);
        assert_eq!(client.receive(), Received::Channel(CHANNEL, channel_data(b"looks like some")));
    });
}

#[test]
fn unusual_packets_go_through_user_space_and_fare_as_without_xdp() {
    Lab::run(PEERS, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        let long = vec![7; 1800];
        for (from_client, from, to) in
            [(true, client.local_addr(), SERVER.parse().unwrap()), (false, peer.address(), relayed)]
        {
            let network = if from_client { &lab.clients } else { &lab.peers };
            let framed = |data: &[u8]| if from_client { channel_data(data) } else { data.to_vec() };
            let draft = |data: &[u8]| Draft::new(from, to, &framed(data));
            let mut arrives = |data: &[u8]| {
                if from_client {
                    assert_eq!(peer.receive(), (data.to_vec(), relayed));
                } else {
                    assert_eq!(client.receive(), Received::Channel(CHANNEL, data.to_vec()));
                }
            };
            draft(&long).send(network, Some(1208));
            arrives(&long);
            Draft { options: vec![1; 4], ..draft(b"options") }.send(network, None);
            arrives(b"options");
            Draft { checksum: Some(0), ..draft(b"no checksum") }.send(network, None);
            arrives(b"no checksum");
            if from_client {
                Draft { data: [framed(b"padded"), vec![0; 2]].concat(), ..draft(b"") }.send(network, None);
                arrives(b"padded");
                let mut malformed = draft(b"longer than it is");
                malformed.data[3] += 1;
                malformed.send(network, None);
            }
        }
        assert!(client.release().is_success());
        assert_eq!(lab.in_driver(), (0, 0));
        assert_eq!(lab.metric("dropped_packets_total{reason=\"malformed\"}"), 1);
    });
}

#[test]
fn damaged_packet_does_not_become_a_good_one() {
    Lab::run(PEERS, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        let good = Draft::new(peer.address(), relayed, b"damaged");
        let checksum = good.udp()[6..8].try_into().map(u16::from_be_bytes).unwrap();
        Draft { checksum: Some(checksum ^ 0x0100), ..good }.send(&lab.peers, None);
        peer.send(b"good", relayed);
        assert_eq!(client.receive(), Received::Channel(CHANNEL, b"good".to_vec()));
    });
}

#[test]
fn sender_that_leaves_the_checksum_to_its_hardware_is_served_in_user_space() {
    Lab::run(PEERS, |lab| {
        lab.clients.run("ethtool -K c1 tx on");
        lab.peers.run("ethtool -K p1 tx on");
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        talk(&mut client, &peer, relayed, 2);
    });
}

#[test]
fn rates_hold_in_the_driver() {
    const RATE: &[&str] = &["--allow-peer", "10.82.0.2/32", "--allocation-packets-per-second", "50"];
    Lab::run(RATE, |lab| {
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        for _ in 0..500 {
            peer.send(b"flood", relayed);
            client.send_channel(CHANNEL, b"flood");
        }
        assert!(client.release().is_success());
        let over = lab.metric("dropped_packets_total{reason=\"allocation_rate\"}");
        let (to_peer, to_client) = lab.in_driver();
        // All of it took well less than the eight seconds in which this rate would let it pass.
        assert!(over > 100 && to_peer > 10 && to_client > 10, "{over} {to_peer} {to_client}");
        assert!(over + to_peer + to_client <= 1000);
    });
}

#[test]
fn interface_that_is_not_there_is_refused_and_one_without_xdp_is_no_reason_not_to_serve() {
    Lab::run(PEERS, |lab| {
        assert!(
            lab.relay.seen.contains("XDP is on, native, at c0/native, p0/native: IPv4 and IPv6"),
            "{}",
            lab.relay.seen
        );
        let refused = std::process::Command::new(env!("CARGO_BIN_EXE_turn-relay"))
            .args(["--user", "user:password", "--listen", "127.0.0.1:0", "--xdp", "nosuch0"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("xdp: this host has no Ethernet interface called nosuch0"), "{said}");
        // Another program has the interface.
        let mut second = process::Running::start(&["--listen", "127.0.0.1:0", "--xdp", "c0"], &[]);
        assert!(second.seen.contains("XDP is off, everything is relayed in user space"), "{}", second.seen);
        assert_eq!(second.stop(libc::SIGINT), Some(0));
    });
}

#[test]
fn where_it_would_be_lost_in_the_driver_it_runs_behind_it() {
    Lab::run_over("c0,p0", PEERS, |lab| {
        assert!(lab.relay.seen.contains("XDP is on, generic, at c0, p0"), "{}", lab.relay.seen);
        assert!(
            lab.relay.seen.contains("is a veth, which loses what the driver sends"),
            "{}",
            lab.relay.seen
        );
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        let sent = talk(&mut client, &peer, relayed, 2);
        assert_in_driver(lab, sent);
    });
}

fn channel_data(data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    [&CHANNEL.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

/// Nothing came to the peer before this, which is sent straight to it.
fn assert_nothing_came_to(peer: &Peer) {
    peer.send(b"to myself", peer.address());
    assert_eq!(peer.receive(), (b"to myself".to_vec(), peer.address()));
}

#[test]
#[ignore = "busy for most of a minute: tests/run xdp runs it"]
fn a_million_forged_requests_past_the_driver_cost_no_memory_and_keep_nobody_out() {
    Lab::run(PEERS, |lab| {
        // Answers to forged sources leave by the link on which the requests came.
        namespace::run("ip route add default via 10.81.0.2");
        let (mut client, peer) = (lab.client(), lab.peer("10.82.0.2"));
        let relayed = met(&mut client, &peer);
        Flood {
            server: SERVER.parse().unwrap(),
            relay: lab.relay.id(),
            raw: lab.clients.inside(forged::raw),
            client: &|| lab.client(),
            left: &|| forged::sent_by("c0"),
            over_loopback: false,
        }
        .is_harmless();
        let sent = talk(&mut client, &peer, relayed, 5);
        assert_in_driver(lab, sent);
    });
}
