//! What the tests of the core have in common: a virtual clock, requests written by hand, and a driver with workers,
//! sockets and queues that exist on paper only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![cfg_attr(not(test), allow(dead_code, unused_imports, reason = "the fuzz targets use a part of it"))]

mod choices;
mod message;
mod routes;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use slab::Slab;

use super::*;
use crate::address::{ClientAddr, RelayedPort, Transport};
use crate::credentials::{Credentials, Secret};
use crate::policy::PeerPolicy;
use crate::relay::tcp::paper::PaperPeers;
pub(crate) use choices::Choices;
pub(crate) use message::{Account, Answer, Draft, channel_data, send_indication};
use routes::RouteBook;

pub(crate) const REALM: &str = "example.org";
pub(crate) const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

pub(crate) const BINDING: u16 = 0x0001;
pub(crate) const ALLOCATE: u16 = 0x0003;
pub(crate) const REFRESH: u16 = 0x0004;
pub(crate) const CREATE_PERMISSION: u16 = 0x0008;
pub(crate) const CHANNEL_BIND: u16 = 0x0009;

/// The only real reading of the clock: where virtual time begins.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing")]
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The wall clock when the virtual clock begins.
pub(crate) fn wall_epoch() -> SystemTime {
    UNIX_EPOCH + secs(1_800_000_000)
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

pub(crate) fn peer(text: &str) -> PeerAddr {
    PeerAddr(addr(text))
}

pub(crate) fn udp(client: &str) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: ClientAddr(addr(client)),
        server: addr("198.51.100.1:3478"),
    }
}

pub(crate) fn tcp(client: &str) -> FiveTuple {
    FiveTuple { transport: Transport::Tcp, ..udp(client) }
}

/// The UDP client number `n`, each in a prefix of its own.
pub(crate) fn tuple(n: u8) -> FiveTuple {
    udp(&format!("203.0.{n}.7:{}", 40_000 + u16::from(n)))
}

pub(crate) const RELAY_V4: &str = "198.51.100.1";
pub(crate) const RELAY_V6: &str = "2a00:1:2:3::1";

/// Alice and Bob with passwords, one secret, both families, a closed policy.
pub(crate) fn settings() -> RelaySettings {
    let users =
        [("alice", "wonderland"), ("bob", "builder")].map(|(name, password)| (name.into(), password.into()));
    RelaySettings {
        credentials: Credentials::new(REALM, users, vec![secret()]),
        policy: PeerPolicy::default(),
        relay_addresses: [RELAY_V4, RELAY_V6]
            .map(|ip| RelayAddress { ip: ip.parse().unwrap(), external: None })
            .to_vec(),
        own_addresses: vec!["198.51.100.77".parse().unwrap()],
        listeners: vec![addr("198.51.100.1:3478")],
        ports: (50_000, 50_999),
        limits: Limits::default(),
        strict_channels: false,
        nat_discovery: None,
        mobility: true,
        authorization_hook: false,
    }
}

pub(crate) fn secret() -> Secret {
    Secret::new("north")
}

/// What a worker's socket is bound to.
pub(crate) type Bound = (IpAddr, u16);

/// Workers, sockets and clocks on paper.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Relay>,
    pub(crate) sockets: Vec<Slab<Bound>>,
    /// Outputs that were not carried out yet, with the worker they came from.
    pub(crate) queue: VecDeque<(usize, Output)>,
    pub(crate) sent: Vec<(FiveTuple, Answer)>,
    pub(crate) events: Vec<Event>,
    pub(crate) disconnected: Vec<FiveTuple>,
    /// Ports that another process holds.
    pub(crate) taken: Vec<u16>,
    /// Every bind fails for want of descriptors.
    pub(crate) exhausted: bool,
    /// The next allocation that is handed over loses its sockets on the way.
    pub(crate) lose_sockets: bool,
    /// Addresses that are not there any more.
    pub(crate) unbindable: Vec<IpAddr>,
    pub(crate) opens: usize,
    pub(crate) peers: PaperPeers,
    /// What the authorization hook was asked: by which worker, and about whom.
    pub(crate) asked: Vec<(usize, AskId, Box<str>)>,
    /// What a driver that relays by itself knows, by worker.
    pub(crate) books: Vec<RouteBook>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings(), 1)
    }

    pub(crate) fn with(settings: RelaySettings, workers: u16) -> Self {
        Self::seeded(settings, workers, 1)
    }

    pub(crate) fn seeded(settings: RelaySettings, workers: u16, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let shared = Arc::new(Shared::new(&settings, epoch(), &mut rng));
        let settings = Arc::new(settings);
        let new = |worker: u16| {
            let rng = ChaCha20Rng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(u64::from(worker)));
            let mut relay = Relay::new(settings.clone(), shared.clone(), WorkerIndex(worker), rng);
            relay.keep_changes();
            relay
        };
        Self {
            now: epoch(),
            workers: (0..workers).map(new).collect(),
            shared: shared.clone(),
            sockets: (0..workers).map(|_| Slab::new()).collect(),
            queue: VecDeque::new(),
            sent: Vec::new(),
            events: Vec::new(),
            disconnected: Vec::new(),
            taken: Vec::new(),
            exhausted: false,
            lose_sockets: false,
            unbindable: Vec::new(),
            opens: 0,
            peers: PaperPeers::default(),
            asked: Vec::new(),
            books: (0..workers).map(|_| RouteBook::default()).collect(),
        }
    }

    /// Moves the clock, calling every worker at its deadlines on the way, as a driver does.
    pub(crate) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let due = (0..self.workers.len())
                .filter_map(|worker| Some((self.workers[worker].deadline()?, worker)))
                .min();
            let Some((at, worker)) = due.filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.input(worker, Input::Timeout);
            self.settle();
        }
        self.now = until;
    }

    pub(crate) fn wall(&self) -> SystemTime {
        wall_epoch() + self.now.duration_since(epoch())
    }

    /// New settings for all workers, in the order that a driver keeps.
    pub(crate) fn reload(&mut self, settings: RelaySettings) {
        self.shared.apply(&settings).expect("there is room for the relay addresses");
        let settings = Arc::new(settings);
        for worker in 0..self.workers.len() {
            self.input(worker, Input::Settings(Arc::clone(&settings)));
        }
        self.settle();
    }

    /// Hands an input to a worker and queues what it wants.
    pub(crate) fn input(&mut self, worker: usize, input: Input<'_>) {
        let outputs: Vec<Output> = self.workers[worker].handle(self.now, input).collect();
        self.queue.extend(outputs.into_iter().map(|output| (worker, output)));
    }

    /// Carries out everything that is queued.
    pub(crate) fn settle(&mut self) {
        while let Some((worker, output)) = self.queue.pop_front() {
            self.carry_out(worker, output);
        }
        self.follow_routes();
    }

    /// What a driver that relays by itself does after every input.
    pub(crate) fn follow_routes(&mut self) {
        for (relay, book) in self.workers.iter_mut().zip(&mut self.books) {
            book.follow(self.now, relay);
        }
    }

    pub(crate) fn carry_out(&mut self, worker: usize, output: Output) {
        match output {
            Output::Send { to, message } => {
                let kind = u16::from_be_bytes([message[0], message[1]]);
                self.sent.push((to, Answer { kind, bytes: message }));
            }
            Output::Open { open, ip, port, reserve_next } => {
                self.opens += 1;
                let outcome = self.bind(worker, ip, port.0, reserve_next);
                self.input(worker, Input::Opened { open, outcome });
            }
            Output::Close(ClaimedSocket { slot, ip, port }) => {
                let bound = self.sockets[worker].remove(usize::try_from(slot.0).unwrap());
                assert_eq!(bound, (ip, port.0), "the closed socket is the one it is said to be");
                self.shared.release(ip, port);
            }
            Output::Disconnect(from) => self.disconnected.push(from),
            Output::ClaimAt { at, claim } => {
                let by = claim.open;
                match self.workers.len() > usize::from(at.0) {
                    true => self.input(at.0.into(), Input::Claim(claim)),
                    false => self.input(worker, Input::Claimed { open: by, outcome: None }),
                }
            }
            Output::Surrender { to, open, slot, ip, port } => {
                let bound = self.sockets[worker].remove(usize::try_from(slot.0).unwrap());
                assert_eq!(bound, (ip, port.0), "the surrendered socket is the one it is said to be");
                let slot = slot_of(self.sockets[usize::from(to.0)].insert(bound));
                let outcome = Some(ClaimedSocket { slot, ip, port });
                self.input(to.0.into(), Input::Claimed { open, outcome });
            }
            Output::DenyClaim { to, open } => self.input(to.0.into(), Input::Claimed { open, outcome: None }),
            Output::SummonAt { at, summons } => {
                let open = summons.open;
                match self.workers.len() > usize::from(at.0) {
                    true => self.input(at.0.into(), Input::Summon(summons)),
                    false => self.input(worker, Input::Summoned { open, outcome: Err(NotMoved::Lost) }),
                }
            }
            Output::HandOver { to, open, mut moving } => {
                let to = usize::from(to.0);
                let lost = std::mem::take(&mut self.lose_sockets);
                moving.exchange(|slot| {
                    let bound = self.sockets[worker].remove(usize::try_from(slot.0).unwrap());
                    if lost {
                        self.shared.release(bound.0, RelayedPort(bound.1));
                        return None;
                    }
                    Some(slot_of(self.sockets[to].insert(bound)))
                });
                self.input(to, Input::Summoned { open, outcome: Ok(moving) });
            }
            Output::DenySummons { to, open, why } => {
                self.input(to.0.into(), Input::Summoned { open, outcome: Err(why) });
            }
            Output::Event(event) => self.events.push(event),
            Output::ListenTcp { open, ip, port } => {
                self.opens += 1;
                let outcome = self.bind(worker, ip, port.0, false);
                self.input(worker, Input::Opened { open, outcome });
            }
            Output::ConnectPeer { .. }
            | Output::ClosePeer(_)
            | Output::Join { .. }
            | Output::MoveClient { .. } => self.carry_out_tcp(worker, output),
            Output::Authorize { ask, username, .. } => self.asked.push((worker, ask, username)),
        }
    }

    fn bind(
        &mut self,
        worker: usize,
        ip: IpAddr,
        port: u16,
        reserve_next: bool,
    ) -> Result<Opened, OpenFailure> {
        if self.exhausted || self.unbindable.contains(&ip) {
            return Err(OpenFailure::Unavailable);
        }
        let ports = if reserve_next { vec![port, port + 1] } else { vec![port] };
        for port in &ports {
            let held = self.sockets.iter().flatten().any(|(_, bound)| *bound == (ip, *port));
            assert!(!held, "two sockets on {ip} port {port}");
            if self.taken.contains(port) {
                return Err(OpenFailure::PortTaken);
            }
        }
        let mut slots = ports.into_iter().map(|port| slot_of(self.sockets[worker].insert((ip, port))));
        Ok(Opened { slot: slots.next().unwrap(), reserved: slots.next() })
    }

    /// The slot of a relayed socket, by what it is bound to.
    pub(crate) fn slot(&self, worker: usize, bound: SocketAddr) -> SocketSlot {
        let found = self.sockets[worker].iter().find(|(_, at)| **at == (bound.ip(), bound.port()));
        slot_of(found.expect("a relayed socket").0)
    }

    /// A message to worker 0, and the last answer to the sender.
    pub(crate) fn send(&mut self, from: &FiveTuple, bytes: &[u8]) -> Option<Answer> {
        self.send_at(0, from, bytes)
    }

    pub(crate) fn send_at(&mut self, worker: usize, from: &FiveTuple, bytes: &[u8]) -> Option<Answer> {
        let before = self.sent.len();
        let wall = self.wall();
        match self.workers[worker].route_client(self.now, from, bytes) {
            Verdict::Control => self.input(worker, Input::Message { from: *from, bytes, wall }),
            Verdict::Drop(_) => {}
            verdict @ (Verdict::ToPeer { .. } | Verdict::ToClient { .. }) => {
                panic!("a message was taken for data: {verdict:?}")
            }
        }
        self.settle();
        self.sent[before..].iter().rev().find(|(to, _)| to == from).map(|(_, answer)| answer.clone())
    }

    pub(crate) fn nonce(&mut self, worker: usize, from: &FiveTuple) -> Vec<u8> {
        let challenge = Draft::new(ALLOCATE, 250).udp().bytes();
        self.send_at(worker, from, &challenge).expect("a challenge").nonce()
    }

    /// Signs and sends a request to worker 0, with a fresh nonce.
    pub(crate) fn ask(&mut self, from: &FiveTuple, who: &Account, draft: Draft) -> Answer {
        self.ask_at(0, from, who, draft)
    }

    pub(crate) fn ask_at(&mut self, worker: usize, from: &FiveTuple, who: &Account, draft: Draft) -> Answer {
        let nonce = self.nonce(worker, from);
        self.send_at(worker, from, &draft.sign(who, &nonce).bytes()).expect("an answer")
    }

    /// Alice allocates on worker 0.
    pub(crate) fn allocate(&mut self, from: &FiveTuple) -> Answer {
        let answer = self.ask(from, &Account::alice(), Draft::new(ALLOCATE, 1).udp());
        assert!(answer.is_success(), "allocate: {}", answer.code());
        answer
    }

    /// Alice permits a peer on worker 0; the error code, or 0.
    pub(crate) fn permit(&mut self, from: &FiveTuple, address: &str) -> u16 {
        self.ask(from, &Account::alice(), Draft::new(CREATE_PERMISSION, 2).peer(address)).code()
    }

    /// Alice binds a channel on worker 0; the error code, or 0.
    pub(crate) fn bind_channel(&mut self, from: &FiveTuple, number: u16, address: &str) -> u16 {
        self.ask(from, &Account::alice(), Draft::new(CHANNEL_BIND, 3).channel(number).peer(address)).code()
    }

    pub(crate) fn route_client(&mut self, from: &FiveTuple, frame: &[u8]) -> Verdict {
        self.workers[0].route_client(self.now, from, frame)
    }

    pub(crate) fn route_peer(&mut self, on: SocketAddr, from: &str, len: usize) -> Verdict {
        let slot = self.slot(0, on);
        self.workers[0].route_peer(self.now, slot, peer(from), len)
    }

    /// Ports free again, sockets closed, nobody counted.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.shared.claimed_ports(), 0, "claimed ports");
        assert!(self.shared.counts_nobody(), "counted allocations: {:?}", self.shared);
        assert!(self.sockets.iter().all(Slab::is_empty), "open sockets");
        assert!(self.workers.iter().all(|relay| relay.allocations() == 0), "allocations");
        assert!(self.workers.iter().all(|relay| relay.rates.knows_nobody()), "users");
        assert!(self.workers.iter().all(|relay| relay.peer_connections.len() == 0), "peer connections");
        assert!(self.peers.open.is_empty(), "open peer connections: {:?}", self.peers.open);
        assert!(self.workers.iter().all(|relay| relay.deadline().is_none()), "deadlines");
        assert!(self.workers.iter().all(|relay| relay.parked.len() == 0), "parked requests");
    }
}

fn slot_of(index: usize) -> SocketSlot {
    SocketSlot(u32::try_from(index).unwrap())
}
