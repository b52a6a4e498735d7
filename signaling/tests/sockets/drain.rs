//! A server that is told to end sends its clients elsewhere, each at a time of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use serde_json::{Value, json};
use signaling::{Config, Server};
use tokio::{net::TcpSocket, task::JoinSet, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    Client, PATIENCE, config, get,
    process::{Process, terminate},
    request,
    requests::{Http, KEY, hello, json_of, polled, stream},
    start,
};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: signaling.v1\r\n";

fn draining(seconds: u64, url: Option<&str>) -> Config {
    Config { drain_seconds: Some(seconds), drain_url: url.map(Into::into), ..config() }
}

async fn poll(http: &mut Http, key: &str) -> Value {
    json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, key)], "").await).await
}

async fn status(server: &Server, path: &str) -> StatusCode {
    let answer = get(server.admin().expect("an admin listener"), path, "").await;
    answer.split(' ').nth(1).expect("a status").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_is_told_to_go_keeps_talking_meanwhile_and_is_closed_at_the_end() {
    let server = start(draining(1, None));
    let mut socket = Client::join(&server, "lobby", 1).await;
    let (mut events, key, streamed) = stream(&server, "lobby", 2).await;
    let mut http = Http::connect(&server).await;
    let (poll_key, _) = polled(&mut http, "lobby", 3).await;

    let mut polling = None;
    let clients = async {
        let away = socket.until("goaway").await;
        assert!(away["in_ms"].as_u64().expect("a time") <= 1_000 && away.get("url").is_none(), "{away}");
        while events.next_json().await.1["type"] != "goaway" {}
        while !poll(&mut http, &poll_key).await.to_string().contains("goaway") {}
        polling = Some(tokio::spawn(async move { poll(&mut http, &poll_key).await }));

        assert_eq!(status(&server, "/readyz").await, 503);
        assert_eq!(status(&server, "/healthz").await, 200);
        assert!(get(server.address(), "/v1/rooms/lobby/ws", UPGRADE).await.starts_with("HTTP/1.1 503"));
        for route in ["events", "poll"] {
            let mut newcomer = Http::connect(&server).await;
            let path = format!("/v1/rooms/lobby/{route}");
            let refused = newcomer.post(&path, &[], hello(4, &json!({}))).await;
            assert_eq!(refused.status(), 503, "{route}");
        }

        // What is said to who is here still arrives.
        socket.signal(&streamed["peer"], json!({"sdp": "late"})).await;
        while events.next_json().await.1["type"] != "signal" {}
        let ack = r#"{"type":"ack","seq":0,"ack":0}"#;
        let mut posting = Http::connect(&server).await;
        assert_eq!(posting.post("/v1/rooms/lobby/messages", &[(KEY, &key)], ack).await.status(), 204);
    };
    tokio::join!(server.drain(), clients);
    let end = async {
        assert_eq!(socket.closed().await, (4000, Some("going_away".into())));
        assert_eq!(events.closed().await, (json!(4000), json!("going_away")));
        let last = polling.expect("it polls").await.expect("no panic");
        assert_eq!(last["frames"][0]["code"], "going_away", "{last}");
    };
    tokio::join!(server.stop(), end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_when_the_last_has_left_and_newcomers_hear_where_to_go() {
    let server = start(draining(3_600, Some("https://b.example")));
    let mut client = Client::join(&server, "lobby", 1).await;
    let leaving = async {
        let away = client.next().await;
        assert_eq!((&away["type"], &away["url"]), (&json!("goaway"), &json!("https://b.example")));
        let mut newcomer = super::open(&server, "lobby").await;
        newcomer.send(Message::text(hello(2, &json!({})))).await.expect("sent");
        let first = newcomer.next().await.expect("a frame").expect("no error").into_text().expect("text");
        let first: Value = serde_json::from_str(&first).expect("JSON");
        assert_eq!(
            first,
            json!({"type": "goaway", "seq": 0, "ack": 0, "in_ms": 0, "url": "https://b.example"})
        );
        assert_eq!(super::closed(&mut newcomer).await, (4000, Some("going_away".into())));
        client.socket.close(None).await.expect("closed");
    };
    timeout(PATIENCE, async { tokio::join!(server.drain(), leaving) }).await.expect("nobody is left");

    let page = get(server.address(), "/", "").await;
    assert!(page.contains(" https://b.example wss://b.example;"), "the page may go there: {page}");
    server.reloader().control().call_off_drain().await;
    assert_eq!(status(&server, "/readyz").await, 200);
    Client::join(&server, "lobby", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain() {
    let mut process = Process::start(&["--drain-seconds", "3600"]);
    let (mut socket, _) =
        tokio_tungstenite::connect_async(request(process.address, "lobby")).await.expect("connects");
    socket.send(Message::text(hello(1, &json!({})))).await.expect("sent");
    let next = async |socket: &mut WebSocketStream<_>| {
        let message = timeout(PATIENCE, socket.next()).await.expect("in time").expect("a frame");
        serde_json::from_str::<Value>(message.expect("no error").to_text().expect("text")).expect("JSON")
    };
    assert_eq!(next(&mut socket).await["type"], "welcome");
    terminate(&process);
    assert_eq!(next(&mut socket).await["type"], "goaway");
    terminate(&process);
    assert_eq!(super::closed(&mut socket).await, (4000, Some("going_away".into())));
    drop(socket);
    assert_eq!(process.ended().await, Some(0));
}

/// How a session moved.
struct Moved {
    told_ms: u64,
    /// When the other server welcomed it, counted from the signal.
    arrived: Duration,
    outcome: String,
    reason: String,
}

/// SIGTERM under many sessions, and a second instance that takes them. `DRAIN_SESSIONS` and `DRAIN_SECONDS` make it as large as the
/// machine's limit on open files: each session is one file here and one in a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_to_a_second_instance_spread_over_the_window_and_are_told_resync() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (sessions, seconds): (u32, u64) =
        (number("DRAIN_SESSIONS", 300), u64::from(number("DRAIN_SECONDS", 2)));
    let roomy = ["--max-pending-per-address", "10000", "--max-connections-per-address", "10000"];
    let second = Process::start(&roomy);
    let (url, window) = (format!("http://{}", second.address), seconds.to_string());
    let mut first =
        Process::start(&[&roomy[..], &["--drain-url", &url, "--drain-seconds", &window]].concat());

    let (signalled, signal) = tokio::sync::watch::channel(None::<Instant>);
    let mut clients = JoinSet::new();
    let (here, mut joined) = tokio::sync::mpsc::channel(64);
    for number in 0..sessions {
        clients.spawn(move_from(first.address, number, here.clone(), signal.clone()));
    }
    drop(here);
    for _ in 0..sessions {
        timeout(PATIENCE, joined.recv()).await.expect("all come in").expect("nobody fails");
    }
    signalled.send_replace(Some(Instant::now()));
    terminate(&first);
    let moved =
        timeout(PATIENCE + 2 * Duration::from_secs(seconds), clients.join_all()).await.expect("all move");

    let window_ms = seconds * 1_000;
    print_histogram(&moved, window_ms);
    assert!(moved.iter().all(|moved| moved.outcome == "resync" && moved.reason == "unknown"));
    // Each shard spreads its own over the whole window, so each tenth of it has a tenth of them, and a few at the edges.
    for tenth in 0..10 {
        let part = tenth * window_ms / 10..(tenth + 1) * window_ms / 10;
        let told = moved.iter().filter(|moved| part.contains(&moved.told_ms)).count();
        let even = usize::try_from(sessions / 10).expect("small");
        assert!(told.abs_diff(even) <= even / 5 + 4, "{told} of {sessions} in {part:?} ms");
    }
    assert_eq!(first.ended().await, Some(0));
}

/// Joins, hears that it has to go, goes when it was told to, and stays there.
async fn move_from(
    first: SocketAddr,
    number: u32,
    here: tokio::sync::mpsc::Sender<()>,
    mut signal: tokio::sync::watch::Receiver<Option<Instant>>,
) -> Moved {
    let room = format!("r{}", number / 2);
    let mut old = Conn { socket: connect(first, number, &room).await, received: 0 };
    let mut hello = json!({
        "type": "hello", "seq": 0, "ack": 0, "secret": secret_of(number), "instance": "i",
    });
    say(&mut old, &hello).await;
    let welcome = hear(&mut old, "welcome").await;
    here.send(()).await.expect("the test waits");
    let away = hear(&mut old, "goaway").await;
    let told_ms = away["in_ms"].as_u64().expect("a time");
    let start = signal.wait_for(Option::is_some).await.expect("the test goes on").expect("some");
    // Meanwhile it answers pings.
    let _ = timeout(Duration::from_millis(told_ms), hear(&mut old, "nothing")).await;

    let url = away["url"].as_str().expect("a server").strip_prefix("http://").expect("plain");
    let address = url.parse().expect("an address");
    let mut new = Conn { socket: connect(address, number, &room).await, received: 0 };
    hello["resume"] = welcome["resume"].clone();
    say(&mut new, &hello).await;
    let welcome = hear(&mut new, "welcome").await;
    let arrived = start.elapsed();
    let text = |key: &str| welcome[key].as_str().unwrap_or_default().to_owned();
    Moved { told_ms, arrived, outcome: text("outcome"), reason: text("reason") }
}

type Socket = WebSocketStream<tokio::net::TcpStream>;

struct Conn {
    socket: Socket,
    /// The highest `seq` that came.
    received: u64,
}

/// From one of many addresses, as clients come.
async fn connect(server: SocketAddr, number: u32, room: &str) -> Socket {
    let [_, _, high, low] = (number + 256).to_be_bytes();
    let from = IpAddr::V4(Ipv4Addr::new(127, 1 + high / 250, high % 250, low));
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from, 0)).expect("a loopback address");
    let stream = timeout(PATIENCE, socket.connect(server)).await.expect("in time").expect("connects");
    let upgrade = tokio_tungstenite::client_async(request(server, room), stream);
    timeout(PATIENCE, upgrade).await.expect("in time").expect("the upgrade").0
}

fn secret_of(number: u32) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

async fn say(conn: &mut Conn, frame: &Value) {
    conn.socket.send(Message::text(frame.to_string())).await.expect("sent");
}

/// The next frame of this type; pings before it are answered.
async fn hear(conn: &mut Conn, kind: &str) -> Value {
    loop {
        let message = conn.socket.next().await.expect("the connection stands").expect("no error");
        let Message::Text(text) = message else { panic!("a frame, not {message:?}") };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        conn.received = conn.received.max(frame["seq"].as_u64().expect("a number"));
        if frame["type"] == kind {
            return frame;
        }
        if frame["type"] == "ping" {
            let pong = json!({"type": "pong", "seq": 0, "ack": conn.received});
            say(conn, &pong).await;
        }
        assert_ne!(frame["type"], "error", "{frame}");
    }
}

#[allow(clippy::print_stdout, reason = "the histogram is what a person runs the long form for")]
fn print_histogram(moved: &[Moved], window_ms: u64) {
    let bins = 22;
    let at = |moved: &Moved| u64::try_from(moved.arrived.as_millis()).unwrap_or(u64::MAX) * 20 / window_ms;
    println!("{} sessions, window {window_ms} ms; arrivals at the second instance:", moved.len());
    for bin in 0..bins {
        let count = moved.iter().filter(|moved| at(moved).min(bins - 1) == bin).count();
        let bar = "#".repeat(count * 400 / moved.len().max(1));
        println!("{:>6} ms {count:>6} {bar}", bin * window_ms / 20);
    }
    let latest = moved.iter().map(|moved| moved.arrived).max().unwrap_or_default();
    println!("the last arrived after {} ms", latest.as_millis());
}
