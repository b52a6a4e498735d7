//! The relay over real sockets, in this process, with two workers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::net::SocketAddr;
use std::time::Duration;

use client::bench::{PASSWORD, Peer, Relay, USER, eventually};
use client::{Client, Received, even_port_and_next, family, reservation};
use turn_relay::address::Transport;
use turn_relay::config::Config;

const EVERY: [Transport; 4] = Transport::ALL;
const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

#[test]
fn a_binding_request_is_answered_with_the_address_that_it_came_from() {
    for ip in LOOPBACK {
        let relay = Relay::on(ip, &[]);
        for transport in EVERY {
            let mut client = relay.client(transport);
            let answer = client.request(client::BINDING, &[]);
            assert_eq!(answer.mapped(), Some(client.local_addr()), "{ip} {transport}");
        }
    }
}

#[test]
fn data_crosses_both_ways_on_channels_and_in_indications() {
    for ip in LOOPBACK {
        let relay = Relay::on(ip, &["127.0.0.0/8", "::1"]);
        for transport in EVERY {
            let peer = Peer::on(ip);
            let mut client = relay.client(transport);
            let relayed =
                client.allocate_with(&[family(ip == "127.0.0.1")]).relayed().expect("an allocation");

            assert!(client.permit(peer.address()).is_success());
            // Sizes around the padding of streams, and an empty datagram.
            for size in [0, 1, 2, 3, 4, 5, 1200, 9000] {
                let data = vec![0x5a; size];
                client.send_indication(peer.address(), &data);
                assert_eq!(peer.receive(), (data.clone(), relayed), "{ip} {transport} {size}");
                peer.send(relayed, &data);
                assert_eq!(client.receive(), Received::Data(peer.address(), data), "{ip} {transport} {size}");
            }

            assert!(client.bind_channel(0x4001, peer.address()).is_success());
            for size in [0, 1, 2, 3, 4, 5, 1200, 9000] {
                let data = vec![0xa5; size];
                client.send_channel(0x4001, &data);
                assert_eq!(peer.receive(), (data.clone(), relayed), "{ip} {transport} {size}");
                peer.send(relayed, &data);
                assert_eq!(client.receive(), Received::Channel(0x4001, data), "{ip} {transport} {size}");
            }
        }
    }
}

#[test]
fn a_reserved_port_is_handed_to_the_worker_that_the_second_client_reached() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    // The kernel picks the worker by the client's port; of 40 pairs of clients some meet different workers.
    for round in 0..40 {
        let mut first = relay.client(Transport::Udp);
        let answer = first.allocate_with(&[even_port_and_next()]);
        let even = answer.relayed().expect("an allocation").port();
        assert_eq!(even % 2, 0, "round {round}");

        let mut second = relay.client(if round % 2 == 0 { Transport::Udp } else { Transport::Tcp });
        let relayed = second.allocate_with(&[reservation(&answer.token().expect("a token"))]).relayed();
        let relayed = relayed.expect("the reserved port");
        assert_eq!(relayed.port(), even + 1, "round {round}");
        assert!(second.permit(peer.address()).is_success());
        second.send_indication(peer.address(), b"rtcp");
        assert_eq!(peer.receive(), (b"rtcp".to_vec(), relayed));
        peer.send(relayed, b"report");
        assert_eq!(second.receive(), Received::Data(peer.address(), b"report".to_vec()));
        assert!(first.release().is_success() && second.release().is_success());
    }
    assert!(relay.metric("handed_over_sockets_total") > 0, "no reservation crossed from worker to worker");
}

#[test]
fn a_dual_allocation_relays_to_peers_of_both_families() {
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into(), "[::1]:0".into()],
        allow_peer: vec!["127.0.0.0/8".into(), "::1".into()],
        ..Config::default()
    });
    for transport in EVERY {
        let mut client = relay.client(transport);
        let answer = client.allocate_with(&[client::both_families()]);
        let relayed = answer.all_relayed();
        assert_eq!(relayed.len(), 2, "{transport}");
        relay.settles(&format!("allocations{{transport=\"{transport}\",family=\"both\"}}"), 1);
        for (ip, relayed) in LOOPBACK.iter().zip(&relayed) {
            let peer = Peer::on(ip);
            assert!(client.permit(peer.address()).is_success());
            client.send_indication(peer.address(), b"out");
            assert_eq!(peer.receive(), (b"out".to_vec(), *relayed));
            peer.send(*relayed, b"in");
            assert_eq!(client.receive(), Received::Data(peer.address(), b"in".to_vec()));
        }
        // IPv4 alone is given back; IPv6 goes on.
        assert!(client.request(client::REFRESH, &[family(true), (0x000D, vec![0; 4])]).is_success());
        let [gone, stays] = LOOPBACK.map(Peer::on);
        assert_eq!(client.permit(gone.address()).error(), Some(443));
        assert!(client.permit(stays.address()).is_success());
        stays.send(relayed[1], b"still here");
        assert_eq!(client.receive(), Received::Data(stays.address(), b"still here".to_vec()));
        assert!(client.release().is_success());
    }
}

#[test]
fn two_clients_of_a_closed_relay_reach_each_other_and_nothing_else() {
    let relay = Relay::on("127.0.0.1", &[]);
    // Of eight pairs some are on different workers.
    for round in 0..8 {
        let mut one = relay.client(Transport::Udp);
        let mut two = relay.client(if round % 2 == 0 { Transport::Udp } else { Transport::Tcp });
        let (relayed_one, relayed_two) = (one.allocate(), two.allocate());
        assert!(one.permit(relayed_two).is_success() && two.permit(relayed_one).is_success());
        one.send_indication(relayed_two, b"offer");
        assert_eq!(two.receive(), Received::Data(relayed_one, b"offer".to_vec()));
        two.send_indication(relayed_one, b"answer");
        assert_eq!(one.receive(), Received::Data(relayed_two, b"answer".to_vec()));
    }
    let peer = Peer::on("127.0.0.1");
    let mut client = relay.client(Transport::Udp);
    client.allocate();
    assert_eq!(client.bind_channel(0x4000, peer.address()).error(), Some(403));
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_the_client_used() {
    let relay = Relay::start(Config {
        listen: vec!["0.0.0.0:0".into()],
        relay_address: vec!["127.0.0.1".into()],
        allow_peer: vec!["127.0.0.0/8".into()],
        ..Config::default()
    });
    let peer = Peer::on("127.0.0.1");
    for used in ["127.0.0.1", "127.0.0.9"] {
        let server = SocketAddr::new(used.parse().unwrap(), relay.address.port());
        let mut client = Client::connect(Transport::Udp, server, USER, PASSWORD);
        let relayed = client.allocate();
        assert!(client.permit(peer.address()).is_success());
        peer.send(relayed, b"hello");
        assert_eq!(client.receive(), Received::Data(peer.address(), b"hello".to_vec()), "{used}");
    }
}

#[test]
fn the_counters_follow_the_payload() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut client = relay.client(Transport::Udp);
    let relayed = client.allocate();
    relay.settles("allocations{transport=\"udp\",family=\"ipv4\"}", 1);
    assert!(client.bind_channel(0x4000, peer.address()).is_success());
    for _ in 0..3 {
        client.send_channel(0x4000, &[1; 100]);
        peer.receive();
        peer.send(relayed, &[2; 10]);
        client.receive();
    }
    relay.settles("relayed_bytes_total{direction=\"to_peer\"}", 300);
    relay.settles("relayed_bytes_total{direction=\"to_client\"}", 30);
    relay.settles("relayed_packets_total{direction=\"to_peer\"}", 3);
    relay.settles("relayed_packets_total{direction=\"to_client\"}", 3);

    client.send_channel(0x4abc, b"no such channel");
    assert!(client.release().is_success());
    relay.settles("dropped_packets_total{reason=\"no_channel\"}", 1);
    relay.settles("allocations{transport=\"udp\",family=\"ipv4\"}", 0);
    relay.settles("allocations_ended_total{reason=\"released\"}", 1);
}

#[test]
fn wrong_credentials_give_no_allocation_and_the_counters_say_why() {
    let relay = Relay::on("127.0.0.1", &[]);
    for (user, reason) in
        [(USER, "wrong_password"), ("nobody", "unknown_user"), ("4102444800:somebody", "wrong_secret")]
    {
        let mut client = Client::connect(Transport::Udp, relay.address, user, "wrong");
        assert_eq!(client.allocate_with(&[]).error(), Some(401));
        relay.settles(&format!("auth_failures_total{{reason=\"{reason}\"}}"), 1);
    }
    relay.settles("requests_total{method=\"allocate\",outcome=\"401\"}", 3);
    relay.settles("requests_total{method=\"allocate\",outcome=\"challenged\"}", 3);
    relay.settles("allocations_started_total", 0);
}

#[test]
fn a_peer_that_does_not_exist_stops_nothing() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let mut client = relay.client(Transport::Udp);
    let relayed = client.allocate();
    let gone = Peer::on("127.0.0.1").address();
    let peer = Peer::on("127.0.0.1");
    assert!(client.permit(gone).is_success());
    for _ in 0..50 {
        client.send_indication(gone, b"to nobody: the kernel answers with ICMP port unreachable");
    }
    client.send_indication(peer.address(), b"still here");
    assert_eq!(peer.receive(), (b"still here".to_vec(), relayed));
}

#[test]
fn a_client_that_goes_away_stops_nothing() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut gone = relay.client(Transport::Udp);
    let relayed = gone.allocate();
    assert!(gone.permit(peer.address()).is_success());
    drop(gone);
    for _ in 0..50 {
        peer.send(relayed, b"to a closed port of the client");
    }
    assert!(relay.client(Transport::Udp).request(client::BINDING, &[]).is_success());
}

#[test]
fn an_allocation_over_a_stream_ends_with_its_connection() {
    for transport in STREAMS {
        let relay = Relay::on("127.0.0.1", &[]);
        let mut client = relay.client(transport);
        client.allocate();
        relay.settles(&format!("allocations{{transport=\"{transport}\",family=\"ipv4\"}}"), 1);
        drop(client);
        relay.settles("allocations_ended_total{reason=\"connection_closed\"}", 1);
        relay.settles(&format!("allocations{{transport=\"{transport}\",family=\"ipv4\"}}"), 0);
        relay.settles("tcp_connections", 0);
        assert_eq!(relay.metric("tls_handshakes_failed_total"), 0);
    }
}

#[test]
fn a_stream_that_is_no_stun_is_closed_at_once() {
    let relay = Relay::on("127.0.0.1", &[]);
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4], &[0x00, 0x01, 0x00, 0x00, 0xde, 0xad, 0xbe, 0xef]]
    {
        let mut client = relay.client(Transport::Tcp);
        // Sooner than a connection is given up that only never completes a frame (10 s).
        client.wait_at_most(Duration::from_secs(8));
        client.send_raw(garbage);
        assert!(client.closed(), "{garbage:02x?}");
    }
    assert!(relay.client(Transport::Tcp).request(client::BINDING, &[]).is_success());
}

#[test]
fn frames_may_come_in_any_pieces() {
    for transport in STREAMS {
        frames_come_in_any_pieces(transport);
    }
}

fn frames_come_in_any_pieces(transport: Transport) {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut client = relay.client(transport);
    let relayed = client.allocate();
    assert!(client.bind_channel(0x4000, peer.address()).is_success());
    // Three frames, one of them large, in pieces of every small size and of a size unlike any frame.
    let mut stream = vec![];
    for size in [5_u16, 9001, 3] {
        stream.extend([0x40, 0x00]);
        stream.extend(size.to_be_bytes());
        stream.resize(stream.len() + usize::from(size).next_multiple_of(4), 7);
    }
    for piece in [1, 3, 4099] {
        for part in stream.chunks(piece) {
            client.send_raw(part);
        }
        for size in [5, 9001, 3] {
            assert_eq!(peer.receive(), (vec![7; size], relayed), "pieces of {piece}");
        }
    }
}

#[test]
fn no_request_overtakes_the_data_that_came_with_it() {
    for transport in STREAMS {
        let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
        let peer = Peer::on("127.0.0.1");
        let mut client = relay.client(transport);
        let relayed = client.allocate();
        assert!(client.bind_channel(0x4000, peer.address()).is_success());
        let mut bytes = [[0x40, 0x00, 0, 4, 1, 2, 3, 4]; 3].concat();
        bytes.extend(client.signed_release());
        client.send_raw(&bytes);
        for _ in 0..3 {
            assert_eq!(peer.receive(), (vec![1, 2, 3, 4], relayed), "{transport:?}");
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_stream_loses_data_and_nobody_notices() {
    for transport in STREAMS {
        does_not_read(transport);
    }
}

fn does_not_read(transport: Transport) {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut stuck = relay.client(transport);
    let relayed = stuck.allocate();
    assert!(stuck.bind_channel(0x4000, peer.address()).is_success());
    let mut other = relay.client(Transport::Tcp);
    other.allocate();
    let slow = "dropped_packets_total{reason=\"slow_client\"}";
    eventually(|| {
        for _ in 0..100 {
            peer.send(relayed, &[0; 9000]);
        }
        relay.metric(slow) > 0
    });
    assert!(other.request(client::BINDING, &[]).is_success());
    // What was kept is whole: every frame can still be read.
    let Received::Channel(0x4000, data) = stuck.receive() else { panic!("a channel message") };
    assert_eq!(data, vec![0; 9000]);
}

#[test]
fn a_stopped_relay_frees_its_ports() {
    let first = Relay::on("127.0.0.1", &[]);
    let address = first.address;
    let mut client = first.client(Transport::Tcp);
    client.allocate();
    drop(first);
    assert!(client.closed());
    let second = Relay::start(Config { listen: vec![address.to_string()], ..Config::default() });
    assert!(second.client(Transport::Udp).request(client::BINDING, &[]).is_success());
}

#[test]
fn relays_that_were_started_alike_draw_other_ports_and_other_keys() {
    const CLIENTS: usize = 24;
    let (mut nonces, mut ports) = (vec![], vec![]);
    // The nonce of a client depends on its address, on the age of the relay in minutes, and on the key.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(client::PATIENCE)).unwrap();
    for _ in 0..2 {
        let relay = Relay::on("127.0.0.1", &[]);
        let mut allocate = client::ALLOCATE.to_be_bytes().to_vec();
        allocate.extend([0, 8, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        allocate.extend([0, 0x19, 0, 4, 17, 0, 0, 0]);
        socket.send_to(&allocate, relay.address).unwrap();
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer).unwrap();
        let challenge = client::Message::decode(&answer[..length]).unwrap();
        nonces.push(challenge.attribute(0x0015).unwrap().to_vec());
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| relay.client(Transport::Udp)).collect();
        ports.push(clients.iter_mut().map(|client| client.allocate().port()).collect::<Vec<_>>());
    }
    assert_ne!(nonces[0], nonces[1]);
    let again = ports[1].iter().filter(|port| ports[0].contains(port)).count();
    assert!(again < 4, "by chance it happens once in ten million runs: {ports:?}");
}

#[test]
fn datagrams_of_extreme_sizes_do_no_harm() {
    /// 64 KiB without the headers of IPv4 and UDP.
    const LARGEST: usize = 65_507;
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut client = relay.client(Transport::Udp);
    let relayed = client.allocate();
    assert!(client.bind_channel(0x4000, peer.address()).is_success());
    for size in [0, 1, 3, 4, 19, 20, 21, LARGEST - 1, LARGEST] {
        for first in [0x00, 0x16, 0x41, 0x80, 0xFF] {
            let mut bytes = vec![0; size];
            bytes.iter_mut().take(1).for_each(|byte| *byte = first);
            client.send_raw(&bytes);
        }
    }
    // As large as a datagram can be to the peer, and back with the header of a channel.
    client.send_channel(0x4000, &vec![7; LARGEST - 4]);
    assert!(peer.receive() == (vec![7; LARGEST - 4], relayed));
    for (size, passes) in [(0, true), (1, true), (LARGEST, false), (65_500, true)] {
        peer.send(relayed, &vec![8; size]);
        if passes {
            assert!(client.receive() == Received::Channel(0x4000, vec![8; size]), "{size} bytes");
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    use rand::{Rng as _, RngExt as _, SeedableRng as _};
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut client = relay.client(Transport::Udp);
    let relayed = client.allocate();
    for round in 0..5_000 {
        let mut bytes = vec![0; random.random_range(0..1500)];
        random.fill_bytes(&mut bytes);
        if round % 2 == 0 && bytes.len() >= 8 {
            // Half of it gets past the first look.
            bytes[0] &= 0x3f;
            let length = u16::try_from((bytes.len().max(20) - 20) & !3).unwrap();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        }
        client.send_raw(&bytes);
        peer.send(relayed, &bytes);
        if round % 100 == 0 {
            let mut stream = relay.client(Transport::Tcp);
            stream.send_raw(&bytes);
        }
    }
    assert!(relay.client(Transport::Udp).request(client::BINDING, &[]).is_success());
    assert!(relay.client(Transport::Tcp).request(client::BINDING, &[]).is_success());
}
