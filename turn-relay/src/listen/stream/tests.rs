use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};

use std::io::Read as _;

use super::*;
use crate::address::{ClientAddr, Transport};
use crate::listen::admission::Rules;
use crate::listen::tls::Certificates;

#[test]
fn a_client_that_never_completes_a_frame_is_given_up_after_ten_seconds() {
    let mut bench = Bench::new();
    let (slot, _, _client) = bench.connect("192.0.2.1:1000");
    // A beginning is not a frame.
    bench.connections.keep(slot, &[0x00, 0x01], false);
    assert_eq!(bench.overdue(9), None);
    assert_eq!(bench.overdue(10), Some(slot));
}

#[test]
fn a_client_that_speaks_and_allocates_nothing_is_given_up_after_a_minute() {
    let mut bench = Bench::new();
    let (slot, _, _client) = bench.connect("192.0.2.1:1000");
    bench.connections.keep(slot, &[], true);
    assert_eq!(bench.overdue(10), None);
    // Speaking on does not help.
    bench.connections.keep(slot, &[], true);
    assert_eq!(bench.overdue(59), None);
    assert_eq!(bench.overdue(60), Some(slot));
}

#[test]
fn an_allocation_keeps_a_silent_connection_and_its_end_gives_it_a_minute() {
    let mut bench = Bench::new();
    let (slot, tuple, _client) = bench.connect("192.0.2.1:1000");
    bench.connections.keep(slot, &[], true);
    bench.connections.set_allocated(bench.at(0), &tuple, true);
    assert_eq!(bench.overdue(3600), None);
    bench.connections.set_allocated(bench.at(3600), &tuple, false);
    assert_eq!(bench.overdue(3659), None);
    // Looked at once a minute, so it may take another one.
    assert_eq!(bench.overdue(3720), Some(slot));
}

#[test]
fn a_connection_too_many_of_one_address_is_refused() {
    let mut bench = Bench::new();
    let clients: Vec<_> = (0..4).map(|_| bench.connect("192.0.2.1:1000")).collect();
    assert!(bench.try_connect("192.0.2.1:1000").is_none());
    bench.connect("192.0.2.2:1000");
    bench.connections.remove(clients[0].0);
    bench.connect("192.0.2.1:1000");
}

#[test]
fn nothing_is_kept_of_connections_that_are_gone() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let (slot, tuple, _client) = bench.connect("192.0.2.1:1000");
        assert_eq!(bench.connections.slot_of(&tuple), Some(slot));
        assert_eq!(bench.connections.remove(slot), Some(tuple));
    }
    assert!(bench.connections.by_tuple.is_empty() && bench.admission.counts_nobody());
    assert_eq!(bench.overdue(10), None);
    assert_eq!(bench.connections.deadline(), None);
}

#[test]
fn a_client_without_an_allocation_gets_little_memory() {
    let mut bench = Bench::new();
    let (slot, tuple, _client) = bench.connect("192.0.2.1:1000");
    assert_eq!(bench.connections.longest_frame(slot), MAX_REQUEST_BYTES);
    while bench.connections.send(slot, &[7; 500]) == Ok(()) {}
    assert!(bench.connections.slab[slot].wire.unsent() <= MAX_UNSENT_OF_STRANGER);
    bench.connections.set_allocated(bench.at(0), &tuple, true);
    assert_eq!(bench.connections.longest_frame(slot), MAX_FRAME_BYTES);
    assert_eq!(bench.connections.send(slot, &[7; 9000]), Ok(()));
}

#[test]
fn of_two_connections_on_a_five_tuple_the_end_of_the_older_leaves_the_newer_findable() {
    let mut bench = Bench::new();
    let (old, tuple, _client) = bench.connect("192.0.2.1:1000");
    let (stream, _other) = bench.pair();
    let new = bench.connections.insert(bench.start, stream, tuple).expect("is taken");
    assert_eq!(bench.connections.remove(old), Some(tuple));
    assert_eq!(bench.connections.slot_of(&tuple), Some(new));
}

#[test]
fn what_waits_for_a_client_that_does_not_read_is_bounded() {
    let mut bench = Bench::new();
    let (slot, tuple, client) = bench.connect("192.0.2.1:1000");
    bench.connections.set_allocated(bench.at(0), &tuple, true);
    let frame = [7; 9000];
    let mut sent = 0;
    while bench.connections.send(slot, &frame) == Ok(()) {
        sent += frame.len();
        assert!(bench.connections.slab[slot].wire.unsent() <= MAX_UNSENT);
    }
    assert_eq!(bench.connections.send(slot, &frame), Err(Refused::Full));

    // Everything that was taken arrives, whole and once.
    let reader = std::thread::spawn(move || {
        let mut received = vec![];
        (&client).take(sent as u64).read_to_end(&mut received).expect("reads");
        received
    });
    while bench.connections.slab[slot].wire.unsent() > 0 {
        bench.connections.flush(slot).expect("the client reads");
        std::thread::yield_now();
    }
    assert_eq!(reader.join().expect("no panic"), vec![7; sent]);
}

#[test]
fn a_connection_to_be_closed_gets_five_seconds_for_the_rest() {
    let mut bench = Bench::new();
    let (slot, _, _client) = bench.connect("192.0.2.1:1000");
    bench.connections.keep(slot, &[], true);
    while bench.connections.send(slot, &[7; 9000]) == Ok(()) {}
    assert!(!bench.connections.finish(bench.at(1), slot), "there is something left to send");
    assert_eq!(bench.overdue(5), None);
    assert_eq!(bench.overdue(6), Some(slot));
}

#[test]
fn a_connection_with_nothing_left_to_send_is_closed_at_once() {
    let mut bench = Bench::new();
    let (slot, _, _client) = bench.connect("192.0.2.1:1000");
    assert!(bench.connections.finish(bench.at(0), slot));
}

/// Connections over loopback under a virtual clock.
struct Bench {
    connections: Connections,
    admission: Arc<Admission>,
    listener: TcpListener,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        // The clock of the test: only differences from here count.
        let start = Instant::now();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let rules = Rules { per_address: 4, ..Rules::default() };
        let admission = Arc::new(Admission::new(rules, Certificates::new(&[]).expect("randomness")));
        Self { connections: Connections::new(Arc::clone(&admission)), admission, listener, start }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// A connection that claims to come from `peer`.
    fn connect(&mut self, peer: &str) -> (usize, FiveTuple, StdStream) {
        self.try_connect(peer).expect("is taken")
    }

    fn try_connect(&mut self, peer: &str) -> Option<(usize, FiveTuple, StdStream)> {
        let (stream, client) = self.pair();
        let server = stream.local_addr().expect("connected");
        let mut peer: SocketAddr = peer.parse().expect("an address");
        peer.set_port(client.local_addr().expect("connected").port());
        let tuple = FiveTuple { transport: Transport::Tcp, client: ClientAddr(peer), server };
        let slot = self.connections.insert(self.start, stream, tuple)?;
        Some((slot, tuple, client))
    }

    /// Both ends of a connection.
    fn pair(&self) -> (TcpStream, StdStream) {
        let client = StdStream::connect(self.listener.local_addr().expect("bound")).expect("connects");
        let (stream, _) = self.listener.accept().expect("accepts");
        stream.set_nonblocking(true).expect("sets");
        (TcpStream::from_std(stream), client)
    }

    fn overdue(&mut self, seconds: u64) -> Option<usize> {
        self.connections.overdue(self.at(seconds))
    }
}
