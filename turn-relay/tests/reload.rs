//! New settings under a running server: what SIGHUP does, and what it does to live clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use client::{Client, PATIENCE, Received};
use process::Running;
use turn_relay::address::Transport;

#[test]
fn sighup_takes_new_users_and_ends_what_the_removed_ones_had() {
    let (folder, peer) = (tempfile::tempdir().unwrap(), Peer::new());
    let file = folder.path().join("relay.toml");
    write(&file, "user = [\"a:1\", \"b:2\"]\nallow_peer = [\"127.0.0.0/8\"]\n");
    let mut relay = start(&file);
    let mut gone = Client::connect(Transport::Udp, relay.serving, "a", "1");
    let mut stays = Client::connect(Transport::Tcp, relay.serving, "b", "2");
    for client in [&mut gone, &mut stays] {
        client.allocate();
        assert!(client.bind_channel(0x4000, peer.address()).is_success());
    }
    let relayed = peer.hears(&mut stays);

    write(&file, "user = [\"b:2\", \"c:3\"]\nallow_peer = [\"127.0.0.0/8\"]\n");
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("reloaded");
    assert!(said.contains("user: 1 added, 1 removed; allocations ended by it: 1"), "{said}");
    assert!(relay.seen.contains("reason=\"revoked\""), "{}", relay.seen);

    assert_eq!(gone.refresh(600).error(), Some(401));
    Client::connect(Transport::Udp, relay.serving, "c", "3").allocate();
    peer.0.send_to(b"still", relayed).unwrap();
    assert_eq!(stays.receive(), Received::Channel(0x4000, b"still".to_vec()));
    assert!(stays.refresh(600).is_success());
}

#[test]
fn bad_file_changes_nothing_and_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    write(&file, "user = [\"a:1\"]\n");
    let mut relay = start(&file);
    let mut client = Client::connect(Transport::Udp, relay.serving, "a", "1");
    client.allocate();
    for (bad, why) in [
        ("user = []\n", "no credentials are configured"),
        ("user = [\"b:2\"]\ndeny_peer = [\"10.0.0.0/99\"]\n", "10.0.0.0/99"),
        ("user = [\"b:2\"]\nusers = 3\n", "relay.toml:2: unknown key `users`"),
    ] {
        write(&file, bad);
        relay.signal(libc::SIGHUP);
        let said = relay.wait_for("not reloaded, everything stays as it was");
        assert!(said.contains(why), "{said}");
        assert!(client.refresh(600).is_success());
        Client::connect(Transport::Udp, relay.serving, "a", "1").allocate();
    }
    fs::remove_file(&file).unwrap();
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("not reloaded");
    assert!(said.contains("cannot read the configuration"), "{said}");
    assert!(client.refresh(600).is_success());
}

#[test]
fn what_needs_a_restart_is_named_and_keeps_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    write(&file, "user = [\"a:1\"]\n");
    let mut relay = start(&file);
    write(&file, "user = [\"a:1\"]\nthreads = 3\nadmin = \"127.0.0.1:1\"\nrealm = \"other\"\n");
    for _ in 0..2 {
        relay.signal(libc::SIGHUP);
        let said = relay.wait_for("reloaded: ");
        assert!(said.contains("needs a restart: threads, admin"), "{said}");
    }
    write(&file, "user = [\"a:1\"]\nrealm = \"other\"\n");
    relay.signal(libc::SIGHUP);
    relay.wait_for("reloaded: nothing has changed");
}

#[test]
fn admin_token_and_names_are_exchanged_as_a_whole_or_not_at_all() {
    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";
    let folder = tempfile::tempdir().unwrap();
    let (file, token) = (folder.path().join("relay.toml"), folder.path().join("token"));
    let open = format!("user = [\"a:1\"]\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\n");
    let listen = "listen = [\"127.0.0.1:0\"]\n";
    write(&token, OLD);
    write(&file, &format!("{listen}{open}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_turn-relay"));
    let mut relay = Running::spawn(command.arg("--config").arg(&file), true);
    let status = |relay: &Running, host: &str, token: &str| {
        let headers = format!("Host: {host}\r\nAuthorization: Bearer {token}\r\n");
        relay.request("GET", "/v1/numbers", &headers, "").split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status(&relay, "localhost", OLD), "200");
    assert_eq!(status(&relay, "relay.internal", OLD), "421");

    // A token too short, a name that is none, and at last a port that another has: nothing of it holds.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let bad_name = format!("{listen}{open}admin_host = [\"relay:80\"]\n");
    let bad_port =
        format!("listen = [\"127.0.0.1:0\", \"{taken}\"]\n{open}admin_host = [\"relay.internal\"]\n");
    for (secret, content, why) in [
        ("short", &format!("{listen}{open}"), "admin_token_file: "),
        (NEW, &bad_name, "admin_host: "),
        (NEW, &bad_port, "the port is taken"),
    ] {
        write(&token, secret);
        write(&file, content);
        relay.signal(libc::SIGHUP);
        let said = relay.wait_for("not reloaded");
        assert!(said.contains(why), "{said}");
        assert_eq!(status(&relay, "localhost", OLD), "200");
        assert_eq!(status(&relay, "localhost", NEW), "401");
        assert_eq!(status(&relay, "relay.internal", OLD), "421");
    }

    // By the very call that the old token is good for.
    write(&file, &format!("{listen}{open}admin_host = [\"relay.internal\"]\n"));
    let headers = format!("Host: localhost\r\nAuthorization: Bearer {OLD}\r\n");
    let answer = relay.request("POST", "/v1/reload", &headers, "");
    assert!(answer.contains(r#""changed":["admin_token_file","admin_host +relay.internal"]"#), "{answer}");
    assert!(answer.contains(r#""needs_restart":[]"#), "{answer}");
    assert_eq!(status(&relay, "localhost", OLD), "401");
    assert_eq!(status(&relay, "relay.internal", NEW), "200");

    write(&file, &format!("{listen}user = [\"a:1\"]\nadmin = \"127.0.0.1:0\"\n"));
    relay.signal(libc::SIGHUP);
    relay.wait_for("reloaded: admin_token_file; admin_host -relay.internal");
    assert_eq!(status(&relay, "localhost", NEW), "403");
}

/// On a port of its own, whatever else the file says.
fn start(file: &Path) -> Running {
    let file = file.to_str().unwrap();
    Running::start_with(&["--config", file, "--listen", "127.0.0.1:0"], &[])
}

fn write(file: &Path, content: &str) {
    fs::write(file, content).unwrap();
}

struct Peer(UdpSocket);

impl Peer {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn address(&self) -> std::net::SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The client's relayed address, from what it sends on its channel.
    fn hears(&self, client: &mut Client) -> std::net::SocketAddr {
        client.send_channel(0x4000, b"hello");
        let mut buffer = [0; 64];
        let (len, from) = self.0.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        from
    }
}
