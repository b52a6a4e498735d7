//! Listen addresses that come and go with a reload, under live clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Instant;

use client::{BINDING, Client, PATIENCE, Received};
use process::Running;
use turn_relay::address::Transport;

/// Enough that each of two workers has some.
const MANY: usize = 12;

#[test]
fn a_listener_comes_goes_for_newcomers_alone_comes_back_and_closes_with_its_last_client() {
    let mut host = Host::start(&["127.0.0.1:0"]);
    let second = SocketAddr::new("127.0.0.7".parse().unwrap(), host.relay.serving.port());
    host.reload(&["127.0.0.1:0", &second.to_string()]);
    let mut clients: Vec<Guest> = (0..MANY).map(|_| host.guest(Transport::Udp, second)).collect();
    let mut connected = host.guest(Transport::Tcp, second);

    assert!(host.reload(&["127.0.0.1:0"]).contains(&format!("listen -{second}")));
    assert!(TcpStream::connect(second).is_err(), "a listener that is gone accepts");
    host.is_silent_to_newcomers(second);
    for client in clients.iter_mut().chain([&mut connected]) {
        client.works();
    }
    drop(host.guest(Transport::Udp, host.relay.serving));

    let mut last = clients.pop().unwrap();
    for mut client in clients {
        assert!(client.turn.release().is_success());
    }
    // Long enough for one worker to have no client left, and short of the other's last.
    last.works();
    host.reload(&["127.0.0.1:0", &second.to_string()]);
    last.works();
    let mut newcomer = host.guest(Transport::Udp, second);
    host.guest(Transport::Tcp, second).works();

    host.reload(&["127.0.0.1:0"]);
    host.is_silent_to_newcomers(second);
    for client in [&mut newcomer, &mut last] {
        client.works();
        assert!(client.turn.release().is_success());
    }
    host.relay.wait_for(&format!("no client is left on {second}"));
    becomes_free(second);
    connected.works();
    host.reload(&["127.0.0.1:0", &second.to_string()]);
    for transport in [Transport::Udp, Transport::Tcp] {
        host.guest(transport, second).works();
    }
}

#[test]
fn a_listener_without_clients_closes_at_once() {
    let mut host = Host::start(&["127.0.0.1:0"]);
    let second = SocketAddr::new("127.0.0.8".parse().unwrap(), host.relay.serving.port());
    for _ in 0..3 {
        host.reload(&["127.0.0.1:0", &second.to_string()]);
        drop(UdpSocket::bind(second).unwrap_err());
        host.reload(&["127.0.0.1:0"]);
        becomes_free(second);
    }
}

#[test]
fn one_taken_address_among_new_ones_changes_nothing() {
    let mut host = Host::start(&["127.0.0.1:0"]);
    let port = host.relay.serving.port();
    let [good, taken] = ["127.0.0.9", "127.0.0.10"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    let holder = UdpSocket::bind(taken).unwrap();
    let mut client = host.guest(Transport::Udp, host.relay.serving);
    let listen = [good.to_string(), taken.to_string()];
    // The address that is there is not among them: nor is it taken away.
    write(&host.file, &listen.each_ref().map(String::as_str));
    host.relay.signal(libc::SIGHUP);
    let said = host.relay.wait_for("not reloaded, everything stays as it was");
    assert!(said.contains(&taken.to_string()) && said.contains("taken"), "{said}");
    becomes_free(good);
    client.works();
    host.guest(Transport::Tcp, host.relay.serving).works();
    drop(holder);
    host.reload(&["127.0.0.1:0", &good.to_string(), &taken.to_string()]);
    host.guest(Transport::Udp, taken).works();
}

#[test]
fn an_address_does_not_take_the_place_of_a_wildcard_under_its_clients() {
    let host = &mut Host::start(&["0.0.0.0:0"]);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), host.relay.serving.port());
    let mut clients: Vec<Guest> = (0..MANY).map(|_| host.guest(Transport::Udp, address)).collect();
    for listen in [vec![address.to_string()], vec!["0.0.0.0:0".to_owned(), address.to_string()]] {
        write(&host.file, &listen.iter().map(String::as_str).collect::<Vec<_>>());
        host.relay.signal(libc::SIGHUP);
        let said = host.relay.wait_for("not reloaded, everything stays as it was");
        assert!(said.contains("restart for that"), "{said}");
        clients.push(host.guest(Transport::Udp, address));
    }
    for client in &mut clients {
        client.works();
    }
}

/// A relay of two workers and its configuration.
struct Host {
    file: PathBuf,
    _folder: tempfile::TempDir,
    relay: Running,
}

impl Host {
    fn start(listen: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        write(&file, listen);
        let flags = ["--config", file.to_str().unwrap(), "--admin", "127.0.0.1:0"];
        let relay = Running::start_with(&flags, &[]);
        Self { file, _folder: folder, relay }
    }

    /// What the log says of it.
    fn reload(&mut self, listen: &[&str]) -> String {
        write(&self.file, listen);
        self.relay.signal(libc::SIGHUP);
        self.relay.wait_for("reloaded: ")
    }

    fn guest(&self, transport: Transport, server: SocketAddr) -> Guest {
        let mut turn = Client::connect(transport, server, "user", "password");
        turn.allocate();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(turn.bind_channel(0x4000, peer.local_addr().unwrap()).is_success());
        Guest { turn, peer }
    }

    /// Sends requests as strangers and waits until all of them are counted as dropped.
    fn is_silent_to_newcomers(&self, server: SocketAddr) {
        let dropped = || {
            let metrics = self.relay.get("/metrics");
            let line =
                metrics.lines().find(|line| line.contains("dropped") && line.contains("\"no_allocation\""));
            line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let before = dropped();
        let strangers: Vec<UdpSocket> = (0..MANY).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut request = BINDING.to_be_bytes().to_vec();
        request.extend(b"\x00\x00\x21\x12\xa4\x42a stranger..");
        for stranger in &strangers {
            stranger.send_to(&request, server).unwrap();
        }
        let end = Instant::now() + PATIENCE;
        while dropped() < before + MANY {
            assert!(Instant::now() < end, "newcomers are served: {} of {MANY} dropped", dropped() - before);
        }
    }
}

fn write(file: &PathBuf, listen: &[&str]) {
    let fixed = "user = [\"user:password\"]\nallow_peer = [\"127.0.0.0/8\"]\nthreads = 2\nrelay_address = [\"127.0.0.1\"]\n";
    fs::write(file, format!("{fixed}listen = {listen:?}\n")).unwrap();
}

/// A client with a channel to a peer.
struct Guest {
    turn: Client,
    peer: UdpSocket,
}

impl Guest {
    /// Requests are answered and data flows both ways.
    fn works(&mut self) {
        assert!(self.turn.refresh(600).is_success());
        self.turn.send_channel(0x4000, b"ping");
        let mut buffer = [0; 64];
        let (len, relayed) = self.peer.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"ping");
        self.peer.send_to(b"pong", relayed).unwrap();
        assert_eq!(self.turn.receive(), Received::Channel(0x4000, b"pong".to_vec()));
    }
}

/// Another program can have the address, in time.
fn becomes_free(address: SocketAddr) {
    let end = Instant::now() + PATIENCE;
    loop {
        match (UdpSocket::bind(address), TcpListener::bind(address)) {
            (Ok(_), Ok(_)) => return,
            taken => assert!(Instant::now() < end, "{address} stays taken: {taken:?}"),
        }
    }
}
