//! Three hosts: clients and peers in networks of their own, and between them the relay, which runs in the network of the test's
//! thread with XDP on both of its links.

use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Instant;

use turn_relay::address::Transport;

use crate::client::{Client, PATIENCE};
use crate::namespace::{Namespace, in_namespace, run};
use crate::process::Running;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const SERVER: &str = "10.81.0.1:3478";
/// Both links, with XDP in their drivers.
pub(crate) const NATIVE: &str = "c0/native,p0/native";
pub(crate) const SERVER6: &str = "[fd81::1]:3478";

pub(crate) struct Lab {
    pub(crate) clients: Namespace,
    pub(crate) peers: Namespace,
    pub(crate) relay: Running,
    _token: tempfile::NamedTempFile,
}

impl Lab {
    /// Runs the test where the process may make networks; says loudly that it did not otherwise.
    pub(crate) fn run(flags: &[&str], test: impl FnOnce(&mut Self) + Send + 'static) {
        Self::run_over(NATIVE, flags, test);
    }

    /// With XDP on these interfaces.
    pub(crate) fn run_over(xdp: &'static str, flags: &[&str], test: impl FnOnce(&mut Self) + Send + 'static) {
        let flags: Vec<String> = flags.iter().copied().map(str::to_owned).collect();
        crate::namespace::said(in_namespace(move || {
            let (clients, peers) = networks();
            let token = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(token.path(), TOKEN).unwrap();
            let mut all = vec!["--listen", SERVER, "--listen", SERVER6, "--threads", "2"];
            all.extend(["--relay-address", "10.82.0.1", "--relay-address", "fd82::1", "--xdp", xdp]);
            all.extend(["--admin", "127.0.0.1:0", "--admin-token-file", token.path().to_str().unwrap()]);
            all.extend(flags.iter().map(String::as_str));
            let relay = Running::start(&all, &[]);
            test(&mut Self { clients, peers, relay, _token: token });
        }));
    }

    pub(crate) fn client(&self) -> Client {
        self.client_at(SERVER)
    }

    pub(crate) fn client_at(&self, server: &str) -> Client {
        self.client_in(&self.clients, server)
    }

    pub(crate) fn client_in(&self, network: &Namespace, server: &str) -> Client {
        self.client_of(network, server, ("user", "password"))
    }

    pub(crate) fn client_of(
        &self,
        network: &Namespace,
        server: &str,
        (user, password): (&str, &str),
    ) -> Client {
        let server = server.parse().unwrap();
        network.inside(|| Client::connect(Transport::Udp, server, user, password))
    }

    pub(crate) fn peer(&self, ip: &str) -> Peer {
        Peer::new(&self.peers, ip)
    }

    /// What the admin API answers, which must be success.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let answer = self.relay.ask(method, path, &format!("Authorization: Bearer {TOKEN}\r\n"), body);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{method} {path}: {answer}");
        answer
    }

    /// A value of the relay's metrics, without their prefix.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.relay.get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix("turn_relay_")?.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
    }

    /// Packets that went through the driver, towards peers and towards clients.
    pub(crate) fn in_driver(&self) -> (u64, u64) {
        let packets = |direction| self.metric(&format!("xdp_packets_total{{direction=\"{direction}\"}}"));
        (packets("to_peer"), packets("to_client"))
    }

    /// Waits until it is so.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < end, "not in time: {what}");
            std::thread::yield_now();
        }
    }
}

/// Somebody to talk to through the relay.
pub(crate) struct Peer(pub(crate) UdpSocket);

impl Peer {
    pub(crate) fn new(network: &Namespace, ip: &str) -> Self {
        let socket = network.inside(|| UdpSocket::bind((ip, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn send(&self, data: &[u8], to: SocketAddr) {
        assert_eq!(self.0.send_to(data, to).unwrap(), data.len());
    }

    pub(crate) fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.0.recv_from(&mut buffer).expect("a datagram in time");
        buffer.truncate(len);
        (buffer, from)
    }
}

/// A program that lets everything pass, compiled: with it a veth takes what the driver at its other end sends.
fn taker() -> tempfile::NamedTempFile {
    let object = tempfile::NamedTempFile::new().unwrap();
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-x", "c", "-c", "-", "-o"]).arg(object.path());
    let mut clang = clang.stdin(Stdio::piped()).spawn().expect("is installed");
    let source = "__attribute__((section(\"xdp\"), used)) int take(void *frame) { return 2; }";
    clang.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(clang.wait().unwrap().success());
    object
}

/// The relay's links are c0 and p0.
fn networks() -> (Namespace, Namespace) {
    let (clients, peers) = (Namespace::new(), Namespace::new());
    let taker = taker();
    run("ip link set lo up");
    run("sysctl -q -w net.ipv6.conf.lo.forwarding=1");
    for (host, near, far, net) in [(&clients, "c0", "c1", 81), (&peers, "p0", "p1", 82)] {
        run(&format!("ip link add {near} type veth peer name {far} netns {}", host.pid()));
        // Frames are sent with whole checksums.
        host.run(&format!("ethtool -K {far} tx off"));
        host.run("ip link set lo up");
        host.run(&format!("ip link set dev {far} xdpdrv obj {} sec xdp", taker.path().display()));
        for (at, name, is_near) in [(1, near, true), (2, far, false)] {
            let execute = |command: &str| if is_near { run(command) } else { host.run(command) };
            execute(&format!("ip address add 10.{net}.0.{at}/24 dev {name}"));
            execute(&format!("ip address add fd{net}::{at}/64 dev {name} nodad"));
            execute(&format!("ip link set {name} up"));
        }
        host.run(&format!("ip route add default via 10.{net}.0.1"));
    }
    (clients, peers)
}
