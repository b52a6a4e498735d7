//! Under systemd's own tools: the units are what it understands, and a relay takes the socket that it was started for.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says what it skips"
)]

mod client;
mod process;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use client::{Client, PATIENCE};
use process::Running;
use turn_relay::address::Transport;

const PROGRAM: &str = env!("CARGO_BIN_EXE_turn-relay");

#[test]
fn units_are_understood_to_the_last_word() {
    if !is_there("systemd-analyze") {
        return;
    }
    let written = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let folder = tempfile::tempdir().unwrap();
    let units = ["turn-relay.service", "turn-relay.socket", "signaling.service"].map(|name| {
        let text = fs::read_to_string(written.join(name)).unwrap();
        let unit = folder.path().join(name);
        // Where a package would install it, there need be nothing yet.
        fs::write(&unit, text.replace("/usr/bin/turn-relay", PROGRAM).replace("/usr/bin/signaling", PROGRAM))
            .unwrap();
        unit
    });
    let checked = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

#[test]
fn relay_that_was_started_by_its_first_client_serves_it_on_the_socket_that_it_came_to() {
    if !is_there("systemd-socket-activate") {
        return;
    }
    for (kind, first) in [("--datagram", Transport::Udp), ("--listen", Transport::Tcp)] {
        let address = free_address();
        let listen = address.to_string();
        // The kind of socket holds for all that follow; TCP is what it does without being told.
        let socket =
            if first == Transport::Udp { vec![kind, "--listen", &listen] } else { vec![kind, &listen] };
        let mut command = Command::new("systemd-socket-activate");
        command.args(socket).args([PROGRAM, "--user", "user:password", "--threads", "1"]);
        let (relay, mut client) = std::thread::scope(|scope| {
            let client = scope.spawn(|| comes_first(first, address));
            (Running::spawn(&mut command, false), client.join().unwrap())
        });
        assert_eq!(relay.serving, address, "without being told the address");
        assert!(client.refresh(600).is_success());
        for transport in [Transport::Udp, Transport::Tcp] {
            Client::connect(transport, address, "user", "password").allocate();
        }
    }
}

/// A client that allocates as soon as anybody listens.
fn comes_first(transport: Transport, server: SocketAddr) -> Client {
    if transport == Transport::Tcp {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(server).is_err() {
            assert!(Instant::now() < until, "nobody ever listens");
            std::thread::yield_now();
        }
    }
    let mut client = Client::connect(transport, server, "user", "password");
    client.retransmits = transport == Transport::Udp;
    client.allocate();
    client
}

/// A port that nobody has for UDP or TCP, now.
fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Says loudly what could not be tested; where everything must run that is a failure.
fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("!!! SKIPPED, so not tested: {program} is not installed (Debian: systemd)");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true: what is skipped counts as failed");
    }
    there
}
