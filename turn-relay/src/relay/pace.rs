//! How much may flow in how much time: token buckets that are one number each.
//!
//! A bucket is the time at which it would be full again (GCRA), in nanoseconds since the server's epoch; nothing has to
//! run to refill it. What it costs to take something is one division.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::routes::ScaledPace;

/// So many units per so much time, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    units: u64,
    /// Nanoseconds in which `units` come back.
    period: u64,
    /// Nanoseconds that a full bucket is ahead of its limit.
    depth: u64,
}

impl Pace {
    /// `units` in `period`, and as many at once, at least `least_burst`. 0 units: no limit, so no pace.
    pub(super) fn new(units: u64, period: Duration, least_burst: u64) -> Option<Self> {
        if units == 0 {
            return None;
        }
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let mut pace = Self { units, period, depth: period };
        pace.depth = pace.cost(units.max(least_burst));
        Some(pace)
    }

    fn cost(self, units: u64) -> u64 {
        match units.checked_mul(self.period) {
            Some(product) => product / self.units,
            None => u64::try_from(u128::from(units) * u128::from(self.period) / u128::from(self.units))
                .unwrap_or(u64::MAX),
        }
    }

    /// For buckets that are kept elsewhere.
    pub(super) fn scaled(self) -> ScaledPace {
        let cost = (u128::from(self.period) << 16) / u128::from(self.units);
        ScaledPace { scaled_cost: u64::try_from(cost).unwrap_or(u64::MAX), depth: self.depth }
    }

    /// Where a bucket stands after `units` were taken at `now`; `None`: it has not got them.
    fn after(self, full_at: u64, now: u64, units: u64) -> Option<u64> {
        let next = full_at.max(now).saturating_add(self.cost(units));
        (next - now <= self.depth).then_some(next)
    }
}

/// Where a bucket stands after units were taken that it may not have, and for how many nanoseconds it owes them.
struct Charged {
    full_at: u64,
    owes_for: u64,
}

impl Pace {
    fn charge(self, full_at: u64, now: u64, units: u64) -> Charged {
        let full_at = full_at.max(now).saturating_add(self.cost(units));
        Charged { full_at, owes_for: (full_at - now).saturating_sub(self.depth) }
    }
}

/// A bucket of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(u64);

impl Bucket {
    /// The bucket as it would be after `units` were taken; `None`: it has not got them. Without a pace there is no limit.
    #[must_use]
    pub(super) fn less(self, pace: Option<Pace>, now: u64, units: u64) -> Option<Self> {
        match pace {
            Some(pace) => pace.after(self.0, now, units).map(Self),
            None => Some(self),
        }
    }

    /// When it is full again.
    pub(super) fn full_at(self) -> u64 {
        self.0
    }

    /// Takes `units` that are gone already, and tells for how many nanoseconds nothing more may be.
    #[must_use]
    pub(super) fn charge(&mut self, pace: Option<Pace>, now: u64, units: u64) -> u64 {
        let Some(pace) = pace else { return 0 };
        let charged = pace.charge(self.0, now, units);
        self.0 = charged.full_at;
        charged.owes_for
    }
}

/// A bucket of all workers. Taking from it is one compare-and-swap.
#[derive(Debug, Default)]
pub(super) struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes `units`, all or none.
    #[must_use]
    pub(super) fn take(&self, pace: Option<Pace>, now: u64, units: u64) -> bool {
        let Some(pace) = pace else { return true };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| pace.after(full_at, now, units))
            .is_ok()
    }

    /// As [`Bucket::charge`].
    #[must_use]
    pub(super) fn charge(&self, pace: Option<Pace>, now: u64, units: u64) -> u64 {
        let Some(pace) = pace else { return 0 };
        let next = |full_at| Some(pace.charge(full_at, now, units).full_at);
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        pace.charge(before.unwrap_or_else(|same| same), now, units).owes_for
    }

    /// When it is full again.
    pub(super) fn full_at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self, now: u64) -> bool {
        self.full_at() <= now
    }
}

/// What one worker took from a [`SharedBucket`] and has not used yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease(u64);

impl Lease {
    /// Makes sure that `units` are there, taking as much as `pace` gives in [`LEASE`] if need be, or just what is missing.
    #[must_use]
    pub(super) fn holds(&mut self, of: &SharedBucket, pace: Option<Pace>, now: u64, units: u64) -> bool {
        let Some(known) = pace else { return true };
        if self.0 >= units {
            return true;
        }
        let missing = units - self.0;
        let chunk = missing.max(known.units / (known.period / LEASE).max(1));
        let taken = [chunk, missing].into_iter().find(|units| of.take(pace, now, *units));
        self.0 += taken.unwrap_or(0);
        taken.is_some()
    }

    /// Uses what [`Lease::holds`] made sure of.
    pub(super) fn spend(&mut self, pace: Option<Pace>, units: u64) {
        if pace.is_some() {
            self.0 = self.0.saturating_sub(units);
        }
    }
}

/// A worker leases 5 ms of a user's rate at a time: 200 compare-and-swaps a second at full rate, and what a worker holds
/// unused is a hundredth of the burst at most with two of them.
const LEASE: u64 = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn per_second(units: u64) -> Option<Pace> {
        Pace::new(units, Duration::from_secs(1), 1)
    }

    /// How many single units a bucket gives at `now`.
    fn drain(bucket: &mut Bucket, pace: Option<Pace>, now: u64) -> u64 {
        let mut units = 0;
        while let Some(less) = bucket.less(pace, now, 1) {
            *bucket = less;
            units += 1;
        }
        units
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_pace() {
        let (mut bucket, pace) = (Bucket::default(), per_second(100));
        assert_eq!(drain(&mut bucket, pace, 0), 100);
        assert_eq!(drain(&mut bucket, pace, SECOND / 2), 50);
        assert_eq!(drain(&mut bucket, pace, 60 * SECOND), 100);
    }

    #[test]
    fn one_unit_of_the_largest_size_always_passes_a_full_bucket() {
        let pace = Pace::new(10, Duration::from_secs(1), 65_535);
        let bucket = Bucket::default().less(pace, 0, 65_535).expect("the burst is that large");
        assert!(bucket.less(pace, SECOND, 100).is_none());
    }

    #[test]
    fn leases_of_two_workers_together_give_no_more_than_the_bucket() {
        for rate in [3, 1000, 125_000_000] {
            let (shared, pace) = (SharedBucket::default(), per_second(rate));
            let unit = (rate / 1000).max(1);
            let mut leases = [Lease::default(); 2];
            let mut spent = 0;
            for turn in 0..5000 {
                let lease = &mut leases[turn % 2];
                if lease.holds(&shared, pace, 7, unit) {
                    lease.spend(pace, unit);
                    spent += unit;
                }
            }
            let left: u64 = leases.iter().map(|lease| lease.0).sum();
            assert!(spent <= rate && spent + left + unit > rate, "{spent} and {left} of {rate}");
        }
    }

    #[test]
    fn great_numbers_do_not_overflow() {
        let pace = Pace::new(u64::MAX, Duration::from_secs(3600), 1).expect("a limit");
        assert!(pace.after(u64::MAX, 5, u64::MAX).is_none());
        assert!(pace.after(0, 5, 65_535).is_some());
    }
}
