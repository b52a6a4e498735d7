//! Allocations that move (RFC 8016) against a model that knows who holds which ticket: random, one request after the other,
//! over two workers.
//!
//! `TURN_RELAY_SEED` repeats a run, `TURN_RELAY_STEPS` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets use a part of it"))]

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt as _;

use super::testing::*;
use super::*;

const PEER: &str = "8.8.8.8:5000";
const CLIENTS: u8 = 8;
const STEPS_PER_WORLD: u64 = 400;

/// An allocation as its owner knows it.
struct Home {
    who: Account,
    ticket: Vec<u8>,
    spent: Vec<Vec<u8>>,
    at: FiveTuple,
    /// Where it was at the same worker, until data comes from where it is.
    before: Option<FiveTuple>,
    relayed: SocketAddr,
    expires: Instant,
    permitted: Instant,
}

pub(super) struct Moves {
    rng: Choices,
    world: World,
    homes: Vec<Home>,
    moved: [u64; 2],
    refused: u64,
    transactions: u64,
}

impl Moves {
    fn new(seed: u64, rng: Choices) -> Self {
        let world = World::seeded(settings(), 2, seed);
        Self { rng, world, homes: Vec::new(), moved: [0; 2], refused: 0, transactions: 0 }
    }

    fn step(&mut self) {
        let now = self.world.now;
        self.homes.retain(|home| now < home.expires);
        match self.rng.random_range(0..10) {
            0 | 1 => self.allocate(),
            2..=5 => self.move_one(),
            6 | 7 => self.data(),
            8 => self.leave(),
            _ => {
                let by = secs(self.rng.random_range(0..200));
                self.world.advance(by);
            }
        }
        let now = self.world.now;
        let standing = self.homes.iter().filter(|home| now < home.expires).count();
        assert_eq!(self.world.workers.iter().map(Relay::allocations).sum::<usize>(), standing);
        assert_eq!(usize::try_from(self.world.shared.claimed_ports()).unwrap(), standing);
    }

    /// Over UDP or TCP; the client's number says which worker it meets.
    fn client(&mut self) -> (usize, FiveTuple) {
        let n = self.rng.random_range(0..CLIENTS);
        (usize::from(n % 2), if n < 6 { tuple(n) } else { tcp(&format!("203.0.{n}.7:{n}000")) })
    }

    fn worker_of(from: &FiveTuple) -> usize {
        usize::from(
            (0..CLIENTS).any(|n| n % 2 == 1 && from.client.0.ip() == addr(&format!("203.0.{n}.7:1")).ip()),
        )
    }

    fn is_taken(&self, from: FiveTuple) -> bool {
        self.homes.iter().any(|home| home.at == from || home.before == Some(from))
    }

    /// As a transaction of its own: a repeated one would get the stored answer.
    fn ask(&mut self, worker: usize, from: &FiveTuple, who: &Account, draft: Draft) -> Answer {
        self.transactions += 1;
        let mut transaction = [7; 12];
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        self.world.ask_at(worker, from, who, draft.retarget(transaction))
    }

    fn account(&mut self) -> Account {
        if self.rng.random_bool(0.5) { Account::alice() } else { Account::bob() }
    }

    fn allocate(&mut self) {
        let ((worker, from), who) = (self.client(), self.account());
        let request = Draft::new(ALLOCATE, 1).udp().with(0x8030, &[]);
        let answer = self.ask(worker, &from, &who, request);
        assert_eq!(answer.code(), if self.is_taken(from) { 437 } else { 0 });
        if answer.is_success() {
            let (ticket, relayed) = (ticket(&answer), answer.relayed());
            let expires = self.world.now + secs(answer.lifetime().into());
            let bind = Draft::new(CHANNEL_BIND, 3).channel(0x4000).peer(PEER);
            assert!(self.ask(worker, &from, &who, bind).is_success());
            let permitted = self.world.now + secs(300);
            let (before, spent) = (None, Vec::new());
            self.homes.push(Home { who, ticket, spent, at: from, before, relayed, expires, permitted });
        }
    }

    /// With the ticket or one that was used, by its owner or not, to a five-tuple that is free or not.
    fn move_one(&mut self) {
        if self.homes.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.homes.len());
        if self.homes[index].before.is_some() {
            self.pass(index);
        }
        let ((worker, to), stranger) = (self.client(), self.account());
        let home = &self.homes[index];
        if to == home.at || home.before == Some(to) {
            return;
        }
        let used = home.spent.last().filter(|_| self.rng.random_bool(0.2)).cloned();
        let who = if self.rng.random_bool(0.8) { home.who.clone() } else { stranger };
        let is_good = used.is_none() && who.name == home.who.name && !self.is_taken(to);
        let presented = used.unwrap_or_else(|| home.ticket.clone());
        let request = Draft::new(REFRESH, 5).with(0x8030, &presented);
        let answer = self.ask(worker, &to, &who, request);
        assert_eq!(answer.is_success(), is_good, "{}", answer.code());
        // A signed request proves a five-tuple as data does, also one that is refused.
        let proved = self.homes.iter_mut().filter(|home| home.at == to && home.who.name == who.name);
        proved.for_each(|home| home.before = None);
        if !is_good {
            self.refused += 1;
            return;
        }
        let crosses = worker != Self::worker_of(&self.homes[index].at);
        self.moved[usize::from(crosses)] += 1;
        let home = &mut self.homes[index];
        home.spent.push(std::mem::replace(&mut home.ticket, ticket(&answer)));
        // Between workers it moves at once.
        home.before = Some(std::mem::replace(&mut home.at, to)).filter(|_| !crosses);
        home.expires = self.world.now + secs(answer.lifetime().into());
    }

    fn data(&mut self) {
        if !self.homes.is_empty() {
            let index = self.rng.random_range(0..self.homes.len());
            self.pass(index);
        }
    }

    /// From the peer, from where it was, from where it is, and from the peer again.
    fn pass(&mut self, index: usize) {
        let Home { at, before, relayed, permitted, .. } = self.homes[index];
        let is_permitted = self.world.now < permitted;
        let worker = (0..2).find(|worker| {
            self.world.sockets[*worker].iter().any(|(_, bound)| SocketAddr::from(*bound) == relayed)
        });
        let worker = worker.expect("it has its socket");
        let heard_by = |world: &mut World| {
            let slot = world.slot(worker, relayed);
            match world.workers[worker].route_peer(world.now, slot, peer(PEER), 1) {
                Verdict::ToClient { to, .. } => Some(to),
                Verdict::Drop(_) => None,
                verdict @ (Verdict::ToPeer { .. } | Verdict::Control) => panic!("{verdict:?}"),
            }
        };
        let sends = |world: &mut World, from: FiveTuple| {
            let frame = channel_data(0x4000, b"x");
            let verdict = world.workers[worker].route_client(world.now, &from, &frame);
            matches!(verdict, Verdict::ToPeer { .. })
        };
        let world = &mut self.world;
        assert_eq!(heard_by(world), before.or(Some(at)).filter(|_| is_permitted));
        if let Some(before) = before {
            assert_eq!(sends(world, before), is_permitted);
        }
        assert_eq!(sends(world, at), is_permitted);
        assert_eq!(heard_by(world), Some(at).filter(|_| is_permitted));
        if let Some(before) = before {
            assert!(!sends(world, before), "it serves where the client is no more");
        }
        self.homes[index].before = None;
    }

    fn leave(&mut self) {
        if self.homes.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.homes.len());
        self.pass(index);
        let Home { who, at, .. } = self.homes.swap_remove(index);
        let request = Draft::new(REFRESH, 6).lifetime(0);
        assert!(self.ask(Self::worker_of(&at), &at, &who, request).is_success());
    }
}

/// A world of its own, until the decisions are over or `steps` are made.
pub(super) fn play(seed: u64, choices: Choices, steps: u64) -> Moves {
    let mut moves = Moves::new(seed, choices);
    for _ in 0..steps {
        if moves.rng.are_over() {
            break;
        }
        moves.step();
    }
    moves.world.advance(secs(4000));
    moves.world.assert_empty();
    moves
}

fn ticket(answer: &Answer) -> Vec<u8> {
    answer.attribute(0x8030).expect("MOBILITY-TICKET")
}

#[test]
fn random_moves_keep_one_place_for_each_allocation_and_take_a_ticket_once() {
    let from_environment =
        |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seed = from_environment("TURN_RELAY_SEED").unwrap_or_else(rand::random);
    let steps: u64 = from_environment("TURN_RELAY_STEPS").unwrap_or(40_000);
    println!("TURN_RELAY_SEED={seed}");
    let (mut moved, mut refused) = ([0; 2], 0);
    for world in 0..steps.div_ceil(STEPS_PER_WORLD) {
        let seed = seed.wrapping_add(world);
        let moves = play(seed, Choices::drawn(seed), STEPS_PER_WORLD);
        moved = [moved[0] + moves.moved[0], moved[1] + moves.moved[1]];
        refused += moves.refused;
    }
    println!("{steps} steps: {moved:?} moved at their worker and to the other, {refused} refused");
    assert!(moved[0] > 0 && moved[1] > 0 && refused > 0, "a part of the core was never reached");
}
