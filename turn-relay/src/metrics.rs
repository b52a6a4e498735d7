//! What the relay counts. Each worker has [`Counters`] of its own and is the only one that writes them, so counting is a
//! plain add without a lock prefix; a scrape sums them up.

mod durations;
mod labels;
mod totals;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::address::Transport;
use crate::relay::{DropReason, EndReason, RequestMethod};
use durations::Durations;
use labels::OUTCOMES;
pub(crate) use labels::{CHALLENGED, Families, SendFailure};
pub(crate) use totals::Totals;

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: usize) {
        self.add_all(amount as u64);
    }

    fn add_all(&self, amount: u64) {
        // One writer: load and store need not be one atomic step, which keeps them cheap.
        let next = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(next, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes and packets of one direction; payload only, headers are not counted.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    bytes: Count,
    packets: Count,
}

impl Flow {
    /// Of a stream, which has no packets.
    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.bytes.add(bytes);
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.add(bytes);
        self.packets.add(1);
    }

    #[cfg(any(feature = "xdp", test))]
    fn add_all(&self, bytes: u64, packets: u64) {
        self.bytes.add_all(bytes);
        self.packets.add_all(packets);
    }
}

/// What one worker counts. Never shared for writing.
#[derive(Debug, Default)]
#[repr(align(128))] // two cache lines: neighbours in memory belong to other workers
pub(crate) struct Counters {
    pub(crate) to_peer: Flow,
    pub(crate) to_client: Flow,
    /// The part of the above that the XDP program relayed, in packets.
    in_driver: [Count; 2],
    drops: [Count; DropReason::ALL.len()],
    send_failures: [Count; SendFailure::ALL.len()],
    requests: [[Count; OUTCOMES.len()]; RequestMethod::ALL.len()],
    started: [[Count; Families::ALL.len()]; Transport::ALL.len()],
    ended: [Count; EndReason::ALL.len()],
    standing: [[AtomicI64; Families::ALL.len()]; Transport::ALL.len()],
    pub(crate) durations: Durations,
    connections: AtomicI64,
    sessions: AtomicI64,
    pub(crate) connections_refused: Count,
    /// Connections from a proxy that did not begin with a PROXY header.
    pub(crate) connections_unintroduced: Count,
    /// TLS connections and DTLS sessions that ended before their handshake did.
    pub(crate) handshakes_failed: Count,
    /// Datagrams that the kernel dropped because a listener's receive queue was full.
    pub(crate) overflowed_listeners: Count,
    /// The same of relayed sockets.
    pub(crate) overflowed_relayed: Count,
    /// Counted where they are given away.
    pub(crate) handed_over: Count,
    /// Off the data path; its keys are literals of the core, so it is bounded.
    auth_failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub(crate) fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// What the XDP program relayed.
    #[cfg(any(feature = "xdp", test))]
    pub(crate) fn carried_in_driver(&self, traffic: &crate::relay::Traffic) {
        self.to_peer.add_all(traffic.to_peer_bytes, traffic.to_peer_packets);
        self.to_client.add_all(traffic.to_client_bytes, traffic.to_client_packets);
        let [to_peer, to_client] = &self.in_driver;
        to_peer.add_all(traffic.to_peer_packets);
        to_client.add_all(traffic.to_client_packets);
    }

    /// What it dropped.
    #[cfg(any(feature = "xdp", test))]
    pub(crate) fn dropped_in_driver(&self, reason: DropReason, packets: u64) {
        self.drops[reason as usize].add_all(packets);
    }

    pub(crate) fn not_sent(&self, failure: SendFailure) {
        self.send_failures[failure as usize].add(1);
    }

    #[cfg(test)]
    pub(crate) fn failures(&self, failure: SendFailure) -> u64 {
        self.send_failures[failure as usize].get()
    }

    /// `code` is the error code of the answer, `None` for success.
    pub(crate) fn request(&self, method: RequestMethod, code: Option<u16>) {
        let outcome = OUTCOMES.iter().position(|(known, _)| *known == code).unwrap_or(OUTCOMES.len() - 1);
        self.requests[method as usize][outcome].add(1);
    }

    pub(crate) fn auth_failure(&self, reason: &'static str) {
        *self.auth_failures.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    pub(crate) fn allocation_started(&self, transport: Transport, families: Families) {
        self.started[transport as usize][families as usize].add(1);
        self.standing[transport as usize][families as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn allocation_ended(
        &self,
        transport: Transport,
        families: Families,
        reason: EndReason,
        duration: Duration,
    ) {
        self.durations.stood.record(duration);
        self.ended[reason as usize].add(1);
        self.standing[transport as usize][families as usize].fetch_add(-1, Ordering::Relaxed);
    }

    /// A client came back over another five-tuple, and may be over another transport.
    pub(crate) fn allocation_moved(&self, from: Transport, to: Transport, families: Families) {
        self.standing[from as usize][families as usize].fetch_add(-1, Ordering::Relaxed);
        self.standing[to as usize][families as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self, change: i64) {
        self.connections.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn sessions(&self, change: i64) {
        self.sessions.fetch_add(change, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
