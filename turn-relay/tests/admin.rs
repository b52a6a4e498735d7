//! The admin API over real sockets, with two workers: every example of `ADMIN.md`, and who is not let in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use client::Client;
use prometheus_client::registry::Registry;
use serde_json::Value;
use turn_relay::address::Transport;
use turn_relay::admin::Console;
use turn_relay::config::{Config, Settings};
use turn_relay::operation::{Admin, AdminAddress, Readiness};
use turn_relay::server::{Reloader, Server};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A relay with its admin listeners on a thread of their own.
struct Bench {
    server: Server,
    port: SocketAddr,
    socket: PathBuf,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(true)
    }

    fn with(token: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, TOKEN).unwrap();
        let socket = folder.path().join("admin.sock");
        let config = Config {
            listen: vec!["127.0.0.1:0".into()],
            user: vec!["alice:wonderland".into(), "bob:builder".into()],
            allow_peer: vec!["127.0.0.0/8".into()],
            threads: Some(2),
            admin: vec!["127.0.0.1:0".into(), format!("unix:{}", socket.display())],
            admin_token_file: token.then_some(token_file),
            admin_host: vec!["relay-1.internal".into()],
            ..Config::default()
        };
        let settings = Settings::new(&config, vec![]).unwrap();
        let admins = settings.admin().to_vec();
        let mut registry = Registry::default();
        let server = Server::start(settings, &mut registry).unwrap();
        let ready = Readiness::default();
        ready.set(true);
        let changed = Config { deny_peer: vec!["192.0.2.0/24".into()], ..config };
        let reloader = Reloader::new(server.control(), move || Settings::new(&changed, vec![]));
        let console = Console::new(server.operator(), reloader, registry, ready);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut port = None;
        for address in admins {
            let admin = Admin::bind(address).unwrap();
            if let AdminAddress::Tcp(address) = admin.address() {
                port = Some(*address);
            }
            let routes = console.routes(&admin);
            runtime.spawn(admin.serve(routes, std::future::pending()));
        }
        Self { server, port: port.unwrap(), socket, _runtime: runtime, _folder: folder }
    }

    fn client(&self, transport: Transport, user: &str, password: &str) -> Client {
        Client::connect(transport, self.server.listen_addresses()[0], user, password)
    }

    fn alice(&self) -> Client {
        let mut client = self.client(Transport::Udp, "alice", "wonderland");
        client.allocate();
        client
    }

    /// With the token.
    fn call(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        self.send(method, target, &[&format!("Authorization: Bearer {TOKEN}"), "Host: 127.0.0.1"], body)
    }

    fn get(&self, target: &str) -> Value {
        let (status, answer) = self.call("GET", target, "");
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn send(&self, method: &str, target: &str, headers: &[&str], body: &str) -> (u16, Value) {
        let (status, text) = exchange(TcpStream::connect(self.port).unwrap(), method, target, headers, body);
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &str,
) -> (u16, String) {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused the head may not want the body any more.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// A command line of the page, split as a shell does.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

/// Method, target and body of a `curl` line.
fn parsed(line: &str) -> (String, String, String) {
    let words = words(line);
    let after = |flag: &str| words.iter().position(|word| word == flag).map(|at| words[at + 1].clone());
    let url = words.iter().find_map(|word| word.strip_prefix("http://127.0.0.1:9641")).expect("a URL");
    assert!(words.contains(&"Authorization: Bearer $TOKEN".to_owned()), "{line}");
    (after("-X").unwrap_or_else(|| "GET".into()), url.to_owned(), after("-d").unwrap_or_default())
}

/// The shape of an answer: its keys, and what kind each value is.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| format!("{key}: {},", shape(value))).collect()
        }
    }
}

#[test]
fn every_example_of_the_page_is_answered_as_it_says() {
    let bench = Bench::new();
    let page = include_str!("../ADMIN.md");
    let mut played = 0;
    for section in page.split("\n### ").skip(1) {
        let heading = section.lines().next().unwrap();
        let line = section.lines().find(|line| line.starts_with("curl ")).expect(heading);
        let json =
            section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect(heading);
        let (method, target, body) = parsed(line);
        // The allocation that the page speaks of, unless alice was just locked out or sent elsewhere.
        let unwelcome = heading.contains("revocations") || heading.contains("drain");
        let alice = (!unwelcome || method == "POST").then(|| bench.alice());
        let id = bench.get("/v1/allocations?user=alice")["allocations"][0]["id"].clone();
        let target = target.replace("9b1c03d2a7f4e856", id.as_str().unwrap_or_default());
        let (status, answer) = bench.call(&method, &target, &body);
        assert_eq!(status, 200, "{heading}: {answer}");
        assert_eq!(shape(&answer), shape(&serde_json::from_str(json).expect(heading)), "{heading}: {answer}");
        played += 1;
        drop(alice);
    }
    assert!(played >= 7, "{played} examples");
}

#[test]
fn page_lists_every_metric_and_no_other() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a-secret-that-both-sides-know").unwrap();
    let config = Config {
        listen: vec!["127.0.0.1:0".into()],
        user: vec!["alice:wonderland".into()],
        usage_hook: Some("http://127.0.0.1:9/".into()),
        auth_hook: Some("http://127.0.0.1:9/".into()),
        hook_secret_file: Some(secret.path().to_owned()),
        ..Config::default()
    };
    let mut registry = Registry::default();
    let _server = Server::start(Settings::new(&config, vec![]).unwrap(), &mut registry).unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let named: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE turn_relay_")?.split_once(' '))
        .map(|(name, kind)| format!("{name}{}", if kind == "counter" { "_total" } else { "" }))
        .collect();
    let section = include_str!("../ADMIN.md").split("\n## Metrics\n").nth(1).unwrap();
    let rows = section.split("\n## ").next().unwrap().lines();
    let listed = rows.filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    assert_eq!(listed.collect::<BTreeSet<_>>(), named);
}

#[test]
fn operator_sends_newcomers_elsewhere_and_calls_it_off() {
    let bench = Bench::new();
    let mut here = bench.alice();
    let readyz = || bench.send("GET", "/readyz", &["Host: localhost"], "").0;
    assert_eq!(readyz(), 200);
    let (status, answer) = bench.call("POST", "/v1/drain", "");
    assert_eq!((status, answer["allocations"].as_u64()), (200, Some(1)), "{answer}");
    assert_eq!(readyz(), 503);
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(bench.client(transport, "bob", "builder").allocate_with(&[]).error(), Some(508));
    }
    // No end was said, so who is here gets the lifetime that it asks for.
    assert!(here.refresh(3600).is_success());
    assert_eq!(
        bench.get("/v1/allocations")["allocations"][0]["expires_in"].as_u64().unwrap().div_ceil(60),
        60
    );

    assert_eq!(bench.call("DELETE", "/v1/drain", "").0, 200);
    assert_eq!(readyz(), 200);
    bench.client(Transport::Udp, "bob", "builder").allocate();

    // Once the process is on its way out, nothing of it can be called off.
    bench.server.control().start_drain(|| ());
    for method in ["POST", "DELETE"] {
        let (status, answer) = bench.call(method, "/v1/drain", "");
        assert_eq!((status, answer["code"].as_str()), (409, Some("stopping")), "{answer}");
    }
    assert_eq!(bench.client(Transport::Udp, "bob", "builder").allocate_with(&[]).error(), Some(508));
}

#[test]
fn list_has_every_allocation_of_both_workers_page_by_page_with_live_traffic() {
    let bench = Bench::new();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut clients: Vec<Client> = (0..20).map(|_| bench.alice()).collect();
    let mut bob = bench.client(Transport::Tcp, "bob", "builder");
    let relayed = bob.allocate();
    assert!(bob.permit(peer.local_addr().unwrap()).is_success());
    bob.send_indication(peer.local_addr().unwrap(), b"hello");
    peer.recv_from(&mut [0; 10]).unwrap();

    let (mut ids, mut workers, mut cursor) = (BTreeSet::new(), BTreeSet::new(), String::new());
    loop {
        let page = bench.get(&format!("/v1/allocations?limit=3{cursor}"));
        for allocation in page["allocations"].as_array().unwrap() {
            assert!(ids.insert(allocation["id"].as_str().unwrap().to_owned()), "twice: {allocation}");
            workers.insert(allocation["worker"].as_u64().unwrap());
        }
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((ids.len(), workers.len()), (21, 2), "the kernel spreads 20 clients over both workers");

    let shown = &bench.get("/v1/allocations?user=bob")["allocations"][0];
    assert_eq!((&shown["user"], &shown["transport"]), (&"bob".into(), &"tcp".into()));
    assert_eq!(shown["client"], bob.local_addr().to_string());
    assert_eq!(shown["relayed"], relayed.to_string());
    assert_eq!((&shown["to_peer_bytes"], &shown["to_peer_packets"]), (&5.into(), &1.into()));
    assert_eq!(bench.get("/v1/numbers")["to_peer_bytes"], 5);
    assert_eq!(bench.get("/v1/numbers")["allocations"], 21);

    // Each can be found and ended, whichever worker has it.
    for id in &ids {
        let path = format!("/v1/allocations/{id}");
        assert_eq!(bench.get(&path)["id"], **id);
        assert_eq!(bench.call("DELETE", &path, "").0, 200);
        assert_eq!(bench.call("DELETE", &path, "").0, 404);
        assert_eq!(bench.call("GET", &path, "").0, 404);
    }
    assert!(bob.closed(), "a client over TCP is disconnected");
    assert_eq!(clients[0].request(client::REFRESH, &[]).error(), Some(437));
}

#[test]
fn revoked_user_loses_every_allocation_and_gets_none_until_it_is_let_in_again() {
    let bench = Bench::new();
    let mut clients: Vec<Client> = (0..10).map(|_| bench.alice()).collect();
    let mut bob = bench.client(Transport::Udp, "bob", "builder");
    bob.allocate();
    let (status, answer) = bench.call("POST", "/v1/revocations", r#"{"user": "alice"}"#);
    assert_eq!((status, &answer["ended"], &answer["seconds"]), (200, &10.into(), &86_400.into()));
    assert_eq!(bench.get("/v1/allocations?user=alice")["allocations"], Value::Array(vec![]));
    assert_eq!(clients[0].allocate_with(&[]).error(), Some(403));
    assert_eq!(bench.get("/v1/revocations")["revocations"][0]["user"], "alice");
    assert!(bob.request(client::REFRESH, &[]).is_success(), "nobody else is hurt");
    assert_eq!(bench.call("DELETE", "/v1/revocations?user=alice", "").0, 200);
    assert_eq!(bench.call("DELETE", "/v1/revocations?user=alice", "").0, 404);
    assert!(clients[1].allocate_with(&[]).is_success());
}

#[test]
fn without_the_token_nothing_is_answered_but_metrics_and_health() {
    let bench = Bench::new();
    let host = "Host: localhost";
    let wrong = format!("Authorization: Bearer {}0", &TOKEN[1..]);
    let basic = format!("Authorization: Basic {TOKEN}");
    for headers in [&[host][..], &[host, &wrong], &[host, &basic], &[host, "Authorization: Bearer "]] {
        for target in ["/v1/numbers", "/v1/allocations", "/v1/no-such-route"] {
            let (status, answer) = bench.send("GET", target, headers, "");
            assert_eq!((status, &answer["code"]), (401, &"unauthorized".into()), "{headers:?}");
        }
    }
    for open in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(bench.send("GET", open, &["Host: any.example"], "").0, 200);
    }
    let (status, _) =
        exchange(UnixStream::connect(&bench.socket).unwrap(), "GET", "/v1/numbers", &[host], "");
    assert_eq!(status, 200, "the socket needs none");
}

#[test]
fn port_without_a_token_says_what_to_configure_and_the_socket_answers() {
    let bench = Bench::with(false);
    let (status, answer) = bench.call("GET", "/v1/numbers", "");
    assert_eq!((status, &answer["code"]), (403, &"closed".into()));
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("admin_token_file") && message.contains("unix:"), "{message}");
    let socket = UnixStream::connect(&bench.socket).unwrap();
    assert_eq!(exchange(socket, "GET", "/v1/numbers", &["Host: localhost"], "").0, 200);
}

#[test]
fn foreign_host_name_is_refused_before_the_token_is_looked_at() {
    let bench = Bench::new();
    let token = format!("Authorization: Bearer {TOKEN}");
    for (host, expected) in [
        ("Host: rebound.example:9641", 421),
        ("Host: ", 421),
        ("Host: relay-1.internal:9641", 200),
        ("Host: LOCALHOST", 200),
        ("Host: [::1]:9641", 200),
    ] {
        let (status, answer) = bench.send("GET", "/v1/numbers", &[host, &token], "");
        assert_eq!(status, expected, "{host}: {answer}");
    }
}

#[test]
fn what_is_not_understood_is_refused_as_json_and_changes_nothing() {
    let bench = Bench::new();
    let long = format!(r#"{{"user": "{}"}}"#, "x".repeat(20_000));
    let wide = format!(r#"{{"user": "{}"}}"#, "x".repeat(509));
    for (method, target, body, status, code) in [
        ("GET", "/v1/allocations?limit=0", "", 400, "bad_request"),
        ("GET", "/v1/allocations?limit=1001", "", 400, "bad_request"),
        ("GET", "/v1/allocations?usr=alice", "", 400, "bad_request"),
        ("GET", "/v1/allocations?cursor=1", "", 400, "bad_request"),
        ("GET", "/v1/allocations/1", "", 400, "bad_request"),
        ("GET", "/v1/allocations/0000000000000000", "", 404, "not_found"),
        ("GET", "/v1/numbers?verbose=1", "", 400, "bad_request"),
        ("POST", "/v1/revocations", "", 400, "bad_request"),
        ("POST", "/v1/revocations", r#"{"user": "alice", "second": 1}"#, 400, "bad_request"),
        ("POST", "/v1/revocations", r#"{"user": ""}"#, 400, "bad_request"),
        ("POST", "/v1/revocations", r#"{"user": "alice", "seconds": 0}"#, 400, "bad_request"),
        ("POST", "/v1/revocations", r#"{"user": "alice", "seconds": 2592001}"#, 400, "bad_request"),
        ("POST", "/v1/revocations", &wide, 400, "bad_request"),
        ("POST", "/v1/revocations", &long, 413, "bad_body"),
        ("DELETE", "/v1/revocations?user=alice", "", 404, "not_found"),
        ("DELETE", "/v1/revocations", "", 400, "bad_request"),
        ("GET", "/v1/users", "", 404, "not_found"),
        ("PUT", "/v1/numbers", "", 405, "method_not_allowed"),
    ] {
        let answer = bench.call(method, target, body);
        assert_eq!(
            (answer.0, &answer.1["code"]),
            (status, &code.into()),
            "{method} {target} {body}: {answer:?}"
        );
        assert!(answer.1["message"].is_string());
    }
    // A cursor behind everything is the end of the list.
    assert_eq!(bench.get("/v1/allocations?cursor=999-0")["next"], Value::Null);
    assert_eq!(bench.get("/v1/revocations")["revocations"], Value::Array(vec![]));
}
