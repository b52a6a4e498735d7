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
use crate::policy::PeerPolicy;
use crate::relay::testing::{
    ALLOCATE, Account, Answer, BINDING, CHANNEL_BIND, Draft, channel_data, settings,
};
use crate::relay::{RelayAddress, RelaySettings, WorkerIndex};
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
        datagram::send(client.as_fd(), &frame, bench.address, None, class).expect("sends");
        assert_eq!(bench.receive(&peer), (5, class), "to the peer");
        datagram::send(peer.as_fd(), b"media", relayed, None, class).expect("sends");
        assert_eq!(bench.receive(&client), (9, class), "to the client");
    }
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
            policy: PeerPolicy::new(vec!["127.0.0.0/8".parse().expect("a network")], vec![]),
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

    /// Length and traffic class of the next datagram.
    fn receive(&mut self, on: &UdpSocket) -> (usize, u8) {
        self.receive_into(on, &mut [0; 2000])
    }

    fn receive_into(&mut self, on: &UdpSocket, bytes: &mut [u8]) -> (usize, u8) {
        loop {
            match datagram::receive(on.as_fd(), bytes) {
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
