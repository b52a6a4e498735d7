//! A million requests with forged sources, in a network of the test's own. That takes root; without it the test says so and
//! tests nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod forged;
mod namespace;

use std::process::{Child, Command, Stdio};

use client::Client;
use forged::Flood;
use namespace::{in_namespace, run, said};
use turn_relay::address::Transport;

const SERVER: &str = "127.0.0.1:3478";

#[test]
#[ignore = "busy for most of a minute: tests/run abuse runs it"]
fn a_million_forged_requests_cost_no_memory_and_keep_nobody_out() {
    said(in_namespace(|| {
        run("ip link set lo up");
        // Answers to forged sources leave the machine, as far as it can tell.
        run("ip route add default dev lo");
        let relay = Program::start();
        let server = SERVER.parse().unwrap();
        Flood {
            server,
            relay: relay.0.id(),
            raw: forged::raw(),
            client: &|| Client::connect(Transport::Udp, server, "user", "password"),
            left: &|| forged::sent_by("lo"),
            over_loopback: true,
        }
        .is_harmless();
    }));
}

/// The relay as a process of its own, so that its memory is its own.
struct Program(Child);

impl Program {
    /// The one that `RELAY_PROGRAM` names, or that was built with the test.
    fn start() -> Self {
        let program =
            std::env::var_os("RELAY_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_turn-relay").into());
        let mut command = Command::new(program);
        command.args([
            "--listen",
            SERVER,
            "--user",
            "user:password",
            "--threads",
            "2",
            "--log-level",
            "warn",
        ]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
