//! Renewed certificates under a running server: what new clients are shown over TLS and DTLS, and that old ones notice nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};

use client::dtls::Dtls;
use client::tls::Files;
use client::wire::Wire;
use client::{Client, PATIENCE, Received};
use process::Running;
use turn_relay::address::Transport;

const CHANNEL: u16 = 0x4000;

#[test]
fn certificate_that_is_renewed_in_its_files_is_shown_to_newcomers_and_nobody_else_notices() {
    let (folder, first) = (tempfile::tempdir().unwrap(), Files::generate());
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    replace(&cert, &first.cert);
    replace(&key, &first.key);
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let flags = [&["--listen", "127.0.0.1:0", "--allow-peer", "127.0.0.0/8"], &files[..]].concat();
    let mut relay = Running::start(&flags, &[]);
    let mut standing = standing(relay.serving, &first);

    // Half of a renewal is none.
    let renewed = Files::generate();
    replace(&cert, &renewed.cert);
    relay.wait_for("certificates stay as they were");
    assert!(shows(relay.serving, &first) && !shows(relay.serving, &renewed));
    replace(&key, &renewed.key);
    relay.wait_for("certificates were renewed");
    assert!(shows(relay.serving, &renewed) && !shows(relay.serving, &first));
    over_tls(relay.serving, &renewed).allocate();
    standing.iter_mut().for_each(Standing::goes_on);
}

#[test]
fn certificate_of_a_new_configuration_is_shown_from_the_reload_on_and_nobody_else_notices() {
    let (folder, first, second) = (tempfile::tempdir().unwrap(), Files::generate(), Files::generate());
    let file = folder.path().join("relay.toml");
    let configure = |files: &Files| {
        let (cert, key) = (files.cert.display(), files.key.display());
        let tls = format!("tls_cert = [\"{cert}\"]\ntls_key = [\"{key}\"]\n");
        fs::write(&file, format!("user = [\"user:password\"]\nallow_peer = [\"127.0.0.0/8\"]\n{tls}"))
            .unwrap();
    };
    configure(&first);
    let flags = ["--config", file.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut relay = Running::start_with(&flags, &[]);
    let mut standing = standing(relay.serving, &first);
    assert!(shows(relay.serving, &first) && !shows(relay.serving, &second));

    configure(&second);
    relay.signal(libc::SIGHUP);
    let said = relay.wait_for("reloaded");
    assert!(said.contains("certificates"), "{said}");
    assert!(shows(relay.serving, &second) && !shows(relay.serving, &first));
    over_tls(relay.serving, &second).allocate();
    standing.iter_mut().for_each(Standing::goes_on);
}

/// As certbot and others do: written beside and renamed over.
fn replace(file: &Path, by: &Path) {
    let beside: PathBuf = file.with_extension("new");
    fs::copy(by, &beside).unwrap();
    fs::rename(beside, file).unwrap();
}

/// Whether a client is shown this certificate over TLS and DTLS alike. One and not the other is a failure.
fn shows(server: SocketAddr, files: &Files) -> bool {
    let tls = Wire::secured(stream(server), files.client(&[]));
    let Wire::Tls(mut tls) = tls else { panic!("it speaks TLS") };
    let over_tls = loop {
        match tls.conn.complete_io(&mut tls.sock) {
            Ok(_) if tls.conn.is_handshaking() => {}
            done => break done.is_ok(),
        }
    };
    let over_dtls = Dtls::connect(server).shown.as_deref() == Some(files.leaf().as_ref());
    assert_eq!(over_tls, over_dtls, "TLS shows it: {over_tls}, DTLS shows it: {over_dtls}");
    over_tls
}

fn stream(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn over_tls(server: SocketAddr, files: &Files) -> Client {
    Client::over(Wire::secured(stream(server), files.client(&[])), "user", "password")
}

/// An allocation with a channel, and its peer.
struct Standing {
    client: Client,
    relayed: SocketAddr,
    peer: UdpSocket,
}

/// One over TLS and one over DTLS.
fn standing(server: SocketAddr, files: &Files) -> [Standing; 2] {
    let clients = [over_tls(server, files), Client::connect(Transport::Dtls, server, "user", "password")];
    clients.map(|mut client| {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let relayed = client.allocate();
        assert!(client.bind_channel(CHANNEL, peer.local_addr().unwrap()).is_success());
        Standing { client, relayed, peer }
    })
}

impl Standing {
    fn goes_on(&mut self) {
        let mut buffer = [0; 64];
        self.client.send_channel(CHANNEL, b"there");
        assert_eq!(self.peer.recv_from(&mut buffer).unwrap(), (5, self.relayed));
        self.peer.send_to(b"and back", self.relayed).unwrap();
        assert_eq!(self.client.receive(), Received::Channel(CHANNEL, b"and back".to_vec()));
        assert!(self.client.refresh(600).is_success());
    }
}
