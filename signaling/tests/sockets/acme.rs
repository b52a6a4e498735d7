//! Certificates by ACME, from a real server of it (`pebble`, with its name server) that looks at the listener to prove the name.

use std::{
    fs::Permissions,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    PATIENCE, get,
    process::{Process, refusal, run, terminate},
};

const NAME: &str = "call.example.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_obtained_once_the_authority_answers_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let [listen, admin, api, management, names] = [0; 5].map(|_| free_port());
    let authority = Authority { folder: folder.path(), listen, api, management, names, lifetime: 3600 };
    authority.write_certificate();
    let process = server(folder.path(), listen, admin, api);

    // Nobody answers there yet, and all but the handshakes of clients goes on.
    becomes(admin, |outcomes| outcomes.failed > 0).await;
    assert!(get(admin, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    assert!(handshake(listen, &[], &["http/1.1"]).await.is_err(), "there is no certificate");

    let pebble = authority.start();
    becomes(admin, |outcomes| outcomes.obtained == 1).await;
    let root = authority.root().await;
    let roots = [root];
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = handshake(listen, &roots, offered).await.expect("it is trusted");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
    }
    let stream = handshake(listen, &roots, &["http/1.1"]).await.expect("it is trusted");
    let first = shown(&stream);
    assert!(page(stream).await.starts_with("HTTP/1.1 200"));
    assert!(handshake(listen, &roots, &["acme-tls/1"]).await.is_err(), "nothing is to be proven");

    drop(pebble);
    end(process).await;
    let process = server(folder.path(), listen, admin, api);
    let again = async {
        loop {
            match handshake(listen, &roots, &["http/1.1"]).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let stream = timeout(PATIENCE, again).await.expect("it is taken from the folder");
    assert_eq!(shown(&stream), first);
    assert_eq!(outcomes(admin).await, Outcomes::default(), "nobody was asked");
    end(process).await;

    let log = std::fs::read_to_string(folder.path().join("log")).expect("read");
    for said in [
        "there is no certificate yet",
        "the certificate was obtained",
        "the certificate is the one that was kept",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_before_its_time_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let [listen, admin, api, management, names] = [0; 5].map(|_| free_port());
    let authority = Authority { folder: folder.path(), listen, api, management, names, lifetime: 12 };
    authority.write_certificate();
    let _pebble = authority.start();
    let process = server(folder.path(), listen, admin, api);

    becomes(admin, |outcomes| outcomes.obtained == 1).await;
    let roots = [authority.root().await];
    let first = shown(&handshake(listen, &roots, &[]).await.expect("it is good"));
    becomes(admin, |outcomes| outcomes.renewed == 1).await;
    let second = shown(&handshake(listen, &roots, &[]).await.expect("it is good"));
    assert_ne!(second, first);
    end(process).await;
}

#[test]
fn a_check_looks_at_the_folder_and_asks_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let path = cache.to_str().expect("UTF-8");
    let flags = [
        "--check",
        "--public-url",
        "https://call.example",
        "--no-embedded-relay",
        "--acme-domain",
        "call.example",
        "--acme-cache",
        path,
    ];
    assert!(run(&flags).status.success());
    assert!(!cache.exists(), "a check makes nothing");
    std::fs::create_dir(&cache).expect("made");
    for (mode, refused) in [(0o755, true), (0o700, false)] {
        std::fs::set_permissions(&cache, Permissions::from_mode(mode)).expect("changed");
        if refused {
            assert!(refusal(&flags).contains("chmod 700"));
        } else {
            assert!(run(&flags).status.success());
        }
    }
}

/// A server that asks for a certificate, and adds to the log in the folder.
fn server(folder: &Path, listen: SocketAddr, admin: SocketAddr, api: SocketAddr) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("opened");
    let cache = folder.join("cache");
    let flags = [
        ("--listen", listen.to_string()),
        ("--admin", admin.to_string()),
        ("--public-url", format!("https://{NAME}:{}", listen.port())),
        ("--http2", "true".into()),
        ("--no-embedded-relay", "true".into()),
        ("--acme-domain", NAME.into()),
        ("--acme-contact", "operator@example.test".into()),
        ("--acme-directory", format!("https://localhost:{}/dir", api.port())),
        ("--acme-cache", cache.to_str().expect("UTF-8").to_owned()),
    ];
    let flags: Vec<String> = flags.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect();
    Process::start_at(listen, &flags, &[("SSL_CERT_FILE", folder.join("cert.pem").as_path())], log)
}

async fn end(mut process: Process) {
    terminate(&process);
    assert_eq!(process.ended().await, Some(0));
}

/// Of the asking.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    obtained: u64,
    renewed: u64,
    failed: u64,
}

async fn outcomes(admin: SocketAddr) -> Outcomes {
    let text = get(admin, "/metrics", "").await;
    let count = |outcome: &str| {
        let name = format!("signaling_acme_orders_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    };
    Outcomes { obtained: count("obtained"), renewed: count("renewed"), failed: count("failed") }
}

async fn becomes(admin: SocketAddr, wanted: impl Fn(&Outcomes) -> bool) {
    let polled = async {
        while !wanted(&outcomes(admin).await) {
            tokio::task::yield_now().await;
        }
    };
    // It is asked again after one second, two, four and so on.
    let asked = timeout(2 * PATIENCE, polled).await;
    assert!(asked.is_ok(), "{:?}", outcomes(admin).await);
}

async fn handshake(
    server: SocketAddr,
    trusted: &[CertificateDer<'static>],
    offered: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(server).await?;
    let name = ServerName::try_from(NAME).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned()
}

async fn page(mut stream: TlsStream<TcpStream>) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

/// An authority, and the name server that leads it to us.
struct Authority<'a> {
    folder: &'a Path,
    listen: SocketAddr,
    api: SocketAddr,
    management: SocketAddr,
    names: SocketAddr,
    /// Of its certificates, in seconds.
    lifetime: u64,
}

impl Authority<'_> {
    /// What it shows, and what we have to trust.
    fn write_certificate(&self) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(self.folder.join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    }

    /// They run until this is dropped.
    fn start(&self) -> [Running; 2] {
        let path = |name: &str| self.folder.join(name).to_str().expect("UTF-8").to_owned();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": self.api.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": 1,
            "tlsPort": self.listen.port(),
            "certificateValidityPeriod": self.lifetime,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).expect("written");
        let names = self.names.to_string();
        let none = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", "", "-defaultIPv6", ""];
        let resolver =
            Command::new("pebble-challtestsrv").args(["-dns01", &names]).args(none).spawn_quietly();
        let pebble = Command::new("pebble")
            .args(["-strict", "-config", &path("pebble.json"), "-dnsserver", &names])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .spawn_quietly();
        [resolver, pebble]
    }

    /// What its certificates lead to.
    async fn root(&self) -> CertificateDer<'static> {
        let own = std::fs::read(self.folder.join("cert.pem")).expect("read");
        let own = reqwest::Certificate::from_pem(&own).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([own]).build().expect("a client");
        let answer =
            client.get(format!("https://{}/roots/0", self.management)).send().await.expect("an answer");
        let pem = answer.bytes().await.expect("the rest of it");
        CertificateDer::from_pem_slice(&pem).expect("a certificate")
    }
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A program that ends with the test.
struct Running(Child);

trait Quietly {
    fn spawn_quietly(&mut self) -> Running;
}

impl Quietly for Command {
    fn spawn_quietly(&mut self) -> Running {
        let started = self.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Running(started.unwrap_or_else(|error| {
            panic!(
                "{:?}: {error}; it is in Debian's package pebble, which tests/run installs",
                self.get_program()
            )
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
