//! The way down: what SIGTERM means for those who are here and for those who come.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use client::Client;
use process::Running;
use turn_relay::address::Transport;

#[test]
fn sigterm_sends_newcomers_elsewhere_and_waits_for_who_is_here() {
    let flags = ["--alternate-server", "198.51.100.8:3478", "--admin", "127.0.0.1:0"];
    let (mut relay, mut here) = with_client(&flags);
    relay.signal(libc::SIGTERM);
    relay.wait_for("draining: 1 allocations");
    assert!(relay.get("/readyz").contains("503"));
    let mut newcomer = Client::connect(Transport::Udp, relay.serving, "user", "password");
    let answer = newcomer.allocate_with(&[]);
    assert_eq!(answer.error(), Some(300));
    assert!(answer.attribute(0x8023).is_some(), "ALTERNATE-SERVER");
    assert!(here.refresh(600).is_success());
    assert!(here.release().is_success());
    assert_eq!(relay.exit_code(), Some(0));
}

#[test]
fn without_an_alternate_newcomers_get_508_and_a_second_signal_ends_at_once() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let (mut relay, _here) = with_client(&["--drain-deadline", "3600"]);
        relay.signal(libc::SIGTERM);
        relay.wait_for("draining: 1 allocations");
        let mut newcomer = Client::connect(Transport::Tcp, relay.serving, "user", "password");
        assert_eq!(newcomer.allocate_with(&[]).error(), Some(508));
        assert_eq!(relay.stop(second), Some(0));
    }
}

#[test]
fn the_deadline_ends_who_is_left() {
    let (mut relay, _here) = with_client(&["--drain-deadline", "1"]);
    assert_eq!(relay.stop(libc::SIGTERM), Some(0));
    assert!(relay.log().contains("draining: 1 allocations have 1 s left"));
}

/// A relay and a client with an allocation.
fn with_client(flags: &[&str]) -> (Running, Client) {
    let relay = Running::start(&[&["--listen", "127.0.0.1:0", "--threads", "2"], flags].concat(), &[]);
    let mut client = Client::connect(Transport::Udp, relay.serving, "user", "password");
    client.allocate();
    (relay, client)
}
