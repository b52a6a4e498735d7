//! How long allocations stood, in buckets.

use std::time::Duration;

use super::Count;

/// Upper bounds of the buckets in seconds. Below a minute: tests and connections that found a better way than the relay;
/// 600: allocated and never refreshed (RFC 8656 section 3.2); above: calls, up to those that stay open all day.
const BOUNDS: [u32; 11] = [1, 10, 60, 300, 660, 1800, 3600, 7200, 14_400, 43_200, 86_400];

/// A histogram with one writer.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// Per bucket, not cumulative; the last is for everything above.
    buckets: [Count; BOUNDS.len() + 1],
    seconds: Count,
}

impl Durations {
    pub(crate) fn record(&self, duration: Duration) {
        let bucket = BOUNDS.iter().position(|bound| duration <= Duration::from_secs((*bound).into()));
        if let Some(count) = self.buckets.get(bucket.unwrap_or(BOUNDS.len())) {
            count.add(1);
        }
        // Whole seconds: an hour's allocation is not told apart from one of an hour and a bit.
        self.seconds.add(usize::try_from(duration.as_secs()).unwrap_or(usize::MAX));
    }

    /// The sum of seconds, how many, and the buckets of all together as the exposition wants them.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.iter().map(|bound| f64::from(*bound)).chain([f64::INFINITY]);
        let count = |bucket: usize| all.clone().map(|one| one.buckets[bucket].get()).sum::<u64>();
        let buckets: Vec<(f64, u64)> =
            bounds.enumerate().map(|(index, bound)| (bound, count(index))).collect();
        let total = buckets.iter().map(|(_, count)| count).sum();
        let seconds = all.clone().map(|one| one.seconds.get()).sum::<u64>();
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 seconds")]
        (seconds as f64, total, buckets)
    }
}
