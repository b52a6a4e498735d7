//! The core against a simple reference model, over random schedules.
//!
//! Two workers share one small port range. Requests, retransmissions, data, lost connections, failing binds and claims
//! between the workers come in any order; answers of the driver come late; the clock jumps. The model knows nothing but what
//! the success responses said, and predicts every verdict from it.
//!
//! `TURN_RELAY_SEED` repeats a run, `TURN_RELAY_STEPS` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets use a part of it"))]

mod asks;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng as _, RngExt as _};

use super::testing::*;
use super::*;

const STEPS_PER_WORLD: u64 = 1500;
const CLIENTS: u8 = 10;
const PERMISSIONS: u16 = 3;
const CHANNELS: u16 = 3;

/// What a client asked for, until its first answer.
#[derive(Clone, Debug)]
enum Intent {
    Allocate,
    Refresh,
    Permit(Vec<SocketAddr>),
    Bind(u16, SocketAddr),
}

#[derive(Clone, Debug)]
struct Asked {
    who: String,
    intent: Intent,
    bytes: Vec<u8>,
    /// The first answer and when it came.
    answer: Option<(Instant, Vec<u8>)>,
}

/// An allocation as its client knows it.
#[derive(Debug)]
struct Known {
    who: String,
    /// One, or one of each family.
    relayed: Vec<SocketAddr>,
    expires: Instant,
    permissions: HashMap<IpAddr, Instant>,
    channels: HashMap<u16, (SocketAddr, Instant)>,
}

impl Known {
    /// Where data of a peer's family leaves and arrives.
    fn towards(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.relayed.iter().copied().find(|relayed| relayed.is_ipv4() == peer.is_ipv4())
    }
}

struct Model {
    rng: Choices,
    world: World,
    clients: Vec<FiveTuple>,
    known: HashMap<FiveTuple, Known>,
    asked: HashMap<(FiveTuple, [u8; 12]), Asked>,
    last_asked: Vec<(FiveTuple, [u8; 12])>,
    /// Reserved ports: token, whose, and when.
    tokens: Vec<([u8; 8], String, Instant)>,
    transactions: u64,
    tally: Tally,
}

/// What a run reached; a run that reaches nothing proves nothing.
#[derive(Debug, Default)]
pub(super) struct Tally {
    allocated: u64,
    dual: u64,
    handed_over: u64,
    passed: u64,
    dropped: u64,
    expired: u64,
    repeated: u64,
    refused: BTreeMap<u16, u64>,
}

fn limits() -> Limits {
    Limits {
        allocations: 8,
        allocations_per_user: 5,
        permissions: PERMISSIONS,
        channels: CHANNELS,
        unauthenticated_answers: 0,
        new_peers_per_minute: 0,
        user_new_peers_per_minute: 0,
        ..Limits::default()
    }
}

impl Model {
    fn new(seed: u64, rng: Choices) -> Self {
        let settings = RelaySettings { ports: (50_000, 50_011), limits: limits(), ..settings() };
        let client = |n: u8| if n % 3 == 2 { tcp(&format!("203.0.{n}.7:{n}000")) } else { tuple(n) };
        Self {
            rng,
            world: World::seeded(settings, 2, seed),
            clients: (0..CLIENTS).map(client).collect(),
            known: HashMap::new(),
            asked: HashMap::new(),
            last_asked: Vec::new(),
            tokens: Vec::new(),
            transactions: 0,
            tally: Tally::default(),
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..=11 => self.ask_allocate(),
            12..=18 => self.ask_refresh(),
            19..=30 => self.ask_permit(),
            31..=43 => self.ask_bind(),
            44..=50 => self.repeat(),
            51..=63 => self.data_from_client(),
            64..=75 => self.data_from_peer(),
            76..=91 => self.carry_out_some(),
            92 => self.connection_closes(),
            93 => self.noise(),
            94 => self.weather(),
            95 => self.settle(),
            _ => self.time_passes(),
        }
    }

    fn client(&mut self) -> FiveTuple {
        self.clients[self.rng.random_range(0..self.clients.len())]
    }

    /// Mostly one that has an allocation.
    fn settled_client(&mut self) -> FiveTuple {
        let settled: Vec<FiveTuple> =
            self.clients.iter().filter(|client| self.known.contains_key(client)).copied().collect();
        if settled.is_empty() || self.rng.random_bool(0.2) {
            return self.client();
        }
        settled[self.rng.random_range(0..settled.len())]
    }

    /// Mostly one that the client named before.
    fn familiar_peer(&mut self, of: Option<FiveTuple>) -> SocketAddr {
        let known = of.and_then(|from| self.known.get(&from));
        let mut familiar: Vec<SocketAddr> =
            known.map(|known| known.channels.values().map(|(peer, _)| *peer).collect()).unwrap_or_default();
        familiar.extend(
            known.iter().flat_map(|known| known.permissions.keys()).map(|ip| SocketAddr::new(*ip, 5000)),
        );
        familiar.sort_unstable();
        if familiar.is_empty() || self.rng.random_bool(0.3) {
            return self.peer();
        }
        familiar[self.rng.random_range(0..familiar.len())]
    }

    /// SO_REUSEPORT keeps a five-tuple on one worker.
    fn worker_of(&self, from: &FiveTuple) -> usize {
        self.clients.iter().position(|client| client == from).unwrap() % 2
    }

    fn account(&mut self) -> Account {
        match self.rng.random_range(0..10) {
            0 if self.rng.random_bool(0.5) => Account::bob(),
            1 => carol(),
            _ => Account::alice(),
        }
    }

    /// Permitted, forbidden, the other family, our own addresses with live and dead ports.
    fn peer(&mut self) -> SocketAddr {
        let port = self.rng.random_range(50_000..50_012);
        match self.rng.random_range(0..8) {
            0 => addr("10.0.0.1:53"),
            1 => addr("[2a00:9::1]:5000"),
            2 => SocketAddr::new(RELAY_V4.parse().unwrap(), port),
            3 => addr("8.8.8.8:5001"),
            4 => addr("9.9.9.9:5000"),
            5 => addr("1.1.1.1:5000"),
            6 => addr("4.4.4.4:5000"),
            _ => addr("8.8.8.8:5000"),
        }
    }

    fn channel(&mut self) -> u16 {
        0x4000 + self.rng.random_range(0..4)
    }

    fn nonce(&mut self, from: &FiveTuple) -> Vec<u8> {
        let (worker, wall, now) = (self.worker_of(from), self.world.wall(), self.world.now);
        let bytes = Draft::new(ALLOCATE, 0).bytes();
        self.hand(worker, Input::Timeout);
        let input = Input::Message { from: *from, bytes: &bytes, wall };
        let mut outputs = self.world.workers[worker].handle(now, input);
        let Some(Output::Send { message: bytes, .. }) = outputs.next() else { panic!("no challenge") };
        Answer { kind: 0, bytes }.nonce()
    }

    fn repeat(&mut self) {
        let recent = self.last_asked.len().saturating_sub(20)..self.last_asked.len();
        if recent.is_empty() {
            return;
        }
        let (from, transaction) = self.last_asked[self.rng.random_range(recent)];
        let bytes = self.asked[&(from, transaction)].bytes.clone();
        self.deliver(from, &bytes);
    }

    fn deliver(&mut self, from: FiveTuple, bytes: &[u8]) {
        let (worker, now, wall) = (self.worker_of(&from), self.world.now, self.world.wall());
        assert_eq!(self.world.workers[worker].route_client(now, &from, bytes), Verdict::Control);
        self.hand(worker, Input::Message { from, bytes, wall });
    }

    /// Hands an input over, learns from the answers at once, and leaves the rest queued.
    fn hand(&mut self, worker: usize, input: Input<'_>) {
        let before = self.world.queue.len();
        self.world.input(worker, input);
        self.learn_since(before);
        let now = self.world.now;
        let expected =
            self.known.iter().filter(|(from, known)| self.worker_of(from) == worker && now < known.expires);
        assert_eq!(
            self.world.workers[worker].allocations(),
            expected.count(),
            "allocations of worker {worker}"
        );
        assert!(self.world.shared.allocations() <= limits().allocations);
        for who in ["alice", "bob"] {
            let theirs = self.known.values().filter(|known| known.who == who && now < known.expires);
            // One with an address of each family counts for two.
            let count: usize = theirs.map(|known| known.relayed.len()).sum();
            assert!(count <= limits().allocations_per_user.try_into().unwrap(), "allocations of {who}");
        }
    }

    /// What is for the client is learnt at once; what is for the driver stays in the queue.
    fn learn_since(&mut self, before: usize) {
        for queued in self.world.queue.split_off(before) {
            match queued {
                (_, Output::Send { to, message }) => self.learn(to, message),
                (_, Output::Event(_)) => {}
                for_the_driver => self.world.queue.push_back(for_the_driver),
            }
        }
    }

    fn learn(&mut self, to: FiveTuple, message: Vec<u8>) {
        let now = self.world.now;
        let transaction: [u8; 12] = message[8..20].try_into().unwrap();
        let answer = Answer { kind: u16::from_be_bytes([message[0], message[1]]), bytes: message };
        let Some(asked) = self.asked.get_mut(&(to, transaction)) else { return };
        if let Some((at, first)) = &asked.answer
            && to.transport.is_datagram()
            && now < *at + answers::KEEP
        {
            let first = Answer { kind: u16::from_be_bytes([first[0], first[1]]), bytes: first.clone() };
            match first.code() {
                // Who has proved nothing leaves nothing behind, so the nonce may be another one.
                401 | 438 => {
                    assert_eq!(first.code(), answer.code(), "a challenge is followed by a challenge")
                }
                _ => assert_eq!(first.bytes, answer.bytes, "a repeated request gets the stored answer"),
            }
            self.tally.repeated += 1;
            return;
        }
        asked.answer = Some((now, answer.bytes.clone()));
        let asked = asked.clone();
        if answer.is_success() {
            self.apply(to, &asked, &answer);
        } else {
            *self.tally.refused.entry(answer.code()).or_default() += 1;
        }
    }

    /// What a success response promises.
    fn apply(&mut self, from: FiveTuple, asked: &Asked, answer: &Answer) {
        let now = self.world.now;
        if let Intent::Allocate = asked.intent {
            assert!(
                self.known.get(&from).is_none_or(|known| known.expires <= now),
                "two allocations on a five-tuple"
            );
            let relayed = answer.all_relayed();
            let standing = self.known.values().filter(|known| now < known.expires);
            let twice = standing.flat_map(|known| &known.relayed).find(|other| relayed.contains(other));
            assert_eq!(twice, None, "belongs to two clients");
            match relayed[..] {
                [_] => {}
                [one, other] => assert_ne!(one.is_ipv4(), other.is_ipv4(), "two of one family"),
                _ => panic!("{relayed:?}"),
            }
            self.tally.dual += u64::from(relayed.len() == 2);
            if answer.attribute(0x0022).is_some() {
                assert_eq!(relayed[0].port() % 2, 0, "EVEN-PORT");
                self.tokens.push((answer.token(), asked.who.clone(), now));
            }
            self.tally.allocated += 1;
            let expires = now + lifetime_of(answer);
            let (permissions, channels) = (HashMap::new(), HashMap::new());
            self.known
                .insert(from, Known { who: asked.who.clone(), relayed, expires, permissions, channels });
            return;
        }
        let known = self.known.get_mut(&from).expect("success without an allocation");
        assert!(now < known.expires, "success on an expired allocation");
        assert_eq!(known.who, asked.who, "success for somebody else's allocation");
        let (permission, channel) = (now + secs(300), now + secs(600));
        match &asked.intent {
            Intent::Allocate => {}
            Intent::Refresh => known.expires = now + lifetime_of(answer),
            Intent::Permit(peers) => {
                known.permissions.extend(peers.iter().map(|peer| (peer.ip(), permission)));
            }
            Intent::Bind(number, peer) => {
                known.permissions.insert(peer.ip(), permission);
                known.channels.retain(|_, (_, until)| now < *until);
                let previous = known.channels.insert(*number, (*peer, channel));
                assert!(previous.is_none_or(|(bound, _)| bound == *peer), "a channel changed its peer");
                let bound = known.channels.values().filter(|(bound, _)| bound == peer).count();
                assert_eq!(bound, 1, "a peer has two channels");
                assert!(known.channels.len() <= usize::from(CHANNELS));
            }
        }
        let standing = known.permissions.values().filter(|until| now < **until).count();
        assert!(standing <= usize::from(PERMISSIONS));
    }

    /// Whether data between a client and a peer may pass, by what the client was told.
    fn may_pass(&self, from: &FiveTuple, peer: SocketAddr) -> bool {
        let now = self.world.now;
        let Some(known) = self.known.get(from).filter(|known| now < known.expires) else { return false };
        let permitted = known.permissions.get(&peer.ip()).is_some_and(|until| now < *until);
        let own = peer.ip() == RELAY_V4.parse::<IpAddr>().unwrap();
        let live = self.known.values().any(|known| known.relayed.contains(&peer) && now < known.expires);
        assert!(!permitted || peer.ip() != addr("10.0.0.1:53").ip(), "a forbidden peer has a permission");
        assert!(!permitted || known.towards(peer).is_some(), "a permission without an address of its family");
        permitted && (!own || live)
    }

    fn data_from_client(&mut self) {
        let (from, number) = (self.settled_client(), self.channel());
        let (worker, now) = (self.worker_of(&from), self.world.now);
        let on_channel = self.rng.random_bool(0.5);
        let (frame, peer) = if on_channel {
            let bound = self.known.get(&from).and_then(|known| known.channels.get(&number));
            let peer = bound.filter(|(_, until)| now < *until).map(|(peer, _)| *peer);
            (channel_data(number, b"data"), peer)
        } else {
            let peer = self.familiar_peer(Some(from));
            (send_indication(&peer.to_string(), b"data"), Some(peer))
        };
        self.reap_for(peer);
        let expected = peer.filter(|peer| self.may_pass(&from, *peer));
        match (self.world.workers[worker].route_client(now, &from, &frame), expected) {
            (Verdict::ToPeer { via, to, start, len, .. }, Some(peer)) => {
                assert_eq!(to.0, peer);
                assert_eq!(&frame[usize::from(start)..][..usize::from(len)], b"data");
                let bound = self.world.sockets[worker][usize::try_from(via.0).unwrap()];
                assert_eq!(Some(SocketAddr::from(bound)), self.known[&from].towards(peer));
                self.tally.passed += 1;
            }
            (Verdict::Drop(_), None) => self.tally.dropped += 1,
            (verdict, expected) => panic!("{verdict:?} where {expected:?} was expected"),
        }
    }

    fn data_from_peer(&mut self) {
        let (worker, now) = (self.rng.random_range(0..2), self.world.now);
        let bound: Vec<(usize, Bound)> =
            self.world.sockets[worker].iter().map(|(slot, at)| (slot, *at)).collect();
        if bound.is_empty() {
            return;
        }
        let (slot, at) = bound[self.rng.random_range(0..bound.len())];
        let at = SocketAddr::from(at);
        let owner = self.known.iter().find(|(_, known)| known.relayed.contains(&at) && now < known.expires);
        let owner = owner.map(|(from, _)| *from);
        let peer = self.familiar_peer(owner);
        if peer.is_ipv4() != at.is_ipv4() {
            return;
        }
        self.reap_for(Some(peer));
        let owner = owner.filter(|from| self.may_pass(from, peer));
        let slot = SocketSlot(u32::try_from(slot).unwrap());
        match (self.world.workers[worker].route_peer(now, slot, PeerAddr(peer), 4), owner) {
            (Verdict::ToClient { to, header }, Some(owner)) => {
                assert_eq!(to, owner);
                let channels = &self.known[&owner].channels;
                let channel = channels.iter().find(|(_, (bound, until))| *bound == peer && now < *until);
                match (header, channel) {
                    (Header::Channel(number), Some((expected, _))) => assert_eq!(number.get(), *expected),
                    (Header::DataIndication { peer: named, .. }, None) => assert_eq!(named.0, peer),
                    (header, channel) => panic!("{header:?} where {channel:?} is bound"),
                }
                self.tally.passed += 1;
            }
            (Verdict::Drop(_), None) => self.tally.dropped += 1,
            (verdict, owner) => panic!("{verdict:?} where {owner:?} was expected"),
        }
    }

    fn carry_out_some(&mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            self.carry_out_one();
        }
    }

    /// The driver answers late, but each worker's outputs stay in order.
    fn carry_out_one(&mut self) {
        let first_of = self.rng.random_range(0..2);
        // If there is nothing of that worker, the front is the other's first.
        let at = self.world.queue.iter().position(|(worker, _)| *worker == first_of).unwrap_or(0);
        let Some((worker, output)) = self.world.queue.remove(at) else { return };
        if let Output::Surrender { slot, ip, port, .. } = &output {
            self.tally.handed_over += 1;
            // One in ten finds the other worker's inbox full.
            if self.rng.random_bool(0.1) {
                self.world.sockets[worker].remove(usize::try_from(slot.0).unwrap());
                return self.world.shared.release(*ip, *port);
            }
        }
        let before = self.world.queue.len();
        self.world.carry_out(worker, output);
        self.learn_since(before);
    }

    /// Nothing is under way: exactly the standing allocations and the reservations hold sockets, and each socket a port.
    fn settle(&mut self) {
        while !self.world.queue.is_empty() {
            self.carry_out_one();
        }
        let open: usize = self.world.sockets.iter().map(Slab::len).sum();
        assert_eq!(
            usize::try_from(self.world.shared.claimed_ports()).unwrap(),
            open,
            "claimed ports and sockets"
        );
        assert_eq!(usize::try_from(self.world.shared.allocations()).unwrap(), open, "counted and open");
        let standing: usize = self.world.workers.iter().map(Relay::allocations).sum();
        assert!(standing <= open);
    }

    fn connection_closes(&mut self) {
        let from = self.client();
        if from.transport.is_connected() {
            self.known.remove(&from);
            self.hand(self.worker_of(&from), Input::ClientGone(from));
        }
    }

    fn noise(&mut self) {
        let from = self.client();
        let (worker, now, wall) = (self.worker_of(&from), self.world.now, self.world.wall());
        let mut bytes = vec![0; self.rng.random_range(0..80)];
        self.rng.fill_bytes(&mut bytes);
        if bytes.len() >= 20 && self.rng.random_bool(0.7) {
            let length = u16::try_from(bytes.len() - 20).unwrap() & !3;
            bytes.truncate(20 + usize::from(length));
            bytes[0] = 0;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&COOKIE);
        }
        let verdict = self.world.workers[worker].route_client(now, &from, &bytes);
        assert!(!matches!(verdict, Verdict::ToClient { .. }), "{verdict:?}");
        self.hand(worker, Input::Message { from, bytes: &bytes, wall });
    }

    /// Other processes take ports, descriptors run out, and it clears up again.
    fn weather(&mut self) {
        self.world.exhausted = self.rng.random_bool(0.2);
        self.world.taken =
            (0..self.rng.random_range(0..4)).map(|_| self.rng.random_range(50_000..50_012)).collect();
    }

    fn time_passes(&mut self) {
        let by = match self.rng.random_range(0..6) {
            0 => Duration::from_millis(self.rng.random_range(0..3000)),
            1..=4 => secs(self.rng.random_range(0..20)),
            _ => secs(self.rng.random_range(0..400)),
        };
        self.world.now += by;
        // Half of the time the driver is late: the core must not need its timers to do right.
        if self.rng.random_bool(0.5) {
            self.reap();
        }
    }

    /// Whether another client's allocation is live is for its worker to say, which may be late. Everything else must hold without.
    fn reap_for(&mut self, peer: Option<SocketAddr>) {
        let own = peer.is_some_and(|peer| peer.ip() == RELAY_V4.parse::<IpAddr>().unwrap());
        if own || self.rng.random_bool(0.3) {
            self.reap();
        }
    }

    /// Lets both workers act on what is due.
    fn reap(&mut self) {
        for worker in 0..2 {
            self.hand(worker, Input::Timeout);
        }
        let now = self.world.now;
        let before = self.known.len();
        self.known.retain(|_, known| now < known.expires);
        self.tally.expired += u64::try_from(before - self.known.len()).unwrap();
    }

    /// Everybody goes away; nothing may remain.
    fn finish(mut self) -> Tally {
        self.settle();
        for _ in 0..3 {
            self.world.now += secs(3601);
            self.reap();
            self.settle();
        }
        self.world.assert_empty();
        self.tally
    }
}

/// A world of its own, until the decisions are over or `steps` are made.
pub(super) fn play(seed: u64, choices: Choices, steps: u64) -> Tally {
    let mut model = Model::new(seed, choices);
    for _ in 0..steps {
        if model.rng.are_over() {
            break;
        }
        model.step();
    }
    model.finish()
}

fn named(who: &str) -> Account {
    match who {
        "alice" => Account::alice(),
        "bob" => Account::bob(),
        _ => carol(),
    }
}

fn carol() -> Account {
    Account::minted("carol", wall_epoch() + secs(100_000_000))
}

fn lifetime_of(answer: &Answer) -> Duration {
    let lifetime = answer.lifetime();
    assert!(lifetime == 0 || (600..=3600).contains(&lifetime), "lifetime {lifetime}");
    secs(lifetime.into())
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn random_schedules_never_forward_without_permission_never_outlive_and_return_every_port() {
    let seed = from_environment("TURN_RELAY_SEED").unwrap_or_else(rand::random);
    let steps = from_environment("TURN_RELAY_STEPS").unwrap_or(120_000);
    println!("TURN_RELAY_SEED={seed}");
    let mut total = Tally::default();
    for world in 0..steps.div_ceil(STEPS_PER_WORLD) {
        let seed = seed.wrapping_add(world);
        let tally = play(seed, Choices::drawn(seed), STEPS_PER_WORLD);
        total.allocated += tally.allocated;
        total.dual += tally.dual;
        total.handed_over += tally.handed_over;
        total.passed += tally.passed;
        total.dropped += tally.dropped;
        total.expired += tally.expired;
        total.repeated += tally.repeated;
        for (code, count) in tally.refused {
            *total.refused.entry(code).or_default() += count;
        }
    }
    println!("{steps} steps: {total:?}");
    let Tally { allocated, dual, handed_over, passed, dropped, expired, repeated, .. } = total;
    for reached in [allocated, dual, handed_over, passed, dropped, expired, repeated] {
        assert!(reached > 0, "a part of the core was never reached: {total:?}");
    }
}
