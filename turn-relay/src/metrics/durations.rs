//! How long things took, in buckets.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Count, totals::family};

/// Upper bounds of the buckets for the time that allocations stood. Below a minute: tests and connections that found a better
/// way than the relay; 660: allocated and never refreshed (RFC 8656 section 3.2 says ten minutes); above: calls, up to those
/// that stay open all day.
const STOOD: [Duration; 11] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(660),
    Duration::from_secs(1800),
    Duration::from_secs(3600),
    Duration::from_secs(7200),
    Duration::from_secs(14_400),
    Duration::from_secs(43_200),
    Duration::from_secs(86_400),
];
/// The same for answers to Allocate. Below a few milliseconds the relay alone had to do with it; the authorization hook may take
/// ten seconds.
const ANSWERED: [Duration; 11] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// The histograms of one worker.
#[derive(Debug)]
pub(crate) struct Durations {
    pub(crate) stood: Histogram<{ STOOD.len() }>,
    pub(crate) answered: Histogram<{ ANSWERED.len() }>,
}

impl Default for Durations {
    fn default() -> Self {
        Self { stood: Histogram::new(&STOOD), answered: Histogram::new(&ANSWERED) }
    }
}

impl Durations {
    /// Those of all workers together.
    pub(super) fn encode<'a>(
        all: impl Iterator<Item = &'a Self> + Clone,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let help = "How long allocations stood, counted at their end";
        let stood = all.clone().map(|one| &one.stood);
        Histogram::encode(stood, encoder, "allocation_duration_seconds", help)?;
        let help = "From the arrival of an Allocate request with good credentials to its answer, waiting for the authorization hook included";
        Histogram::encode(all.map(|one| &one.answered), encoder, "allocate_answer_seconds", help)
    }
}

/// A histogram with one writer.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static [Duration; N],
    /// Per bucket, not cumulative.
    buckets: [Count; N],
    /// Longer than the last bound.
    above: Count,
    microseconds: Count,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [Duration; N]) -> Self {
        let buckets = std::array::from_fn(|_| Count::default());
        Self { bounds, buckets, above: Count::default(), microseconds: Count::default() }
    }

    pub(crate) fn record(&self, duration: Duration) {
        let bucket = self.bounds.iter().position(|bound| duration <= *bound);
        bucket.and_then(|bucket| self.buckets.get(bucket)).unwrap_or(&self.above).add(1);
        self.microseconds.add_all(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    fn encode<'a>(
        all: impl Iterator<Item = &'a Self> + Clone,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
    ) -> fmt::Result {
        let sum = |count: fn(&Self) -> &Count| all.clone().map(|one| count(one).get()).sum::<u64>();
        let mut buckets = vec![];
        for (at, bound) in all.clone().next().into_iter().flat_map(|one| one.bounds).enumerate() {
            buckets.push((bound.as_secs_f64(), all.clone().map(|one| one.buckets[at].get()).sum::<u64>()));
        }
        buckets.push((f64::INFINITY, sum(|one| &one.above)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_micros(sum(|one| &one.microseconds)).as_secs_f64();
        family(encoder, name, help, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}
