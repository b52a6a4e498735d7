//! TCP allocations against a model of which peer connection is in which stage: random, one event after the other, over two
//! workers.
//!
//! `TURN_RELAY_SEED` repeats a run, `TURN_RELAY_STEPS` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets use a part of it"))]

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::RngExt as _;

use crate::address::FiveTuple;
use crate::relay::tcp::paper::*;
use crate::relay::testing::*;
use crate::relay::*;

const CONTROLS: usize = 4;
const CONNECTIONS: u16 = 3;
const STEPS_PER_WORLD: u64 = 400;
const PEERS: [&str; 4] = ["8.8.8.8:5000", "8.8.8.8:5001", "9.9.9.9:5000", "10.0.0.1:5000"];

struct Standing {
    who: Account,
    relayed: SocketAddr,
    expires: Instant,
    permitted: HashMap<IpAddr, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting(Instant),
    Unbound(u32, Instant),
    Joined,
}

struct Connection {
    control: usize,
    name: PeerConnectionId,
    peer: SocketAddr,
    stage: Stage,
}

pub(in crate::relay) struct Model {
    rng: Choices,
    world: World,
    standing: [Option<Standing>; CONTROLS],
    connections: Vec<Connection>,
    used: Vec<u32>,
    counter: u16,
    /// Binds that joined, peers that came in, answers with an error.
    reached: [u64; 3],
}

impl Model {
    fn new(seed: u64, rng: Choices) -> Self {
        let limits =
            Limits { connections_per_allocation: CONNECTIONS, new_peers_per_minute: 0, ..Limits::default() };
        Self {
            rng,
            world: World::seeded(RelaySettings { limits, ..settings() }, 2, seed),
            standing: Default::default(),
            connections: Vec::new(),
            used: Vec::new(),
            counter: 0,
            reached: [0; 3],
        }
    }

    fn step(&mut self) {
        let control = self.rng.random_range(0..CONTROLS);
        match self.rng.random_range(0..16) {
            0 | 1 => self.allocate(control),
            2..=4 => self.connect(control),
            5 | 6 => self.peer_answers(),
            7 => self.permit(control),
            8 | 9 => self.peer_connects(control),
            10..=12 => self.bind(),
            13 => self.peer_closes(),
            14 if self.rng.random_bool(0.3) => self.control_goes(control),
            _ => {
                let by = secs(self.rng.random_range(0..20));
                self.world.advance(by);
            }
        }
        self.time_has_passed();
        let open: BTreeSet<Held> = self.connections.iter().map(|at| (at.control % 2, at.name)).collect();
        assert_eq!(self.world.peers.open, open);
    }

    fn time_has_passed(&mut self) {
        let now = self.world.now;
        for standing in &mut self.standing {
            *standing = standing.take().filter(|standing| now < standing.expires);
        }
        self.connections.retain(|connection| {
            let is_in_time = match connection.stage {
                Stage::Connecting(until) | Stage::Unbound(_, until) => now < until,
                Stage::Joined => true,
            };
            is_in_time && self.standing[connection.control].is_some()
        });
    }

    fn tuple(control: usize) -> FiveTuple {
        tcp(&format!("203.0.{control}.7:40000"))
    }

    fn ask(&mut self, worker: usize, from: &FiveTuple, who: &Account, draft: Draft) -> Option<Answer> {
        self.counter += 1;
        let mut transaction = [7; 12];
        transaction[..2].copy_from_slice(&self.counter.to_be_bytes());
        let nonce = self.world.nonce(worker, from);
        let request = draft.retarget(transaction).sign(who, &nonce).bytes();
        let answer = self.world.send_at(worker, from, &request);
        self.reached[2] += u64::from(answer.as_ref().is_some_and(|answer| !answer.is_success()));
        answer
    }

    /// As the owner, if there is one.
    fn ask_control(&mut self, control: usize, draft: Draft) -> Option<Answer> {
        let who =
            self.standing[control].as_ref().map_or_else(Account::alice, |standing| standing.who.clone());
        self.ask(control % 2, &Self::tuple(control), &who, draft)
    }

    fn account(&mut self) -> Account {
        if self.rng.random_bool(0.5) { Account::alice() } else { Account::bob() }
    }

    fn allocate(&mut self, control: usize) {
        let who = self.account();
        let is_taken = self.standing[control].is_some();
        let draft = Draft::new(ALLOCATE, 1).tcp();
        let answer = self.ask(control % 2, &Self::tuple(control), &who, draft).expect("an answer");
        assert_eq!(answer.code(), if is_taken { 437 } else { 0 });
        if answer.is_success() {
            let expires = self.world.now + secs(answer.lifetime().into());
            let (relayed, permitted) = (answer.relayed(), HashMap::new());
            self.standing[control] = Some(Standing { who, relayed, expires, permitted });
        }
    }

    fn count(&self, control: usize) -> usize {
        self.connections.iter().filter(|connection| connection.control == control).count()
    }

    fn connect(&mut self, control: usize) {
        let peer = addr(PEERS[self.rng.random_range(0..PEERS.len())]);
        let exists = self.connections.iter().any(|known| known.control == control && known.peer == peer);
        let expected = match &self.standing[control] {
            None => Some(437),
            Some(_) if is_forbidden(peer) => Some(403),
            Some(_) if exists => Some(446),
            Some(_) if self.count(control) >= usize::from(CONNECTIONS) => Some(508),
            Some(_) => None,
        };
        let answer = self.ask_control(control, Draft::new(CONNECT, 7).peer(&peer.to_string()));
        assert_eq!(answer.map(|answer| answer.code()), expected, "to {peer}");
        if expected.is_none() {
            let is_known = |name| self.connections.iter().any(|at| (at.control % 2, at.name) == name);
            let mut begun = self.world.peers.connecting.keys().filter(|name| !is_known(**name));
            let (worker, name) = *begun.next().expect("it connects");
            assert_eq!((worker, begun.next()), (control % 2, None));
            let stage = Stage::Connecting(self.world.now + secs(30));
            self.connections.push(Connection { control, name, peer, stage });
        }
    }

    fn peer_answers(&mut self) {
        let connecting = |at: &Connection| matches!(at.stage, Stage::Connecting(_));
        let Some(index) = self.connections.iter().position(connecting) else { return };
        let Connection { control, name, .. } = self.connections[index];
        if self.rng.random_bool(0.2) {
            self.world.peer_closes(control % 2, name);
            self.connections.swap_remove(index);
        } else {
            self.world.peers.connecting.remove(&(control % 2, name));
            self.world.input(control % 2, Input::PeerConnected(name));
            self.world.settle();
        }
        let (to, answer) = self.world.sent.last().expect("an answer");
        assert_eq!(*to, Self::tuple(control));
        match self.connections.iter_mut().find(|at| (at.control, at.name) == (control, name)) {
            Some(known) => known.stage = Stage::Unbound(answer.connection(), self.world.now + secs(30)),
            None => assert_eq!(answer.code(), 447),
        }
    }

    fn permit(&mut self, control: usize) {
        let peer = addr(PEERS[self.rng.random_range(0..PEERS.len())]);
        let draft = Draft::new(CREATE_PERMISSION, 2).peer(&peer.to_string());
        let code = self.ask_control(control, draft).expect("an answer").code();
        let Some(standing) = &mut self.standing[control] else { return assert_eq!(code, 437) };
        assert_eq!(code, if is_forbidden(peer) { 403 } else { 0 });
        if code == 0 {
            standing.permitted.insert(peer.ip(), self.world.now + secs(300));
        }
    }

    /// From a port of its own: two connections with the same ends cannot be.
    fn peer_connects(&mut self, control: usize) {
        let Some(standing) = &self.standing[control] else { return };
        self.counter += 1;
        let ip = addr(PEERS[self.rng.random_range(0..PEERS.len())]).ip();
        let peer = SocketAddr::new(ip, 10_000 + self.counter);
        let is_permitted = standing.permitted.get(&ip).is_some_and(|until| self.world.now < *until);
        let is_welcome = is_permitted && self.count(control) < usize::from(CONNECTIONS);
        let before = self.world.sent.len();
        let name = self.world.peer_connects(control % 2, standing.relayed, &peer.to_string());
        assert_eq!(self.world.sent.len() > before, is_welcome, "from {peer}");
        if is_welcome {
            let (to, attempt) = self.world.sent.last().expect("an announcement");
            assert_eq!((attempt.kind, *to, attempt.peer()), (CONNECTION_ATTEMPT, Self::tuple(control), peer));
            let stage = Stage::Unbound(attempt.connection(), self.world.now + secs(30));
            self.connections.push(Connection { control, name, peer, stage });
            self.reached[1] += 1;
        }
    }

    /// At either worker, by the owner or not, with an id that waits, was used, or never was.
    fn bind(&mut self) {
        let waiting: Vec<(usize, u32)> = (0..self.connections.len())
            .filter_map(|index| match self.connections[index].stage {
                Stage::Unbound(id, _) => Some((index, id)),
                Stage::Connecting(_) | Stage::Joined => None,
            })
            .collect();
        let invented = self.rng.random_bool(0.2) || waiting.is_empty();
        let (index, id) = match waiting.get(self.rng.random_range(0..waiting.len().max(1))) {
            Some((index, id)) if !invented => (Some(*index), *id),
            _ => (None, self.used.last().copied().unwrap_or_else(|| self.rng.random())),
        };
        let owner = index.and_then(|index| self.standing[self.connections[index].control].as_ref());
        let owner = owner.map(|standing| standing.who.clone());
        let stranger = self.account();
        let who = owner.clone().filter(|_| self.rng.random_bool(0.7)).unwrap_or(stranger);
        let is_good = owner.is_some_and(|owner| owner.name == who.name);
        let from = tcp(&format!("203.0.113.9:{}", 10_000 + self.counter));
        let worker = self.rng.random_range(0..2);
        let draft = Draft::new(CONNECTION_BIND, 8).connection(id);
        let answer = self.ask(worker, &from, &who, draft).expect("an answer");
        assert_eq!(answer.code(), if is_good { 0 } else { 400 });
        if let Some(known) = index.filter(|_| is_good).map(|index| &mut self.connections[index]) {
            known.stage = Stage::Joined;
            assert_eq!(self.world.peers.joined.get(&(known.control % 2, known.name)), Some(&from));
            self.used.push(id);
            self.reached[0] += 1;
        }
    }

    fn peer_closes(&mut self) {
        if !self.connections.is_empty() {
            let index = self.rng.random_range(0..self.connections.len());
            let Connection { control, name, .. } = self.connections.swap_remove(index);
            self.world.peer_closes(control % 2, name);
        }
    }

    /// With a word or without; its connections with peers end too.
    fn control_goes(&mut self, control: usize) {
        if self.standing[control].is_none() {
            return;
        }
        if self.rng.random_bool(0.5) {
            self.ask_control(control, Draft::new(REFRESH, 9).lifetime(0));
        } else {
            self.world.input(control % 2, Input::ClientGone(Self::tuple(control)));
            self.world.settle();
        }
        self.standing[control] = None;
    }
}

/// A world of its own, until the decisions are over or `steps` are made.
pub(in crate::relay) fn play(seed: u64, choices: Choices, steps: u64) -> Model {
    let mut model = Model::new(seed, choices);
    for _ in 0..steps {
        if model.rng.are_over() {
            break;
        }
        model.step();
    }
    model.world.advance(secs(4000));
    model.world.assert_empty();
    model
}

fn is_forbidden(peer: SocketAddr) -> bool {
    peer.ip() == addr(PEERS[3]).ip()
}

#[test]
fn random_connections_are_open_exactly_as_long_as_somebody_may_use_them() {
    let from_environment =
        |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seed = from_environment("TURN_RELAY_SEED").unwrap_or_else(rand::random);
    let steps: u64 = from_environment("TURN_RELAY_STEPS").unwrap_or(40_000);
    println!("TURN_RELAY_SEED={seed}");
    let mut reached = [0; 3];
    for world in 0..steps.div_ceil(STEPS_PER_WORLD) {
        let seed = seed.wrapping_add(world);
        let model = play(seed, Choices::drawn(seed), STEPS_PER_WORLD);
        reached.iter_mut().zip(model.reached).for_each(|(all, one)| *all += one);
    }
    println!("{steps} steps: {reached:?} joined, came in, refused");
    assert!(reached.iter().all(|count| *count > 0), "a part of the core was never reached: {reached:?}");
}
