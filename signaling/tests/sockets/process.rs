//! The binary: how it starts, refuses to start, and ends.

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use tokio::time::timeout;

use super::{PATIENCE, closed, request};

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("signaling.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\n\nlisen = \"127.0.0.1:0\"\n").expect("written");
    let line = refusal(&["--config", file.to_str().expect("a path in UTF-8")]);
    assert!(line.contains("signaling.toml:3") && line.contains("lisen"), "{line}");
}

#[test]
fn a_taken_port_is_refused_with_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("an address").to_string();
    let line = refusal(&["--listen", &taken, "--admin", "off", "--no-embedded-relay"]);
    assert!(line.contains(&taken) && line.contains("--listen"), "{line}");
    let line = refusal(&["--listen", "127.0.0.1:0", "--admin", &taken, "--no-embedded-relay"]);
    assert!(line.contains(&taken) && line.contains("--admin"), "{line}");
    let line = refusal(&["--listen", "127.0.0.1:0", "--admin", "off", "--relay-listen", &taken]);
    assert!(line.contains(&taken) && line.contains("--no-embedded-relay"), "{line}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cert.pem");
    std::fs::write(&file, "this is no certificate").expect("written");
    let file = file.to_str().expect("a path in UTF-8");
    for flags in [&["--check"][..], &[]] {
        let line = refusal(&[&["--tls-cert", file, "--tls-key", file], flags].concat());
        assert!(line.contains("cert.pem holds no certificate"), "{line}");
    }
}

#[test]
fn contradictions_and_odd_values_are_refused_by_name() {
    for (flags, named) in [
        (&["--listen", "localhost"][..], "listen"),
        (&["--tls", "yes"], "tls"),
        (&["--tls-cert", "a"], "tls_key"),
        (&["--tls", "self-signed", "--tls-cert", "a", "--tls-key", "b"], "not both"),
        (&["--acme-domain", "call.example"], "acme_cache"),
        (&["--acme-cache", "/nonexistent"], "acme_domain"),
        (&["--acme-domain", "call.example", "--acme-cache", "/nonexistent"], "public_url"),
        (&["--acme-domain", "*.example", "--acme-cache", "/nonexistent"], "acme_domain"),
        (&["--acme-domain", "192.0.2.1", "--acme-cache", "/nonexistent"], "acme_domain"),
        (&["--acme-domain", "call.example", "--tls", "self-signed"], "one place"),
        (&["--public-url", "call.example"], "public_url"),
        (&["--allow-origin", "https://a/b"], "allow_origin"),
        (&["--turn-url", "turn:relay.example"], "--turn-secret-file"),
        (&["--turn-url", "relay.example", "--turn-secret-file", "/dev/null"], "turn_url"),
        (&["--turn-url", "turn:relay.example", "--turn-secret-file", "/dev/null"], "turn_secret_file"),
        (&["--turn-url", "turn:relay.example", "--turn-secret-file", "/nonexistent"], "/nonexistent"),
        (&["--turn-secret-file", "/dev/null"], "--turn-url"),
        (&["--turn-admin-url", "http://127.0.0.1:9641"], "turn_admin_token_file"),
        (
            &["--turn-admin-url", "http://127.0.0.1:9641", "--turn-admin-token-file", "/dev/null"],
            "--turn-url",
        ),
        (&["--no-embedded-relay", "--relay-listen", "127.0.0.1:0"], "relay_listen"),
        (&["--public-url", "https://call.example"], "--relay-listen"),
        (&["--public-url", "https://192.0.2.7", "--relay-listen", "[::1]:0"], "--no-embedded-relay"),
        (&["--token-secret-file", "/nonexistent"], "/nonexistent"),
        (&["--token-secret-file", "/dev/null"], "openssl rand -hex 32"),
        (&["--token-secret-file", "/dev/null", "--token-keys", "/dev/null"], "give one of them"),
        (&["--token-keys", "https://id.example/keys"], "token_audience"),
        (&["--token-keys", "http://id.example/keys", "--token-audience", "a"], "https://"),
        (&["--token-keys", "/nonexistent", "--token-audience", "a"], "/nonexistent"),
        (&["--token-keys", "/dev/null", "--token-audience", "a"], "Key Set"),
        (&["--token-audience", "a"], "token_secret_file or token_keys"),
        (&["--room-door", "knock"], "token_secret_file"),
        (&["--room-door", "ajar"], "room_door"),
        (&["--identity", "replace"], "identity"),
        (&["--auth-hook", "https://app.example/"], "auth_hook_secret_file"),
        (&["--auth-hook", "http://app.example/", "--auth-hook-secret-file", "/dev/null"], "https"),
        (&["--auth-hook", "https://app.example/", "--auth-hook-secret-file", "/dev/null"], "/dev/null"),
        (&["--auth-hook-secret-file", "/dev/null"], "auth_hook"),
        (&["--max-rooms", "0"], "max_rooms"),
        (&["--max-room-peers", "401"], "max_room_peers"),
        (&["--turn-credential-seconds", "1"], "turn_credential_seconds"),
        (&["--webhook", "https://a.example/hook"], "webhook_secret_file"),
        (&["--webhook-secret-file", "/dev/null"], "webhook"),
        (&["--webhook", "http://a.example/hook", "--webhook-secret-file", "/dev/null"], "https"),
        (&["--otlp-endpoint", "ftp://127.0.0.1:4318"], "otlp_endpoint"),
        (&["--admin-token-file", "/nonexistent"], "/nonexistent"),
        (&["--admin", "unix:admin.sock"], "absolute"),
        (&["--admin-host", "a.example:80"], "admin_host"),
        (&["--drain-seconds", "3601"], "drain_seconds"),
        (&["--drain-url", "b.example"], "drain_url"),
        (&["--log-level", "lo=ud=er"], "log_level"),
        (&["--bogus"], "--bogus"),
    ] {
        let line = refusal(flags);
        assert!(line.contains(named), "{flags:?}: {line}");
    }
}

#[test]
fn what_print_config_prints_can_be_loaded_once_uncommented() {
    let printed = run(&["--print-config"]);
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    // A line `#key = value` is a default; what excludes something else stays a comment.
    let exclusive = [
        "#tls",
        "#token_",
        "#identity",
        "#auth_hook",
        "#turn_",
        "#no_embedded_relay",
        "#public_url",
        "#acme_",
        "#admin_token_file",
        "#webhook",
        "#otlp_endpoint",
    ];
    let uncommented: String = text
        .lines()
        .filter(|line| line.starts_with('#') && !line.starts_with("# "))
        .filter(|line| !exclusive.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{}\n", &line[1..]))
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("signaling.toml");
    std::fs::write(&file, &uncommented).expect("written");
    let checked = run(&["--config", file.to_str().expect("a path"), "--check"]);
    assert!(checked.status.success(), "{uncommented}\n{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_public_address_goes_with_a_relay_that_can_be_reached_there() {
    for flags in [
        &["--public-url", "https://call.example", "--relay-listen", "0.0.0.0:3478"][..],
        &["--public-url", "https://call.example", "--no-embedded-relay"],
        &["--public-url", "https://call.example", "--listen", "0.0.0.0:8080"],
        &["--public-url", "https://call.localhost:8443"],
        &["--public-url", "http://127.0.0.1:8443"],
    ] {
        let checked = run(&[flags, &["--check"]].concat());
        assert!(checked.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_closes_connections_with_4000_and_ends_with_0() {
    let mut process = Process::start(&[]);
    let (mut socket, _) = tokio_tungstenite::connect_async(request(process.address, "lobby"))
        .await
        .expect("the printed address is served");
    terminate(&process);
    assert_eq!(closed(&mut socket).await, (4000, Some("going_away".into())));
    drop(socket);
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_hears_ready_alive_reloading_and_stopping() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let heard = tokio::net::UnixDatagram::bind(&socket).expect("binds");
    let mut command = Command::new(BINARY);
    command
        .args(["--listen", "127.0.0.1:0", "--admin", "off", "--no-embedded-relay"])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "300000")
        .stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let until = async |wanted: &str| {
        let mut buffer = [0; 1024];
        loop {
            let read = timeout(PATIENCE, heard.recv(&mut buffer)).await.expect("in time").expect("reads");
            let text = std::str::from_utf8(&buffer[..read]).expect("UTF-8");
            if text.lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    until("READY=1").await;
    until("WATCHDOG=1").await;
    signal(&process, "-HUP");
    until("RELOADING=1").await;
    until("READY=1").await;
    until("WATCHDOG=1").await;
    terminate(&process);
    until("STOPPING=1").await;
    assert_eq!(process.ended().await, Some(0));
}

/// A running server of its own.
pub(super) struct Process {
    child: Option<Started>,
    pub(super) address: SocketAddr,
}

impl Process {
    /// On free ports, with these flags.
    pub(super) fn start(flags: &[&str]) -> Self {
        Self::start_logging(flags, Stdio::null())
    }

    /// The same with its log there.
    pub(super) fn start_logging(flags: &[&str], log: impl Into<Stdio>) -> Self {
        let ports = ["--listen", "127.0.0.1:0", "--admin", "off", "--relay-listen", "127.0.0.1:0"];
        let mut command = Command::new(BINARY);
        command.args([&ports[..], flags].concat()).stderr(log);
        Self::spawn(&mut command)
    }

    /// One that listens there with these flags, whose log goes there.
    pub(super) fn start_at(
        address: SocketAddr,
        flags: &[String],
        environment: &[(&str, &Path)],
        log: impl Into<Stdio>,
    ) -> Self {
        let mut command = Command::new(BINARY);
        command.args(flags).envs(environment.iter().copied()).stderr(log).stdout(Stdio::piped());
        let mut child = command.spawn().map(Started).expect("starts");
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("signaling is ready"));
        Self { child: Some(child), address }
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().map(Started).expect("starts");
        let address = printed_address(&mut child.0);
        Self { child: Some(child), address }
    }

    /// The most that it has held resident so far, in KiB.
    pub(super) fn peak_kib(&self) -> u64 {
        let id = self.child.as_ref().expect("it runs").0.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Its exit code, when it has ended by itself.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it is waited for once");
        let status = tokio::task::spawn_blocking(move || child.0.wait()).await.expect("no panic");
        status.expect("ends").code()
    }
}

pub(super) fn signal(process: &Process, name: &str) {
    let id = process.child.as_ref().expect("it runs").0.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("runs").success());
}

pub(super) fn terminate(process: &Process) {
    signal(process, "-TERM");
}

/// Ends with the test, whatever becomes of it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The address in the line that says what to open.
fn printed_address(process: &mut Child) -> SocketAddr {
    let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| {
            line.trim()
                .strip_prefix("open ")?
                .trim()
                .strip_prefix("http")?
                .trim_start_matches('s')
                .strip_prefix("://localhost:")?
                .strip_suffix('/')?
                .parse()
                .ok()
        })
        .expect("a line with the address");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The one line on standard error of a start that is refused with exit code 2.
pub(super) fn refusal(flags: &[&str]) -> String {
    let mut process = Command::new(BINARY)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Started)
        .expect("runs");
    let mut printed = [0; 1];
    let started = process.0.stdout.take().expect("piped").read(&mut printed).expect("reads");
    assert_eq!(started, 0, "{flags:?}: it started, or said that all is well");
    let mut said = String::new();
    process.0.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    let status = process.0.wait().expect("ends");
    assert_eq!(status.code(), Some(2), "{flags:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{flags:?}: {said}");
    assert!(said.starts_with("error: "), "{flags:?}: {said}");
    said
}

pub(super) fn run(flags: &[&str]) -> std::process::Output {
    Command::new(BINARY).args(flags).output().expect("runs")
}

const BINARY: &str = env!("CARGO_BIN_EXE_signaling");
