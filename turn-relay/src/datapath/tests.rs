//! One worker, turned by hand: what a real loop does between two events, without racing it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::listen;
use crate::listen::admission::Rules;
use crate::listen::tls::Certificates;
use crate::metrics::{SendFailure, Totals};
use crate::policy::PeerPolicy;
use crate::relay::testing::{
    ALLOCATE, Account, Answer, BINDING, CHANNEL_BIND, Draft, REFRESH, channel_data, settings,
};
use crate::relay::{RelayAddress, RelaySettings, Traffic, WorkerIndex};
use crate::sys::datagram;

#[test]
fn connection_that_broke_while_it_was_answered_leaves_no_allocation() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client.write_all(&Draft::new(ALLOCATE, 1).udp().bytes()).expect("sends");
    let nonce = bench.answer(&mut client).nonce();
    let allocate =
        |transaction| Draft::new(ALLOCATE, transaction).udp().sign(&Account::alice(), &nonce).bytes();
    // The first answer meets the reset, and the second request must not be taken for one of a client that is there.
    client.write_all(&[allocate(2), allocate(3)].concat()).expect("sends");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("sets");
    drop(client);
    while bench.worker.connections.count() > 0 {
        bench.turn();
    }
    assert_eq!(bench.worker.relay.allocations(), 0);
    assert_eq!(bench.worker.shared.allocations(), 0);
}

#[test]
fn pipelined_requests_of_one_connection_take_their_turns() {
    const ANSWER_BYTES: usize = 32;
    let mut bench = Bench::new();
    let mut client = bench.connect();
    let requests: Vec<u8> = (0..200).flat_map(|n| Draft::new(BINDING, n).bytes()).collect();
    client.write_all(&requests).expect("sends");
    let mut bytes = vec![0; 200 * ANSWER_BYTES + 1];
    let (mut received, mut turns) = (0, 0);
    while received < 200 * ANSWER_BYTES {
        bench.turn();
        turns += 1;
        received += available(&mut client, &mut bytes);
        // The kernel may hand over the answers of several turns at once.
        assert!(received <= turns * BUDGET * ANSWER_BYTES, "{received} bytes in {turns} turns");
    }
    assert_eq!(received, 200 * ANSWER_BYTES);
}

#[test]
fn long_frame_is_refused_by_its_length_until_there_is_an_allocation() {
    let mut bench = Bench::new();
    let mut stranger = bench.connect();
    let header = &Draft::new(ALLOCATE, 1).raw(&[0; 5000]).bytes()[..20];
    stranger.write_all(header).expect("sends");
    while bench.worker.connections.count() > 0 {
        bench.turn();
    }

    let mut client = bench.connect();
    client.write_all(&Draft::new(ALLOCATE, 1).udp().bytes()).expect("sends");
    let nonce = bench.answer(&mut client).nonce();
    let allocate = Draft::new(ALLOCATE, 2).udp().sign(&Account::alice(), &nonce).bytes();
    client.write_all(&allocate).expect("sends");
    assert!(bench.answer(&mut client).is_success());
    client.write_all(&channel_data(0x4000, &[0; 60_000])).expect("sends");
    client.write_all(&Draft::new(BINDING, 3).bytes()).expect("sends");
    assert!(bench.answer(&mut client).is_success());
}

#[test]
fn dscp_and_ecn_of_datagrams_cross_the_relay_both_ways() {
    let mut bench = Bench::new();
    let (client, peer) = (marked_socket(), marked_socket());
    let to_peer = peer.local_addr().expect("bound");
    let relayed = bench.call(&client, to_peer);
    // Expedited forwarding with ECT(0), best effort, and CS1 with CE.
    for class in [0xBA, 0, 0x23] {
        let frame = channel_data(0x4000, b"media");
        datagram::one::send(client.as_fd(), &frame, bench.address, None, class).expect("sends");
        assert_eq!(bench.receive(&peer), (5, class), "to the peer");
        datagram::one::send(peer.as_fd(), b"media", relayed, None, class).expect("sends");
        assert_eq!(bench.receive(&client), (9, class), "to the client");
    }
}

#[test]
fn a_burst_of_mixed_sizes_to_several_peers_arrives_whole_and_each_flow_in_order() {
    let mut bench = Bench::new();
    let [client, other] = [(); 2].map(|()| marked_socket());
    let [peer, second, third] = [(); 3].map(|()| marked_socket());
    let relayed = bench.call(&client, at(&peer));
    bench.bind(&client, 0x4001, at(&second));
    let elsewhere = bench.call(&other, at(&third));
    // Lengths that make runs, end them and break them, with empty ones and some that no Ethernet frame holds.
    let lengths =
        [900, 900, 900, 300, 900, 0, 0, 1200, 900, 60_000, 1472, 1473, 1473, 1472, 1472, 1, 1, 2, 1200, 1200];
    let flows = [(&client, 0x4000, &peer), (&client, 0x4001, &second), (&other, 0x4000, &third)];
    let payloads = |flow: u8| lengths.iter().zip(0_u8..).map(move |(len, n)| vec![n << 2 | flow; *len]);
    // All of it waits before the worker looks.
    for n in 0..lengths.len() {
        for ((from, channel, _), flow) in flows.iter().zip(0..) {
            let payload = payloads(flow).nth(n).expect("so many");
            from.send_to(&channel_data(*channel, &payload), bench.address).expect("sends");
        }
    }
    for ((_, _, peer), flow) in flows.iter().zip(0..) {
        assert!(payloads(flow).eq(bench.receive_all(peer, lengths.len())), "flow {flow} to its peer");
    }
    for (from, relayed, flow) in [(&peer, relayed, 0), (&second, relayed, 1), (&third, elsewhere, 2)] {
        payloads(flow)
            .for_each(|payload| assert_eq!(from.send_to(&payload, relayed).expect("sends"), payload.len()));
    }
    let frames = |flow, channel| {
        payloads(flow).map(move |payload| channel_data(channel, &payload)).collect::<Vec<_>>()
    };
    let mixed = bench.receive_all(&client, 2 * lengths.len());
    for (flow, channel) in [(0, 0x4000_u16), (1, 0x4001)] {
        let of_flow: Vec<_> =
            mixed.iter().filter(|frame| frame[..2] == channel.to_be_bytes()).cloned().collect();
        assert_eq!(of_flow, frames(flow, channel), "flow {flow} to the client");
    }
    assert_eq!(bench.receive_all(&other, lengths.len()), frames(2, 0x4000));
    let bytes = 3 * lengths.iter().sum::<usize>() as u64;
    let packets = 3 * lengths.len() as u64;
    let traffic = bench.traffic();
    assert_eq!((traffic.to_peer_packets, traffic.to_peer_bytes), (packets, bytes));
    assert_eq!((traffic.to_client_packets, traffic.to_client_bytes), (packets, bytes));
}

#[test]
fn datagrams_of_one_flow_that_came_together_leave_as_a_run_both_ways() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    let relayed = bench.call(&client, at(&peer));
    for socket in [&client, &peer] {
        datagram::receive_runs(socket.as_fd()).expect("is supported");
    }
    for class in [0, 0xB8] {
        for n in 0..5 {
            let frame = channel_data(0x4000, &[n; 1000]);
            datagram::one::send(client.as_fd(), &frame, bench.address, None, class).expect("sends");
        }
        assert_eq!(bench.receive(&peer), (5000, class), "as one");
        for n in 0..5 {
            datagram::one::send(peer.as_fd(), &[n; 1000], relayed, None, class).expect("sends");
        }
        assert_eq!(bench.receive(&client), (5020, class), "as one");
    }
    // What differs in DSCP or ECN is no run.
    for class in [0xB8, 0xB8, 0x20] {
        let frame = channel_data(0x4000, &[class; 1000]);
        datagram::one::send(client.as_fd(), &frame, bench.address, None, class).expect("sends");
    }
    assert_eq!([bench.receive(&peer), bench.receive(&peer)], [(2000, 0xB8), (1000, 0x20)]);
}

/// As a network card and the kernel put datagrams together on receipt.
#[test]
fn a_run_that_comes_as_one_is_relayed_as_its_datagrams_both_ways() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    let relayed = bench.call(&client, at(&peer));
    // More than a worker asks for at a time, and the last shorter.
    let payloads: Vec<_> = (0..60).map(|n| vec![n; if n == 59 { 5 } else { 1000 }]).collect();
    let frames: Vec<_> = payloads.iter().map(|payload| channel_data(0x4000, payload)).collect();
    for (from, sent, to, through, arrives) in
        [(&client, &frames, bench.address, &peer, &payloads), (&peer, &payloads, relayed, &client, &frames)]
    {
        let run: Vec<_> = sent.iter().map(|bytes| io::IoSlice::new(bytes)).collect();
        datagram::send_run(from.as_fd(), &run, to, None, 0).expect("is supported");
        assert_eq!(&bench.receive_all(through, arrives.len()), arrives);
    }
    let traffic = bench.traffic();
    assert_eq!((traffic.to_peer_packets, traffic.to_client_packets), (60, 60));
}

/// One by one a turn takes no more than its budget.
#[test]
fn runs_that_come_as_one_are_taken_whole_in_one_turn() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    let relayed = bench.call(&client, at(&peer));
    let payload = vec![7; 1000];
    let frame = channel_data(0x4000, &payload);
    for (from, bytes, to, relayed) in
        [(&client, &frame, bench.address, (120, 0)), (&peer, &payload, relayed, (120, 120))]
    {
        for _ in 0..2 {
            let run = [io::IoSlice::new(bytes); BUDGET - 4];
            datagram::send_run(from.as_fd(), &run, to, None, 0).expect("is supported");
        }
        bench.turn();
        let traffic = bench.traffic();
        assert_eq!((traffic.to_peer_packets, traffic.to_client_packets), relayed);
    }
}

#[test]
fn datagrams_that_cannot_be_sent_cost_none_of_those_around_them() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    bench.call(&client, at(&peer));
    // The relayed address is of the loopback network, from where nothing can be sent elsewhere.
    bench.bind(&client, 0x4001, "192.0.2.1:9".parse().expect("an address"));
    for n in 0..9 {
        let channel = if n % 3 == 1 { 0x4001 } else { 0x4000 };
        client.send_to(&channel_data(channel, &[n; 700]), bench.address).expect("sends");
    }
    let arrived: Vec<u8> = bench.receive_all(&peer, 6).iter().map(|payload| payload[0]).collect();
    assert_eq!(arrived, [0, 2, 3, 5, 6, 8]);
    assert_eq!((bench.traffic().to_peer_packets, bench.refused()), (6, 3));
}

#[test]
fn a_run_that_the_kernel_refuses_goes_out_one_by_one() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    bench.call(&client, at(&peer));
    bench
        .worker
        .relayed
        .sockets()
        .for_each(|socket| datagram::one::refuse_runs(socket.as_fd()).expect("is supported"));
    for n in 0..5 {
        client.send_to(&channel_data(0x4000, &[n; 700]), bench.address).expect("sends");
    }
    let arrived: Vec<u8> = bench.receive_all(&peer, 5).iter().map(|payload| payload[0]).collect();
    assert_eq!(arrived, [0, 1, 2, 3, 4]);
    assert_eq!((bench.traffic().to_peer_packets, bench.refused()), (5, 0));
}

#[test]
fn a_request_between_data_is_answered_after_what_came_before_it() {
    let mut bench = Bench::new();
    let [client, peer] = [(); 2].map(|()| marked_socket());
    bench.call(&client, at(&peer));
    let nonce = bench.exchange(&client, Draft::new(ALLOCATE, 9).udp()).nonce();
    let release = Draft::new(REFRESH, 4).lifetime(0).sign(&Account::alice(), &nonce).bytes();
    // The release closes the socket that the data before it leaves from; what comes behind it is nobody's.
    for datagram in [&channel_data(0x4000, b"before"), &release, &channel_data(0x4000, b"behind")] {
        client.send_to(datagram, bench.address).expect("sends");
    }
    assert_eq!(bench.receive_all(&peer, 1), [b"before"]);
    assert!(bench.receive_all(&client, 1)[0].starts_with(&[0x01, 0x04]), "released");
    assert_eq!((bench.traffic().to_peer_packets, bench.worker.relay.allocations()), (1, 0));
}

fn at(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("bound")
}

fn marked_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    datagram::report_traffic_class(socket.as_fd(), true).expect("is supported");
    socket
}

/// What the client can read now.
fn available(client: &mut TcpStream, bytes: &mut [u8]) -> usize {
    client.set_nonblocking(true).expect("sets");
    let read = client.read(bytes);
    client.set_nonblocking(false).expect("sets");
    match read {
        Ok(0) => panic!("closed"),
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

struct Bench {
    worker: Worker,
    address: SocketAddr,
    events: Events,
    ready: Vec<Token>,
}

impl Bench {
    fn new() -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listeners = listen::open(&[any], false, NonZeroUsize::MIN, Default::default())
            .expect("a free port")
            .remove(0);
        let address = listeners[0].address;
        let settings = Arc::new(RelaySettings {
            policy: PeerPolicy::new(
                ["127.0.0.0/8", "192.0.2.0/24"].map(|network| network.parse().expect("a network")).into(),
                vec![],
            ),
            relay_addresses: vec![RelayAddress { ip: address.ip(), external: None }],
            listeners: vec![address],
            ..settings()
        });
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let shared = Arc::new(Shared::new(&settings, crate::relay::testing::epoch(), &mut rng));
        let relay = Relay::new(settings, Arc::clone(&shared), WorkerIndex(0), rng);
        let certificates = Certificates::new(&[]).expect("randomness");
        let admission = Arc::new(Admission::new(Rules::default(), certificates));
        let workplace = Workplace::new(listeners, admission).expect("descriptors");
        let mailboxes = vec![workplace.mailbox()];
        let counters: Arc<Counters> = Arc::default();
        let journal = Journal::new(Arc::clone(&counters), false);
        let worker = Worker::new(workplace, mailboxes, relay, shared, counters, journal, None);
        Self { worker, address, events: Events::with_capacity(EVENTS), ready: Vec::new() }
    }

    fn turn(&mut self) {
        self.worker.turn(&mut self.events, &mut self.ready).expect("turns");
    }

    /// A client whose connection is accepted.
    fn connect(&mut self) -> TcpStream {
        let before = self.worker.connections.count();
        let client = TcpStream::connect(self.address).expect("connects");
        while self.worker.connections.count() == before {
            self.turn();
        }
        client
    }

    /// An allocation over UDP with channel 0x4000 to a peer; its relayed address.
    fn call(&mut self, client: &UdpSocket, peer: SocketAddr) -> SocketAddr {
        let alice = Account::alice();
        let nonce = self.exchange(client, Draft::new(ALLOCATE, 1).udp()).nonce();
        let relayed = self.exchange(client, Draft::new(ALLOCATE, 2).udp().sign(&alice, &nonce)).relayed();
        let bind = Draft::new(CHANNEL_BIND, 3).channel(0x4000).peer(&peer.to_string());
        assert!(self.exchange(client, bind.sign(&alice, &nonce)).is_success());
        relayed
    }

    fn exchange(&mut self, client: &UdpSocket, draft: Draft) -> Answer {
        client.send_to(&draft.bytes(), self.address).expect("sends");
        let mut bytes = vec![0; 2000];
        let (len, _) = self.receive_into(client, &mut bytes);
        bytes.truncate(len);
        Answer { kind: u16::from_be_bytes([bytes[0], bytes[1]]), bytes }
    }

    /// Another channel of a client that allocated, to another peer.
    fn bind(&mut self, client: &UdpSocket, channel: u16, peer: SocketAddr) {
        let nonce = self.exchange(client, Draft::new(ALLOCATE, 7).udp()).nonce();
        let bind = Draft::new(CHANNEL_BIND, 8).channel(channel).peer(&peer.to_string());
        assert!(self.exchange(client, bind.sign(&Account::alice(), &nonce)).is_success());
    }

    /// The next datagrams.
    fn receive_all(&mut self, on: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut bytes = vec![0; 65_536];
        (0..count)
            .map(|_| {
                let (len, _) = self.receive_into(on, &mut bytes);
                bytes[..len].to_vec()
            })
            .collect()
    }

    fn traffic(&self) -> Traffic {
        Totals(vec![Arc::clone(&self.worker.counters)]).traffic()
    }

    /// Datagrams that the kernel refused to send.
    fn refused(&self) -> u64 {
        self.worker.counters.failures(SendFailure::Refused)
    }

    /// Length and traffic class of the next datagram.
    fn receive(&mut self, on: &UdpSocket) -> (usize, u8) {
        self.receive_into(on, &mut [0; 8000])
    }

    fn receive_into(&mut self, on: &UdpSocket, bytes: &mut [u8]) -> (usize, u8) {
        loop {
            match datagram::one::receive(on.as_fd(), bytes) {
                Ok(received) => return (received.len, received.traffic_class),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.turn(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The answer that is on its way.
    fn answer(&mut self, client: &mut TcpStream) -> Answer {
        let mut bytes = vec![0; 2000];
        loop {
            let len = available(client, &mut bytes);
            if len > 0 {
                bytes.truncate(len);
                return Answer { kind: u16::from_be_bytes([bytes[0], bytes[1]]), bytes };
            }
            self.turn();
        }
    }
}
