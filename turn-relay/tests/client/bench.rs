//! A relay in this process with two workers, and peers to talk to.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use prometheus_client::registry::Registry;
use turn_relay::address::Transport;
use turn_relay::config::{Config, Settings};
use turn_relay::server::Server;

use super::{Client, PATIENCE, tls};

pub(crate) struct Relay {
    /// Fields are dropped in this order.
    pub(crate) server: Server,
    registry: Registry,
    pub(crate) address: SocketAddr,
}

pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "password";

impl Relay {
    pub(crate) fn on(ip: &str, allow_peer: &[&str]) -> Self {
        let listen = SocketAddr::new(ip.parse().unwrap(), 0).to_string();
        let allow_peer = allow_peer.iter().map(|network| (*network).to_owned()).collect();
        Self::start(Config { listen: vec![listen], allow_peer, ..Config::default() })
    }

    pub(crate) fn start(config: Config) -> Self {
        let config = Config {
            user: vec![format!("{USER}:{PASSWORD}")],
            threads: Some(2),
            tls_cert: vec![tls::SERVED.cert.clone()],
            tls_key: vec![tls::SERVED.key.clone()],
            ..config
        };
        let mut registry = Registry::default();
        let settings = Settings::new(&config, vec![]).expect("good settings");
        let server = Server::start(settings, &mut registry).expect("starts");
        let address = server.listen_addresses()[0];
        Self { server, registry, address }
    }

    pub(crate) fn client(&self, transport: Transport) -> Client {
        Client::connect(transport, self.address, USER, PASSWORD)
    }

    /// Waits until the line of the metrics has that value: counting follows sending.
    pub(crate) fn settles(&self, name: &str, value: u64) {
        let end = Instant::now() + PATIENCE;
        while self.metric(name) != value {
            assert!(Instant::now() < end, "{name} is {}, not {value}", self.metric(name));
            std::thread::yield_now();
        }
    }

    /// The value of one line of the metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("turn_relay_{name} ")));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

pub(crate) struct Peer(UdpSocket);

impl Peer {
    pub(crate) fn on(ip: &str) -> Self {
        let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) {
        self.0.send_to(data, to).unwrap();
    }

    pub(crate) fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.0.recv_from(&mut buffer).expect("a datagram in time");
        buffer.truncate(length);
        (buffer, from)
    }
}

/// Asks again until it holds; a liveness bound ends it.
pub(crate) fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never came to hold");
        std::thread::yield_now();
    }
}
