//! A bound on answers to those who proved nothing: a spoofed source gets reflected at most so much, whoever it is.
//!
//! One number per bucket and a fixed number of buckets: prefixes that share a bucket share the allowance, and no flood of
//! prefixes costs memory. TCP has an allowance of its own, since whoever spoofs UDP sources must not silence it: there it bounds
//! work, the handshake having proved the address.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::address::{FiveTuple, packed};

/// 64 KiB per worker.
const BUCKETS: usize = 8192;
/// As much as two seconds' allowance may be used at once: a page that opens many connections does.
const BURST: Duration = Duration::from_secs(2);

/// Token buckets in the form of one time each: when the bucket would be full again (GCRA).
#[derive(Debug)]
pub(super) struct Limiter {
    epoch: Instant,
    /// Nanoseconds that one answer costs; 0: no limit.
    cost: u64,
    full_at: Box<[u64]>,
    hasher: RandomState,
}

impl Limiter {
    /// `per_second` 0 means no limit.
    pub(super) fn new(epoch: Instant, per_second: u32) -> Self {
        let cost = 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0);
        Self { epoch, cost, full_at: vec![0; BUCKETS].into_boxed_slice(), hasher: RandomState::default() }
    }

    /// Whether one more answer may go to this client now.
    #[must_use]
    pub(super) fn allows(&mut self, now: Instant, client: &FiveTuple) -> bool {
        if self.cost == 0 {
            return true;
        }
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX);
        let hash = self.hasher.hash_one((prefix(client.client.0.ip()), client.transport));
        let index = usize::try_from(hash % BUCKETS as u64).unwrap_or(0);
        let Some(full_at) = self.full_at.get_mut(index) else { return false };
        let next = (*full_at).max(now).saturating_add(self.cost);
        if next - now > burst.max(self.cost) {
            return false;
        }
        *full_at = next;
        true
    }
}

/// The /24 of an IPv4 address, the /56 of an IPv6 address: what one attacker or one victim typically has.
fn prefix(ip: IpAddr) -> u128 {
    let host_bits = if ip.is_ipv4() { 8 } else { 72 };
    packed(ip) >> host_bits << host_bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::testing::{epoch, tcp, udp};

    fn allowed(limiter: &mut Limiter, now: Instant, client: &FiveTuple, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.allows(now, client)).count()
    }

    #[test]
    fn a_prefix_gets_its_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(epoch(), 10);
        let client = udp("192.0.2.7:5000");
        assert_eq!(allowed(&mut limiter, epoch(), &client, 100), 20);
        assert_eq!(allowed(&mut limiter, epoch() + Duration::from_secs(1), &client, 100), 10);
        assert_eq!(allowed(&mut limiter, epoch() + Duration::from_secs(60), &client, 100), 20);
    }

    #[test]
    fn neighbours_share_an_allowance_and_strangers_do_not() {
        let mut limiter = Limiter::new(epoch(), 10);
        assert_eq!(allowed(&mut limiter, epoch(), &udp("192.0.2.7:5000"), 100), 20);
        assert_eq!(allowed(&mut limiter, epoch(), &udp("192.0.2.8:5000"), 100), 0);
        assert_eq!(allowed(&mut limiter, epoch(), &udp("[2001:db8:0:ff01::1]:5000"), 100), 20);
        assert_eq!(allowed(&mut limiter, epoch(), &udp("[2001:db8:0:ff99::1]:5000"), 100), 0);
    }

    #[test]
    fn tcp_clients_have_an_allowance_of_their_own() {
        let mut limiter = Limiter::new(epoch(), 10);
        assert_eq!(allowed(&mut limiter, epoch(), &udp("192.0.2.7:5000"), 100), 20);
        assert_eq!(allowed(&mut limiter, epoch(), &tcp("192.0.2.7:5000"), 100), 20);
    }

    #[test]
    fn limit_of_zero_is_none() {
        let mut unlimited = Limiter::new(epoch(), 0);
        assert_eq!(allowed(&mut unlimited, epoch(), &udp("192.0.2.7:5000"), 100), 100);
    }
}
