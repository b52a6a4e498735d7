//! A bound on answers to those who proved nothing: a spoofed source gets reflected at most so much, whoever it is.
//!
//! Fixed tables: prefixes that share a bucket share the allowance, and no flood of prefixes costs memory. A flood from
//! random sources fills no bucket either: it spreads over all of them, and with the default rate it would take thirteen
//! million requests a second at one worker before strangers feel it. TCP has an allowance of its own, since whoever spoofs
//! UDP sources must not silence it: there it bounds work, the handshake having proved the address.
//!
//! Where a prefix's allowance is used up, a forger must not lock its real clients out. What tells them apart without state
//! for each is that a client asks again: the same transaction from the same address, after its retransmission timeout (RFC
//! 8489 section 6.2.1). Requests that were refused are remembered for a while in a table of fixed size, and one that comes
//! again is answered from a second, smaller allowance. A forger may repeat itself too, and then gets just that much more.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::pace::{Bucket, Pace};
use super::rates::nanoseconds;
use crate::address::{FiveTuple, packed};
use crate::frame::TransactionId;

/// 512 KiB per worker for the allowances, and as much for the second ones and for what was refused.
const ENTRIES: usize = 1 << 16;
/// As much as two seconds' allowance may be used at once: a page that opens many connections does.
const BURST_SECONDS: u64 = 2;
/// Those who ask again get a quarter more.
const SECOND_SHARE: u64 = 4;
/// Clients wait for 250 ms (browsers) or 500 ms (RFC 8489 section 6.2.1) before they ask again, and give up before 40 s.
const AGAIN: std::ops::Range<u64> = 100..40_000;

#[derive(Debug)]
pub(super) struct Limiter {
    epoch: Instant,
    /// `None`: no limit.
    pace: Option<Pace>,
    second_pace: Option<Pace>,
    buckets: Box<[Bucket]>,
    second_buckets: Box<[Bucket]>,
    refused: Box<[Refused]>,
    hasher: RandomState,
}

/// A request that was refused: a part of its hash, and when, in milliseconds since the epoch (which may wrap).
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    tag: u32,
    at: u32,
}

impl Limiter {
    /// `per_second` 0 means no limit.
    pub(super) fn new(epoch: Instant, per_second: u32) -> Self {
        let (pace, second_pace) = paces(per_second);
        Self {
            epoch,
            pace,
            second_pace,
            buckets: vec![Bucket::default(); ENTRIES].into_boxed_slice(),
            second_buckets: vec![Bucket::default(); ENTRIES].into_boxed_slice(),
            refused: vec![Refused::default(); ENTRIES].into_boxed_slice(),
            hasher: RandomState::default(),
        }
    }

    /// Changes the rate; what was used of an allowance stays used.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        (self.pace, self.second_pace) = paces(per_second);
    }

    /// Whether one more answer may go to this client now.
    #[must_use]
    pub(super) fn allows(&mut self, now: Instant, client: &FiveTuple, transaction: TransactionId) -> bool {
        let now = nanoseconds(self.epoch, now);
        let prefix = self.hasher.hash_one((prefix(client.client.0.ip()), client.transport));
        if take(&mut self.buckets, prefix, self.pace, now) {
            return true;
        }
        let request = self.hasher.hash_one((client.key(), transaction));
        self.asks_again(request, now) && take(&mut self.second_buckets, prefix, self.second_pace, now)
    }

    /// Whether the request was refused before, a retransmission timeout ago. Remembers it otherwise.
    fn asks_again(&mut self, request: u64, now: u64) -> bool {
        let Some(entry) = self.refused.get_mut(index(request)) else { return false };
        // The index is made of the low bits, the tag of the high ones. Both casts cut on purpose.
        #[expect(clippy::cast_possible_truncation, reason = "a part of a hash, and a clock that may wrap")]
        let (tag, millis) = ((request >> 32) as u32, (now / 1_000_000) as u32);
        let age = u64::from(millis.wrapping_sub(entry.at));
        if entry.tag == tag && age < AGAIN.end {
            return AGAIN.contains(&age);
        }
        *entry = Refused { tag, at: millis };
        false
    }
}

fn take(buckets: &mut [Bucket], hash: u64, pace: Option<Pace>, now: u64) -> bool {
    let Some(bucket) = buckets.get_mut(index(hash)) else { return false };
    let Some(less) = bucket.less(pace, now, 1) else { return false };
    *bucket = less;
    true
}

fn index(hash: u64) -> usize {
    usize::try_from(hash % ENTRIES as u64).unwrap_or(0)
}

/// The allowance, and the second one.
fn paces(per_second: u32) -> (Option<Pace>, Option<Pace>) {
    let burst = |units: u64| Pace::new(units * BURST_SECONDS, Duration::from_secs(BURST_SECONDS), 1);
    let per_second = u64::from(per_second);
    (burst(per_second), burst(per_second.div_ceil(SECOND_SHARE)))
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

    /// How many of so many different requests are answered.
    fn allowed(limiter: &mut Limiter, now: Instant, client: &FiveTuple, tries: u64) -> usize {
        let at = nanoseconds(epoch(), now);
        (0..tries).filter(|n| limiter.allows(now, client, transaction(at + n))).count()
    }

    fn transaction(n: u64) -> TransactionId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&n.to_be_bytes());
        TransactionId(id)
    }

    /// When a client by the RFC sends its request, in milliseconds (RFC 8489 section 6.2.1).
    const SENT: [u64; 7] = [0, 500, 1500, 3500, 7500, 15_500, 31_500];

    /// Which buckets collide is drawn anew in each process, so one client proves nothing: of a hundred, one after the other, nearly all
    /// are answered within four attempts.
    #[test]
    fn real_clients_are_answered_while_their_own_prefix_is_flooded_by_a_forger() {
        const CLIENTS: usize = 100;
        const LAST: u64 = 10_000 + 200 * 100 + SENT[3];
        let mut limiter = Limiter::new(epoch(), 200);
        let (mut forged, mut answered) = (0_u64, 0);
        let mut served = [false; CLIENTS];
        // Ten seconds before anybody real comes: 20,000 requests a second.
        for millis in 0..LAST {
            let now = epoch() + Duration::from_millis(millis);
            for _ in 0..20 {
                forged += 1;
                let from = udp(&format!("192.0.2.{}:{}", forged % 256, 1024 + forged % 50_000));
                answered += u64::from(limiter.allows(now, &from, transaction(forged)));
            }
            for (n, served) in (0..).zip(&mut served).filter(|(_, served)| !**served) {
                let since = millis.checked_sub(10_000 + 200 * n);
                if since.is_some_and(|since| SENT[..4].contains(&since)) {
                    let real = udp(&format!("192.0.2.77:{}", 5000 + n));
                    *served = limiter.allows(now, &real, transaction(u64::MAX - n));
                }
            }
        }
        let served = served.iter().filter(|served| **served).count();
        assert!(served >= 85, "{served} of {CLIENTS} were answered in four attempts");
        let seconds = LAST.div_ceil(1000);
        assert!(answered <= 200 * (2 + seconds), "{answered} forged requests were answered");
    }

    #[test]
    fn a_forger_that_repeats_itself_gets_a_quarter_more_and_no_more() {
        let mut limiter = Limiter::new(epoch(), 200);
        let mut answered = 0;
        for second in 0..20 {
            for n in 0..1000 {
                let now = epoch() + Duration::from_secs(second);
                answered += usize::from(limiter.allows(now, &udp("192.0.2.7:5000"), transaction(n)));
            }
        }
        assert!((5000..=(20 + 2) * 250).contains(&answered), "{answered}");
    }

    #[test]
    fn a_flood_from_random_sources_leaves_others_their_allowance() {
        use std::net::Ipv4Addr;
        let mut limiter = Limiter::new(epoch(), 20);
        let source = |n: u32| {
            let ip = Ipv4Addr::from(n.wrapping_mul(2_654_435_761));
            udp(&format!("{ip}:{}", 1024 + n % 50_000))
        };
        let mut refused = 0;
        // 500,000 requests a second, and a client of a prefix of its own every millisecond.
        for millis in 0..2000 {
            let now = epoch() + Duration::from_millis(millis);
            for n in 0..500 {
                let n = u32::try_from(millis * 500 + n).unwrap();
                let _ = limiter.allows(now, &source(n), transaction(u64::from(n)));
            }
            let client = udp(&format!("[2001:db8:{millis:x}::1]:5000"));
            refused += u32::from(!limiter.allows(now, &client, transaction(millis)));
        }
        assert!(refused < 20, "{refused} of 2000 were refused");
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
