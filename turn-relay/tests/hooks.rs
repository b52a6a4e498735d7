//! Hooks over real HTTP: what the relay says to programs of the operator's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use client::{Client, PATIENCE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use turn_relay::address::Transport;
use turn_relay::config::{Config, Settings};
use turn_relay::server::Server;

const SECRET: &str = "a-secret-that-both-sides-know";

/// A program of the operator's: answers with what it is told, and tells what it was asked.
struct Program {
    address: SocketAddr,
    asked: Receiver<Value>,
}

type Answers = Arc<Mutex<Box<dyn FnMut(&Value) -> (StatusCode, Value) + Send>>>;

impl Program {
    fn start(runtime: &Runtime, answer: impl FnMut(&Value) -> (StatusCode, Value) + Send + 'static) -> Self {
        let (sender, asked) = channel();
        let answers: Answers = Arc::new(Mutex::new(Box::new(answer)));
        let routes = Router::new().route("/hook", post(hook)).with_state((sender, answers));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn next(&self) -> Value {
        self.asked.recv_timeout(PATIENCE).expect("a call in time")
    }
}

async fn hook(
    State((asked, answers)): State<(Sender<Value>, Answers)>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let signature = headers["turn-relay-signature"].to_str().unwrap();
    let (time, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let expected = mac.chain_update(time).chain_update(".").chain_update(&body).finalize().into_bytes();
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tag, expected, "the signature");
    assert_eq!(headers["content-type"], "application/json");
    let value: Value = serde_json::from_slice(&body).unwrap();
    let (status, answer) = (answers.lock().unwrap())(&value);
    // The test may be over.
    let _ = asked.send(value);
    (status, answer.to_string())
}

struct Relay {
    server: Option<Server>,
    work: JoinHandle<()>,
    registry: Registry,
    serving: SocketAddr,
}

impl Relay {
    fn start(runtime: &Runtime, config: Config) -> Self {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), SECRET).unwrap();
        let config = Config {
            listen: vec!["127.0.0.1:0".into()],
            allow_peer: vec!["127.0.0.0/8".into()],
            threads: Some(2),
            hook_secret_file: Some(secret.path().to_owned()),
            ..config
        };
        let mut registry = Registry::default();
        let mut server = Server::start(Settings::new(&config, vec![]).unwrap(), &mut registry).unwrap();
        let work = runtime.spawn(server.take_hook_work().run());
        let serving = server.listen_addresses()[0];
        Self { server: Some(server), work, registry, serving }
    }

    fn client(&self, transport: Transport, user: &str, password: &str) -> Client {
        Client::connect(transport, self.serving, user, password)
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().any(|found| found == format!("turn_relay_{line}"))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Calls until `count` events came; a batch that was answered with an error comes again and counts once.
fn events(program: &Program, count: usize) -> Vec<Value> {
    let (mut events, mut batches) = (vec![], vec![]);
    while events.len() < count {
        let call = program.next();
        if !batches.contains(&call["batch"]) {
            batches.push(call["batch"].clone());
            events.extend(call["events"].as_array().unwrap().iter().cloned());
        }
    }
    events
}

#[test]
fn usage_of_an_allocation_is_told_at_its_start_in_between_and_at_its_end() {
    let runtime = runtime();
    let mut calls = 0;
    let program = Program::start(&runtime, move |_| {
        calls += 1;
        // The first call fails; what it carried must come again.
        (if calls == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, Value::Null)
    });
    let relay = Relay::start(
        &runtime,
        Config {
            user: vec!["alice:wonderland".into()],
            usage_hook: Some(program.url()),
            usage_interval: Some(1),
            ..Config::default()
        },
    );
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut alice = relay.client(Transport::Tcp, "alice", "wonderland");
    alice.allocate();
    assert!(alice.permit(peer.local_addr().unwrap()).is_success());
    alice.send_indication(peer.local_addr().unwrap(), b"hello");
    peer.recv_from(&mut [0; 10]).unwrap();
    let mut seen = events(&program, 2);
    assert!(alice.release().is_success());
    while seen.last().unwrap()["event"] != "end" {
        seen.extend(events(&program, 1));
    }
    let kinds: Vec<&str> = seen.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1]), ("start", "interim"));
    for event in &seen {
        assert_eq!(event["id"], seen[0]["id"]);
        assert_eq!(
            (&event["user"], &event["transport"], &event["family"]),
            (&json!("alice"), &json!("tcp"), &json!("ipv4"))
        );
        assert!(event.get("client").is_none(), "no address unless asked for");
    }
    let (interim, end) = (&seen[1], seen.last().unwrap());
    assert_eq!((&interim["to_peer_bytes"], &end["to_peer_bytes"]), (&json!(5), &json!(5)));
    assert_eq!((&end["reason"], interim.get("reason")), (&json!("released"), None));
}

#[test]
fn end_of_the_server_is_the_end_of_every_allocation_and_the_hook_hears_of_it() {
    let runtime = runtime();
    let program = Program::start(&runtime, |_| (StatusCode::OK, Value::Null));
    let config = Config {
        user: vec!["alice:wonderland".into()],
        usage_hook: Some(program.url()),
        log_addresses: Some(true),
        ..Config::default()
    };
    let mut relay = Relay::start(&runtime, config);
    let mut clients: Vec<Client> =
        (0..10).map(|_| relay.client(Transport::Udp, "alice", "wonderland")).collect();
    let relayed: Vec<SocketAddr> = clients.iter_mut().map(Client::allocate).collect();
    relay.server.take().unwrap().shutdown();
    runtime.block_on(&mut relay.work).expect("the work ends with the workers");
    let seen = events(&program, 20);
    let ended: Vec<&Value> = seen.iter().filter(|event| event["event"] == "end").collect();
    assert_eq!(ended.len(), 10);
    assert!(ended.iter().all(|event| event["reason"] == "shutdown"), "{ended:?}");
    assert!(relayed.iter().all(|ip| ended.iter().any(|event| event["relayed"] == ip.to_string())));
    assert!(relay.metric("usage_events_total{outcome=\"delivered\"} 20"));
}

#[test]
fn user_of_the_hook_comes_in_with_its_password_and_is_asked_about_once() {
    let runtime = runtime();
    let program = Program::start(&runtime, |asked| {
        let answer = match asked["username"].as_str().unwrap() {
            "dora" => json!({"allowed": true, "password": "map"}),
            "down" => return (StatusCode::BAD_GATEWAY, Value::Null),
            _ => json!({"allowed": false}),
        };
        (StatusCode::OK, answer)
    });
    let config = Config { auth_hook: Some(program.url()), ..Config::default() };
    let relay = Relay::start(&runtime, config);
    for transport in [Transport::Udp, Transport::Tcp] {
        // On as many ports as it takes to meet both workers.
        for _ in 0..10 {
            relay.client(transport, "dora", "map").allocate();
        }
        assert_eq!(relay.client(transport, "dora", "guess").allocate_with(&[]).error(), Some(401));
        assert_eq!(relay.client(transport, "mallory", "map").allocate_with(&[]).error(), Some(401));
        assert_eq!(relay.client(transport, "down", "map").allocate_with(&[]).error(), Some(500));
    }
    let asked: Vec<Value> = program.asked.try_iter().map(|asked| asked["username"].clone()).collect();
    assert_eq!(asked, ["dora", "mallory", "down", "down"], "a failure is not remembered");
    assert!(relay.metric("auth_hook_questions_total{outcome=\"failed\"} 2"));
}
