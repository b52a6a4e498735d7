//! Who may have how many connections, handshakes, sessions and frames, by address. Counted before a byte is read.
//!
//! A connection that has not said hello costs something and has shown nothing, so these have bounds of their own: for one
//! address, and for all, which is what a crowd of half-open connections can make the server hold. Numbers go down when the
//! [`Admitted`] or the [`Place`] is dropped; what an address has used of a rate is remembered until it is forgiven.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    hub::{Bucket, Rate},
    metrics::Refusal,
};

/// How many connections are held, how fast they come, and what one address may do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// All connections of the listener.
    pub(crate) total: usize,
    /// Of these, the ones that have not said hello yet.
    pub(crate) pending: usize,
    /// Connections of one address (IPv6: one /64).
    pub(crate) per_address: usize,
    /// Of these, the ones that have not said hello yet.
    pub(crate) pending_per_address: usize,
    /// Connections that are accepted in a second. More wait.
    pub(crate) handshakes: Rate,
    /// Connections that one address may make in a second, and WebSockets and hellos that are no connection of their own. More
    /// are refused.
    pub(crate) handshakes_per_address: Rate,
    /// Sessions of one address, those that are away included.
    pub(crate) sessions_per_address: usize,
    /// Frames that all clients of one address may send in a second.
    pub(crate) frames_per_address: Rate,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 20_000,
            pending: 1_000,
            per_address: 1_000,
            pending_per_address: 64,
            handshakes: Rate { per_second: 4_000, burst: 1_000 },
            handshakes_per_address: Rate { per_second: 100, burst: 500 },
            sessions_per_address: 2_000,
            frames_per_address: Rate { per_second: 5_000, burst: 20_000 },
        }
    }
}

/// Counts; cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Inner>);

struct Inner {
    limits: ArcSwap<ConnectionLimits>,
    counts: Mutex<Counts>,
    /// One of those that had not said hello did, or is gone.
    freed: Notify,
}

struct Counts {
    total: usize,
    pending: usize,
    arrivals: Bucket,
    /// Addresses that have a connection or a session, and some that are still to be forgiven their rates.
    addresses: HashMap<IpAddr, Arc<Mutex<Address>>, foldhash::fast::RandomState>,
    /// With so many addresses it is looked for some that can be forgotten.
    look_at: usize,
}

#[derive(Debug)]
struct Address {
    open: usize,
    pending: usize,
    sessions: usize,
    arrivals: Bucket,
    frames: Bucket,
}

impl Admission {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let counts = Counts {
            total: 0,
            pending: 0,
            arrivals: Bucket::full(Instant::now()),
            addresses: HashMap::default(),
            look_at: FEW_ADDRESSES,
        };
        Self(Arc::new(Inner {
            limits: ArcSwap::from_pointee(limits),
            counts: Mutex::new(counts),
            freed: Notify::new(),
        }))
    }

    /// Other limits from now on. Connections that are there already stay.
    pub(crate) fn limit(&self, limits: ConnectionLimits) {
        self.0.limits.store(Arc::new(limits));
    }

    /// Takes a token of the rate at which connections are accepted, or says how long that takes.
    pub(crate) fn pace(&self) -> Result<(), Duration> {
        self.0.lock().arrivals.take_one(Instant::now(), self.0.limits.load().handshakes)
    }

    /// Whether as many connections that have not said hello are held as may be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.0.lock().pending >= self.0.limits.load().pending
    }

    /// Waits until it is not.
    pub(crate) async fn room(&self) {
        while self.is_crowded() {
            self.0.freed.notified().await;
        }
    }

    /// Without an address it counts in total alone.
    pub(crate) fn count(&self, address: Option<IpAddr>, in_total: InTotal) -> Result<Admitted, Refusal> {
        let (limits, now) = (self.0.limits.load(), Instant::now());
        let mut counts = self.0.lock();
        if in_total == InTotal::OneMore {
            if counts.total >= limits.total {
                return Err(Refusal::Total);
            }
            // Proxies of ours say no hello of their own.
            if address.is_some() && counts.pending >= limits.pending {
                return Err(Refusal::Pending);
            }
        }
        let address = address.map(|ip| counts.address(ip, now));
        if let Some(address) = &address {
            lock(address).enter(now, in_total, &limits)?;
        }
        let pending = AtomicBool::new(address.is_some());
        if in_total == InTotal::OneMore {
            counts.total += 1;
            counts.pending += usize::from(address.is_some());
        }
        let arrived = AtomicBool::new(in_total == InTotal::OneMore);
        Ok(Admitted { admission: self.clone(), address, in_total, pending, arrived })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn address(&mut self, ip: IpAddr, now: Instant) -> Arc<Mutex<Address>> {
        if self.addresses.len() >= self.look_at {
            self.addresses.retain(|_, address| !lock(address).can_be_forgotten(now));
            self.look_at = FEW_ADDRESSES.max(2 * self.addresses.len());
        }
        let fresh = || {
            let (arrivals, frames) = (Bucket::full(now), Bucket::full(now));
            Arc::new(Mutex::new(Address { open: 0, pending: 0, sessions: 0, arrivals, frames }))
        };
        self.addresses.entry(ip).or_insert_with(fresh).clone()
    }
}

impl Address {
    fn enter(&mut self, now: Instant, in_total: InTotal, limits: &ConnectionLimits) -> Result<(), Refusal> {
        if self.open >= limits.per_address || self.pending >= limits.pending_per_address {
            return Err(Refusal::Address);
        }
        // A request that a proxy brings is no handshake: a client that polls makes many.
        self.arrive(now, in_total, limits)?;
        self.open += 1;
        self.pending += 1;
        Ok(())
    }

    fn arrive(&mut self, now: Instant, in_total: InTotal, limits: &ConnectionLimits) -> Result<(), Refusal> {
        if in_total == InTotal::OneMore && self.arrivals.take_one(now, limits.handshakes_per_address).is_err()
        {
            return Err(Refusal::Rate);
        }
        Ok(())
    }

    fn can_be_forgotten(&self, now: Instant) -> bool {
        self.open == 0 && self.sessions == 0 && self.arrivals.is_full(now) && self.frames.is_full(now)
    }
}

fn lock(address: &Mutex<Address>) -> MutexGuard<'_, Address> {
    address.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something is a connection more, or a part of one that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InTotal {
    OneMore,
    Already,
}

/// A counted connection.
pub(crate) struct Admitted {
    admission: Admission,
    address: Option<Arc<Mutex<Address>>>,
    in_total: InTotal,
    pending: AtomicBool,
    /// Its arrival was counted, and no handshake needed that yet.
    arrived: AtomicBool,
}

/// A counted session.
pub(crate) struct Place(Option<Arc<Mutex<Address>>>);

impl Admitted {
    /// Counts one more of the same address, which begins with a handshake on this connection. One beside a connection that
    /// waited for its own turn need not wait for another, so that those of a rush do not keep each other out.
    pub(crate) fn another(&self) -> Result<Self, Refusal> {
        let (limits, now) = (self.admission.0.limits.load(), Instant::now());
        let mut counts = self.admission.0.lock();
        if counts.total >= limits.total {
            return Err(Refusal::Total);
        }
        let arrives = self.arrives();
        if let Some(address) = &self.address {
            if arrives == InTotal::OneMore && counts.pending >= limits.pending {
                return Err(Refusal::Pending);
            }
            lock(address).enter(now, arrives, &limits)?;
        }
        counts.total += 1;
        counts.pending += usize::from(self.address.is_some());
        Ok(Self {
            admission: self.admission.clone(),
            address: self.address.clone(),
            in_total: InTotal::OneMore,
            pending: AtomicBool::new(self.address.is_some()),
            arrived: AtomicBool::new(false),
        })
    }

    /// A handshake that makes this very connection a client's: of those that a proxy brings each counts.
    pub(crate) fn handshake(&self) -> Result<(), Refusal> {
        let (arrives, Some(address)) = (self.arrives(), &self.address) else { return Ok(()) };
        let limits = self.admission.0.limits.load();
        lock(address).arrive(Instant::now(), arrives, &limits)
    }

    /// Whether a handshake is an arrival of its own: the first one is part of that of the connection which brings it.
    fn arrives(&self) -> InTotal {
        if self.arrived.swap(false, Ordering::Relaxed) { InTotal::Already } else { InTotal::OneMore }
    }

    /// A connection that a proxy of ours introduced: it counts for its client from now on.
    pub(crate) fn identify(&mut self, client: IpAddr) -> Result<(), Refusal> {
        let (limits, now) = (self.admission.0.limits.load(), Instant::now());
        let mut counts = self.admission.0.lock();
        if counts.pending >= limits.pending {
            return Err(Refusal::Pending);
        }
        let address = counts.address(client, now);
        lock(&address).enter(now, self.in_total, &limits)?;
        counts.pending += 1;
        drop(counts);
        (self.address, self.pending) = (Some(address), AtomicBool::new(true));
        Ok(())
    }

    /// A part of this connection that a proxy brings for a client of its own.
    pub(crate) fn for_client(&self, client: IpAddr) -> Result<Self, Refusal> {
        self.admission.count(Some(client), InTotal::Already)
    }

    /// The client said a good hello: it is no longer one of those that have shown us nothing.
    pub(crate) fn greeted(&self) {
        if !self.pending.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.in_total == InTotal::OneMore {
            self.admission.0.lock().pending -= 1;
            self.admission.0.freed.notify_one();
        }
        if let Some(address) = &self.address {
            lock(address).pending -= 1;
        }
    }

    /// Counts a session, unless the address has as many as it may.
    pub(crate) fn place(&self) -> Option<Place> {
        let Some(address) = &self.address else { return Some(Place(None)) };
        let mut counts = lock(address);
        if counts.sessions >= self.admission.0.limits.load().sessions_per_address {
            return None;
        }
        counts.sessions += 1;
        Some(Place(Some(address.clone())))
    }

    /// Counts a frame, or says how long it takes until the address may send as it likes again.
    pub(crate) fn frame(&self) -> Result<(), Duration> {
        let Some(address) = &self.address else { return Ok(()) };
        lock(address)
            .frames
            .take_or_wait_for_all(Instant::now(), self.admission.0.limits.load().frames_per_address)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.greeted();
        if self.in_total == InTotal::OneMore {
            self.admission.0.lock().total -= 1;
        }
        if let Some(address) = &self.address {
            lock(address).open -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            lock(address).sessions -= 1;
        }
    }
}

/// Whoever has one IPv6 address has the whole /64.
pub(crate) fn accountable(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Some hundred KiB.
const FEW_ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests;
