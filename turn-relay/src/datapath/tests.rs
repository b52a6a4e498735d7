//! One worker, turned by hand: what a real loop does between two events, without racing it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::listen;
use crate::relay::testing::{ALLOCATE, Account, Draft, settings};
use crate::relay::{RelayAddress, RelaySettings};

#[test]
fn connection_that_broke_while_it_was_answered_leaves_no_allocation() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client.write_all(&Draft::new(ALLOCATE, 1).udp().bytes()).expect("sends");
    let nonce = bench.answer(&mut client);
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
        let workplace = Workplace::new(listeners).expect("descriptors");
        let mailboxes = vec![workplace.mailbox()];
        let worker = Worker::new(workplace, WorkerIndex(0), mailboxes, relay, shared, Arc::default());
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

    /// The NONCE of a challenge that is on its way.
    fn answer(&mut self, client: &mut TcpStream) -> Vec<u8> {
        client.set_nonblocking(true).expect("sets");
        let mut bytes = vec![0; 2000];
        let len = loop {
            match client.read(&mut bytes) {
                Ok(len) => break len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.turn(),
                Err(error) => panic!("{error}"),
            }
        };
        client.set_nonblocking(false).expect("sets");
        bytes.truncate(len);
        crate::relay::testing::Answer { kind: 0, bytes }.nonce()
    }
}
