//! External addresses that are found out: from a STUN server, at the start, at a reload, and from time to time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use client::{Client, PATIENCE};
use process::Running;
use prometheus_client::registry::Registry;
use turn_relay::address::Transport;
use turn_relay::config::{Config, Settings};
use turn_relay::server::Server;

#[test]
fn what_a_stun_server_sees_is_told_to_clients_and_asked_again_by_a_reload() {
    let stun = Stun::new("198.51.100.7");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let stun_at = stun.address;
    fs::write(&file, format!("user = [\"user:password\"]\nexternal_address = [\"stun:{stun_at}\"]\n"))
        .unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut relay = Running::start_with(&flags, &[]);
    let mut first = Client::connect(Transport::Udp, relay.serving, "user", "password");
    assert_eq!(first.allocate().ip(), ip("198.51.100.7"));

    stun.sees("198.51.100.8");
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("reloaded: ");
    assert!(said.contains("+127.0.0.1 (advertised as 198.51.100.8)"), "{said}");
    let mut second = Client::connect(Transport::Udp, relay.serving, "user", "password");
    assert_eq!(second.allocate().ip(), ip("198.51.100.8"));
    assert!(first.refresh(600).is_success());

    stun.sees("127.0.0.1");
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("not reloaded, everything stays as it was");
    assert!(said.contains("127.0.0.1 cannot be reached"), "{said}");
}

#[test]
fn a_found_address_is_looked_at_again_without_the_rest_of_the_configuration() {
    let stun = Stun::new("198.51.100.7");
    let config = Config {
        user: vec!["user:password".to_owned()],
        listen: vec!["127.0.0.1:0".to_owned()],
        external_address: vec![format!("stun:{}", stun.address)],
        ..Config::default()
    };
    let server = Server::start(Settings::new(&config, vec![]).unwrap(), &mut Registry::default()).unwrap();
    let relayed = || {
        let mut client = Client::connect(Transport::Udp, server.listen_addresses()[0], "user", "password");
        client.allocate().ip()
    };
    assert_eq!(relayed(), ip("198.51.100.7"));
    assert!(server.control().find_addresses().unwrap().is_empty());
    stun.sees("198.51.100.9");
    let changed = server.control().find_addresses().unwrap().join("; ");
    assert!(changed.contains("+127.0.0.1 (advertised as 198.51.100.9)"), "{changed}");
    assert_eq!(relayed(), ip("198.51.100.9"));

    // A reload that comes while the server is asked holds.
    let fixed = Config { external_address: vec!["198.51.100.11".to_owned()], ..config };
    let control = server.control();
    stun.asked.try_iter().for_each(drop);
    let mut seen = stun.seen.lock().unwrap();
    let finding = std::thread::spawn(move || control.find_addresses().unwrap());
    stun.asked.recv_timeout(PATIENCE).unwrap();
    server.control().reload(Settings::new(&fixed, vec![]).unwrap()).unwrap();
    *seen = ip("198.51.100.10");
    drop(seen);
    assert!(finding.join().unwrap().is_empty());
    assert_eq!(relayed(), ip("198.51.100.11"));
}

#[test]
fn a_server_that_does_not_answer_refuses_the_start_in_one_line() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let source = format!("stun:{}", silent.local_addr().unwrap());
    let flags = ["--user", "a:b", "--listen", "127.0.0.1:0", "--check", "--external-address", &source];
    let ended = Command::new(env!("CARGO_BIN_EXE_turn-relay")).args(flags).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(
        said.contains("does not say how it sees 127.0.0.1") && said.trim_end().lines().count() == 1,
        "{said}"
    );
}

/// A STUN server that sees everybody at one address.
struct Stun {
    address: SocketAddr,
    /// One for each question.
    asked: Receiver<()>,
    /// No answer while it is held.
    seen: Arc<Mutex<IpAddr>>,
}

impl Stun {
    fn new(seen: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(ip(seen)));
        let (answer, (sender, asked)) = (Arc::clone(&seen), channel());
        // Ends with the process.
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = sender.send(());
                let transaction = buffer[8..20].try_into().unwrap();
                let seen = SocketAddr::new(*answer.lock().unwrap(), 7);
                let value = client::xor_address(seen, transaction);
                let mut answer = vec![1, 1, 0, 12];
                answer.extend(&buffer[4..20]);
                answer.extend([0, 0x20, 0, 8]);
                answer.extend(value);
                socket.send_to(&answer, client).unwrap();
            }
        });
        Self { address, asked, seen }
    }

    fn sees(&self, ip_text: &str) {
        *self.seen.lock().unwrap() = ip(ip_text);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
