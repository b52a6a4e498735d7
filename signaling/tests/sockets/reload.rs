//! A configuration that is read again: what changes, what does not, and who notices.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_util::SinkExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use signaling::{Config, Server, Settings};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Client, PATIENCE, config, get, open,
    process::{Process, signal},
    requests::hello,
};

/// A server that runs with one configuration and finds another when it reads it again.
fn start(config: &Config, changed: Config) -> Server {
    let settings = Settings::try_from(config.clone()).expect("a good configuration");
    let source = Box::new(move || Settings::try_from(changed.clone()));
    Server::start_reloadable(settings, None, source).expect("the server starts")
}

async fn upgrade(address: std::net::SocketAddr, origin: &str) -> String {
    let headers = format!(
        "Origin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: signaling.v1\r\n"
    );
    get(address, "/v1/rooms/lobby/ws", &headers).await.split(' ').nth(1).expect("a status").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_and_limits_change_under_live_sessions_and_what_cannot_is_named() {
    let before = Config { max_room_peers: Some(2), ..config() };
    let after = Config {
        allow_origin: vec!["https://app.example".into()],
        max_room_peers: Some(1),
        max_connections_per_address: Some(2),
        listen: Some("127.0.0.1:1".into()),
        shards: Some(7),
        tls: Some("self-signed".into()),
        public_url: Some("http://localhost".into()),
        admin: Some("off".into()),
        log_format: Some("json".into()),
        drain_seconds: Some(3),
        ..before.clone()
    };
    let server = start(&before, after);
    let mut one = Client::join(&server, "lobby", 1).await;
    let mut two = Client::join(&server, "lobby", 2).await;
    // The key is no key, so an origin that is let in is told so (400); nothing is left open by it.
    assert_eq!(upgrade(server.address(), "https://app.example").await, "403");

    let reloaded = server.reloader().reload().await.expect("a good configuration");
    assert_eq!(
        reloaded.changed,
        [
            "allow_origin +https://app.example",
            "limits of connections",
            "limits",
            "drain_seconds or drain_url"
        ]
    );
    assert_eq!(reloaded.needs_restart, ["tls", "listen", "admin", "public_url", "shards", "log_format"]);
    drop(timeout(PATIENCE, TcpStream::connect(server.address())).await.expect("it listens where it did"));

    let (from, to) = (two.peer(), one.peer());
    two.signal(&to, json!({"sdp": "still here"})).await;
    assert_eq!(one.until("signal").await["from"], from);
    assert!(is_turned_away(server.address()).await, "two connections are as many as there may be");
    drop(two);
    one.until("peer_changed").await;
    assert_eq!(upgrade(server.address(), "https://app.example").await, "400");
}

/// A connection too many is closed without a word.
async fn is_turned_away(address: std::net::SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.expect("the system accepts");
    matches!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("in time"), Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_is_fuller_than_it_may_be_keeps_its_peers_and_takes_no_more() {
    let before = config();
    let server = start(&before, Config { max_room_peers: Some(1), ..before.clone() });
    let mut one = Client::join(&server, "lobby", 1).await;
    let _two = Client::join(&server, "lobby", 2).await;
    server.reloader().reload().await.expect("a good configuration");
    let mut third = open(&server, "lobby").await;
    third.send(Message::text(hello(3, &json!({})))).await.expect("sent");
    assert_eq!(super::closed(&mut third).await, (4102, Some("room_full".into())));
    let gone = one.resumption();
    drop(one);
    one = Client::hello(&server, "lobby", 1, gone).await;
    assert_eq!(one.welcome["outcome"], "resumed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_changes_nothing() {
    let before = config();
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = Config {
        allow_origin: vec!["https://app.example".into(), "https://not an origin".into()],
        ..before.clone()
    };
    let server = start(&before, wrong);
    let error = server.reloader().reload().await.expect_err("no origin").to_string();
    assert!(error.contains("allow_origin") && error.contains("not an origin"), "{error}");
    assert_eq!(upgrade(server.address(), "https://app.example").await, "403");

    // A certificate that is no use is found before anything else has changed: the origin is still news afterwards.
    let (cert, key) = certificate_files(folder.path());
    let before = Config { tls_cert: Some(cert.clone()), tls_key: Some(key), ..before };
    let good = Config { allow_origin: vec!["https://app.example".into()], ..before.clone() };
    let readings = Mutex::new(vec![good.clone(), Config { tls_key: Some(cert), ..good }]);
    let source = move || {
        let next = readings.lock().expect("not poisoned").pop().expect("it is read twice");
        Settings::try_from(next)
    };
    let settings = Settings::try_from(before).expect("a good configuration");
    let server = Server::start_reloadable(settings, None, Box::new(source)).expect("the server starts");
    let error = server.reloader().reload().await.expect_err("no key").to_string();
    assert!(error.contains("tls") && error.contains("cert.pem"), "{error}");
    let reloaded = server.reloader().reload().await.expect("a good configuration");
    assert_eq!(reloaded.changed, ["allow_origin +https://app.example"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_to_another_relay_with_another_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = |name: &str| {
        let file = folder.path().join(name);
        fs::write(&file, format!("secret-{name}-of-some-length\n")).expect("written");
        Some(file)
    };
    let before = Config {
        no_embedded_relay: None,
        turn_url: vec!["turn:a.example:3478".into()],
        turn_secret_file: secret("a"),
        ..config()
    };
    let after = Config {
        turn_url: vec!["turn:b.example:3478".into()],
        turn_secret_file: secret("b"),
        turn_credential_seconds: Some(600),
        ..before.clone()
    };
    let server = start(&before, after);
    let old = Client::join(&server, "lobby", 1).await;
    let reloaded = server.reloader().reload().await.expect("a good configuration");
    assert_eq!(
        reloaded.changed,
        [
            "turn_url +turn:b.example:3478 -turn:a.example:3478",
            "turn_secret_file holds another secret",
            "turn_credential_seconds is 600"
        ]
    );
    let new = Client::join(&server, "lobby", 2).await;
    let urls = |client: &Client| client.welcome["ice"]["servers"][0]["urls"].clone();
    assert_eq!((urls(&old), urls(&new)), (json!(["turn:a.example:3478"]), json!(["turn:b.example:3478"])));
    assert_eq!(new.welcome["ice"]["expires_in_ms"], 600_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_served_to_who_comes_while_others_stay_connected() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = certificate_files(folder.path());
    let config = Config { tls_cert: Some(cert.clone()), tls_key: Some(key), ..config() };
    let server = start(&config, config.clone());
    let first = der(&cert);
    let old = connect(&server, &first).await;
    assert_eq!(shown(&old), first);

    certificate_files(folder.path());
    let second = der(&cert);
    assert_ne!(first, second);
    let reloaded = server.reloader().reload().await.expect("a good certificate");
    assert_eq!(reloaded.changed, ["certificate"]);
    assert_eq!(shown(&connect(&server, &second).await), second);
    assert_eq!(server.reloader().reload().await.expect("the same").changed, Vec::<String>::new());
    assert!(answers(old).await, "the old connection stands");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_files_are_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = certificate_files(folder.path());
    let config = Config { tls_cert: Some(cert.clone()), tls_key: Some(key), ..config() };
    let server = start(&config, config.clone());
    server.reloader().watch_certificates();
    connect(&server, &der(&cert)).await;
    certificate_files(folder.path());
    let second = der(&cert);
    let renewed = async {
        while handshake(&server, &second).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("the new one is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_file_again_and_a_bad_one_ends_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("signaling.toml");
    let path = file.to_str().expect("a path in UTF-8");
    fs::write(&file, "").expect("written");
    let process = Process::start(&["--config", path]);
    assert_eq!(upgrade(process.address, "https://one.example").await, "403");
    for (text, origin) in [
        ("allow_origin = [\"https://one.example\"]\n", Some("https://one.example")),
        ("alow_origin = [\"https://two.example\"]\n", None),
        ("allow_origin = [\"https://three.example\"]\n", Some("https://three.example")),
    ] {
        fs::write(&file, text).expect("written");
        signal(&process, "-HUP");
        let Some(origin) = origin else { continue };
        let taken = async {
            while upgrade(process.address, origin).await == "403" {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, taken).await.expect("the file is read");
    }
    assert_eq!(upgrade(process.address, "https://one.example").await, "403");
    assert_eq!(upgrade(process.address, "https://two.example").await, "403");
}

/// A fresh self-signed certificate and its key in this folder.
fn certificate_files(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (cert, key)
}

fn der(cert: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(cert).expect("a certificate")
}

/// A connection that trusts this certificate alone.
async fn connect(server: &Server, trusted: &CertificateDer<'static>) -> TlsStream<TcpStream> {
    handshake(server, trusted).await.expect("trusted")
}

async fn handshake(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("in time")
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned()
}

async fn answers(mut stream: TlsStream<TcpStream>) -> bool {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("writes");
    let mut head = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("in time").is_ok()
        && &head == b"HTTP/1.1 200"
}
