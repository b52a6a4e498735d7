//! WebSockets over HTTP/2 (RFC 8441): a raw client with several of them on one connection, beside requests for pages.

use std::net::SocketAddr;

use axum::body::Bytes;
use futures_util::SinkExt as _;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    ext::Protocol,
};
use serde_json::{Value, json};
use signaling::{Config, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        http::{HeaderMap, Method, Request, StatusCode, request::Builder},
        protocol::Role,
    },
};

use super::{
    PATIENCE,
    certificate::Certificate,
    closed, config, metric, metric_becomes, next_message,
    requests::{KEY, hello},
    start,
};

/// A server that offers it, and a client's connection to it.
struct Bench {
    certificate: Certificate,
    server: Server,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let certificate = Certificate::new();
        let mut config = certificate.served_by(Config { http2: Some(true), ..config() });
        change(&mut config);
        Self { certificate, server: start(config) }
    }

    async fn connect(&self) -> Connection {
        Connection::to(self.server.address(), &self.certificate).await
    }
}

pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Connection {
    pub(super) async fn to(address: SocketAddr, certificate: &Certificate) -> Self {
        let tcp = TcpStream::connect(address).await.expect("connects");
        let tls = certificate.secure(tcp, &["h2", "http/1.1"]).await.expect("the certificate is served");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        let task = tokio::spawn(async move { connection.await.map_err(|error| error.to_string()) });
        let requests = requests.ready().await.expect("it takes requests");
        let authority = format!("localhost:{}", address.port());
        Self { requests, authority, task }
    }

    /// Waits for the server's settings, which say that it knows extended CONNECT.
    async fn settled(&mut self) {
        // They come before the first answer.
        assert_eq!(self.get("/", &self.authority.clone()).await, StatusCode::OK);
        assert!(self.requests.is_extended_connect_protocol_enabled(), "the settings allow it");
    }

    async fn get(&mut self, path: &str, authority: &str) -> StatusCode {
        let request = Request::get(format!("https://{authority}{path}")).body(()).expect("a request");
        self.status(request, true).await
    }

    async fn status(&mut self, request: Request<()>, end: bool) -> StatusCode {
        let answer = self.send(request, end).0.await.expect("an answer");
        let (head, mut body) = answer.into_parts();
        if end {
            while let Some(part) = body.data().await {
                let size = part.expect("the rest of it").len();
                body.flow_control().release_capacity(size).expect("room");
            }
        }
        head.status
    }

    fn send(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.requests.send_request(request, end).expect("a stream")
    }

    async fn open(&mut self) -> Result<WebSocketStream<DuplexStream>, StatusCode> {
        let handshake = handshake(&self.authority).body(()).expect("a request");
        let (answer, up) = self.send(handshake, false);
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
        let subprotocol = |headers: &HeaderMap| headers.get("sec-websocket-protocol").cloned();
        if answer.status() != StatusCode::OK {
            return Err(answer.status());
        }
        assert_eq!(subprotocol(answer.headers()).expect("one"), "signaling.v1");
        Ok(WebSocketStream::from_raw_socket(carried(up, answer.into_body()), Role::Client, None).await)
    }

    /// Says hello and gives the `welcome` as well.
    pub(super) async fn join(&mut self, seed: u8) -> (WebSocketStream<DuplexStream>, Value) {
        let mut socket = self.open().await.expect("the handshake");
        say(&mut socket, &hello(seed, &json!({}))).await;
        let welcome = heard(&mut socket, "welcome").await;
        (socket, welcome)
    }
}

/// An extended CONNECT for a WebSocket.
fn handshake(authority: &str) -> Builder {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{authority}/v1/rooms/lobby/ws"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "signaling.v1")
}

/// A stream of HTTP/2 as one of bytes.
fn carried(mut up: SendStream<Bytes>, mut down: RecvStream) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    let (mut read, mut write) = split(far);
    tokio::spawn(async move {
        while let Some(Ok(part)) = down.data().await {
            let _ = down.flow_control().release_capacity(part.len());
            if write.write_all(&part).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut part = vec![0; 16 * 1024];
        while let Ok(size @ 1..) = read.read(&mut part).await {
            if up.send_data(Bytes::copy_from_slice(&part[..size]), false).is_err() {
                return;
            }
        }
        let _ = up.send_data(Bytes::new(), true);
    });
    near
}

pub(super) async fn say(socket: &mut WebSocketStream<DuplexStream>, text: &str) {
    socket.send(Message::text(text)).await.expect("the stream takes a frame");
}

/// The next frame of this type.
pub(super) async fn heard(socket: &mut WebSocketStream<DuplexStream>, kind: &str) -> Value {
    loop {
        let Some(Message::Text(text)) = next_message(socket).await else { panic!("a frame was expected") };
        let frame: Value = serde_json::from_str(&text).expect("the server sends JSON");
        if frame["type"] == kind {
            return frame;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_share_a_connection_with_each_other_and_with_pages() {
    let bench = Bench::new(|_| ());
    let mut connection = bench.connect().await;
    connection.settled().await;
    let (mut ada, ada_welcome) = connection.join(1).await;
    let (mut bo, bo_welcome) = connection.join(2).await;
    // Longer than a frame of HTTP/2, and than what may come on a stream before it is read.
    let candidate = "x".repeat(60_000);
    for seq in 1..=4 {
        let signal = json!({
            "type": "signal", "seq": seq, "ack": 0, "to": bo_welcome["peer"], "negotiation": "n", "candidate": candidate,
        });
        say(&mut ada, &signal.to_string()).await;
    }
    for _ in 1..=4 {
        let signal = heard(&mut bo, "signal").await;
        assert_eq!((&signal["from"], &signal["candidate"]), (&ada_welcome["peer"], &json!(candidate)));
    }
    assert_eq!(connection.get("/sdk/client.js", &connection.authority.clone()).await, StatusCode::OK);
    assert_eq!(metric(&bench.server, "signaling_websockets_total{http=\"2\"}").await, 2);

    say(&mut ada, r#"{"type":"bye","seq":5,"ack":0}"#).await;
    assert_eq!(closed(&mut ada).await.0, 1000);
    assert!(next_message(&mut ada).await.is_none(), "the stream ends");
    assert_eq!(heard(&mut bo, "peer_left").await["reason"], "bye");
    drop(bo);
    metric_becomes(&bench.server, "signaling_sessions_here", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_without_what_it_needs_is_refused() {
    let bench = Bench::new(|_| ());
    let mut connection = bench.connect().await;
    connection.settled().await;
    let own = connection.authority.clone();
    let with = |change: &dyn Fn(&mut Request<()>)| {
        let mut request = handshake(&own).body(()).expect("a request");
        change(&mut request);
        request
    };
    let header = |name: &'static str, value: &'static str| {
        with(&|request| drop(request.headers_mut().insert(name, value.parse().expect("a header value"))))
    };
    let requests = [
        (header("sec-websocket-protocol", "chat"), StatusCode::BAD_REQUEST),
        (header("sec-websocket-version", "8"), StatusCode::UPGRADE_REQUIRED),
        (header("origin", "https://evil.example"), StatusCode::FORBIDDEN),
        (header("host", "evil.example"), StatusCode::BAD_REQUEST),
        (
            with(&|request| drop(request.extensions_mut().insert(Protocol::from_static("chat")))),
            StatusCode::UPGRADE_REQUIRED,
        ),
        (handshake("evil.example").body(()).expect("a request"), StatusCode::MISDIRECTED_REQUEST),
    ];
    for (request, expected) in requests {
        let what = format!("{request:?}");
        assert_eq!(connection.status(request, false).await, expected, "{what}");
    }
    let get = connection.get("/v1/rooms/lobby/ws", &own).await;
    assert_eq!(get, StatusCode::METHOD_NOT_ALLOWED);
    let origin: &'static str = format!("https://{own}").leak();
    let good = with(&|request| {
        drop(request.headers_mut().insert("origin", origin.parse().expect("a header value")))
    });
    assert_eq!(connection.status(good, false).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_session_counts_as_a_connection_and_a_hello_speaks_for_the_one_that_carries_it() {
    let bench = Bench::new(|config| {
        (config.max_connections_per_address, config.max_pending_per_address) = (Some(4), Some(2));
    });
    let mut connection = bench.connect().await;
    // The connection and the WebSocket are two that have shown nothing, until the hello.
    let mut silent = connection.open().await.expect("the first");
    assert_eq!(connection.open().await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    say(&mut silent, &hello(1, &json!({}))).await;
    heard(&mut silent, "welcome").await;
    // It spoke for the connection too: two more may be silent.
    let mut others =
        [connection.open().await.expect("the second"), connection.open().await.expect("the third")];
    for (socket, seed) in others.iter_mut().zip(2..) {
        say(socket, &hello(seed, &json!({}))).await;
        heard(socket, "welcome").await;
    }
    assert_eq!(connection.open().await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(metric(&bench.server, "signaling_refused_total{reason=\"address\"}").await, 2);
    silent.close(None).await.expect("a close");
    let again = async { while connection.open().await.is_err() {} };
    timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_connection_up_while_nothing_else_is_under_way() {
    // The first ping comes when a connection that only waits for requests is over.
    let bench = Bench::new(|config| config.ping_interval_seconds = Some(18));
    let (mut ada, _) = bench.connect().await.join(1).await;
    heard(&mut ada, "ping").await;
    say(&mut ada, r#"{"type":"bye","seq":1,"ack":0}"#).await;
    assert_eq!(closed(&mut ada).await.0, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_and_its_posts_share_a_connection_with_a_websocket() {
    let bench = Bench::new(|_| ());
    let mut connection = bench.connect().await;
    let (mut ada, welcome) = connection.join(1).await;
    let post = |what: &str, key: Option<&str>| {
        let request = Request::post(format!("https://{}/v1/rooms/lobby/{what}", connection.authority));
        let request = key.into_iter().fold(request, |request, key| request.header(KEY, key));
        request.body(()).expect("a request")
    };
    let mut requests = connection.requests.clone();
    let (answer, mut body) = requests.send_request(post("events", None), false).expect("a stream");
    body.send_data(hello(2, &json!({})).into(), true).expect("sent");
    let mut events = answer.await.expect("an answer").into_body();
    let mut text = String::new();
    while !text.contains("welcome") {
        let part = timeout(PATIENCE, events.data()).await.expect("in time").expect("more").expect("more");
        text.push_str(str::from_utf8(&part).expect("text"));
    }
    let key = text.split("data: ").nth(1).and_then(|rest| rest.lines().next()).expect("a key");
    let key: Value = serde_json::from_str(key).expect("JSON");
    let messages = post("messages", key["connection"].as_str());
    let (answer, mut body) = requests.send_request(messages, false).expect("a stream");
    let signal = json!({
        "type": "signal", "seq": 1, "ack": 0, "to": welcome["peer"], "negotiation": "n", "candidate": "c",
    });
    body.send_data(signal.to_string().into(), true).expect("sent");
    assert_eq!(answer.await.expect("an answer").status(), StatusCode::NO_CONTENT);
    assert_eq!(heard(&mut ada, "signal").await["candidate"], "c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_on_one_connection_are_no_faster_than_connections() {
    let bench = Bench::new(|config| {
        (config.handshakes_per_second_per_address, config.max_pending_per_address) = (Some(1), Some(10_000));
    });
    let mut connection = bench.connect().await;
    let refused = async {
        loop {
            if let Err(status) = connection.open().await {
                return status;
            }
        }
    };
    let status = timeout(PATIENCE, refused).await.expect("it is refused some time");
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(metric(&bench.server, "signaling_refused_total{reason=\"rate\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_headers_are_bounded() {
    let bench = Bench::new(|_| ());
    let mut connection = bench.connect().await;
    connection.settled().await;
    assert_eq!(connection.requests.current_max_send_streams(), 100);
    let large = handshake(&connection.authority).header("x-large", "x".repeat(9 * 1024));
    let (answer, _up) = connection.send(large.body(()).expect("a request"), false);
    match answer.await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    connection.join(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_closes_sessions_and_the_connection() {
    let bench = Bench::new(|config| config.drain_seconds = Some(0));
    let mut connection = bench.connect().await;
    let (mut ada, _) = connection.join(1).await;
    let stopped = bench.server.stop();
    let seen = async {
        assert_eq!(closed(&mut ada).await.0, 4000);
        drop(ada);
    };
    tokio::join!(stopped, seen);
    // The client would go on making requests: it is the server that ends the connection, and long before one that idles is over.
    let Connection { requests, task, .. } = connection;
    let _end = timeout(PATIENCE / 4, task).await.expect("in time").expect("no panic");
    drop(requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_nobody_is_offered_it() {
    let certificate = Certificate::new();
    let server = start(certificate.served_by(config()));
    let tcp = TcpStream::connect(server.address()).await.expect("connects");
    let tls = certificate.secure(tcp, &["h2", "http/1.1"]).await.expect("the certificate is served");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}
