//! Clients that break HTTP/2, or use it for nothing: raw frames against a server of its own process, whose memory is looked at, while two others
//! talk.

use std::{net::SocketAddr, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{
    PATIENCE,
    certificate::Certificate,
    http2::{Connection, heard, say},
    process::Process,
    requests::{KEY, hello},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FLOW_CONTROL_ERROR: u8 = 3;
/// What eight floods of 100,000 frames may add to what the server holds, and as many answers as may be under way that nobody takes.
const MOST_KIB: u64 = 4 * 1024;
const MOST_STALLED_KIB: u64 = 1024;

/// The frames of a flood, by their number.
type Flood = dyn Fn(u32, &Raw) -> Vec<u8>;

/// A server with HTTP/2, and its certificate.
struct Bench {
    certificate: Certificate,
    process: Process,
}

impl Bench {
    fn new() -> Self {
        Self::logging(Stdio::null())
    }

    /// The same with its log there.
    fn logging(log: impl Into<Stdio>) -> Self {
        let certificate = Certificate::new();
        let mut flags = ["--http2", "--ping-interval-seconds", "60"].map(str::to_owned).to_vec();
        flags.extend(certificate.flags());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let process = Process::start_logging(&flags, log);
        Self { certificate, process }
    }

    async fn raw(&self, settings: &[u8]) -> Raw {
        let tcp = TcpStream::connect(self.process.address).await.expect("connects");
        let tls = self.certificate.secure(tcp, &["h2"]).await.expect("the certificate is served");
        let (read, mut write) = split(tls);
        write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        write.write_all(&frame(SETTINGS, 0, 0, settings)).await.expect("sent");
        Raw { read, write, address: self.process.address }
    }
}

/// A connection of HTTP/2 without a library.
struct Raw {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
    address: SocketAddr,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    async fn send(&mut self, frames: &[u8]) {
        self.write.write_all(frames).await.expect("sent");
    }

    async fn next(&mut self) -> Frame {
        let read = async {
            let mut head = [0; 9];
            self.read.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, kind, flags, s, t, u, v] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.read.read_exact(&mut payload).await.expect("the rest of it");
            Frame { kind, flags, stream: u32::from_be_bytes([s, t, u, v]), payload }
        };
        timeout(PATIENCE, read).await.expect("in time")
    }

    /// The next frame of this type.
    async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The head of a request on this stream.
    fn request(&self, stream: u32, method: &str, path: &str, more: &[(&str, &str)], flags: u8) -> Vec<u8> {
        let authority = format!("localhost:{}", self.address.port());
        let own = [(":method", method), (":scheme", "https"), (":authority", &authority), (":path", path)];
        frame(HEADERS, flags | END_HEADERS, stream, &fields([&own, more].concat()))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 section 6.2.2, names and values as they are.
fn fields(fields: Vec<(&str, &str)>) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    fields.into_iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A text frame of a WebSocket, masked with nothing (RFC 6455 section 5.2).
fn websocket_frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short").to_be_bytes();
    [&[0x81, 0x80 | 126], &length[..], &[0; 4], text.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_ends_its_connection_and_nobody_else_notices() {
    let bench = Bench::new();
    let mut others = Connection::to(bench.process.address, &bench.certificate).await;
    let ((mut ada, _), (mut bo, bo_welcome)) = (others.join(1).await, others.join(2).await);
    let before = bench.process.peak_kib();
    let repeated = |frame: Vec<u8>| move |_: u32, _: &Raw| frame.clone();
    let reset = |n: u32, raw: &Raw| {
        let stream = 2 * n + 1;
        let get = raw.request(stream, "GET", "/", &[], END_STREAM);
        [get, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let continuation = |n: u32, _: &Raw| match n {
        0 => frame(HEADERS, 0, 1, &fields(vec![(":method", "GET")])),
        _ => frame(CONTINUATION, 0, 1, &fields(vec![("a", "b")])),
    };
    let floods: [(&str, Box<Flood>); 8] = [
        ("PING", Box::new(repeated(frame(PING, 0, 0, &[0; 8])))),
        ("PING that answers none", Box::new(repeated(frame(PING, ACK, 0, &[0; 8])))),
        ("SETTINGS", Box::new(repeated(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])))),
        ("PRIORITY", Box::new(repeated(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])))),
        ("unknown", Box::new(repeated(frame(0xfe, 0, 0, b"?")))),
        ("requests that are given up", Box::new(reset)),
        ("CONTINUATION", Box::new(continuation)),
        ("requests", Box::new(|n, raw| raw.request(2 * n + 1, "GET", "/icon.svg", &[], END_STREAM))),
    ];
    for (seq, (what, flood)) in (1..).zip(floods) {
        // What is sent on a stream waits for a window that nobody opens.
        let mut raw = bench.raw(&[0, 4, 0, 0, 0, 0]).await;
        let blocks: Vec<Vec<u8>> =
            (0..100).map(|block| (0..1000).flat_map(|n| flood(block * 1000 + n, &raw)).collect()).collect();
        let ended = async {
            let mut taken = vec![0; 16 * 1024];
            while let Ok(1..) = raw.read.read(&mut taken).await {}
        };
        let sent = async {
            for block in &blocks {
                if raw.write.write_all(block).await.is_err() {
                    break;
                }
            }
        };
        let talk = async {
            let signal = json!({
                "type": "signal", "seq": seq, "ack": 0, "to": bo_welcome["peer"], "negotiation": "n", "candidate": what,
            });
            say(&mut ada, &signal.to_string()).await;
            assert_eq!(heard(&mut bo, "signal").await["candidate"], what);
        };
        let all = async { tokio::join!(ended, sent, talk) };
        assert!(timeout(PATIENCE, all).await.is_ok(), "{what}: it is not ended");
    }
    let more = bench.process.peak_kib() - before;
    assert!(more <= MOST_KIB, "{more} KiB more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_writes_nothing_into_the_log_by_what_it_sends() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let bench = Bench::logging(log.reopen().expect("opened"));
    let mut raw = bench.raw(&[]).await;
    raw.send(&frame(PING, ACK, 0, &[0; 8]).repeat(100)).await;
    raw.send(&frame(PING, 0, 0, &[7; 8])).await;
    assert_eq!(raw.until(PING).await.payload, [7; 8], "all of them were read");
    let text = std::fs::read_to_string(log.path()).expect("read");
    assert!(text.lines().count() < 10, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_hold_little_beside_a_session() {
    let bench = Bench::new();
    // Of the code for answers, and of what is made once.
    bench.stalled(0).await;
    let before = bench.process.peak_kib();
    let mut connections = Vec::new();
    for seed in 1..=CONNECTIONS {
        connections.push(bench.stalled(seed).await);
    }
    let more = (bench.process.peak_kib() - before) / u64::from(CONNECTIONS);
    assert!(more <= MOST_STALLED_KIB, "{more} KiB for each connection");
}

const CONNECTIONS: u8 = 8;

impl Bench {
    /// A connection with a session, and as many answers as it may have under way, for none of which there is a window.
    async fn stalled(&self, seed: u8) -> Raw {
        let mut raw = self.raw(&[0, 4, 0, 0, 0, 0]).await;
        let upgrade = [
            (":protocol", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "signaling.v1"),
        ];
        raw.until(SETTINGS).await;
        let connect = raw.request(1, "CONNECT", "/v1/rooms/lobby/ws", &upgrade, 0);
        raw.send(&connect).await;
        raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0])).await;
        raw.send(&frame(DATA, 0, 1, &websocket_frame(&hello(seed, &json!({}))))).await;
        let welcome = raw.until(DATA).await;
        assert!(String::from_utf8_lossy(&welcome.payload).contains("welcome"));
        for stream in (3..=199).step_by(2) {
            let get = raw.request(stream, "GET", "/icon.svg", &[], END_STREAM);
            raw.send(&get).await;
        }
        let mut answers = 0;
        while answers < 99 {
            let head = raw.until(HEADERS).await;
            assert!(head.stream > 1 && head.flags & END_STREAM == 0, "an answer with a body");
            answers += 1;
        }
        let get = raw.request(201, "GET", "/", &[], END_STREAM);
        raw.send(&get).await;
        assert_eq!(raw.until(RST_STREAM).await.stream, 201, "one more is refused");
        raw
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_bodies_are_read_at_a_time_and_the_next_when_one_of_them_ends() {
    let bench = Bench::new();
    let mut raw = bench.reading_four().await;
    raw.body(WAITS, HALF).await;
    for round in 0..10 {
        raw.send(&frame(PING, 0, 0, &[round; 8])).await;
        loop {
            let frame = raw.next().await;
            assert!(!is_read(&frame, WAITS), "a fifth body is read");
            if frame.kind == PING && frame.payload == [round; 8] {
                break;
            }
        }
    }
    raw.send(&frame(DATA, END_STREAM, READ[0], &[])).await;
    while !is_read(&raw.next().await, WAITS) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_waits_may_fill_its_window_and_no_more() {
    let bench = Bench::new();
    let mut raw = bench.reading_four().await;
    raw.body(WAITS, 65_535).await;
    raw.send(&frame(PING, 0, 0, &[7; 8])).await;
    assert_eq!(raw.until(PING).await.payload, [7; 8], "as much may come");
    raw.send(&frame(DATA, 0, WAITS, b" ")).await;
    loop {
        let frame = raw.next().await;
        if matches!(frame.kind, RST_STREAM | GOAWAY) {
            let code = if frame.kind == GOAWAY { frame.payload[7] } else { frame.payload[3] };
            return assert_eq!(code, FLOW_CONTROL_ERROR);
        }
    }
}

/// More than half of a window: what has been read of it is given back.
const HALF: usize = 40_000;
/// Streams with bodies that are read, and with one that waits.
const READ: [u32; 4] = [3, 5, 7, 9];
const WAITS: u32 = 11;

/// Whether the frame says that something of this stream was read.
fn is_read(frame: &Frame, stream: u32) -> bool {
    (frame.kind, frame.stream) == (WINDOW_UPDATE, stream)
}

impl Bench {
    /// A connection of which four bodies are read, which do not end, and a fifth request waits.
    async fn reading_four(&self) -> Raw {
        let mut raw = self.raw(&[]).await;
        let post = raw.request(1, "POST", "/v1/rooms/lobby/poll", &[], 0);
        raw.send(&post).await;
        raw.send(&frame(DATA, END_STREAM, 1, hello(1, &json!({})).as_bytes())).await;
        let answer: Value = serde_json::from_slice(&raw.until(DATA).await.payload).expect("JSON");
        let key = answer["connection"].as_str().expect("a key");
        for stream in READ {
            let post = raw.request(stream, "POST", "/v1/rooms/lobby/messages", &[(KEY, key)], 0);
            raw.send(&post).await;
            raw.body(stream, HALF).await;
            while !is_read(&raw.next().await, stream) {}
        }
        let post = raw.request(WAITS, "POST", "/v1/rooms/lobby/messages", &[(KEY, key)], 0);
        raw.send(&post).await;
        raw
    }
}

impl Raw {
    /// So many bytes of a body.
    async fn body(&mut self, stream: u32, bytes: usize) {
        for part in vec![b' '; bytes].chunks(16_384) {
            self.send(&frame(DATA, 0, stream, part)).await;
        }
    }
}
