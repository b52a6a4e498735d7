//! What a scrape reads: the sums of what the workers counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::durations::Durations;
use super::labels::OUTCOMES;
use super::{Count, Counters, Families, SendFailure};
use crate::address::Transport;
use crate::relay::{DropReason, EndReason, RequestMethod, Traffic};

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
        Durations::encode(self.0.iter().map(|worker| &worker.durations), encoder)?;
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
        ConstCounter::new(self.sum(|w| &w.connections_unintroduced)).encode(family(
            encoder,
            "tcp_connections_unintroduced",
            "TCP connections from addresses in proxy_protocol_from that did not begin with a PROXY header",
            MetricType::Counter,
        )?)?;
        let help =
            "TCP connections and DTLS sessions that were refused: too many of one client address, or of all";
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

pub(super) fn family<'a>(
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
