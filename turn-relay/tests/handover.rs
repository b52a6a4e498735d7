//! Under a supervisor: what it is told, which sockets it hands over, and what a restart costs clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use client::tls::SERVED;
use client::{Client, PATIENCE};
use process::Running;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use turn_relay::address::Transport;

/// A Binding request.
const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42restart test";

#[test]
fn a_restart_keeps_the_sockets_and_refuses_nothing() {
    let mut supervisor = Supervisor::new();
    let first = supervisor.start(&["--listen", "127.0.0.1:0"], Some(&[]));
    supervisor.hears("READY=1");
    let address = first.serving;
    let mut names: Vec<String> = supervisor.store.iter().map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    let name = |kind: &str, worker| format!("turn-{kind}-{worker}-127.0.0.1-{}", address.port());
    assert_eq!(names, [name("tcp", 0), name("tcp", 1), name("udp", 0), name("udp", 1)]);
    let mut client = Client::connect(Transport::Udp, address, "user", "password");
    client.allocate();

    let killed = Instant::now();
    drop(first);
    // Enough that both workers' sockets get some.
    let mut asked: Vec<UdpSocket> = (0..32).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for socket in &mut asked {
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(&BINDING).unwrap();
    }
    // The handshake is the kernel's; nobody needs to accept.
    let mut waiting = Client::connect(Transport::Tcp, address, "user", "password");

    let listen = address.to_string();
    let second = supervisor.start(&["--listen", &listen], None);
    assert_eq!(second.serving, address);
    for socket in &asked {
        let mut answer = [0; 64];
        // Had nobody held the socket, the kernel would have answered with ICMP: connection refused.
        assert_eq!(socket.recv(&mut answer).unwrap(), 32);
    }
    assert!(waiting.request(client::BINDING, &[]).is_success());
    // Allocations end with their process.
    assert_eq!(client.refresh(600).error(), Some(437));
    client.allocate();
    println!("an allocation again {:?} after the old process was killed", killed.elapsed());
}

#[test]
fn after_a_restart_clients_allocate_anew_over_every_transport() {
    let mut supervisor = Supervisor::new();
    let (cert, key) = (SERVED.cert.to_str().unwrap(), SERVED.key.to_str().unwrap());
    let tls = ["--tls-cert", cert, "--tls-key", key, "--drain-deadline", "0"];
    let mut first = supervisor.start(&[&["--listen", "127.0.0.1:0"], &tls[..]].concat(), Some(&[]));
    supervisor.hears("READY=1");
    let address = first.serving;
    let connect = |transport| Client::connect(transport, address, "user", "password");
    let mut clients = Transport::ALL.map(connect);
    for client in &mut clients {
        client.allocate();
    }
    assert_eq!(first.stop(libc::SIGTERM), Some(0), "it waits for nobody");
    let listen = address.to_string();
    let _second = supervisor.start(&[&["--listen", &listen], &tls[..]].concat(), None);
    for (transport, mut client) in Transport::ALL.into_iter().zip(clients) {
        if transport == Transport::Udp {
            assert_eq!(client.refresh(600).error(), Some(437));
            client.allocate();
        } else {
            assert!(client.closed(), "{transport}: it was told before any request");
            connect(transport).allocate();
        }
    }
}

#[test]
fn sockets_of_a_unit_are_served_without_being_named() {
    let mut supervisor = Supervisor::new();
    // The port that was drawn for UDP may be somebody else's for TCP: then another is drawn.
    let (udp, tcp, address) = loop {
        let udp: Vec<OwnedFd> = shared_udp(2).into_iter().map(OwnedFd::from).collect();
        let address = UdpSocket::from(udp[0].try_clone().unwrap()).local_addr().unwrap();
        let tcp = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        tcp.set_reuse_port(true).unwrap();
        if tcp.bind(&address.into()).is_ok() {
            break (udp, tcp, address);
        }
    };
    tcp.listen(16).unwrap();
    // systemd gives all sockets of one unit one name.
    supervisor.store =
        udp.into_iter().chain([tcp.into()]).map(|fd| ("turn-relay.socket".into(), fd)).collect();
    let relay = supervisor.start(&[], None);
    assert_eq!(relay.serving, address);
    for _ in 0..8 {
        Client::connect(Transport::Udp, address, "user", "password").allocate();
        Client::connect(Transport::Tcp, address, "user", "password").allocate();
    }
}

#[test]
fn a_socket_that_cannot_be_shared_by_the_workers_is_refused() {
    let supervisor = Supervisor::new();
    let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = alone.local_addr().unwrap().to_string();
    let given = [("unit".to_owned(), OwnedFd::from(alone))];
    let refused = supervisor.command(&[], &given).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(&address) && said.contains("ReusePort=yes"), "{said}");
}

#[test]
fn the_supervisor_hears_of_reload_watchdog_and_end() {
    let mut supervisor = Supervisor::new();
    supervisor.watchdog = Some(Duration::from_millis(300));
    let mut relay = supervisor.start(&["--listen", "127.0.0.1:0"], Some(&[]));
    supervisor.hears("READY=1");
    // Again and again, or the supervisor ends it.
    supervisor.hears("WATCHDOG=1");
    supervisor.hears("WATCHDOG=1");
    relay.signal(libc::SIGHUP);
    let reloading = supervisor.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    supervisor.hears("READY=1");
    relay.signal(libc::SIGTERM);
    supervisor.hears("STOPPING=1");
    assert_eq!(relay.exit_code(), Some(0));
}

/// As much of systemd as matters here.
struct Supervisor {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    /// What it keeps for the next process.
    store: Vec<(String, OwnedFd)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { folder, socket, store: Vec::new(), watchdog: None }
    }

    /// A relay with two workers and these sockets, or with all that is kept.
    fn start(&self, flags: &[&str], sockets: Option<&[(String, OwnedFd)]>) -> Running {
        Running::spawn(&mut self.command(flags, sockets.unwrap_or(&self.store)), false)
    }

    fn command(&self, flags: &[&str], sockets: &[(String, OwnedFd)]) -> Command {
        // The shell moves them to where they belong, and knows the process id that they are for.
        let mut script = String::from("exec ");
        let mut names = Vec::new();
        for (at, (name, socket)) in (3..).zip(sockets) {
            let copy = fcntl_dupfd_cloexec(socket.as_fd(), 100).unwrap();
            fcntl_setfd(&copy, FdFlags::empty()).unwrap();
            let number = copy.as_raw_fd();
            script += &format!("{at}<&{number} {number}<&- ");
            // Stays open until this process ends; it has few of them.
            std::mem::forget(copy);
            names.push(name.as_str());
        }
        script += "; export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let mut command = Command::new("bash");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_turn-relay")])
            .args(["--user", "user:password", "--threads", "2", "--relay-address", "127.0.0.1"])
            .args(flags)
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .stderr(std::process::Stdio::piped());
        if !sockets.is_empty() {
            command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(watchdog) = self.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        command
    }

    /// Waits for a message with that line; keeps what it is given on the way.
    fn hears(&mut self, line: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.receive();
            if message.lines().any(|said| said == line) {
                return message;
            }
            assert!(Instant::now() < until, "other things are said, but not {line}");
        }
    }

    fn receive(&mut self) -> String {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut vector = [IoSliceMut::new(&mut text)];
        let received = recvmsg(&self.socket, &mut vector, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let length = received.expect("a message in time").bytes;
        let message = String::from_utf8(text[..length].to_vec()).unwrap();
        let name =
            message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
        for given in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = given {
                self.store.extend(sockets.map(|socket| (name.clone(), socket)));
            }
        }
        message
    }
}

/// Sockets of one group.
fn shared_udp(count: usize) -> Vec<UdpSocket> {
    let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let open = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        let socket = UdpSocket::from(socket);
        address = socket.local_addr().unwrap();
        socket
    };
    (0..count).map(open).collect()
}
