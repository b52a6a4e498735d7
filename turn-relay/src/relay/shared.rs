//! What all workers' cores have in common: which ports are taken, which relayed addresses are live, and totals. Atomics only.
//!
//! Refuses to do: anything per packet but reading one bit.

#![allow(dead_code, reason = "the core that uses it follows")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::settings::RelaySettings;
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

/// State shared by the workers of one server.
pub struct Shared {
    addresses: Vec<AddressPorts>,
    ports: (u16, u16),
    allocations: AtomicU32,
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
        Self { addresses, ports: settings.ports, allocations: AtomicU32::new(0), epoch, master }
    }

    /// Allocations that stand, of all workers.
    pub fn allocations(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Ports held by allocations, reservations and attempts to bind, on all relay addresses.
    pub fn claimed_ports(&self) -> u32 {
        self.addresses.iter().map(|address| address.claimed.len()).sum()
    }

    /// Gives a port back: for the driver when a surrendered socket could not be delivered; the core does it itself otherwise.
    pub fn release(&self, ip: IpAddr, port: RelayedPort) {
        if let Some(address) = self.addresses.iter().find(|address| address.ip == ip) {
            address.live.remove(port.0);
            let was_claimed = address.claimed.remove(port.0);
            debug_assert!(was_claimed, "a port was released twice");
        }
    }
}
