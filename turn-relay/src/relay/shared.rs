//! What all workers' cores have in common: which ports are taken, which relayed addresses are live, and totals.
//!
//! Refuses to do: anything per packet but reading one bit. Ports and totals are atomics; the count per user is behind a lock
//! that only Allocate and the end of an allocation take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rand::RngExt as _;

use super::refusal::Refusal;
use super::settings::{Limits, RelaySettings};
use crate::address::RelayedPort;

const WORDS: usize = 65_536 / 64;

/// One bit per port.
struct PortSet([AtomicU64; WORDS]);

impl PortSet {
    fn new() -> Box<Self> {
        Box::new(Self([const { AtomicU64::new(0) }; WORDS]))
    }

    fn word(&self, port: u16) -> (&AtomicU64, u64) {
        (&self.0[usize::from(port / 64)], 1 << (port % 64))
    }

    fn contains(&self, port: u16) -> bool {
        let (word, bit) = self.word(port);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// Whether the port was not in the set before.
    fn insert(&self, port: u16) -> bool {
        let (word, bit) = self.word(port);
        word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Whether the port was in the set before.
    fn remove(&self, port: u16) -> bool {
        let (word, bit) = self.word(port);
        word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

struct AddressPorts {
    ip: IpAddr,
    /// Held by an allocation, a reservation, or an attempt to bind.
    claimed: Box<PortSet>,
    /// Relayed addresses of allocations that stand: the ports that one client may name as another's.
    live: Box<PortSet>,
}

/// What kind of port an allocation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Any port.
    Any,
    /// EVEN-PORT with the R bit clear.
    Even,
    /// EVEN-PORT with the R bit set: this port and the next.
    EvenPair,
}

impl Want {
    /// How many allocations the ports are for.
    pub(super) fn places(self) -> u32 {
        match self {
            Self::Any | Self::Even => 1,
            Self::EvenPair => 2,
        }
    }
}

/// Who holds how many of the allowed allocations.
#[derive(Default)]
struct Places {
    of_account: HashMap<Box<str>, u32>,
    /// Reserved ports and whose place they hold. Kept here and not with the reservation, because the worker that gives a
    /// port back is not always the one that reserved it.
    reserved: HashMap<(IpAddr, RelayedPort), Box<str>>,
}

impl Places {
    fn give_back(&mut self, account: &str, places: u32) {
        match self.of_account.get_mut(account) {
            Some(count) if *count > places => *count -= places,
            Some(_) => drop(self.of_account.remove(account)),
            None => debug_assert!(places == 0, "an allocation was dismissed twice"),
        }
    }
}

/// State shared by the workers of one server.
pub struct Shared {
    addresses: Vec<AddressPorts>,
    ports: (u16, u16),
    limits: Limits,
    allocations: AtomicU32,
    places: Mutex<Places>,
    epoch: Instant,
    master: [u8; 32],
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("allocations", &self.allocations()).finish_non_exhaustive()
    }
}

impl Shared {
    /// `epoch` is any instant not after the first packet; `rng` gives the key that nonces and reservation tokens are sealed with.
    pub fn new(settings: &RelaySettings, epoch: Instant, rng: &mut impl rand::CryptoRng) -> Self {
        let mut master = [0; 32];
        rng.fill_bytes(&mut master);
        let addresses = settings
            .relay_addresses
            .iter()
            .map(|address| AddressPorts { ip: address.ip, claimed: PortSet::new(), live: PortSet::new() })
            .collect();
        Self {
            addresses,
            ports: settings.ports,
            limits: settings.limits,
            allocations: AtomicU32::new(0),
            places: Mutex::default(),
            epoch,
            master,
        }
    }

    /// Allocations that stand or are being opened, and reserved ports, of all workers.
    pub fn allocations(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Ports held by allocations, reservations and attempts to bind, on all relay addresses.
    pub fn claimed_ports(&self) -> u32 {
        self.addresses.iter().map(|address| address.claimed.len()).sum()
    }

    /// Gives a port back, and the place that it held if it was reserved: for the driver when a surrendered socket could not be
    /// delivered; the core does it itself otherwise.
    pub fn release(&self, ip: IpAddr, port: RelayedPort) {
        let mut places = self.places();
        if let Some(account) = places.reserved.remove(&(ip, port)) {
            self.allocations.fetch_sub(1, Ordering::AcqRel);
            places.give_back(&account, 1);
        }
        drop(places);
        if let Some(address) = self.addresses.iter().find(|address| address.ip == ip) {
            address.live.remove(port.0);
            let was_claimed = address.claimed.remove(port.0);
            debug_assert!(was_claimed, "a port was released twice");
        }
    }

    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn master(&self) -> [u8; 32] {
        self.master
    }

    /// Takes a random free port of the relay address `index`: some random probes, then a sweep from a random start,
    /// so that the last free port is still found and none can be foretold.
    pub(super) fn claim(
        &self,
        index: usize,
        want: Want,
        rng: &mut impl rand::CryptoRng,
    ) -> Option<RelayedPort> {
        const PROBES: u32 = 32;
        let address = self.addresses.get(index)?;
        let (low, high) = self.ports;
        for _ in 0..PROBES {
            if let Some(port) = self.try_claim(address, want, rng.random_range(low..=high)) {
                return Some(port);
            }
        }
        let start = rng.random_range(low..=high);
        (start..=high).chain(low..start).find_map(|port| self.try_claim(address, want, port))
    }

    fn try_claim(&self, address: &AddressPorts, want: Want, port: u16) -> Option<RelayedPort> {
        let port = match want {
            Want::Any => port,
            Want::Even | Want::EvenPair => port & !1,
        };
        let (low, high) = self.ports;
        if port < low || !address.claimed.insert(port) {
            return None;
        }
        if want == Want::EvenPair && (port >= high || !address.claimed.insert(port + 1)) {
            address.claimed.remove(port);
            return None;
        }
        Some(RelayedPort(port))
    }

    /// Of the places that `admit` counted, one is the reserved port's from here on, until it is live or released.
    pub(super) fn reserve(&self, ip: IpAddr, port: RelayedPort, account: &str) {
        self.places().reserved.insert((ip, port), account.into());
    }

    /// From here on the port is one that other clients may name as their peer. The place of a reserved one is the allocation's.
    pub(super) fn set_live(&self, ip: IpAddr, port: RelayedPort) {
        self.places().reserved.remove(&(ip, port));
        if let Some(address) = self.addresses.iter().find(|address| address.ip == ip) {
            address.live.insert(port.0);
        }
    }

    /// Whether an allocation's relayed address is `ip` and `port`.
    pub(super) fn is_live(&self, ip: IpAddr, port: u16) -> bool {
        self.addresses.iter().any(|address| address.ip == ip && address.live.contains(port))
    }

    /// Counts `wanted` allocations for `account`, if both the total and the account's share allow them.
    pub(super) fn admit(&self, account: &str, wanted: u32) -> Result<(), Refusal> {
        let total = self.allocations.fetch_add(wanted, Ordering::AcqRel);
        if total.saturating_add(wanted) > self.limits.allocations {
            self.allocations.fetch_sub(wanted, Ordering::AcqRel);
            return Err(Refusal::Capacity("the limit on all allocations is reached"));
        }
        let mut places = self.places();
        let count = places.of_account.get(account).copied().unwrap_or(0).saturating_add(wanted);
        if count > self.limits.allocations_per_user {
            self.allocations.fetch_sub(wanted, Ordering::AcqRel);
            return Err(Refusal::OverQuota);
        }
        places.of_account.insert(account.into(), count);
        Ok(())
    }

    /// The end of what `admit` counted.
    pub(super) fn dismiss(&self, account: &str, places: u32) {
        self.allocations.fetch_sub(places, Ordering::AcqRel);
        self.places().give_back(account, places);
    }

    /// Whether nobody is counted: for tests.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn counts_nobody(&self) -> bool {
        let places = self.places();
        self.allocations() == 0 && places.of_account.is_empty() && places.reserved.is_empty()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
