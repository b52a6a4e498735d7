//! Ports held in reserve for a RESERVATION-TOKEN (RFC 8656 sections 7.2 and 18.6).
//!
//! The second allocation may arrive at another worker, so the token tells who holds the port: 48 random bits, and the
//! worker's index hidden under a MAC of them. Guessing one is guessing the 48 bits, with an account, within 30 s.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rand::CryptoRng;

use super::Relay;
use super::contract::{Claim, ClaimedSocket, Output, SocketSlot, WorkerIndex};
use super::deadlines::Timer;
use super::nonce::derive;
use crate::address::RelayedPort;

/// RFC 8656 section 7.2: a reservation is held for at least 30 s.
pub(super) const HOLD: Duration = Duration::from_secs(30);
const RANDOM_BITS: u64 = (1 << 48) - 1;

/// A bound socket that waits for its allocation.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) slot: SocketSlot,
    pub(super) ip: IpAddr,
    pub(super) port: RelayedPort,
    /// Who may claim it: who made it.
    pub(super) username: Box<str>,
    pub(super) until: Instant,
}

/// The reservations of one worker.
#[derive(Debug)]
pub(super) struct Reservations {
    worker: WorkerIndex,
    master: [u8; 32],
    held: HashMap<u64, Reservation, RandomState>,
}

impl Reservations {
    pub(super) fn new(worker: WorkerIndex, master: [u8; 32]) -> Self {
        Self { worker, master, held: HashMap::default() }
    }

    /// Keeps a reservation under a new token.
    pub(super) fn hold(&mut self, rng: &mut impl CryptoRng, reservation: Reservation) -> u64 {
        loop {
            let random = rng.next_u64() & RANDOM_BITS;
            let token = random | (u64::from(self.worker.0 ^ self.mask(random)) << 48);
            if let Entry::Vacant(vacant) = self.held.entry(token) {
                vacant.insert(reservation);
                return token;
            }
        }
    }

    /// Which worker holds what the token stands for. Any number gives an answer; the holder knows whether it is true.
    pub(super) fn holder(&self, token: u64) -> WorkerIndex {
        let high = u16::try_from(token >> 48).unwrap_or(0);
        WorkerIndex(high ^ self.mask(token & RANDOM_BITS))
    }

    /// Takes what `username` reserved.
    pub(super) fn take(&mut self, token: u64, username: &str) -> Option<Reservation> {
        if *self.held.get(&token)?.username != *username {
            return None;
        }
        self.held.remove(&token)
    }

    pub(super) fn expire(&mut self, token: u64) -> Option<Reservation> {
        self.held.remove(&token)
    }

    fn mask(&self, random: u64) -> u16 {
        let [a, b, ..] = derive(&self.master, b"reservation", random);
        u16::from_be_bytes([a, b])
    }
}

impl Relay {
    /// Nobody came for it.
    pub(super) fn drop_reservation(&mut self, token: u64) {
        if let Some(reservation) = self.reservations.expire(token) {
            let Reservation { slot, ip, port, .. } = reservation;
            self.close(ClaimedSocket { slot, ip, port });
        }
    }

    /// Takes a reservation and its timer.
    pub(super) fn take_reservation(&mut self, token: u64, username: &str) -> Option<Reservation> {
        let reservation = self.reservations.take(token, username)?;
        self.deadlines.cancel(reservation.until, Timer::Reservation(token));
        Some(reservation)
    }

    /// Another worker wants what is reserved here.
    pub(super) fn claim(&mut self, claim: Claim) {
        let Claim { by: to, open, token, username } = claim;
        let answer = match self.take_reservation(token, &username) {
            Some(Reservation { slot, ip, port, .. }) => Output::Surrender { to, open, slot, ip, port },
            None => Output::DenyClaim { to, open },
        };
        self.outputs.push(answer);
    }
}
