//! Rooms without a WebSocket: event streams, polls and frames by POST, with all that may go wrong with them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Client, PATIENCE, config, http, metric, metric_becomes, secret, start};

/// One HTTP/1.1 connection to the server.
pub(super) struct Http {
    sender: SendRequest<String>,
    host: String,
}

impl Http {
    pub(super) async fn connect(server: &signaling::Server) -> Self {
        Self::to(server.address()).await
    }

    pub(super) async fn to(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        Self { sender, host: address.to_string() }
    }

    pub(super) async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Response<Incoming> {
        self.request("POST", path, headers, body.into()).await
    }

    async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("a request");
        self.sender.ready().await.expect("the connection stands");
        timeout(PATIENCE, self.sender.send_request(request)).await.expect("in time").expect("an answer")
    }
}

/// The events of one answer.
pub(super) struct Events {
    body: Incoming,
    buffer: String,
}

impl Events {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), buffer: String::new() }
    }

    /// The type and the data of the next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| -> Vec<String> {
                    event.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect()
                };
                let data = field("data: ");
                if data.is_empty() {
                    continue;
                }
                let kind = field("event: ").pop().unwrap_or_else(|| "message".into());
                return Some((kind, data.join("\n")));
            }
            let chunk = timeout(PATIENCE, self.body.frame()).await.expect("something comes in time")?;
            let chunk = chunk.expect("the stream does not break").into_data().expect("data");
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("these frames are ASCII"));
        }
    }

    pub(super) async fn next_json(&mut self) -> (String, Value) {
        let (kind, data) = self.next().await.expect("an event");
        (kind, serde_json::from_str(&data).expect("JSON"))
    }

    /// The code of the close event, and of the `error` frame before it; the stream ends behind it.
    pub(super) async fn closed(&mut self) -> (Value, Value) {
        let mut error = Value::Null;
        loop {
            let (kind, data) = self.next_json().await;
            match kind.as_str() {
                "message" if data["type"] == "error" => error = data["code"].clone(),
                "close" => {
                    assert_eq!(self.next().await, None);
                    return (data["code"].clone(), error);
                }
                _ => {}
            }
        }
    }
}

pub(super) async fn text(response: Response<Incoming>) -> String {
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("a body");
    String::from_utf8(body.to_bytes().into()).expect("UTF-8")
}

pub(super) async fn json_of(response: Response<Incoming>) -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    serde_json::from_str(&text(response).await).expect("JSON")
}

pub(super) fn hello(seed: u8, more: &Value) -> String {
    let mut hello = json!({
        "type": "hello", "seq": 0, "ack": 0, "secret": secret(seed), "instance": format!("i{seed}"),
    });
    for (key, value) in more.as_object().expect("an object") {
        hello[key] = value.clone();
    }
    hello.to_string()
}

pub(super) const KEY: &str = "signaling-connection";

/// A client after its `welcome` on an event stream: the stream, the key and the `welcome`.
pub(super) async fn stream(server: &signaling::Server, room: &str, seed: u8) -> (Events, String, Value) {
    let mut http = Http::connect(server).await;
    let answer = http.post(&format!("/v1/rooms/{room}/events"), &[], hello(seed, &json!({}))).await;
    let mut events = Events::new(answer);
    let (kind, open) = events.next_json().await;
    assert_eq!(kind, "open");
    let (_, welcome) = events.next_json().await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (events, open["connection"].as_str().expect("a key").to_owned(), welcome)
}

/// The same over a poll: its key and its `welcome`.
pub(super) async fn polled(http: &mut Http, room: &str, seed: u8) -> (String, Value) {
    let answer =
        json_of(http.post(&format!("/v1/rooms/{room}/poll"), &[], hello(seed, &json!({}))).await).await;
    let welcome = answer["frames"][0].clone();
    assert_eq!(welcome["type"], "welcome", "{answer}");
    (answer["connection"].as_str().expect("a key").to_owned(), welcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_refused_is_answered_as_on_a_websocket() {
    let server = start(config());
    let mut http = Http::connect(&server).await;
    for (body, code, error) in [
        ("not json", 4200, "bad_frame"),
        ("", 4200, "bad_frame"),
        (r#"{"type":"ack","seq":0,"ack":0}"#, 4202, "bad_hello"),
        (r#"{"type":"hello","seq":0,"ack":0,"secret":"x","instance":"i"}"#, 4202, "bad_hello"),
    ] {
        let mut events = Events::new(http.post("/v1/rooms/lobby/events", &[], body).await);
        assert_eq!(events.closed().await, (json!(code), json!(error)), "{body}");
        let answer = json_of(http.post("/v1/rooms/lobby/poll", &[], body).await).await;
        assert_eq!((&answer["frames"][0]["code"], &answer["close"]["code"]), (&json!(error), &json!(code)));
        assert_eq!(answer["connection"], Value::Null);
    }
    let huge = "x".repeat(65_537);
    let mut events = Events::new(http.post("/v1/rooms/lobby/events", &[], huge).await);
    assert_eq!(events.closed().await, (json!(4201), json!("too_large")));
    metric_becomes(&server, "signaling_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_may_not_use_any_of_the_requests() {
    let config = signaling::Config { allow_origin: vec!["https://friend.example".into()], ..config() };
    let server = start(config);
    let mut http = Http::connect(&server).await;
    for room in ["events", "poll", "messages"].map(|route| format!("/v1/rooms/lobby/{route}")) {
        for method in ["OPTIONS", "POST"] {
            for origin in ["https://evil.example", "null", "http://friend.example"] {
                let answer = http.request(method, &room, &[("origin", origin)], hello(1, &json!({}))).await;
                assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {room} {origin}");
                assert!(!answer.headers().contains_key("access-control-allow-origin"));
                text(answer).await;
            }
        }
        let allowed =
            http.request("OPTIONS", &room, &[("origin", "https://friend.example")], "".into()).await;
        assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
        let headers = allowed.headers();
        assert_eq!(headers["access-control-allow-origin"], "https://friend.example");
        assert_eq!(headers["access-control-allow-headers"], "content-type, signaling-connection");
        assert_eq!(headers["access-control-allow-methods"], "POST");
    }
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"origin\"}").await, 18);
    assert_eq!(metric(&server, "signaling_sessions").await, 0);

    let friend = [("origin", "https://friend.example")];
    for route in ["events", "poll"] {
        let answer = http.post(&format!("/v1/rooms/lobby/{route}"), &friend, hello(1, &json!({}))).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], "https://friend.example");
        assert_eq!(headers["cache-control"], "no-store, no-transform");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert_eq!(headers["vary"], "origin");
        http = Http::connect(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fits_nothing_is_refused_with_a_status() {
    let server = start(config());
    let mut http = Http::connect(&server).await;
    for (method, path, status) in [
        ("GET", "/v1/rooms/lobby/events", 405),
        ("PUT", "/v1/rooms/lobby/messages", 405),
        ("POST", "/v1/rooms/a%20b/events", 400),
        ("POST", "/v1/rooms/lobby/messages", 404),
    ] {
        let answer = http.request(method, path, &[], hello(1, &json!({}))).await;
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        text(answer).await;
    }
    let rebound = "POST /v1/rooms/lobby/poll HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n";
    assert!(http_status(&server, rebound).await.starts_with("HTTP/1.1 421 "));
}

async fn http_status(server: &signaling::Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut head = [0; 64];
    let size = timeout(PATIENCE, stream.read(&mut head)).await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&head[..size]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_its_connection_in_its_room_and_nothing_else() {
    let server = start(config());
    let (mut events, key, _) = stream(&server, "lobby", 1).await;
    let mut http = Http::connect(&server).await;
    let ack = json!({"type": "ack", "seq": 0, "ack": 0}).to_string();
    let good = http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], ack.as_str()).await;
    assert_eq!(good.status(), StatusCode::NO_CONTENT);

    let mut forged = URL_SAFE_NO_PAD.decode(&key).expect("base64url");
    assert_eq!(forged.len(), 24, "the number of the connection and 128 bits that nobody guesses");
    *forged.last_mut().expect("bytes") ^= 1;
    for (room, key) in [
        ("other", key.clone()),
        ("lobby", URL_SAFE_NO_PAD.encode(&forged)),
        ("lobby", URL_SAFE_NO_PAD.encode(&forged[..8])),
        ("lobby", String::new()),
        ("lobby", "é".repeat(3)),
    ] {
        for route in ["messages", "poll"] {
            let path = format!("/v1/rooms/{room}/{route}");
            let answer = http.post(&path, &[(KEY, &key)], ack.as_str()).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path} {key}");
            text(answer).await;
        }
    }
    let unpolled = http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], "").await;
    assert_eq!(unpolled.status(), StatusCode::CONFLICT);
    text(unpolled).await;

    let bye = json!({"type": "bye", "seq": 1, "ack": 0}).to_string();
    let left = http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], bye).await;
    assert_eq!(left.status(), StatusCode::NO_CONTENT);
    assert_eq!(events.closed().await, (json!(1000), Value::Null));
    metric_becomes(&server, "signaling_connections", 0).await;
    let over = http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], ack).await;
    assert_eq!(over.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn line_breaks_that_a_peer_put_into_its_json_end_no_event() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let (mut events, _, welcome) = stream(&server, "lobby", 2).await;
    for (seq, breaks) in ["\n\n", "\r\n\r\n", "\r", "\n\nevent: close\ndata: "].iter().enumerate() {
        // The last one is not JSON and is refused; what is JSON arrives as it is.
        let frame = format!(
            r#"{{"type":"signal","seq":{},"ack":0,"to":{},"negotiation":"n","description":{{{breaks}"a":{breaks}1}}}}"#,
            seq + 1,
            welcome["peer"],
        );
        ada.send_raw(&frame).await;
    }
    for _ in 0..3 {
        let (kind, signal) = events.next_json().await;
        assert_eq!((kind.as_str(), &signal["description"]), ("message", &json!({"a": 1})));
    }
    let (kind, changed) = events.next_json().await;
    assert_eq!((kind.as_str(), &changed["state"]), ("message", &json!("away")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_frames_in_one_body_are_heard_in_order_up_to_the_first_that_is_none() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let (mut events, key, _) = stream(&server, "lobby", 2).await;
    let signal = |seq: u64| json!({"type": "signal", "seq": seq, "ack": 0, "to": ada.peer(), "negotiation": "n", "description": seq});
    let body = format!("{}\r\n\n{}\nnot json\n{}\n", signal(1), signal(2), signal(3));
    let mut http = Http::connect(&server).await;
    let answer = http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], body).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(events.closed().await, (json!(4200), json!("bad_frame")));
    assert_eq!(ada.until("signal").await["description"], 1);
    assert_eq!(ada.next().await["description"], 2);
    assert_eq!(ada.next().await["state"], "away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_above_64_kib_closes_its_connection() {
    let server = start(config());
    let (mut events, key, _) = stream(&server, "lobby", 1).await;
    let mut http = Http::connect(&server).await;
    http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], "x".repeat(65_537)).await;
    assert_eq!(events.closed().await, (json!(4201), json!("too_large")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_that_is_dropped_is_a_lost_connection() {
    // So that no missed ping tells it.
    let server = start(signaling::Config { ping_interval_seconds: Some(3_600), ..config() });
    let mut ada = Client::join(&server, "lobby", 1).await;
    let (events, key, _) = stream(&server, "lobby", 2).await;
    ada.until("peer_joined").await;
    drop(events);
    assert_eq!(ada.until("peer_changed").await["state"], "away");
    metric_becomes(&server, "signaling_closes_total{code=\"gone\"}", 1).await;
    metric_becomes(&server, "signaling_connections", 1).await;
    let mut http = Http::connect(&server).await;
    let answer = http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], "").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_polling_is_away_and_a_late_poll_says_why() {
    let config =
        signaling::Config { ping_interval_seconds: Some(1), ping_deadline_seconds: Some(1), ..config() };
    let server = start(config);
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut http = Http::connect(&server).await;
    let (key, _) = polled(&mut http, "lobby", 2).await;
    ada.until("peer_joined").await;
    assert_eq!(ada.until("peer_changed").await["state"], "away");
    let answer = json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], "").await).await;
    let frames = answer["frames"].as_array().expect("frames");
    assert_eq!(frames.last().expect("an error")["code"], "ping_timeout");
    assert_eq!(answer["close"]["code"], 4001);
    metric_becomes(&server, "signaling_connections", 1).await;
    assert_eq!(metric(&server, "signaling_closes_total{code=\"ping_timeout\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polled_connections_count_for_their_address_though_they_share_a_socket() {
    let server = start(signaling::Config { max_connections_per_address: Some(3), ..config() });
    let mut http = Http::connect(&server).await;
    polled(&mut http, "lobby", 1).await;
    let (key, _) = polled(&mut http, "lobby", 2).await;
    let refused = http.post("/v1/rooms/lobby/poll", &[], hello(3, &json!({}))).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    text(refused).await;
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"address\"}").await, 1);

    let bye = json!({"type": "bye", "seq": 1, "ack": 0}).to_string();
    let mut answer = json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], bye).await).await;
    while answer["close"].is_null() {
        answer = json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], "").await).await;
    }
    assert_eq!(answer["close"]["code"], 1000);
    metric_becomes(&server, "signaling_connections", 1).await;
    polled(&mut http, "lobby", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_that_nobody_reads_is_given_up_though_all_of_it_is_acknowledged() {
    let config =
        signaling::Config { messages_per_second: Some(100_000), message_burst: Some(100_000), ..config() };
    let server = start(config);
    let mut ada = Client::join(&server, "lobby", 1).await;
    let (stuck, key) = unread_stream(&server, 2).await;
    let to_stuck = ada.until("peer_joined").await["peer"].clone();

    // Up to 16 MiB, of which as little is in the replay ring as can be.
    let mut http = Http::connect(&server).await;
    let payload = json!("x".repeat(32 * 1024));
    let given_up = async || metric(&server, "signaling_closes_total{code=\"slow_reader\"}").await == 1;
    for said in 1..=512 {
        ada.signal(&to_stuck, payload.clone()).await;
        while metric(&server, "signaling_signals_total").await < said && !given_up().await {
            tokio::task::yield_now().await;
        }
        if given_up().await {
            break;
        }
        let ack = json!({"type": "ack", "seq": 0, "ack": said}).to_string();
        text(http.post("/v1/rooms/lobby/messages", &[(KEY, &key)], ack).await).await;
        let outbox = metric(&server, "signaling_outbox_bytes").await;
        assert!(outbox <= 1024 * 1024, "the server held {outbox} bytes for it");
    }
    assert!(given_up().await);
    assert_eq!(ada.until("peer_changed").await["state"], "away");
    metric_becomes(&server, "signaling_outbox_bytes", 0).await;
    drop(stuck);
    metric_becomes(&server, "signaling_connections", 1).await;
    assert_eq!(metric(&server, "signaling_closes_total{code=\"slow_reader\"}").await, 1);
}

/// An event stream that is read up to its key and no further.
async fn unread_stream(server: &signaling::Server, seed: u8) -> (TcpStream, String) {
    let (address, hello) = (server.address(), hello(seed, &json!({})));
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!(
        "POST /v1/rooms/lobby/events HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{hello}",
        hello.len()
    );
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut read = String::new();
    loop {
        if let Some((_, key)) = read.split_once("{\"connection\":\"")
            && let Some((key, _)) = key.split_once('"')
        {
            return (stream, key.to_owned());
        }
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("more");
        read.push(char::from(byte));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_tells_streams_and_polls_to_come_back_at_once() {
    let server = start(config());
    let mut http = Http::connect(&server).await;
    let (key, _) = polled(&mut http, "lobby", 1).await;
    let (mut events, _, _) = stream(&server, "lobby", 2).await;
    let joined = json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], "").await).await;
    assert_eq!(joined["frames"][0]["type"], "peer_joined");
    // What it counts shows that the poll has arrived; one that comes after the stop is not let in.
    let report =
        json!({"type": "report", "seq": 0, "ack": 0, "kind": "turn_error", "url": "turn:a", "code": 401});
    let poll = tokio::spawn(async move {
        json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, &key)], report.to_string()).await).await
    });
    metric_becomes(&server, "signaling_turn_errors_reported_total{code=\"401\"}", 1).await;
    let stopped = tokio::spawn(server.stop());
    assert_eq!(events.closed().await, (json!(4000), json!("going_away")));
    let answer = poll.await.expect("no panic");
    assert_eq!(
        (&answer["frames"][0]["code"], &answer["close"]["code"]),
        (&json!("going_away"), &json!(4000))
    );
    stopped.await.expect("the server stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_passes_through_a_proxy_that_speaks_http_1_0() {
    let server = start(config());
    let (address, hello) = (server.address(), hello(1, &json!({})));
    let first = format!(
        "POST /v1/rooms/lobby/events HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{hello}",
        hello.len()
    );
    let (answer, ()) = tokio::join!(http(address, &first), async {
        metric_becomes(&server, "signaling_sessions", 1).await;
        // The same peer elsewhere: the stream is closed and ends with its connection.
        Client::join(&server, "lobby", 1).await;
    });
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(!head.contains("chunked"), "{head}");
    assert!(body.starts_with("event: open\ndata: {\"connection\":\""), "{body}");
    assert!(body.ends_with("event: close\ndata: {\"code\":4203,\"reason\":\"replaced\"}\n\n"), "{body}");
}
