use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::*;
use crate::relay::Traffic;

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
        worker.allocation_ended(Transport::Tcp, Families::Ipv6, EndReason::Released, Duration::from_secs(61));
        worker.durations.answered.record(Duration::from_micros(300));
        worker.durations.answered.record(Duration::from_millis(1200));
        worker.durations.answered.record(Duration::from_secs(11));
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
        "allocate_answer_seconds_sum 24.4006",
        "allocate_answer_seconds_count 6",
        "allocate_answer_seconds_bucket{le=\"0.0001\"} 0",
        "allocate_answer_seconds_bucket{le=\"0.0003\"} 2",
        "allocate_answer_seconds_bucket{le=\"1.0\"} 2",
        "allocate_answer_seconds_bucket{le=\"3.0\"} 4",
        "allocate_answer_seconds_bucket{le=\"10.0\"} 4",
        "allocate_answer_seconds_bucket{le=\"+Inf\"} 6",
        "allocations_ended_total{reason=\"released\"} 2",
        "tcp_connections 2",
        "dtls_sessions 2",
        "handed_over_sockets_total 2",
        "tcp_connections_refused_total 2",
        "tcp_connections_unintroduced_total 2",
    ] {
        assert!(text.lines().any(|found| found == format!("turn_relay_{line}")), "{line} is not in\n{text}");
    }
}

fn scrape(workers: Vec<Arc<Counters>>) -> String {
    let mut registry = Registry::with_prefix("turn_relay");
    registry.register_collector(Box::new(Totals(workers)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    text
}
