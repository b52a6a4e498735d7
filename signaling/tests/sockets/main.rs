//! The server over real sockets: one process, ports of the system's choice, clients that speak the wire protocol.
//!
//! A wait here is always a wait for something to happen; [`PATIENCE`] only keeps a broken server from hanging a test.

mod abuse;
mod acme;
mod admin;
mod admission;
mod certificate;
mod doors;
mod drain;
mod http2;
mod http2_abuse;
mod limits;
mod moving;
mod process;
mod proxy_protocol;
mod put_out;
mod reload;
mod reload_access;
mod requests;
mod rooms;
mod sessions;
mod webhook;

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use signaling::{Config, Server, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, http::Request},
};

mod rfc6455;
mod simulation;

/// Far beyond anything that a working server takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration for tests: free ports, no relay.
fn config() -> Config {
    Config {
        listen: Some("127.0.0.1:0".into()),
        admin: Some("127.0.0.1:0".into()),
        no_embedded_relay: Some(true),
        ..Config::default()
    }
}

fn start(config: Config) -> Server {
    Server::start(Settings::try_from(config).expect("a good configuration")).expect("the server starts")
}

/// A secret of the protocol's shape; equal seeds are the same peer.
fn secret(seed: u8) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode([seed; 32])
}

fn request(address: SocketAddr, room: &str) -> Request<()> {
    let mut request =
        format!("ws://{address}/v1/rooms/{room}/ws").into_client_request().expect("a good address");
    let protocol = "signaling.v1".parse().expect("a header value");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    request
}

/// A client after its `welcome`. Answers pings, counts what it received, and leaves acknowledging to the test.
struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    welcome: Value,
    /// `seq` of the last frame sent.
    sent: u64,
    /// `seq` of the last frame received.
    seen: u64,
}

impl Client {
    async fn join(server: &Server, room: &str, seed: u8) -> Self {
        Self::hello(server, room, seed, json!({})).await
    }

    /// Joins with further fields in the hello (`resume`, `ack`, `name`).
    async fn hello(server: &Server, room: &str, seed: u8, more: Value) -> Self {
        let mut client = Self::of(open(server, room).await);
        let mut hello = json!({
            "type": "hello", "seq": 0, "ack": 0, "secret": secret(seed), "instance": format!("i{seed}"),
        });
        for (key, value) in more.as_object().expect("an object") {
            hello[key] = value.clone();
        }
        client.send_raw(&hello.to_string()).await;
        let welcome = client.next().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client.welcome = welcome;
        client
    }

    /// One that has not said hello.
    fn of(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { socket, welcome: Value::Null, sent: 0, seen: 0 }
    }

    fn peer(&self) -> Value {
        self.welcome["peer"].clone()
    }

    async fn send_raw(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("the connection takes a frame");
    }

    /// Sends a frame with the next `seq`.
    async fn send(&mut self, mut frame: Value) {
        self.sent += 1;
        frame["seq"] = self.sent.into();
        frame["ack"] = self.seen.into();
        self.send_raw(&frame.to_string()).await;
    }

    async fn signal(&mut self, to: &Value, payload: Value) {
        self.send(json!({"type": "signal", "to": to, "negotiation": "n", "description": payload})).await;
    }

    /// The next frame that means something: pings are answered, bare acknowledgements skipped.
    async fn next(&mut self) -> Value {
        timeout(PATIENCE, self.next_frame()).await.expect("the server says something in time")
    }

    async fn next_frame(&mut self) -> Value {
        loop {
            match self.next_message().await {
                Some(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("the server sends JSON");
                    match frame["type"].as_str() {
                        Some("ack") => {}
                        Some("ping") => {
                            let ack = self.seen;
                            self.send_raw(&json!({"type": "pong", "seq": 0, "ack": ack}).to_string()).await;
                        }
                        _ => {
                            let seq = frame["seq"].as_u64().expect("every frame has a seq");
                            if seq != 0 {
                                assert_eq!(seq, self.seen + 1, "in order and exactly once: {frame}");
                                self.seen = seq;
                            }
                            return frame;
                        }
                    }
                }
                other => panic!("a frame was expected, not {other:?}"),
            }
        }
    }

    /// The next frame of this type; others before it are skipped.
    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The close code, and the code of the `error` frame before it.
    async fn closed(&mut self) -> (u16, Option<String>) {
        closed(&mut self.socket).await
    }

    async fn next_message(&mut self) -> Option<Message> {
        next_message(&mut self.socket).await
    }

    /// What a client that lost its connection says in its next hello.
    fn resumption(&self) -> Value {
        json!({"resume": self.welcome["resume"], "ack": self.seen})
    }
}

async fn open(server: &Server, room: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let request = request(server.address(), room);
    timeout(PATIENCE, tokio_tungstenite::connect_async(request))
        .await
        .expect("in time")
        .expect("the upgrade")
        .0
}

async fn next_message<S>(socket: &mut WebSocketStream<S>) -> Option<Message>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    match timeout(PATIENCE, socket.next()).await.expect("the server says something in time") {
        Some(Ok(message)) => Some(message),
        Some(Err(tungstenite::Error::ConnectionClosed)) | None => None,
        Some(Err(error)) => panic!("the connection broke: {error}"),
    }
}

async fn closed<S>(socket: &mut WebSocketStream<S>) -> (u16, Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut error = None;
    loop {
        match next_message(socket).await {
            Some(Message::Text(text)) => {
                let frame: Value = serde_json::from_str(&text).expect("the server sends JSON");
                error = (frame["type"] == "error").then(|| frame["code"].as_str().unwrap_or("?").to_owned());
            }
            Some(Message::Close(Some(close))) => return (close.code.into(), error),
            Some(Message::Ping(_) | Message::Pong(_)) => {}
            other => panic!("a close frame with a code was expected, not {other:?}"),
        }
    }
}

/// Sends one raw HTTP/1.1 request and gives the whole answer.
async fn http(address: SocketAddr, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    };
    timeout(PATIENCE, exchange).await.expect("an answer in time")
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"))
        .await
}

/// The value of one metric, as it is written in the text format; 0 while it is not there.
async fn metric(server: &Server, name: &str) -> i64 {
    let text = get(server.admin().expect("an admin listener"), "/metrics", "").await;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.map_or(0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a whole number"))
}

/// Waits until a metric has the value; it is counted a moment after what a client sees.
async fn metric_becomes(server: &Server, name: &str, value: i64) {
    metric_becomes_within(PATIENCE, server, name, value).await;
}

async fn metric_becomes_within(patience: Duration, server: &Server, name: &str, value: i64) {
    let polled = async {
        while metric(server, name).await != value {
            tokio::task::yield_now().await;
        }
    };
    if timeout(patience, polled).await.is_err() {
        panic!("{name} is {}, not {value}", metric(server, name).await);
    }
}
