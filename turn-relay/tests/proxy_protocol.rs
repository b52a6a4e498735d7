//! The PROXY protocol in front of TCP and TLS: who is believed, what is believed, and what happens to everybody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use client::wire::Wire;
use client::{BINDING, Client, PATIENCE, tls};
use process::Running;
use turn_relay::address::Transport;

const CLIENT: &str = "203.0.113.9:56120";
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 56120 3478\r\n";

#[test]
fn client_behind_a_trusted_proxy_is_known_by_its_own_address() {
    let relay = relay(&["--proxy-protocol-from", "127.0.0.1"]);
    let mut standing = vec![];
    for transport in [Transport::Tcp, Transport::Tls] {
        for (port, header) in [(1, v1_from as fn(u16) -> Vec<u8>), (2, v2_from)] {
            let port = 100 * port + u16::from(transport == Transport::Tls);
            let mut client = introduced(&relay, transport, &header(port));
            assert_eq!(mapped(&mut client), SocketAddr::from(([203, 0, 113, 9], port)), "{transport:?}");
            client.allocate();
            standing.push(client);
        }
    }
    let v6 = b"PROXY TCP6 2001:db8::9 2001:db8::1 56120 3478\r\n";
    let mut client = introduced(&relay, Transport::Tcp, v6);
    assert_eq!(mapped(&mut client), "[2001:db8::9]:56120".parse().unwrap());
    // What it answers to UDP, which has no such header, is as ever.
    let mut udp = Client::connect(Transport::Udp, relay.serving, "user", "password");
    assert_eq!(mapped(&mut udp), udp.local_addr());
}

#[test]
fn proxy_that_speaks_for_itself_is_its_own_client() {
    let relay = relay(&["--proxy-protocol-from", "127.0.0.0/8"]);
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 9)] {
        let mut client = introduced(&relay, Transport::Tcp, &header);
        assert_eq!(mapped(&mut client), client.local_addr());
    }
}

#[test]
fn header_may_come_byte_by_byte_and_together_with_what_follows() {
    let relay = relay(&["--proxy-protocol-from", "127.0.0.1"]);
    let mut stream = stream(&relay);
    stream.set_nodelay(true).unwrap();
    for byte in V1 {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut client = Client::over(Wire::Tcp(stream), "user", "password");
    assert_eq!(mapped(&mut client), CLIENT.parse().unwrap());

    // In one segment with a Binding request, from another port.
    let mut stream = self::stream(&relay);
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    stream.write_all(&[&v2_from(7), &request[..]].concat()).unwrap();
    let answer = client::Message::decode(&Wire::Tcp(stream).receive()).unwrap();
    assert_eq!(answer.mapped(), Some("203.0.113.9:7".parse().unwrap()));
}

#[test]
fn nobody_else_may_claim_an_address() {
    // Proxies are elsewhere, or nowhere.
    for flags in [&["--proxy-protocol-from", "192.0.2.0/24"][..], &[]] {
        let relay = relay(flags);
        for header in [V1.to_vec(), v2_from(8)] {
            let mut stream = stream(&relay);
            stream.write_all(&header).unwrap();
            assert!(Wire::Tcp(stream).closed());
        }
        let mut client = Client::connect(Transport::Tcp, relay.serving, "user", "password");
        assert_eq!(mapped(&mut client), client.local_addr());
    }
}

#[test]
fn proxy_that_introduces_nobody_is_closed_and_counted() {
    let flags =
        ["--proxy-protocol-from", "127.0.0.1", "--first-message-deadline", "1", "--admin", "127.0.0.1:0"];
    let relay = relay(&flags);
    let longer = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 4096]].concat();
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    for wrong in [&request[..], b"\x16\x03\x01\x02\0", b"GET / HTTP/1.1\r\n\r\n", &longer] {
        let mut stream = stream(&relay);
        // It may be closed before all is written.
        let _ = stream.write_all(wrong);
        assert!(Wire::Tcp(stream).closed(), "{:?}", &wrong[..5]);
    }
    let counted = "turn_relay_tcp_connections_unintroduced_total 4\n";
    assert!(relay.get("/metrics").contains(counted));
    // Half a header, and none, have until the deadline of the first message.
    for slow in [&V1[..20], b""] {
        let mut stream = stream(&relay);
        stream.write_all(slow).unwrap();
        assert!(Wire::Tcp(stream).closed());
    }
}

#[test]
fn connections_are_counted_for_the_client_and_not_for_its_proxy() {
    let flags = ["--proxy-protocol-from", "127.0.0.1", "--max-connections-per-address", "2"];
    let relay = relay(&flags);
    let header = |client: u8, port: u16| {
        format!("PROXY TCP4 203.0.113.{client} 192.0.2.1 {port} 3478\r\n").into_bytes()
    };
    let mut clients: Vec<Client> = (1..=10)
        .flat_map(|client| [(client, 1000), (client, 1001)])
        .map(|(client, port)| introduced(&relay, Transport::Tcp, &header(client, port)))
        .collect();
    for client in &mut clients {
        mapped(client);
    }
    assert!(introduced(&relay, Transport::Tcp, &header(3, 1002)).closed(), "a third of one client");
    drop(clients);
}

#[test]
fn client_that_comes_again_to_the_same_place_replaces_its_connection_and_allocation() {
    let relay =
        with_workers("1", &["--proxy-protocol-from", "127.0.0.1", "--max-connections-per-address", "1"]);
    let mut old = introduced(&relay, Transport::Tcp, V1);
    old.allocate();
    for (transport, header) in [
        (Transport::Tcp, V1.to_vec()),
        // By the other version and under TLS, it is the same client all the same.
        (Transport::Tls, v2_from(56120)),
        (Transport::Tcp, V1.to_vec()),
    ] {
        let mut new = introduced(&relay, transport, &header);
        new.allocate();
        assert!(old.into_wire().closed(), "{transport:?}");
        assert_eq!(mapped(&mut new), CLIENT.parse().unwrap());
        assert!(new.refresh(600).is_success());
        old = new;
    }
}

#[test]
fn client_that_has_the_same_port_towards_another_proxy_disturbs_nobody() {
    let relay = with_workers("1", &["--proxy-protocol-from", "127.0.0.1"]);
    let mut first = introduced(&relay, Transport::Tcp, V1);
    first.allocate();
    let other_way = b"PROXY TCP4 203.0.113.9 192.0.2.2 56120 3478\r\n";
    assert!(introduced(&relay, Transport::Tcp, other_way).closed());
    assert!(first.refresh(600).is_success());
}

#[test]
fn allocation_of_a_client_that_left_can_be_made_again_from_the_same_port() {
    let relay = relay(&["--proxy-protocol-from", "127.0.0.1"]);
    for _ in 0..20 {
        let mut client = introduced(&relay, Transport::Tcp, V1);
        client.allocate();
        assert!(client.release().is_success());
        let mut wire = client.into_wire();
        if let Wire::Tcp(stream) = &wire {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert!(wire.closed());
    }
}

#[test]
fn proxies_are_taken_and_forgotten_with_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let write = |more: &str| std::fs::write(&file, format!("user = [\"user:password\"]\n{more}")).unwrap();
    write("");
    let flags = ["--config", file.to_str().unwrap(), "--listen", "127.0.0.1:0", "--threads", "2"];
    let mut relay = Running::start_with(&flags, &[]);
    let mut before = Client::connect(Transport::Tcp, relay.serving, "user", "password");
    before.allocate();
    write("proxy_protocol_from = [\"127.0.0.1/32\"]\n");
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("reloaded");
    assert!(said.contains("proxy_protocol_from +127.0.0.1/32"), "{said}");
    assert!(before.refresh(600).is_success());
    assert_eq!(mapped(&mut introduced(&relay, Transport::Tcp, V1)), CLIENT.parse().unwrap());
}

fn relay(flags: &[&str]) -> Running {
    with_workers("2", flags)
}

fn with_workers(threads: &str, flags: &[&str]) -> Running {
    let (cert, key) = (tls::SERVED.cert.to_str().unwrap(), tls::SERVED.key.to_str().unwrap());
    let common = ["--listen", "127.0.0.1:0", "--threads", threads, "--tls-cert", cert, "--tls-key", key];
    Running::start(&[&common[..], flags].concat(), &[])
}

fn stream(relay: &Running) -> TcpStream {
    let stream = TcpStream::connect(relay.serving).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client whose connection begins with `header`.
fn introduced(relay: &Running, transport: Transport, header: &[u8]) -> Client {
    let mut stream = stream(relay);
    stream.write_all(header).unwrap();
    let secured = transport == Transport::Tls;
    let wire = if secured { Wire::secured(stream, tls::SERVED.client(&[])) } else { Wire::Tcp(stream) };
    Client::over(wire, "user", "password")
}

fn v1_from(port: u16) -> Vec<u8> {
    format!("PROXY TCP4 203.0.113.9 192.0.2.1 {port} 3478\r\n").into_bytes()
}

fn v2_from(port: u16) -> Vec<u8> {
    v2(0x21, port)
}

/// Version 2, with a field of a load balancer behind the addresses.
fn v2(command: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let addresses = [203, 0, 113, 9, 192, 0, 2, 1, high, low, 0x0d, 0x96];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, 18], &addresses, &[0xea, 0, 3, 1, 2, 3]].concat()
}

fn mapped(client: &mut Client) -> SocketAddr {
    client.request(BINDING, &[]).mapped().unwrap()
}
