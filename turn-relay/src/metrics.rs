//! What the relay counts. Each worker has [`Counters`] of its own and is the only one that writes them, so counting is a
//! plain add without a lock prefix; a scrape sums them up.

mod durations;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::address::Transport;
use crate::relay::{DropReason, EndReason, RequestMethod, Traffic};
use durations::Durations;

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

/// Why a packet that the core let pass did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The kernel's buffer for the socket is full.
    BufferFull,
    /// The kernel refused it: no route, too large, an ICMP error from before.
    Refused,
    /// A TCP client does not read what it is sent.
    SlowClient,
    /// The client's connection or listener is gone.
    ClientGone,
}

impl SendFailure {
    const ALL: [Self; 4] = [Self::BufferFull, Self::Refused, Self::SlowClient, Self::ClientGone];

    fn label(self) -> &'static str {
        match self {
            Self::BufferFull => "send_buffer_full",
            Self::Refused => "send_refused",
            Self::SlowClient => "slow_client",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The address families of an allocation as it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Ipv4,
    Ipv6,
    /// A dual allocation (RFC 8656 section 7.2).
    Both,
}

impl Families {
    const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Both];

    /// Those of an allocation with these relayed addresses.
    pub(crate) fn of(relayed: (SocketAddr, Option<SocketAddr>)) -> Self {
        match relayed {
            (_, Some(_)) => Self::Both,
            (SocketAddr::V4(_), None) => Self::Ipv4,
            (SocketAddr::V6(_), None) => Self::Ipv6,
        }
    }

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Both => "both",
        }
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
    durations: Durations,
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
    pub(crate) fn carried_in_driver(&self, traffic: &Traffic) {
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
        self.durations.record(duration);
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

/// Sums the workers' counters whenever somebody scrapes.
#[derive(Clone, Debug)]
pub(crate) struct Totals(pub(crate) Vec<Arc<Counters>>);

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_traffic(&mut encoder)?;
        self.encode_requests(&mut encoder)?;
        self.encode_allocations(&mut encoder)
    }
}

impl Totals {
    pub(crate) fn workers(&self) -> usize {
        self.0.len()
    }

    /// Open TCP connections of clients.
    pub(crate) fn connections(&self) -> i64 {
        self.0.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum()
    }

    /// Everything relayed since the start.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            to_peer_bytes: self.sum(|w| &w.to_peer.bytes),
            to_peer_packets: self.sum(|w| &w.to_peer.packets),
            to_client_bytes: self.sum(|w| &w.to_client.bytes),
            to_client_packets: self.sum(|w| &w.to_client.packets),
        }
    }

    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut bytes =
            family(encoder, "relayed_bytes", "Payload bytes relayed, as they flow", MetricType::Counter)?;
        counter(&mut bytes, &[("direction", "to_peer")], self.sum(|w| &w.to_peer.bytes))?;
        counter(&mut bytes, &[("direction", "to_client")], self.sum(|w| &w.to_client.bytes))?;
        let mut packets =
            family(encoder, "relayed_packets", "Datagrams relayed, as they flow", MetricType::Counter)?;
        counter(&mut packets, &[("direction", "to_peer")], self.sum(|w| &w.to_peer.packets))?;
        counter(&mut packets, &[("direction", "to_client")], self.sum(|w| &w.to_client.packets))?;
        let help = "Datagrams of relayed_packets that the XDP program relayed";
        let mut in_driver = family(encoder, "xdp_packets", help, MetricType::Counter)?;
        for (at, direction) in ["to_peer", "to_client"].into_iter().enumerate() {
            counter(&mut in_driver, &[("direction", direction)], self.sum(|w| &w.in_driver[at]))?;
        }
        let mut drops = family(
            encoder,
            "dropped_packets",
            "Packets that went no further, by reason",
            MetricType::Counter,
        )?;
        for reason in DropReason::ALL {
            counter(&mut drops, &[("reason", reason.label())], self.sum(|w| &w.drops[reason as usize]))?;
        }
        for failure in SendFailure::ALL {
            counter(
                &mut drops,
                &[("reason", failure.label())],
                self.sum(|w| &w.send_failures[failure as usize]),
            )?;
        }
        let help = "Datagrams that the kernel dropped because a receive queue was full, by kind of socket";
        let mut overflows = family(encoder, "receive_queue_overflows", help, MetricType::Counter)?;
        counter(&mut overflows, &[("socket", "listener")], self.sum(|w| &w.overflowed_listeners))?;
        counter(&mut overflows, &[("socket", "relayed")], self.sum(|w| &w.overflowed_relayed))?;
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by method and by the error code of the answer, or success, or challenged (401 to a first request)";
        let mut requests = family(encoder, "requests", help, MetricType::Counter)?;
        for method in RequestMethod::ALL {
            for (index, (_, outcome)) in OUTCOMES.iter().enumerate() {
                let count = self.sum(|w| &w.requests[method as usize][index]);
                // Most of the table never happens; success is shown from the start so that a rate can be taken.
                if count > 0 || index == 0 {
                    counter(&mut requests, &[("method", method.label()), ("outcome", outcome)], count)?;
                }
            }
        }
        let help = "Requests whose credentials were refused, by reason";
        let mut failures = family(encoder, "auth_failures", help, MetricType::Counter)?;
        let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
        for worker in &self.0 {
            for (reason, count) in worker.auth_failures.lock().unwrap_or_else(PoisonError::into_inner).iter()
            {
                *reasons.entry(reason).or_default() += count;
            }
        }
        for (reason, count) in reasons {
            counter(&mut failures, &[("reason", reason)], count)?;
        }
        Ok(())
    }

    fn encode_allocations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut standing = family(
            encoder,
            "allocations",
            "Allocations that stand, by client transport and relayed family",
            MetricType::Gauge,
        )?;
        for transport in Transport::ALL {
            for families in Families::ALL {
                let of = |worker: &Arc<Counters>| {
                    worker.standing[transport as usize][families as usize].load(Ordering::Relaxed)
                };
                let labels = [("transport", transport.label()), ("family", families.label())];
                gauge(&mut standing, &labels, self.0.iter().map(of).sum())?;
            }
        }
        let help = "Allocations that began, by client transport and relayed family";
        let mut started = family(encoder, "allocations_started", help, MetricType::Counter)?;
        for transport in Transport::ALL {
            for families in Families::ALL {
                let count = self.sum(|w| &w.started[transport as usize][families as usize]);
                counter(
                    &mut started,
                    &[("transport", transport.label()), ("family", families.label())],
                    count,
                )?;
            }
        }
        let mut ended = family(
            encoder,
            "allocations_ended",
            "Allocations that are over, by reason",
            MetricType::Counter,
        )?;
        for reason in EndReason::ALL {
            counter(&mut ended, &[("reason", reason.label())], self.sum(|w| &w.ended[reason as usize]))?;
        }
        let help = "How long allocations stood, counted at their end";
        let (seconds, count, buckets) = Durations::sum(self.0.iter().map(|worker| &worker.durations));
        family(encoder, "allocation_duration_seconds", help, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        self.encode_connections(encoder)
    }

    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        ConstGauge::new(self.connections()).encode(family(
            encoder,
            "tcp_connections",
            "Open TCP connections of clients, with and without TLS",
            MetricType::Gauge,
        )?)?;
        let help = "Reserved sockets handed to the worker that the second client reached";
        ConstCounter::new(self.sum(|w| &w.handed_over)).encode(family(
            encoder,
            "handed_over_sockets",
            help,
            MetricType::Counter,
        )?)?;
        let open = self.0.iter().map(|worker| worker.sessions.load(Ordering::Relaxed)).sum::<i64>();
        ConstGauge::new(open).encode(family(
            encoder,
            "dtls_sessions",
            "DTLS sessions of clients, handshakes under way included",
            MetricType::Gauge,
        )?)?;
        let help = "TLS connections and DTLS sessions that ended before their handshake was complete";
        ConstCounter::new(self.sum(|w| &w.handshakes_failed)).encode(family(
            encoder,
            "tls_handshakes_failed",
            help,
            MetricType::Counter,
        )?)?;
        let help =
            "TCP connections and DTLS sessions that were refused: too many of one client address, or of all";
        ConstCounter::new(self.sum(|w| &w.connections_unintroduced)).encode(family(
            encoder,
            "tcp_connections_unintroduced",
            "TCP connections from addresses in proxy_protocol_from that did not begin with a PROXY header",
            MetricType::Counter,
        )?)?;
        ConstCounter::new(self.sum(|w| &w.connections_refused)).encode(family(
            encoder,
            "tcp_connections_refused",
            help,
            MetricType::Counter,
        )?)
    }

    fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.0.iter().map(|worker| count(worker).get()).sum()
    }
}

/// What the answer to a request was: success first, everything unforeseen last.
const OUTCOMES: [(Option<u16>, &str); 19] = [
    (None, "success"),
    (Some(0), "challenged"),
    (Some(300), "300"),
    (Some(400), "400"),
    (Some(401), "401"),
    (Some(403), "403"),
    (Some(405), "405"),
    (Some(420), "420"),
    (Some(437), "437"),
    (Some(438), "438"),
    (Some(440), "440"),
    (Some(441), "441"),
    (Some(442), "442"),
    (Some(443), "443"),
    (Some(486), "486"),
    (Some(487), "487"),
    (Some(500), "500"),
    (Some(508), "508"),
    (Some(u16::MAX), "other"),
];

/// The pseudo-code under which a first request without credentials is counted, apart from wrong credentials.
pub(crate) const CHALLENGED: u16 = 0;

fn family<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn counter<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: u64,
) -> fmt::Result {
    ConstCounter::new(value).encode(family.encode_family(labels)?)
}

fn gauge<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: i64,
) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(labels)?)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_scrape_sums_what_the_workers_counted() {
        let workers = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        for worker in &workers {
            worker.to_peer.add(100);
            worker.to_client.add(7);
            worker.dropped(DropReason::NoPermission);
            let traffic =
                Traffic { to_peer_bytes: 30, to_peer_packets: 3, to_client_bytes: 40, to_client_packets: 4 };
            worker.carried_in_driver(&traffic);
            worker.dropped_in_driver(DropReason::UserRate, 5);
            worker.not_sent(SendFailure::SlowClient);
            worker.request(RequestMethod::Allocate, Some(401));
            worker.request(RequestMethod::Allocate, Some(CHALLENGED));
            worker.request(RequestMethod::Allocate, Some(499));
            worker.request(RequestMethod::Binding, None);
            worker.auth_failure("expired");
            worker.allocation_started(Transport::Udp, Families::Ipv4);
            worker.allocation_started(Transport::Tcp, Families::Ipv6);
            worker.allocation_ended(
                Transport::Tcp,
                Families::Ipv6,
                EndReason::Released,
                Duration::from_secs(61),
            );
            worker.connections(1);
            worker.sessions(1);
            worker.connections_refused.add(1);
            worker.connections_unintroduced.add(1);
            worker.handed_over.add(1);
        }
        let text = scrape(workers.to_vec());
        for line in [
            "relayed_bytes_total{direction=\"to_peer\"} 260",
            "relayed_bytes_total{direction=\"to_client\"} 94",
            "relayed_packets_total{direction=\"to_peer\"} 8",
            "xdp_packets_total{direction=\"to_peer\"} 6",
            "xdp_packets_total{direction=\"to_client\"} 8",
            "dropped_packets_total{reason=\"user_rate\"} 10",
            "dropped_packets_total{reason=\"no_permission\"} 2",
            "dropped_packets_total{reason=\"slow_client\"} 2",
            "requests_total{method=\"allocate\",outcome=\"401\"} 2",
            "requests_total{method=\"allocate\",outcome=\"challenged\"} 2",
            "requests_total{method=\"allocate\",outcome=\"other\"} 2",
            "requests_total{method=\"binding\",outcome=\"success\"} 2",
            "auth_failures_total{reason=\"expired\"} 2",
            "allocations{transport=\"udp\",family=\"ipv4\"} 2",
            "allocations{transport=\"tcp\",family=\"ipv6\"} 0",
            "allocations_started_total{transport=\"udp\",family=\"ipv4\"} 2",
            "allocations_started_total{transport=\"tcp\",family=\"ipv6\"} 2",
            "allocation_duration_seconds_sum 122.0",
            "allocation_duration_seconds_count 2",
            "allocation_duration_seconds_bucket{le=\"60.0\"} 0",
            "allocation_duration_seconds_bucket{le=\"300.0\"} 2",
            "allocation_duration_seconds_bucket{le=\"+Inf\"} 2",
            "allocations_ended_total{reason=\"released\"} 2",
            "tcp_connections 2",
            "dtls_sessions 2",
            "handed_over_sockets_total 2",
            "tcp_connections_refused_total 2",
            "tcp_connections_unintroduced_total 2",
        ] {
            assert!(
                text.lines().any(|found| found == format!("turn_relay_{line}")),
                "{line} is not in\n{text}"
            );
        }
    }

    fn scrape(workers: Vec<Arc<Counters>>) -> String {
        let mut registry = Registry::with_prefix("turn_relay");
        registry.register_collector(Box::new(Totals(workers)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        text
    }
}
