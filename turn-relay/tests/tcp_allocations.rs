//! TCP allocations (RFC 6062) over real sockets, with two workers: the kernel spreads a client's connections over them, so
//! in every test some meet the worker that has their peer and some do not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use client::bench::{PASSWORD, Relay, USER, eventually};
use client::tcp::Bytes;
use client::{Client, PATIENCE};
use turn_relay::address::Transport;
use turn_relay::config::Config;

const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];
/// The kernel picks the worker by the client's port: of this many connections some meet the other one, but for one run in
/// 500 million.
const ROUNDS: usize = 30;

#[test]
fn client_and_peer_are_joined_at_whichever_worker_the_client_binds() {
    for ip in ["127.0.0.1", "::1"] {
        let relay = Relay::on(ip, &["127.0.0.0/8", "::1"]);
        let peers = Peers::on(ip);
        for transport in STREAMS {
            let mut control = relay.client(transport);
            let relayed = allocate(&mut control, ip);
            for round in 0..ROUNDS / 2 {
                let id = control.connect_to(peers.address()).connection().expect("a connection");
                let (mut peer, from) = peers.accept();
                assert_eq!(from, relayed, "from the relayed address");
                let mut data = bind(&relay, transport, id);
                exchange(&mut data, &mut peer, round);
                // The peer first: otherwise the port cannot connect to it again for a minute.
                drop(peer);
                assert_eq!(rest(&mut data), b"");
                drop(data);
                relay.settles("tcp_connections", 1);
            }
            assert!(control.release().is_success());
        }
        assert!(relay.metric("handed_over_sockets_total") > 0, "no client crossed from worker to worker");
    }
}

#[test]
fn peer_that_connects_is_announced_and_what_it_sent_meanwhile_is_not_lost() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    for transport in STREAMS {
        let mut control = relay.client(transport);
        let relayed = control.allocate_tcp();
        assert!(control.permit(SocketAddr::from(([127, 0, 0, 1], 1))).is_success());
        for round in 0..ROUNDS / 2 {
            let mut peer = connect(relayed);
            peer.write_all(b"before anybody listens").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            let (id, from) = control.attempt();
            assert_eq!(from, peer.local_addr().unwrap());
            let mut data = bind(&relay, transport, id);
            assert_eq!(rest(&mut data), b"before anybody listens", "round {round}");
            data.write_all(b"answer").unwrap();
            data.finish();
            assert_eq!(rest(&mut peer), b"answer");
        }
    }
    assert!(relay.metric("handed_over_sockets_total") > 0, "no client crossed from worker to worker");
}

#[test]
fn bytes_right_behind_the_connection_bind_reach_the_peer() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let mut control = relay.client(Transport::Tcp);
    let relayed = control.allocate_tcp();
    assert!(control.permit(SocketAddr::from(([127, 0, 0, 1], 1))).is_success());
    for round in 0..ROUNDS {
        let mut peer = connect(relayed);
        let (id, _) = control.attempt();
        let mut data = relay.client(STREAMS[round % 2]);
        // It looks like a frame, and must not be taken for one.
        let mut bytes = data.signed_connection_bind(id);
        bytes.extend([0x40; 3000]);
        data.send_raw(&bytes);
        assert!(data.receive_message().is_success());
        let mut got = [0; 3000];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, [0x40; 3000]);
    }
    assert!(relay.metric("handed_over_sockets_total") > 0, "no client crossed from worker to worker");
}

#[test]
fn eight_mebibytes_cross_both_ways_through_readers_that_are_slow() {
    const SIZE: usize = 8 << 20;
    // Linux keeps up to 4 MiB to send and 6 MiB received per socket, and there are two on the way.
    const KERNEL: usize = (2 * (4 + 6)) << 20;
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peers = Peers::on("127.0.0.1");
    for transport in STREAMS {
        let mut control = relay.client(transport);
        control.allocate_tcp();
        let id = control.connect_to(peers.address()).connection().expect("a connection");
        let (peer, _) = peers.accept();
        let data = bind(&relay, transport, id);
        // Nobody reads: what the relay and the kernel take has a bound.
        let mut upward = fill(data.stream().try_clone().unwrap(), transport);
        let downward = fill(peer.try_clone().unwrap(), Transport::Tcp);
        assert!(upward < KERNEL && downward < KERNEL, "{upward} and {downward} bytes waited");
        if transport == Transport::Tls {
            // Raw bytes would break TLS: there the bound is the other direction's.
            upward = 0;
        }
        let (to_peer, to_client) = (pattern(upward, SIZE), pattern(downward, SIZE));
        let (mut peer_reads, mut peer_writes) = (peer.try_clone().unwrap(), peer);
        let reading = thread::spawn(move || slowly(&mut peer_reads));
        let writing = thread::spawn(move || {
            peer_writes.write_all(&to_client).unwrap();
            peer_writes.shutdown(Shutdown::Write).unwrap();
        });
        let client_got = both_ways(data, &to_peer);
        writing.join().unwrap();
        assert_eq!(difference(&reading.join().unwrap(), 0, upward + SIZE), None, "{transport} to the peer");
        assert_eq!(difference(&client_got, 0, downward + SIZE), None, "{transport} to the client");
        relay.settles("tcp_connections", 1);
        drop(control);
        relay.settles("tcp_connections", 0);
    }
}

#[test]
fn either_side_may_end_first_and_still_hear_the_other() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peers = Peers::on("127.0.0.1");
    let mut control = relay.client(Transport::Tcp);
    control.allocate_tcp();
    for transport in STREAMS {
        let mut joined = || {
            let id = control.connect_to(peers.address()).connection().expect("a connection");
            let (peer, _) = peers.accept();
            (bind(&relay, transport, id), peer)
        };
        let (mut data, mut peer) = joined();
        peer.write_all(b"last words").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut data), b"last words");
        data.write_all(b"heard").unwrap();
        data.finish();
        assert_eq!(rest(&mut peer), b"heard");
        relay.settles("tcp_connections", 1);
        drop(peer);

        let (mut data, mut peer) = joined();
        data.write_all(b"request").unwrap();
        data.finish();
        assert_eq!(rest(&mut peer), b"request");
        peer.write_all(b"response").unwrap();
        drop(peer);
        assert_eq!(rest(&mut data), b"response");
        relay.settles("tcp_connections", 1);
    }
}

#[test]
fn a_stream_is_slowed_down_to_the_rate_of_its_allocation_and_loses_nothing() {
    const RATE: u64 = 200_000;
    const SIZE: usize = 600_000;
    // A second's burst and what one turn may exceed it by: the rest takes its time, however fast the machine.
    const LEAST: Duration = Duration::from_millis(1000 * (SIZE as u64 - RATE - (64 << 10)) / RATE);
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        allow_peer: vec!["127.0.0.0/8".into()],
        allocation_bytes_per_second: Some(RATE),
        ..Config::default()
    });
    let peers = Peers::on("127.0.0.1");
    for transport in STREAMS {
        let mut control = relay.client(transport);
        control.allocate_tcp();
        let id = control.connect_to(peers.address()).connection().expect("a connection");
        let (mut peer, _) = peers.accept();
        let mut data = bind(&relay, transport, id);
        let sent: Vec<u8> = (0..SIZE).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let begun = Instant::now();
        let down = thread::spawn(move || {
            peer.write_all(&sent).unwrap();
            (peer, sent)
        });
        let mut got = vec![0; SIZE];
        data.read_exact(&mut got).unwrap();
        assert!(begun.elapsed() >= LEAST, "{SIZE} bytes in {:?}", begun.elapsed());
        let (mut peer, sent) = down.join().unwrap();
        assert!(got == sent, "bytes were changed on their way");
        // The other direction has a rate of its own.
        exchange(&mut data, &mut peer, 1);
    }
}

#[test]
fn reset_of_either_side_ends_the_other() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peers = Peers::on("127.0.0.1");
    let mut control = relay.client(Transport::Tcp);
    control.allocate_tcp();
    for resets in ["peer", "client"] {
        let id = control.connect_to(peers.address()).connection().expect("a connection");
        let (mut peer, _) = peers.accept();
        let mut data = bind(&relay, Transport::Tcp, id);
        exchange(&mut data, &mut peer, 1);
        let now = Some(Duration::ZERO);
        if resets == "peer" {
            socket2::SockRef::from(&peer).set_linger(now).unwrap();
            drop(peer);
            assert_eq!(rest(&mut data), b"");
        } else {
            socket2::SockRef::from(data.stream()).set_linger(now).unwrap();
            drop(data);
            assert_eq!(rest(&mut peer), b"");
        }
        relay.settles("tcp_connections", 1);
    }
}

#[test]
fn peers_are_refused_at_connect_and_at_accept_where_the_policy_or_the_permission_says_so() {
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        allow_peer: vec!["127.0.0.0/8".into()],
        deny_peer: vec!["127.0.0.66".into()],
        ..Config::default()
    });
    let mut control = relay.client(Transport::Tcp);
    let relayed = control.allocate_tcp();
    let listener = TcpListener::bind("127.0.0.66:0").unwrap();
    for refused in [listener.local_addr().unwrap(), relay.address, "10.0.0.1:80".parse().unwrap(), relayed] {
        assert_eq!(control.connect_to(refused).error(), Some(403), "{refused}");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    // Without a permission; with one for another address; with one that came too late for it.
    assert_eq!(rest(&mut connect(relayed)), b"");
    relay.settles("dropped_packets_total{reason=\"no_permission\"}", 1);
    assert!(control.permit(SocketAddr::from(([127, 0, 0, 2], 1))).is_success());
    assert_eq!(rest(&mut connect(relayed)), b"");
    relay.settles("dropped_packets_total{reason=\"no_permission\"}", 2);
    assert!(control.permit(SocketAddr::from(([127, 0, 0, 1], 1))).is_success());
    let peer = connect(relayed);
    assert_eq!(control.attempt().1, peer.local_addr().unwrap());
}

#[test]
fn nobody_at_the_peer_is_447_and_an_unknown_connection_is_400_and_the_end() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let mut control = relay.client(Transport::Tcp);
    control.allocate_tcp();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(control.connect_to(nobody).error(), Some(447));
    let peers = Peers::on("127.0.0.1");
    let id = control.connect_to(peers.address()).connection().expect("a connection");
    assert_eq!(control.connect_to(peers.address()).error(), Some(446));
    for _ in 0..4 {
        let mut guessing = relay.client(Transport::Tcp);
        assert_eq!(guessing.connection_bind(id ^ 0x55).error(), Some(400));
        assert!(guessing.closed());
    }
    let mut udp = relay.client(Transport::Udp);
    assert_eq!(udp.connection_bind(id).error(), Some(400));
    assert_eq!(udp.request(client::ALLOCATE, &[client::tcp::tcp()]).error(), Some(400));
    bind(&relay, Transport::Tcp, id);
}

#[test]
fn everything_of_an_allocation_closes_with_its_control_connection() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peers = Peers::on("127.0.0.1");
    for round in 0..8 {
        let mut control = relay.client(STREAMS[round % 2]);
        let relayed = control.allocate_tcp();
        assert!(control.permit(SocketAddr::from(([127, 0, 0, 1], 1))).is_success());
        let id = control.connect_to(peers.address()).connection().expect("a connection");
        let (mut peer, _) = peers.accept();
        let mut data = bind(&relay, STREAMS[round % 2], id);
        let mut waiting = connect(relayed);
        control.attempt();
        if round < 4 {
            drop(control);
        } else {
            assert!(control.release().is_success());
        }
        assert_eq!((rest(&mut peer), rest(&mut data), rest(&mut waiting)), (vec![], vec![], vec![]));
        // Nobody listens there any more.
        eventually(|| TcpStream::connect(relayed).is_err());
    }
    relay.settles("tcp_connections", 0);
}

#[test]
fn two_clients_of_a_closed_relay_connect_to_each_other() {
    let relay = Relay::on("127.0.0.1", &[]);
    for _ in 0..8 {
        let (mut one, mut two) = (relay.client(Transport::Tcp), relay.client(Transport::Tcp));
        let (relayed_one, relayed_two) = (one.allocate_tcp(), two.allocate_tcp());
        assert!(two.permit(relayed_one).is_success());
        let made = one.connect_to(relayed_two).connection().expect("a connection");
        let (came, from) = two.attempt();
        assert_eq!(from, relayed_one);
        let (mut here, mut there) = (bind(&relay, Transport::Tcp, made), bind(&relay, Transport::Tls, came));
        exchange(&mut here, &mut there, 7);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = relay.client(Transport::Tcp);
    client.allocate_tcp();
    assert_eq!(client.connect_to(listener.local_addr().unwrap()).error(), Some(403));
}

#[test]
fn ten_thousand_connections_come_and_go_and_leave_nothing() {
    const CYCLES: usize = 10_000;
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        allow_peer: vec!["127.0.0.0/8".into()],
        // A port that leaks is missed soon.
        port_range: Some(few_free_ports()),
        // Every connection asks for a challenge first, more of them than strangers of one address get.
        unauthenticated_answers: Some(0),
        ..Config::default()
    });
    let peers = Peers::on("127.0.0.1");
    // Whatever is opened once and for all is open then.
    let cycle = |first: usize, count: usize| {
        let mut control = relay.client(Transport::Tcp);
        let relayed = control.allocate_tcp();
        assert!(control.permit(SocketAddr::from(([127, 0, 0, 1], 1))).is_success());
        for n in first..first + count {
            match n % 4 {
                0 => {
                    let id = control.connect_to(peers.address()).connection().expect("a connection");
                    let (mut peer, _) = peers.accept();
                    let mut data = bind(&relay, Transport::Tcp, id);
                    exchange(&mut data, &mut peer, n);
                    drop(peer);
                    assert_eq!(rest(&mut data), b"");
                }
                1 => {
                    let mut peer = connect(relayed);
                    let mut data = bind(&relay, Transport::Tcp, control.attempt().0);
                    exchange(&mut data, &mut peer, n);
                    drop(data);
                    assert_eq!(rest(&mut peer), b"");
                }
                2 => drop((connect(relayed), control.attempt())),
                _ => {
                    drop(TcpStream::connect_timeout(&relayed, PATIENCE).unwrap());
                    control.attempt();
                }
            }
        }
    };
    cycle(0, 40);
    relay.settles("tcp_connections", 0);
    let before = descriptors();
    // 32 connections of an allocation may wait: half of forty do.
    for first in (0..CYCLES).step_by(40) {
        cycle(first, 40);
    }
    relay.settles("tcp_connections", 0);
    relay.settles("allocations{transport=\"tcp\",family=\"ipv4\"}", 0);
    // Not all that the first forty held may have been closed when it was counted.
    eventually(|| descriptors() <= before);
}

/// A worker's own event loop and the sockets of this test apart, what the process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Four ports that nobody has.
fn few_free_ports() -> String {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = (20_000..30_000).step_by(4).find(|first| (*first..first + 4).all(free)).expect("ports");
    format!("{first}-{}", first + 3)
}

/// A TCP allocation of the family of `ip`.
fn allocate(control: &mut Client, ip: &str) -> SocketAddr {
    let family = client::family(ip == "127.0.0.1");
    control.request(client::ALLOCATE, &[client::tcp::tcp(), family]).relayed().expect("an allocation")
}

/// A new connection of the client, bound.
fn bind(relay: &Relay, transport: Transport, id: u32) -> Bytes {
    let mut data = Client::connect(transport, relay.address, USER, PASSWORD);
    let answer = data.connection_bind(id);
    assert!(answer.is_success(), "{:?}", answer.error());
    data.into_bytes()
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A few bytes there and back.
fn exchange(one: &mut (impl Read + Write), other: &mut (impl Read + Write), n: usize) {
    let (there, back) = (format!("there {n:07}"), format!("back {n:08}"));
    let mut got = vec![0; there.len()];
    one.write_all(there.as_bytes()).and_then(|()| one.flush()).unwrap();
    other.read_exact(&mut got).unwrap();
    assert_eq!(got, there.as_bytes());
    other.write_all(back.as_bytes()).and_then(|()| other.flush()).unwrap();
    one.read_exact(&mut got).unwrap();
    assert_eq!(got, back.as_bytes());
}

/// Everything until the other side ends, in good form or not.
fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut all = vec![];
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {}
        Err(error) => panic!("{error}"),
    }
    all
}

/// Bytes that tell where they belong.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(byte_at).collect()
}

fn byte_at(at: usize) -> u8 {
    at.wrapping_mul(0x9E37_79B1).to_le_bytes()[2]
}

/// Where the bytes differ from the pattern, or how many there are if not `len`.
fn difference(bytes: &[u8], from: usize, len: usize) -> Option<usize> {
    let wrong = bytes.iter().enumerate().position(|(at, byte)| *byte != byte_at(from + at));
    wrong.or_else(|| (bytes.len() != len).then_some(bytes.len()))
}

/// Writes the pattern until nothing more is taken; how much that was. Of TLS nothing is written.
fn fill(mut stream: TcpStream, transport: Transport) -> usize {
    if transport == Transport::Tls {
        return 0;
    }
    // Long enough for a relay that moves bytes to move some: it stops at once when both ends are full.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut written = 0;
    while written < 64 << 20 {
        match stream.write(&pattern(written, 64 << 10)) {
            Ok(len) => written += len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_write_timeout(None).unwrap();
    written
}

/// Reads to the end in small pieces, and lets others run between them.
fn slowly(stream: &mut impl Read) -> Vec<u8> {
    let (mut all, mut piece) = (vec![], [0; 1500]);
    loop {
        match stream.read(&mut piece).unwrap() {
            0 => return all,
            len => all.extend(&piece[..len]),
        }
        thread::yield_now();
    }
}

/// Writes all of `bytes` and reads to the end, in turns on one thread, as TLS wants it.
fn both_ways(mut data: Bytes, bytes: &[u8]) -> Vec<u8> {
    let (mut all, mut piece, mut written, mut heard_all) = (vec![], [0; 1500], 0, false);
    data.stream().set_nonblocking(true).unwrap();
    while written < bytes.len() || !flushed(&mut data) {
        if let Some(len) = now(data.write(&bytes[written..bytes.len().min(written + 4000)])) {
            written += len;
        }
        match now(if heard_all { Err(ErrorKind::WouldBlock.into()) } else { data.read(&mut piece) }) {
            Some(0) => heard_all = true,
            Some(len) => all.extend(&piece[..len]),
            None => thread::yield_now(),
        }
    }
    data.stream().set_nonblocking(false).unwrap();
    data.finish();
    if !heard_all {
        all.extend(slowly(&mut data));
    }
    all
}

fn flushed(data: &mut Bytes) -> bool {
    now(data.flush()).is_some()
}

/// What was done, if anything could be.
fn now<T>(outcome: std::io::Result<T>) -> Option<T> {
    match outcome {
        Ok(done) => Some(done),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// Peers that wait for connections.
struct Peers(TcpListener);

impl Peers {
    fn on(ip: &str) -> Self {
        Self(TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn accept(&self) -> (TcpStream, SocketAddr) {
        let (stream, from) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, from)
    }
}
