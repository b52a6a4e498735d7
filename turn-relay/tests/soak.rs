//! Allocations that come and go over every transport: no memory, no port and no descriptor stays behind.
//!
//! `SOAK_CYCLES=1000000 cargo nextest run --release -p turn-relay --test soak` is the long form.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::net::SocketAddr;
use std::time::Instant;

use client::bench::{PASSWORD, USER};
use client::{Client, PATIENCE, tls};
use process::Running;
use turn_relay::address::Transport;

const TRANSPORTS: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];
/// Of the short form.
const CYCLES: usize = 120_000;
const ROUNDS: usize = 10;
/// So many rounds in a row must be without growth. Before, workers fill what they keep on purpose: answers for repeated requests.
const PLATEAU: usize = 5;
/// A new five-tuple now and then; for every cycle the client's side would run out of ports in TIME_WAIT. Over DTLS there is one a round:
/// this client takes its leave of nobody, and its session stays for a minute.
const CYCLES_PER_CONNECTION: usize = 20;
/// Nobody else has ports at this address, and none of this range is given to a socket that asks for any.
const RELAY_ADDRESS: &str = "127.0.60.1";
const FIRST_PORT: usize = 61_000;
const PORTS: usize = 60;
/// What the allocator may keep for itself. Over five rounds of the short form a leak of 10 bytes a cycle is more.
const SLACK_BYTES: usize = 1 << 19;

#[test]
fn allocations_that_come_and_go_over_every_transport_leave_nothing() {
    let cycles =
        std::env::var("SOAK_CYCLES").map_or(CYCLES, |text| text.parse().expect("SOAK_CYCLES is a number"));
    let user = format!("{USER}:{PASSWORD}");
    let (cert, key) = (tls::SERVED.cert.to_str().unwrap(), tls::SERVED.key.to_str().unwrap());
    let ports = format!("{FIRST_PORT}-{}", FIRST_PORT + PORTS - 1);
    let mut relay = Running::start_with(
        &[
            &["--listen", "127.0.0.1:0", "--threads", "2", "--user", &user, "--port-range", &ports][..],
            &["--relay-address", RELAY_ADDRESS, "--unauthenticated-answers", "0", "--log-format", "json"],
            &["--tls-cert", cert, "--tls-key", key],
        ]
        .concat(),
        &[],
    );
    let descriptors = open_descriptors(&relay);
    let mut resident = vec![];
    let stands = |resident: &[usize]| {
        resident.last_chunk::<PLATEAU>().is_some_and(|[first, .., last]| *last <= first + SLACK_BYTES)
    };
    while resident.len() < ROUNDS || !stands(&resident) {
        assert!(resident.len() < 3 * ROUNDS, "memory grows and grows: {resident:?}");
        churn(relay.serving, cycles / ROUNDS / TRANSPORTS.len());
        relay.forget_log();
        settles("descriptors", || open_descriptors(&relay), descriptors);
        resident.push(resident_bytes(&relay));
        println!(
            "{} cycles: {} KiB resident",
            resident.len() * cycles / ROUNDS,
            resident_bytes(&relay) / 1024
        );
    }
    every_port_is_back(relay.serving);
}

/// Each transport at the same time, so that both workers are at work.
fn churn(server: SocketAddr, cycles: usize) {
    std::thread::scope(|scope| {
        for transport in TRANSPORTS {
            scope.spawn(move || {
                let mut client = Client::connect(transport, server, USER, PASSWORD);
                for cycle in 0..cycles {
                    if transport != Transport::Dtls
                        && cycle % CYCLES_PER_CONNECTION == CYCLES_PER_CONNECTION - 1
                    {
                        client = Client::connect(transport, server, USER, PASSWORD);
                    }
                    let answer = client.allocate_with(&[]);
                    assert!(answer.is_success(), "{transport} {cycle}: {:?}", answer.error());
                    assert!(client.release().is_success(), "{transport} {cycle}");
                }
            });
        }
    });
}

/// As many allocations at once as there are ports, and then none.
fn every_port_is_back(server: SocketAddr) {
    let connect = || Client::connect(Transport::Udp, server, USER, PASSWORD);
    let mut clients: Vec<Client> = (0..PORTS).map(|_| connect()).collect();
    for (count, client) in clients.iter_mut().enumerate() {
        assert!(client.allocate_with(&[]).is_success(), "{count} of {PORTS}");
    }
    assert_eq!(connect().allocate_with(&[]).error(), Some(508));
}

/// Closing is not waited for by anybody: asks again until it is done.
fn settles(what: &str, now: impl Fn() -> usize, expected: usize) {
    let end = Instant::now() + PATIENCE;
    while now() > expected {
        assert!(Instant::now() < end, "{what}: {} and not {expected}", now());
        std::thread::yield_now();
    }
}

fn open_descriptors(relay: &Running) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", relay.id())).unwrap().count()
}

fn resident_bytes(relay: &Running) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
