//! Usage events: what an allocation carried, told at its start, now and then, and at its end.
//!
//! Invariant: a worker never waits. An event that finds the queue full is counted and lost; interim events are left out
//! first, so that starts and ends have the second half of the queue to themselves.

use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use crate::operation::hook::Events;
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

/// The workers' end.
#[derive(Clone, Debug)]
pub(crate) struct UsageQueue(pub(super) Events<UsageEvent>);

impl UsageQueue {
    /// Puts an event into the queue, or counts it as lost.
    pub(crate) fn put(&self, event: UsageEvent) {
        if event.event == UsageKind::Interim {
            self.0.put_if_roomy(event);
        } else {
            self.0.put(event);
        }
    }
}

/// Some 3 MB; two minutes of a server where 100 allocations begin and end per second.
pub(crate) const CAPACITY: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_keys_that_the_document_shows() {
        let event = UsageEvent {
            event: UsageKind::End,
            id: AllocationId(1),
            time: 1_700_000_000_123,
            user: "alice".into(),
            transport: "udp",
            family: "ipv4",
            seconds: 60,
            to_peer_bytes: 1,
            to_peer_packets: 2,
            to_client_bytes: 3,
            to_client_packets: 4,
            reason: Some("released"),
            addresses: None,
        };
        let written = serde_json::to_value(&event).expect("JSON");
        let keys: Vec<&str> = written.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(
            keys.join(" "),
            "event family id reason seconds time to_client_bytes to_client_packets to_peer_bytes to_peer_packets \
             transport user"
        );
        assert_eq!((&written["event"], &written["id"]), (&"end".into(), &"0000000000000001".into()));
    }
}
