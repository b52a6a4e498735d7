//! The relay core, driven by bytes as clients, peers, the driver and time might drive it. The fuzzer writes the attributes; the target signs them
//! with the client's key and latest nonce, so that what lies behind authentication is reached too.
#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuzz_targets::Tape;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use turn_relay::address::{ClientAddr, FiveTuple, PeerAddr, Transport};
use turn_relay::credentials::{Credentials, Key};
use turn_relay::policy::PeerPolicy;
use turn_relay::relay::{
    Input, OpenFailure, OpenId, Opened, Output, Relay, RelayAddress, RelaySettings, Shared, SocketSlot, Verdict, WorkerIndex,
};

const CLIENTS: usize = 4;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3478);
const METHODS: [u16; 7] = [0x001, 0x003, 0x003, 0x004, 0x008, 0x009, 0x7FF];
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    let mut tape = Tape::new(bytes);
    while !tape.is_over() {
        world.step(&mut tape);
    }
    world.end();
});

struct World {
    relay: Relay,
    shared: Arc<Shared>,
    now: Instant,
    wall: SystemTime,
    key: Key,
    nonces: [Vec<u8>; CLIENTS],
    /// Relayed sockets that the driver holds.
    sockets: BTreeMap<SocketSlot, u16>,
    next_slot: u32,
    transaction: u32,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let settings = Arc::new(RelaySettings {
            credentials: Credentials::new("r", [("u".to_owned(), "p".to_owned())], Vec::new()),
            policy: PeerPolicy::new(Vec::new(), Vec::new()),
            relay_addresses: vec![RelayAddress { ip: SERVER.ip(), external: None }],
            own_addresses: Vec::new(),
            listeners: vec![SERVER],
            ports: (50_000, 50_015),
            limits: turn_relay::relay::Limits::default(),
        });
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let shared = Arc::new(Shared::new(&settings, now, &mut rng));
        Self {
            relay: Relay::new(settings, Arc::clone(&shared), WorkerIndex(0), rng),
            shared,
            now,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000),
            key: Key::long_term("u", "r", "p"),
            nonces: Default::default(),
            sockets: BTreeMap::new(),
            next_slot: 0,
            transaction: 0,
        }
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(8) {
            0 => self.from_client(tape.below(CLIENTS), tape.bytes(), false, tape),
            1..=4 => {
                let client = tape.below(CLIENTS);
                let message = self.request(client, tape);
                self.from_client(client, &message, tape.byte() & 7 == 7, tape);
            }
            5 => {
                let Some((&slot, _)) = self.sockets.iter().nth(tape.below(16)) else { return };
                match self.relay.route_peer(self.now, slot, peer(tape), usize::from(tape.short())) {
                    Verdict::ToClient { .. } | Verdict::Drop(_) => {}
                    other @ (Verdict::ToPeer { .. } | Verdict::Control) => panic!("a peer's packet got {other:?}"),
                }
            }
            6 => {
                let time = Duration::from_millis(1 << tape.below(22));
                self.now += time;
                self.wall += time;
                self.handle(Input::Timeout, false);
            }
            _ => self.handle(Input::ClientGone(five_tuple(tape.below(CLIENTS))), false),
        }
    }

    /// What a client sent goes the way of the data path first.
    fn from_client(&mut self, client: usize, frame: &[u8], refuse_open: bool, _tape: &mut Tape<'_>) {
        let from = five_tuple(client);
        match self.relay.route_client(self.now, &from, frame) {
            Verdict::ToPeer { via, start, len, .. } => {
                assert!(self.sockets.contains_key(&via), "sent through a socket that is closed");
                assert!(usize::from(start) + usize::from(len) <= frame.len(), "sent more than came");
            }
            Verdict::Control => self.handle(Input::Message { from, bytes: frame, wall: self.wall }, refuse_open),
            Verdict::Drop(_) => {}
            other @ Verdict::ToClient { .. } => panic!("a client's packet got {other:?}"),
        }
    }

    /// Applies one input, carries out what comes of it, and answers `Open` at once.
    fn handle(&mut self, input: Input<'_>, refuse_open: bool) {
        let mut opens = self.apply(input);
        let mut attempts = 0;
        while let Some((open, port, reserve_next)) = opens.pop() {
            attempts += 1;
            assert!(attempts < 1000, "it never gives up opening");
            let outcome = if refuse_open { Err(OpenFailure::PortTaken) } else { Ok(self.open(port, reserve_next)) };
            opens.extend(self.apply(Input::Opened { open, outcome }));
        }
    }

    fn open(&mut self, port: u16, reserve_next: bool) -> Opened {
        let mut bind = |port| {
            assert!(!self.sockets.values().any(|bound| *bound == port), "port {port} was opened twice");
            let slot = SocketSlot(self.next_slot % 64);
            self.next_slot += 1;
            assert!(self.sockets.insert(slot, port).is_none(), "more sockets than ports");
            slot
        };
        Opened { slot: bind(port), reserved: reserve_next.then(|| bind(port + 1)) }
    }

    fn apply(&mut self, input: Input<'_>) -> Vec<(OpenId, u16, bool)> {
        let mut opens = Vec::new();
        for output in self.relay.handle(self.now, input) {
            match output {
                Output::Send { to, message } => {
                    let client = (0..CLIENTS).find(|&client| five_tuple(client) == to).expect("sent to a stranger");
                    if let Some(nonce) = attribute(&message, NONCE) {
                        self.nonces[client] = nonce.to_vec();
                    }
                }
                Output::Open { open, port, reserve_next, .. } => opens.push((open, port.0, reserve_next)),
                Output::Close(slot) => assert!(self.sockets.remove(&slot).is_some(), "closed a socket twice"),
                Output::ClaimAt { .. } | Output::Surrender { .. } | Output::DenyClaim { .. } | Output::Disconnect(_) | Output::Event(_) => {}
            }
        }
        opens
    }

    /// A STUN message whose attributes the fuzzer chooses, signed.
    fn request(&mut self, client: usize, tape: &mut Tape<'_>) -> Vec<u8> {
        self.transaction += 1;
        let transaction = self.transaction - u32::from(tape.byte() & 15 == 15);
        let mut body = Vec::new();
        let put = |body: &mut Vec<u8>, kind: u16, value: &[u8]| {
            body.extend(kind.to_be_bytes());
            body.extend(u16::try_from(value.len()).expect("values are short").to_be_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        let method = METHODS[tape.below(METHODS.len())];
        if method == 0x003 && tape.byte() & 7 != 7 {
            put(&mut body, 0x0019, &[17, 0, 0, 0]);
        }
        for _ in 0..tape.below(4) {
            match tape.below(8) {
                0..=2 => put(&mut body, 0x0012, &xor(peer(tape).0)),
                3 => put(&mut body, 0x000C, &[0x40, tape.byte() & 3, 0, 0]),
                4 => put(&mut body, 0x000D, &(u32::from(tape.short())).to_be_bytes()),
                5 => put(&mut body, 0x0018, &[tape.byte()]),
                6 => put(&mut body, 0x0013, tape.bytes()),
                _ => {
                    let kind = tape.short();
                    put(&mut body, kind, tape.bytes());
                }
            }
        }
        put(&mut body, USERNAME, b"u");
        put(&mut body, REALM, b"r");
        put(&mut body, NONCE, &self.nonces[client]);
        let indication = if tape.byte() & 7 == 7 { 0x0010 } else { 0 };
        let kind = if indication != 0 { 0x0016 } else { (method & 0xF) | ((method & 0x70) << 1) | ((method & 0xF80) << 2) };
        let mut message = kind.to_be_bytes().to_vec();
        message.extend(u16::try_from(body.len() + 24).expect("bodies are short").to_be_bytes());
        message.extend(0x2112_A442_u32.to_be_bytes());
        message.extend([0; 8]);
        message.extend(transaction.to_be_bytes());
        message.extend(body);
        let tag = self.key.sign(&[&message]);
        put(&mut message, MESSAGE_INTEGRITY, &tag);
        message
    }

    /// Time passes; everything is given back.
    fn end(mut self) {
        let mut rounds = 0;
        while let Some(deadline) = self.relay.deadline() {
            self.now = self.now.max(deadline);
            self.handle(Input::Timeout, false);
            rounds += 1;
            assert!(rounds < 10_000, "its deadlines never end");
        }
        assert_eq!(self.sockets.len(), 0, "a relayed socket is left");
        assert_eq!(self.shared.allocations(), 0, "an allocation is left");
        assert_eq!(self.shared.claimed_ports(), 0, "a port is left");
    }
}

fn five_tuple(client: usize) -> FiveTuple {
    FiveTuple {
        transport: if client.is_multiple_of(2) { Transport::Udp } else { Transport::Tcp },
        client: ClientAddr(SocketAddr::from(([198, 51, 100, 1], 1000 + u16::try_from(client).expect("few clients")))),
        server: SERVER,
    }
}

/// A public peer, a forbidden one, or one of the relay's own ports.
fn peer(tape: &mut Tape<'_>) -> PeerAddr {
    let ip = [[8, 8, 8, 8], [1, 1, 1, 1], [127, 0, 0, 1], [192, 0, 2, 1]][tape.below(4)];
    PeerAddr(SocketAddr::from((ip, 50_000 + u16::from(tape.byte() & 15))))
}

fn xor(address: SocketAddr) -> [u8; 8] {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("peers here are IPv4") };
    let [port_high, port_low] = (address.port() ^ 0x2112).to_be_bytes();
    let [a, b, c, d] = (u32::from(ip) ^ 0x2112_A442).to_be_bytes();
    [0, 1, port_high, port_low, a, b, c, d]
}

/// The value of the first attribute of this kind.
fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(20..)?;
    while let [k0, k1, l0, l1, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if u16::from_be_bytes([k0, k1]) == kind {
            return rest.get(4..4 + len);
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    None
}
