//! What all workers' cores have in common: which ports are taken, which relayed addresses are live, and totals.
//!
//! Refuses to do: anything per packet but reading one bit. Ports and totals are atomics; the count per user is behind a lock
//! that only Allocate and the end of an allocation take.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use rand::RngExt as _;

use super::allocation::Protocol;
use super::rates::{Budget, nanoseconds};
use super::refusal::Refusal;
use super::revocation::Revocations;
use super::settings::{Limits, RelaySettings};
use super::tcp::connections::ConnectionTable;
use crate::address::{RelayedPort, Subscriber};
use crate::credentials::is_minted;

/// Different relay addresses of one run: 16 at a time, and reloads may replace all of them three times.
const MAX_ADDRESSES: usize = 64;
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
    /// The same of TCP allocations: the ports that a Connect may name. UDP and TCP ports are different doors, so a live one of
    /// one kind opens nothing of the other; but a number is claimed for both at once, so that it names one allocation.
    live_tcp: Box<PortSet>,
}

impl AddressPorts {
    fn new(ip: IpAddr) -> Self {
        Self { ip, claimed: PortSet::new(), live: PortSet::new(), live_tcp: PortSet::new() }
    }

    fn live_ports(&self, protocol: Protocol) -> &PortSet {
        match protocol {
            Protocol::Udp => &self.live,
            Protocol::Tcp => &self.live_tcp,
        }
    }
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
    of_account: HashMap<Box<str>, AccountPlaces>,
    of_address: HashMap<Subscriber, u32>,
    /// Reserved ports and whose place they hold. Kept here and not with the reservation, because the worker that gives a
    /// port back is not always the one that reserved it.
    reserved: HashMap<(IpAddr, RelayedPort), (Box<str>, Subscriber)>,
    /// Accounts that had no allocation any more when they came in here.
    idle: VecDeque<Box<str>>,
}

/// What one account holds. It outlives its allocations until its budget is full again: ending them buys no new burst.
#[derive(Default)]
struct AccountPlaces {
    count: u32,
    budget: Arc<Budget>,
    /// Whether it is in `Places::idle`.
    idle: bool,
}

impl Places {
    fn give_back(&mut self, account: &str, client: Subscriber, places: u32) {
        self.give_address_back(client, places);
        let Some(held) = self.of_account.get_mut(account) else {
            return debug_assert!(places == 0, "an allocation was dismissed twice");
        };
        debug_assert!(held.count >= places, "an allocation was dismissed twice");
        held.count = held.count.saturating_sub(places);
        if held.count == 0 && !std::mem::replace(&mut held.idle, true) {
            self.idle.push_back(account.into());
        }
    }

    fn give_address_back(&mut self, client: Subscriber, places: u32) {
        match self.of_address.get_mut(&client) {
            Some(count) if *count > places => *count -= places,
            Some(_) => drop(self.of_address.remove(&client)),
            None => debug_assert!(places == 0, "an address was dismissed twice"),
        }
    }

    /// Looks at two idle accounts, which is more than come in meanwhile, and forgets those whose budget is full.
    fn forget_idle(&mut self, now: u64) {
        for _ in 0..2 {
            let Some(account) = self.idle.pop_front() else { return };
            match self.of_account.get_mut(&account) {
                Some(held) if held.count > 0 => held.idle = false,
                Some(held) if held.budget.is_full(now) => drop(self.of_account.remove(&account)),
                Some(_) => self.idle.push_back(account),
                None => {}
            }
        }
    }
}

/// What a reload may change.
#[derive(Clone, Copy)]
struct Bounds {
    ports: (u16, u16),
    limits: Limits,
}

/// A reload brought more relay addresses than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_ADDRESSES} different relay addresses since the start")]
pub struct TooManyAddresses;

/// State shared by the workers of one server.
pub struct Shared {
    /// Filled from the front and never emptied: allocations on an address that a reload took away stand on.
    addresses: [OnceLock<AddressPorts>; MAX_ADDRESSES],
    bounds: RwLock<Bounds>,
    allocations: AtomicU32,
    places: Mutex<Places>,
    revocations: Revocations,
    pub(super) connections: ConnectionTable,
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
        let shared = Self {
            addresses: [const { OnceLock::new() }; MAX_ADDRESSES],
            bounds: RwLock::new(Bounds { ports: settings.ports, limits: settings.limits }),
            allocations: AtomicU32::new(0),
            places: Mutex::default(),
            revocations: Revocations::default(),
            connections: ConnectionTable::default(),
            epoch,
            master,
        };
        let fits = shared.apply(settings);
        debug_assert!(fits.is_ok(), "the configuration has at most 16 relay addresses");
        shared
    }

    /// Takes new settings in, for all workers at once. To be called before any of them gets [`super::Input::Settings`]: what that
    /// names must be known here. Nothing that is held is taken away; a lower limit holds for newcomers.
    ///
    /// # Errors
    /// When there is no room for a new relay address; nothing has changed then.
    pub fn apply(&self, settings: &RelaySettings) -> Result<(), TooManyAddresses> {
        let known: Vec<IpAddr> = self.relay_ips().collect();
        let new: Vec<IpAddr> = settings
            .relay_addresses
            .iter()
            .map(|address| address.ip)
            .filter(|ip| !known.contains(ip))
            .collect();
        let free = self.addresses.get(known.len()..).unwrap_or_default();
        if free.len() < new.len() {
            return Err(TooManyAddresses);
        }
        for (slot, ip) in free.iter().zip(new) {
            let was_free = slot.set(AddressPorts::new(ip)).is_ok();
            debug_assert!(was_free, "two reloads at once");
        }
        *self.bounds.write().unwrap_or_else(PoisonError::into_inner) =
            Bounds { ports: settings.ports, limits: settings.limits };
        Ok(())
    }

    /// Every address that was ever relayed from: allocations may still stand there.
    pub(super) fn relay_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.known().map(|address| address.ip)
    }

    fn known(&self) -> impl Iterator<Item = &AddressPorts> {
        self.addresses.iter().map_while(OnceLock::get)
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocations that stand or are being opened, and reserved ports, of all workers.
    pub fn allocations(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Ports held by allocations, reservations and attempts to bind, on all relay addresses.
    pub fn claimed_ports(&self) -> u32 {
        self.known().map(|address| address.claimed.len()).sum()
    }

    /// Gives a port back, and the place that it held if it was reserved: for the driver when it has closed the socket, or could
    /// not deliver a surrendered one. The core itself gives back what could not be bound.
    pub fn release(&self, ip: IpAddr, port: RelayedPort) {
        let mut places = self.places();
        if let Some((account, client)) = places.reserved.remove(&(ip, port)) {
            self.allocations.fetch_sub(1, Ordering::AcqRel);
            places.give_back(&account, client, 1);
        }
        drop(places);
        if let Some(address) = self.known().find(|address| address.ip == ip) {
            address.live.remove(port.0);
            address.live_tcp.remove(port.0);
            let was_claimed = address.claimed.remove(port.0);
            debug_assert!(was_claimed, "a port was released twice");
        }
    }

    /// Users that the operator refuses.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn master(&self) -> [u8; 32] {
        self.master
    }

    /// Takes a random free port of the relay address `ip`: some random probes, then a sweep from a random start,
    /// so that the last free port is still found and none can be foretold.
    pub(super) fn claim(
        &self,
        ip: IpAddr,
        want: Want,
        rng: &mut impl rand::CryptoRng,
    ) -> Option<RelayedPort> {
        const PROBES: u32 = 32;
        let address = self.known().find(|address| address.ip == ip)?;
        let (low, high) = self.bounds().ports;
        let try_claim = |port| Self::try_claim(address, want, port, (low, high));
        for _ in 0..PROBES {
            if let Some(port) = try_claim(rng.random_range(low..=high)) {
                return Some(port);
            }
        }
        let start = rng.random_range(low..=high);
        (start..=high).chain(low..start).find_map(try_claim)
    }

    fn try_claim(
        address: &AddressPorts,
        want: Want,
        port: u16,
        (low, high): (u16, u16),
    ) -> Option<RelayedPort> {
        let port = match want {
            Want::Any => port,
            Want::Even | Want::EvenPair => port & !1,
        };
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
    pub(super) fn reserve(&self, ip: IpAddr, port: RelayedPort, account: &str, client: Subscriber) {
        self.places().reserved.insert((ip, port), (account.into(), client));
    }

    /// From here on the port is one that other clients may name as their peer. The place of a reserved one is the allocation's,
    /// and counts for the address that claimed it.
    pub(super) fn set_live(&self, ip: IpAddr, port: RelayedPort, protocol: Protocol, client: Subscriber) {
        let mut places = self.places();
        if let Some((_, reserved_for)) = places.reserved.remove(&(ip, port)) {
            places.give_address_back(reserved_for, 1);
            *places.of_address.entry(client).or_default() += 1;
        }
        drop(places);
        if let Some(address) = self.known().find(|address| address.ip == ip) {
            address.live_ports(protocol).insert(port.0);
        }
    }

    /// From here on no client may name the port as its peer; it is claimed until it is released.
    pub(super) fn set_dead(&self, ip: IpAddr, port: RelayedPort) {
        if let Some(address) = self.known().find(|address| address.ip == ip) {
            address.live.remove(port.0);
            address.live_tcp.remove(port.0);
        }
    }

    /// Whether the relayed address of an allocation for `protocol` is `ip` and `port`.
    pub(super) fn is_live(&self, ip: IpAddr, port: u16, protocol: Protocol) -> bool {
        self.known().any(|address| address.ip == ip && address.live_ports(protocol).contains(port))
    }

    /// Counts `wanted` allocations for `account` and `client`, if the total and the share of each allow them.
    pub(super) fn admit(
        &self,
        now: Instant,
        account: &str,
        client: Subscriber,
        wanted: u32,
    ) -> Result<(), Refusal> {
        let limits = self.bounds().limits;
        let total = self.allocations.fetch_add(wanted, Ordering::AcqRel);
        if total.saturating_add(wanted) > limits.allocations {
            self.allocations.fetch_sub(wanted, Ordering::AcqRel);
            return Err(Refusal::Capacity("the limit on all allocations is reached"));
        }
        let mut places = self.places();
        places.forget_idle(nanoseconds(self.epoch, now));
        let of_account = places.of_account.get(account).map_or(0, |held| held.count).saturating_add(wanted);
        let of_address = places.of_address.get(&client).copied().unwrap_or(0).saturating_add(wanted);
        let most =
            if is_minted(account) { limits.allocations_per_minted_user } else { limits.allocations_per_user };
        if of_account > most || of_address > limits.allocations_per_address {
            self.allocations.fetch_sub(wanted, Ordering::AcqRel);
            let of_user = of_account > most;
            return Err(if of_user { Refusal::OverQuota } else { Refusal::AddressOverQuota });
        }
        places.of_account.entry(account.into()).or_default().count = of_account;
        places.of_address.insert(client, of_address);
        Ok(())
    }

    /// The end of what `admit` counted.
    pub(super) fn dismiss(&self, account: &str, client: Subscriber, places: u32) {
        self.allocations.fetch_sub(places, Ordering::AcqRel);
        self.places().give_back(account, client, places);
    }

    /// What all allocations of `account` share.
    pub(super) fn budget(&self, account: &str) -> Arc<Budget> {
        let mut places = self.places();
        Arc::clone(&places.of_account.entry(account.into()).or_default().budget)
    }

    /// Whether nobody is counted: for tests.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn counts_nobody(&self) -> bool {
        let places = self.places();
        let nobody = places.of_account.values().all(|held| held.count == 0) && places.of_address.is_empty();
        self.allocations() == 0 && nobody && places.reserved.is_empty() && self.connections.is_empty()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
