//! What one allocation and one user may make flow: bytes and packets a second in each direction, and new peers a minute.
//!
//! Refuses to do: locks and memory per packet. An allocation's buckets are its own; a user's are shared by all workers, and
//! a worker leases from them what some milliseconds need.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use slab::Slab;

use super::contract::DropReason;
use super::pace::{Bucket, Lease, Pace, SharedBucket};
use super::routes::{ByFlow, Levels, ScaledPace};
use super::settings::{Limits, Rate};
use crate::address::packed;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToPeer = 0,
    ToClient = 1,
}

/// The buckets of one allocation.
#[derive(Debug, Default)]
pub(super) struct Meter {
    flows: [Flow; 2],
    new_peers: Bucket,
    acquainted: Acquainted,
    icmp: Bucket,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    bytes: Bucket,
    packets: Bucket,
}

/// The buckets of one user, whichever workers its allocations are on.
#[derive(Debug, Default)]
pub(super) struct Budget {
    flows: [SharedFlow; 2],
    new_peers: SharedBucket,
}

#[derive(Debug, Default)]
struct SharedFlow {
    bytes: SharedBucket,
    packets: SharedBucket,
}

impl Budget {
    /// Whether nothing would be given away by starting anew.
    pub(super) fn is_full(&self, now: u64) -> bool {
        let flow = |flow: &SharedFlow| flow.bytes.is_full(now) && flow.packets.is_full(now);
        self.flows.iter().all(flow) && self.new_peers.is_full(now)
    }
}

/// A user with allocations on this worker: its place in [`Rates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserSlot(usize);

impl UserSlot {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
struct LocalUser {
    account: Box<str>,
    allocations: usize,
    budget: Arc<Budget>,
    leases: [(Lease, Lease); 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct FlowPaces {
    bytes: Option<Pace>,
    packets: Option<Pace>,
}

impl FlowPaces {
    fn new(rate: Rate) -> Self {
        let second = Duration::from_secs(1);
        Self {
            bytes: Pace::new(rate.bytes_per_second, second, LARGEST_DATAGRAM),
            packets: Pace::new(rate.packets_per_second.into(), second, 1),
        }
    }
}

/// One worker's rates: how fast, and the users that it knows.
#[derive(Debug)]
pub(super) struct Rates {
    epoch: Instant,
    of_allocation: FlowPaces,
    of_user: FlowPaces,
    peers_of_allocation: Option<Pace>,
    peers_of_user: Option<Pace>,
    icmp: Option<Pace>,
    users: Slab<LocalUser>,
    by_account: HashMap<Box<str>, usize, RandomState>,
    hasher: RandomState,
}

impl Rates {
    pub(super) fn new(epoch: Instant, limits: &Limits) -> Self {
        let mut rates = Self {
            epoch,
            of_allocation: FlowPaces::default(),
            of_user: FlowPaces::default(),
            peers_of_allocation: None,
            peers_of_user: None,
            icmp: Pace::new(ICMP_PER_SECOND, Duration::from_secs(1), 1),
            users: Slab::new(),
            by_account: HashMap::default(),
            hasher: RandomState::default(),
        };
        rates.set_limits(limits);
        rates
    }

    /// Changes how fast. What was used of a bucket stays used; what a worker leased at the old rate is forgotten.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        let minute = Duration::from_secs(60);
        self.of_allocation = FlowPaces::new(limits.allocation_rate);
        self.of_user = FlowPaces::new(limits.user_rate);
        self.peers_of_allocation = Pace::new(limits.new_peers_per_minute.into(), minute, 1);
        self.peers_of_user = Pace::new(limits.user_new_peers_per_minute.into(), minute, 1);
        for (_, user) in &mut self.users {
            user.leases = Default::default();
        }
    }

    /// An allocation of `account` begins on this worker; `budget` is the account's.
    pub(super) fn enter(&mut self, account: &str, budget: Arc<Budget>) -> UserSlot {
        if let Some(&index) = self.by_account.get(account) {
            self.users[index].allocations += 1;
            return UserSlot(index);
        }
        let account: Box<str> = account.into();
        let user = LocalUser { account: account.clone(), allocations: 1, budget, leases: Default::default() };
        let index = self.users.insert(user);
        self.by_account.insert(account, index);
        UserSlot(index)
    }

    /// An allocation of the user is over, or goes to another worker.
    pub(super) fn leave(&mut self, user: UserSlot) {
        let Some(known) = self.users.get_mut(user.0) else { return };
        known.allocations -= 1;
        if known.allocations == 0 {
            let gone = self.users.remove(user.0);
            self.by_account.remove(&gone.account);
        }
    }

    /// Lets one packet of `len` payload bytes pass, or says which rate it exceeds; then nothing is counted for it.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        direction: Direction,
        meter: &mut Meter,
        user: UserSlot,
        len: usize,
    ) -> Result<(), DropReason> {
        let (now, len) = (self.nanoseconds(now), len as u64);
        let flow = &mut meter.flows[direction as usize];
        let (Some(bytes), Some(packets)) = (
            flow.bytes.less(self.of_allocation.bytes, now, len),
            flow.packets.less(self.of_allocation.packets, now, 1),
        ) else {
            return Err(DropReason::AllocationRate);
        };
        let pace = self.of_user;
        if let Some(user) = self.users.get_mut(user.0) {
            let budget = &user.budget.flows[direction as usize];
            let (lease_bytes, lease_packets) = &mut user.leases[direction as usize];
            if !lease_packets.holds(&budget.packets, pace.packets, now, 1)
                || !lease_bytes.holds(&budget.bytes, pace.bytes, now, len)
            {
                return Err(DropReason::UserRate);
            }
            lease_bytes.spend(pace.bytes, len);
            lease_packets.spend(pace.packets, 1);
        }
        *flow = Flow { bytes, packets };
        Ok(())
    }

    /// Counts bytes of a stream that were read already, and tells how long to leave the next ones where they are: a stream is slowed
    /// down, not cut. Packets are not counted.
    pub(super) fn charge(
        &mut self,
        now: Instant,
        direction: Direction,
        meter: &mut Meter,
        user: UserSlot,
        len: u64,
    ) -> Duration {
        if len == 0 {
            return Duration::ZERO;
        }
        let now = self.nanoseconds(now);
        let flow = &mut meter.flows[direction as usize];
        let of_allocation = flow.bytes.charge(self.of_allocation.bytes, now, len);
        let budget = self.users.get(user.0).map(|user| &user.budget.flows[direction as usize].bytes);
        let of_user = budget.map_or(0, |budget| budget.charge(self.of_user.bytes, now, len));
        Duration::from_nanos(of_allocation.max(of_user))
    }

    /// Counts what went past the core already, and tells where the buckets are then.
    pub(super) fn carried(
        &mut self,
        now: Instant,
        direction: Direction,
        meter: &mut Meter,
        user: UserSlot,
        (bytes, packets): (u64, u64),
    ) -> Levels {
        let now = self.nanoseconds(now);
        let flow = &mut meter.flows[direction as usize];
        // A driver that keeps the rates leaves no debt to speak of, and one that does not finds the bucket empty.
        let _ = flow.bytes.charge(self.of_allocation.bytes, now, bytes);
        let _ = flow.packets.charge(self.of_allocation.packets, now, packets);
        let mut levels =
            Levels { allocation: [flow.bytes.full_at(), flow.packets.full_at()], ..Levels::default() };
        if let Some(user) = self.users.get(user.0) {
            let budget = &user.budget.flows[direction as usize];
            let _ = budget.bytes.charge(self.of_user.bytes, now, bytes);
            let _ = budget.packets.charge(self.of_user.packets, now, packets);
            levels.user = [budget.bytes.full_at(), budget.packets.full_at()];
        }
        levels
    }

    /// The rates of an allocation and of a user, for buckets that are kept elsewhere.
    pub(super) fn scaled(&self) -> (ByFlow<ScaledPace>, ByFlow<ScaledPace>) {
        let scaled = |paces: FlowPaces| {
            [paces.bytes, paces.packets].map(|pace| pace.map(Pace::scaled).unwrap_or_default())
        };
        (scaled(self.of_allocation), scaled(self.of_user))
    }

    /// Whether the allocation may turn to these addresses: those that it has not named lately count as new ones.
    /// Port 0 stands for an address alone, as a permission does.
    pub(super) fn may_meet(
        &mut self,
        now: Instant,
        meter: &mut Meter,
        user: UserSlot,
        peers: impl Iterator<Item = (IpAddr, u16)>,
    ) -> bool {
        if self.peers_of_allocation.is_none() && self.peers_of_user.is_none() {
            return true;
        }
        let now = self.nanoseconds(now);
        for (ip, port) in peers {
            let peer = self.hasher.hash_one((packed(ip), port));
            if meter.acquainted.knows(peer) {
                continue;
            }
            let Some(left) = meter.new_peers.less(self.peers_of_allocation, now, 1) else { return false };
            let budget = self.users.get(user.0).map(|user| &user.budget.new_peers);
            if budget.is_some_and(|budget| !budget.take(self.peers_of_user, now, 1)) {
                return false;
            }
            meter.new_peers = left;
            meter.acquainted.remember(peer);
        }
        true
    }

    /// Whether the client may be told of one more ICMP message now.
    pub(super) fn may_tell_icmp(&mut self, now: Instant, meter: &mut Meter) -> bool {
        let left = meter.icmp.less(self.icmp, self.nanoseconds(now), 1);
        meter.icmp = left.unwrap_or(meter.icmp);
        left.is_some()
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        nanoseconds(self.epoch, now)
    }

    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn knows_nobody(&self) -> bool {
        self.users.is_empty() && self.by_account.is_empty()
    }
}

/// The clock of buckets.
pub(super) fn nanoseconds(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// The peers that an allocation named lately, as hashes: two generations, of which the older makes room. One that was
/// forgotten counts as new again, which costs a client with more than a generation of peers something of its allowance.
#[derive(Debug, Default)]
struct Acquainted {
    last: Option<u64>,
    younger: Vec<u64>,
    older: Vec<u64>,
}

impl Acquainted {
    fn knows(&mut self, peer: u64) -> bool {
        if self.last == Some(peer) {
            return true;
        }
        if self.younger.binary_search(&peer).is_ok() {
            self.last = Some(peer);
            return true;
        }
        if self.older.binary_search(&peer).is_ok() {
            self.remember(peer);
            return true;
        }
        false
    }

    fn remember(&mut self, peer: u64) {
        self.last = Some(peer);
        if self.younger.len() >= GENERATION {
            self.older = std::mem::take(&mut self.younger);
        }
        if let Err(at) = self.younger.binary_search(&peer) {
            self.younger.insert(at, peer);
        }
    }
}

/// 2 KiB: more addresses than permissions and channels of one allocation are by default.
const GENERATION: usize = 256;
/// Enough to learn a path MTU or that a peer is gone; routers send hardly more of them (RFC 1812 section 4.3.2.8), forgers do.
const ICMP_PER_SECOND: u64 = 10;
/// One of these passes at any rate.
const LARGEST_DATAGRAM: u64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_peers_is_bounded_and_has_the_latest_ones() {
        const PEERS: u64 = 100_000;
        let mut acquainted = Acquainted::default();
        for peer in 0..PEERS {
            assert!(!acquainted.knows(peer));
            acquainted.remember(peer);
        }
        assert!(acquainted.younger.len() + acquainted.older.len() <= 2 * GENERATION);
        assert!(acquainted.younger.capacity() <= 2 * GENERATION);
        assert!((PEERS - GENERATION as u64..PEERS).all(|peer| acquainted.knows(peer)));
    }
}
