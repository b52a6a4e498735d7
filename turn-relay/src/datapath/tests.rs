//! One worker, turned by hand: what a real loop does between two events, without racing it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::listen;
use crate::listen::admission::Rules;
use crate::listen::tls::Certificates;
use crate::relay::testing::{ALLOCATE, Account, Answer, BINDING, Draft, channel_data, settings};
use crate::relay::{RelayAddress, RelaySettings, WorkerIndex};

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
        let listeners = listen::open(&[any], false, NonZeroUsize::MIN).expect("a free port").remove(0);
        let address = listeners[0].address;
        let settings = Arc::new(RelaySettings {
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
        let worker = Worker::new(workplace, mailboxes, relay, shared, counters, journal);
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
