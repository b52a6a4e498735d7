//! The server in a few numbers: what a person wants to see at a glance. Everything else is in `/metrics`.

use std::time::Duration;

use serde::Serialize;

use crate::metrics::Totals;
use crate::relay::{Shared, Traffic};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Numbers {
    uptime_seconds: u64,
    workers: usize,
    /// Allocations that stand or are being opened, and ports reserved for one.
    allocations: u32,
    /// Ports that allocations, reservations and attempts to bind hold.
    ports: u32,
    connections: i64,
    /// Since the start, of allocations that stand and of those that ended.
    to_peer_bytes: u64,
    to_peer_packets: u64,
    to_client_bytes: u64,
    to_client_packets: u64,
}

impl Numbers {
    pub(super) fn of(uptime: Duration, totals: &Totals, shared: &Shared) -> Self {
        let Traffic { to_peer_bytes, to_peer_packets, to_client_bytes, to_client_packets } = totals.traffic();
        Self {
            uptime_seconds: uptime.as_secs(),
            workers: totals.workers(),
            allocations: shared.allocations(),
            ports: shared.claimed_ports(),
            connections: totals.connections(),
            to_peer_bytes,
            to_peer_packets,
            to_client_bytes,
            to_client_packets,
        }
    }
}
