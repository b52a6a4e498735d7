//! Usage events: what an allocation carried, told at its start, now and then, and at its end.
//!
//! Invariant: a worker never waits. An event that finds the queue full is counted and lost; interim events are left out
//! first, so that starts and ends have the second half of the queue to themselves.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use crate::relay::{AllocationId, Traffic};

/// One line of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UsageEvent {
    pub(crate) event: UsageKind,
    #[serde(serialize_with = "written")]
    pub(crate) id: AllocationId,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) user: Box<str>,
    pub(crate) transport: &'static str,
    pub(crate) family: &'static str,
    /// How long the allocation has stood.
    pub(crate) seconds: u64,
    pub(crate) to_peer_bytes: u64,
    pub(crate) to_peer_packets: u64,
    pub(crate) to_client_bytes: u64,
    pub(crate) to_client_packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(flatten)]
    pub(crate) addresses: Option<Addresses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UsageKind {
    Start,
    Interim,
    End,
}

/// Only where `log_addresses` asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) relayed: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relayed_additional: Option<SocketAddr>,
}

fn written<S: Serializer>(id: &AllocationId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl UsageEvent {
    pub(crate) fn with_traffic(self, traffic: Traffic) -> Self {
        let Traffic { to_peer_bytes, to_peer_packets, to_client_bytes, to_client_packets } = traffic;
        Self { to_peer_bytes, to_peer_packets, to_client_bytes, to_client_packets, ..self }
    }
}

/// The wall clock as events write it.
pub(crate) fn milliseconds(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The workers' end.
#[derive(Clone, Debug)]
pub(crate) struct UsageQueue {
    events: mpsc::Sender<UsageEvent>,
    dropped: Counter,
}

/// What became of events. Three label values, however many users.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageCounts {
    pub(crate) delivered: Counter,
    /// The hook said that it will never take them.
    pub(crate) rejected: Counter,
    /// The queue was full.
    pub(crate) dropped: Counter,
}

impl UsageCounts {
    pub(crate) fn registered(registry: &mut Registry) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        registry.register("usage_events", "Usage events by what became of them", family.clone());
        let of = |outcome| family.get_or_create_owned(&[("outcome", outcome)]);
        Self { delivered: of("delivered"), rejected: of("rejected"), dropped: of("dropped") }
    }
}

/// A queue for [`CAPACITY`] events.
pub(crate) fn open(counts: &UsageCounts) -> (UsageQueue, mpsc::Receiver<UsageEvent>) {
    let (events, receiver) = mpsc::channel(CAPACITY);
    (UsageQueue { events, dropped: counts.dropped.clone() }, receiver)
}

impl UsageQueue {
    /// Puts an event into the queue, or counts it as lost.
    pub(crate) fn put(&self, event: UsageEvent) {
        let crowded = event.event == UsageKind::Interim && self.events.capacity() < CAPACITY / 2;
        if crowded || self.events.try_send(event).is_err() {
            self.dropped.inc();
        }
    }
}

/// Some 3 MB; two minutes of a server where 100 allocations begin and end per second.
pub(crate) const CAPACITY: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: UsageKind) -> UsageEvent {
        UsageEvent {
            event,
            id: AllocationId(1),
            time: 1_700_000_000_123,
            user: "alice".into(),
            transport: "udp",
            family: "ipv4",
            seconds: 0,
            to_peer_bytes: 0,
            to_peer_packets: 0,
            to_client_bytes: 0,
            to_client_packets: 0,
            reason: None,
            addresses: None,
        }
    }

    #[test]
    fn full_queue_loses_and_counts_events_and_interim_ones_first() {
        let counts = UsageCounts::default();
        let (queue, mut events) = open(&counts);
        for _ in 0..CAPACITY / 2 + 1 {
            queue.put(event(UsageKind::Interim));
        }
        assert_eq!(counts.dropped.get(), 0);
        queue.put(event(UsageKind::Interim));
        assert_eq!(counts.dropped.get(), 1, "an interim event leaves room");
        for _ in 0..CAPACITY / 2 - 1 {
            queue.put(event(UsageKind::End));
        }
        assert_eq!(counts.dropped.get(), 1);
        queue.put(event(UsageKind::End));
        assert_eq!(counts.dropped.get(), 2);
        events.try_recv().expect("one is taken");
        queue.put(event(UsageKind::Start));
        assert_eq!(counts.dropped.get(), 2);
    }
}
