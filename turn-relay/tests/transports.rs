//! What lies between a client's frames and the network: TLS, and the limits on connections. Real sockets, two workers.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a test that cannot go on fails")]

mod client;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::bench::{PASSWORD, Peer, Relay, USER};
use client::tls::{Files, SERVED};
use client::wire::Wire;
use client::{Client, PATIENCE, Received};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use turn_relay::address::Transport;
use turn_relay::config::{Config, Settings};

type Secured = StreamOwned<ClientConnection, TcpStream>;

#[test]
fn both_versions_of_tls_are_served_and_nothing_older() {
    let relay = Relay::on("127.0.0.1", &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = SERVED.client(&[]);
        let provider = Arc::clone(config.crypto_provider());
        let roots = SERVED.roots();
        config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = shake(&relay, config).unwrap();
        assert_eq!(tls.conn.protocol_version(), Some(version.version));
        let mut client = Client::over(Wire::Tls(Box::new(tls)), USER, PASSWORD);
        client.allocate();
    }
    // A ClientHello of TLS 1.1 gets a fatal alert (RFC 8446 section 6.2) and the end.
    let mut old = connect(&relay);
    old.write_all(&client_hello(0x0302)).unwrap();
    let mut answer = Vec::new();
    old.read_to_end(&mut answer).unwrap();
    assert_eq!((answer.first(), answer.get(5)), (Some(&21), Some(&2)), "{answer:02x?}");
    relay.settles("tls_handshakes_failed_total", 1);
}

#[test]
fn alpn_chooses_turn_or_nat_discovery_and_refuses_who_offers_only_others() {
    let relay = Relay::on("127.0.0.1", &[]);
    let chosen = |offered: &[&[u8]]| {
        shake(&relay, SERVED.client(offered)).map(|tls| tls.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(chosen(&[]).unwrap(), None);
    assert_eq!(chosen(&[b"stun.turn"]).unwrap(), Some(b"stun.turn".to_vec()));
    assert_eq!(chosen(&[b"stun.nat-discovery"]).unwrap(), Some(b"stun.nat-discovery".to_vec()));
    assert_eq!(chosen(&[b"h2", b"stun.turn"]).unwrap(), Some(b"stun.turn".to_vec()));
    let refused = chosen(&[b"h2", b"http/1.1"]).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn a_client_resumes_its_session_also_after_the_certificate_was_changed() {
    let relay = Relay::on("127.0.0.1", &[]);
    let config = SERVED.client(&[]);
    assert_eq!(served(&relay, config.clone()), HandshakeKind::Full);
    // Whichever worker the second connection meets.
    for _ in 0..8 {
        assert_eq!(served(&relay, config.clone()), HandshakeKind::Resumed);
    }
    reload(&relay, &[&SERVED]);
    assert_eq!(served(&relay, config), HandshakeKind::Resumed);
}

#[test]
fn another_certificate_is_served_from_the_next_connection_on_and_the_standing_one_goes_on() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut standing = relay.client(Transport::Tls);
    let relayed = standing.allocate();
    let renewed = Files::generate();
    reload(&relay, &[&renewed]);
    shake(&relay, SERVED.client(&[])).expect_err("this certificate is no longer served");
    shake(&relay, renewed.client(&[])).expect("the new one is");
    assert!(standing.permit(peer.address()).is_success());
    peer.send(relayed, b"still here");
    assert_eq!(standing.receive(), Received::Data(peer.address(), b"still here".to_vec()));

    // Without a certificate a ClientHello is what it was before: no STUN.
    reload(&relay, &[]);
    shake(&relay, renewed.client(&[])).expect_err("TLS is off");
    assert!(relay.client(Transport::Tcp).request(client::BINDING, &[]).is_success());
}

#[test]
fn a_handshake_that_dawdles_is_cut_off_by_the_deadline_of_the_first_message() {
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        first_message_deadline: Some(1),
        ..Config::default()
    });
    let hello = client_hello(0x0303);
    let mut slow = connect(&relay);
    // A byte now and then keeps no connection; the client is done long before the whole would be sent at this pace.
    slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let cut = hello[..hello.len() - 1].iter().position(|byte| {
        let sent = slow.write_all(&[*byte]).is_ok();
        !sent || matches!(slow.read(&mut [0; 64]), Ok(0))
    });
    assert!(cut.is_some(), "it was never cut off");
    relay.settles("tls_handshakes_failed_total", 1);
    // One that completes the handshake and then says nothing is no better.
    let mut silent = shake(&relay, SERVED.client(&[])).unwrap();
    assert_eq!(silent.read(&mut [0; 64]).ok(), Some(0));
}

#[test]
fn dtls_challenges_of_one_prefix_are_limited_and_who_asks_again_is_answered() {
    const RATE: u32 = 5;
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        unauthenticated_answers: Some(RATE),
        ..Config::default()
    });
    let began = Instant::now();
    let socket = client::wire::udp(relay.address);
    for n in 0..100 {
        socket.send(&dtls_client_hello(n)).unwrap();
    }
    // Binding has an allowance of its own, and its answer comes behind those to what was sent before it.
    socket.send(&[&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()).unwrap();
    let (mut challenges, mut buffer) = (0, [0; 256]);
    while socket.recv(&mut buffer).map(|_| buffer[0]).unwrap() == 22 {
        challenges += 1;
    }
    // Two seconds' worth at once, and what has come since.
    let bound = RATE * (2 + u32::try_from(began.elapsed().as_secs()).unwrap() + 1);
    assert!((1..=bound).contains(&challenges), "{challenges} challenges, {bound} allowed");
    // Who was not answered asks again (RFC 6347 section 4.2.4).
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        socket.send(&dtls_client_hello(99)).unwrap();
        if socket.recv(&mut buffer).is_ok_and(|_| buffer[0] == 22) {
            break;
        }
        assert!(Instant::now() < until, "it is locked out");
    }
}

/// The shortest there is, different for every `n`.
fn dtls_client_hello(n: u8) -> Vec<u8> {
    let body = [&[0xfe, 0xfd][..], &[n; 32], &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let message = [&[1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length][..], &body].concat();
    let record = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, n, 0, u8::try_from(message.len()).unwrap()];
    [&record[..], &message].concat()
}

#[test]
fn one_address_gets_as_many_connections_as_configured_with_and_without_tls() {
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        max_connections_per_address: Some(3),
        ..Config::default()
    });
    let mut kept =
        vec![relay.client(Transport::Tcp), relay.client(Transport::Tls), relay.client(Transport::Tls)];
    for client in &mut kept {
        assert!(client.request(client::BINDING, &[]).is_success());
    }
    let mut one_too_many = connect(&relay);
    assert!(matches!(one_too_many.read(&mut [0; 8]), Ok(0) | Err(_)));
    relay.settles("tcp_connections_refused_total", 1);
    drop(kept.pop());
    relay.settles("tcp_connections", 2);
    assert!(relay.client(Transport::Tls).request(client::BINDING, &[]).is_success());
}

#[test]
fn a_dtls_session_ends_its_allocation_and_the_other_way_round() {
    let relay = Relay::on("127.0.0.1", &[]);
    let mut released = relay.client(Transport::Dtls);
    released.allocate();
    relay.settles("allocations{transport=\"dtls\",family=\"ipv4\"}", 1);
    let Wire::Dtls(mut session) = released.into_wire() else { panic!("it speaks DTLS") };
    session.close();
    relay.settles("allocations_ended_total{reason=\"connection_closed\"}", 1);
    relay.settles("dtls_sessions", 0);

    // A user who is gone loses allocation and session.
    let mut revoked = relay.client(Transport::Dtls);
    revoked.allocate();
    relay.settles("dtls_sessions", 1);
    reload_with(&relay, &[&SERVED], "other:password");
    assert!(revoked.closed());
    relay.settles("dtls_sessions", 0);
}

#[test]
fn datagrams_that_begin_like_dtls_are_met_with_silence_and_cost_nothing() {
    let relay = Relay::on("127.0.0.1", &[]);
    let socket = client::wire::udp(relay.address);
    for rubbish in [&[22; 64][..], &[20], &[63, 0, 0], &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]]
    {
        socket.send(rubbish).unwrap();
    }
    relay.settles("dropped_packets_total{reason=\"malformed\"}", 4);
    relay.settles("dtls_sessions", 0);
}

#[test]
fn rubbish_that_begins_like_tls_is_closed() {
    let relay = Relay::on("127.0.0.1", &[]);
    for rubbish in [&[22, 3, 1, 0xff, 0xff, 1][..], &[22, 0, 0, 0, 0, 0], &[22, 3, 1, 0, 4, 2, 0, 0, 0]] {
        let mut stream = connect(&relay);
        stream.write_all(rubbish).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
    }
    relay.settles("tls_handshakes_failed_total", 3);
}

/// Completes a handshake, or says why not.
fn shake(relay: &Relay, config: ClientConfig) -> std::io::Result<Secured> {
    let stream = connect(relay);
    let name = ServerName::from(relay.address.ip());
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tls = StreamOwned::new(tls, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Has one request answered, by which time the session ticket has come too, and tells how the session began.
fn served(relay: &Relay, config: ClientConfig) -> HandshakeKind {
    let tls = shake(relay, config).unwrap();
    let kind = tls.conn.handshake_kind().unwrap();
    let mut client = Client::over(Wire::Tls(Box::new(tls)), USER, PASSWORD);
    assert!(client.request(client::BINDING, &[]).is_success());
    kind
}

/// As the relay was started, with other certificates.
fn reload(relay: &Relay, certificates: &[&Files]) {
    reload_with(relay, certificates, &format!("{USER}:{PASSWORD}"));
}

fn reload_with(relay: &Relay, certificates: &[&Files], user: &str) {
    let config = Config {
        user: vec![user.to_owned()],
        listen: vec![relay.address.to_string()],
        threads: Some(2),
        allow_peer: vec!["127.0.0.0/8".into()],
        tls_cert: certificates.iter().map(|files| files.cert.clone()).collect(),
        tls_key: certificates.iter().map(|files| files.key.clone()).collect(),
        ..Config::default()
    };
    let settings = Settings::new(&config, vec![]).unwrap();
    relay.server.control().reload(settings).unwrap();
}

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A ClientHello of that version, with one cipher suite and no extension.
fn client_hello(version: u16) -> Vec<u8> {
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let mut record = vec![22, 3, 1, 0, u8::try_from(hello.len() + 4).unwrap()];
    record.extend([1, 0, 0, u8::try_from(hello.len()).unwrap()]);
    record.extend(hello);
    record
}
