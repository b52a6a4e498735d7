//! The binary with the feature `otel`, and a collector that reads what it sends.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use futures_util::{SinkExt as _, StreamExt as _};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _},
};

/// Far beyond anything that a working server takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_gets_what_the_metrics_page_shows_and_a_span_of_each_session() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let mut server = Server::start(&collector.url, OFTEN);
    let ended = (r#"signaling_sessions_ended_total{reason="bye"}"#.to_owned(), 1.0);
    let mut client = join(&server, "secret-room").await;
    client
        .send(Message::text(r#"{"type":"bye","seq":1,"ack":0}"#))
        .await
        .expect("the connection takes a frame");

    let mut spans = Vec::new();
    loop {
        match collector.next().await {
            Heard::Metrics(_, samples) if samples.get(&ended.0) == Some(&ended.1) && !spans.is_empty() => {
                break;
            }
            Heard::Metrics(..) => {}
            Heard::Spans(resource, more) => {
                assert_eq!(service(&resource), "signaling");
                spans.extend(more);
            }
        }
    }
    let [span] = &spans[..] else { panic!("one session is one span: {spans:?}") };
    assert_eq!(span.name, "session");
    assert_eq!(labelled(span.attributes.iter()), r#"reason="bye",transport="websocket""#);
    assert!(
        span.start_time_unix_nano <= span.end_time_unix_nano && span.start_time_unix_nano > 0,
        "{span:?}"
    );

    // Nobody comes or goes now, so both ways tell the same.
    let page = scrape(server.admin).await;
    let (resource, sent) = collector.next_metrics().await;
    assert_eq!(service(&resource), "signaling");
    let seconds = "turn_relay_allocation_duration_seconds";
    assert!(
        page.contains_key(&format!("{seconds}_count")) && page.contains_key("signaling_rooms"),
        "{page:?}"
    );
    assert_eq!(page, sent);
    terminate(&server);
    assert_eq!(server.ended(), (Some(0), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_sends_what_is_left() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let mut server = Server::start(&collector.url, "3600000");
    let client = join(&server, "lobby").await;
    terminate(&server);
    assert_eq!(server.ended(), (Some(0), 0));
    drop(client);
    let (mut reasons, mut counted) = (Vec::new(), 0.0);
    while reasons.is_empty() || counted == 0.0 {
        match collector.next().await {
            Heard::Metrics(_, samples) => {
                counted = samples[r#"signaling_sessions_ended_total{reason="shutdown"}"#]
            }
            Heard::Spans(_, spans) => {
                reasons.extend(spans.iter().map(|span| labelled(span.attributes.iter())))
            }
        }
    }
    assert_eq!(counted, 1.0);
    assert_eq!(reasons, [r#"reason="shutdown",transport="websocket""#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_takes_nothing_is_one_warning() {
    let mut collector = Collector::start(StatusCode::BAD_REQUEST).await;
    let mut server = Server::start(&collector.url, OFTEN);
    for _refused in 0..3 {
        collector.next().await;
    }
    drop(join(&server, "lobby").await);
    terminate(&server);
    assert_eq!(server.ended(), (Some(0), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_delays_the_end_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut server = Server::start(&url, OFTEN);
    // It is connected to, and waits from now on.
    let held = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a connection");
    drop(join(&server, "lobby").await);
    terminate(&server);
    // The one warning says that the last numbers are lost.
    assert_eq!(server.ended(), (Some(0), 1));
    drop(held);
}

#[test]
fn an_address_that_is_no_collectors_is_refused_without_being_shown() {
    for wrong in [
        "collector:4318",
        "ftp://collector",
        "https://me:hunter2@collector",
        "https://collector?key=hunter2",
        "",
    ] {
        let said = Command::new(BINARY).args(["--otlp-endpoint", wrong, "--check"]).output().expect("runs");
        let line = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{wrong}: {line}");
        assert!(line.starts_with("error: otlp_endpoint: ") && !line.contains("hunter2"), "{wrong}: {line}");
    }
}

/// What a collector was sent: each sample under its name on `/metrics`.
enum Heard {
    Metrics(Resource, Samples),
    Spans(Resource, Vec<Span>),
}

type Samples = BTreeMap<String, f64>;

/// A collector that answers with one status.
struct Collector {
    url: String,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Collector {
    async fn start(answer: StatusCode) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let metrics = async move |State(sender): State<mpsc::UnboundedSender<Heard>>, body: Bytes| {
            let _ = sender.send(metrics_in(body));
            answer
        };
        let spans = async move |State(sender): State<mpsc::UnboundedSender<Heard>>, body: Bytes| {
            let _ = sender.send(spans_in(body));
            answer
        };
        let routes = Router::new()
            .route("/base/v1/metrics", post(metrics))
            .route("/base/v1/traces", post(spans))
            .with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/base/", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, heard }
    }

    async fn next(&mut self) -> Heard {
        timeout(PATIENCE, self.heard.recv()).await.expect("an export in time").expect("it runs")
    }

    /// Those of an export that begins from now on.
    async fn next_metrics(&mut self) -> (Resource, Samples) {
        while self.heard.try_recv().is_ok() {}
        // The first of these may have been on its way.
        let mut before = false;
        loop {
            if let Heard::Metrics(resource, samples) = self.next().await {
                if before {
                    return (resource, samples);
                }
                before = true;
            }
        }
    }
}

fn metrics_in(body: Bytes) -> Heard {
    let request = ExportMetricsServiceRequest::decode(body).expect("OTLP");
    let [all] = &request.resource_metrics[..] else { panic!("one process: {request:?}") };
    let metrics = all.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    Heard::Metrics(all.resource.clone().expect("a resource"), metrics.flat_map(samples).collect())
}

fn spans_in(body: Bytes) -> Heard {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let [all] = &request.resource_spans[..] else { panic!("one process: {request:?}") };
    let spans = all.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect();
    Heard::Spans(all.resource.clone().expect("a resource"), spans)
}

fn samples(metric: &Metric) -> Vec<(String, f64)> {
    let points = match metric.data.as_ref() {
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        Some(Data::Sum(sum)) if sum.is_monotonic => &sum.data_points,
        _ => panic!("a gauge or a counter: {metric:?}"),
    };
    assert!(!metric.description.is_empty(), "{}", metric.name);
    points.iter().map(|point| (named(&metric.name, point), value(point))).collect()
}

fn named(name: &str, point: &NumberDataPoint) -> String {
    let labels = labelled(point.attributes.iter());
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{labels}}}") }
}

fn value(point: &NumberDataPoint) -> f64 {
    let Some(number_data_point::Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
    value
}

/// In the order of their names.
fn labelled<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut words: Vec<String> =
        attributes.map(|attribute| format!("{}=\"{}\"", attribute.key, word(attribute))).collect();
    words.sort();
    words.join(",")
}

fn word(attribute: &KeyValue) -> &str {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    let Some(Value::StringValue(word)) = value else { panic!("{attribute:?}") };
    word
}

fn service(resource: &Resource) -> &str {
    resource.attributes.iter().find(|attribute| attribute.key == "service.name").map_or("", word)
}

/// The samples of `/metrics`.
async fn scrape(admin: SocketAddr) -> Samples {
    let mut socket = TcpStream::connect(admin).await.expect("it listens");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let (_head, page) = answer.split_once("\r\n\r\n").expect("a body");
    let lines =
        page.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(name, _)| !name.starts_with('#'));
    lines.filter_map(|(name, value)| Some((in_order(name), value.parse().ok()?))).collect()
}

/// The labels of a sample in the order of their names.
fn in_order(name: &str) -> String {
    let Some((name, labels)) = name.strip_suffix('}').and_then(|name| name.split_once('{')) else {
        return name.to_owned();
    };
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// The binary, on ports of the system's choice, with the embedded relay.
struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Sends to this collector, after so many milliseconds again.
    fn start(collector: &str, interval: &str) -> Self {
        let mut command = Command::new(BINARY);
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--relay-listen", "127.0.0.1:0"])
            .args(["--drain-seconds", "0", "--otlp-endpoint", collector])
            .env("OTEL_METRIC_EXPORT_INTERVAL", interval)
            .env("OTEL_BSP_SCHEDULE_DELAY", interval);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut port = |before: &str, after: &str| {
            let line = lines.find(|line| line.contains(before)).expect("a line with the address");
            let (_, port) = line.trim_end_matches(after).rsplit_once(':').expect("a port");
            SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a number")))
        };
        let (address, admin) = (port("open ", "/"), port("metrics ", "/metrics"));
        let log = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, log, address, admin }
    }

    /// Its exit code, and how many lines of its log speak of a collector.
    fn ended(&mut self) -> (Option<i32>, usize) {
        tokio::task::block_in_place(|| {
            let mut log = String::new();
            self.log.read_to_string(&mut log).expect("UTF-8");
            let complaints =
                log.lines().filter(|line| line.contains("WARN") && line.contains("collector")).count();
            (self.child.wait().expect("ends").code(), complaints)
        })
    }
}

/// Ends with the test, whatever becomes of it.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(server: &Server) {
    let id = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("runs").success());
}

/// A client that has been welcomed.
async fn join(server: &Server, room: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}/v1/rooms/{room}/ws", server.address);
    let mut request = url.into_client_request().expect("a good address");
    request.headers_mut().insert("sec-websocket-protocol", "signaling.v1".parse().expect("a header value"));
    let connecting = timeout(PATIENCE, tokio_tungstenite::connect_async(request));
    let (mut socket, _) = connecting.await.expect("in time").expect("the upgrade");
    let hello = format!(r#"{{"type":"hello","seq":0,"ack":0,"secret":"{}","instance":"i"}}"#, "A".repeat(43));
    socket.send(Message::text(hello)).await.expect("the connection takes a frame");
    let welcome = timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
    assert!(welcome.to_text().expect("text").contains(r#""type":"welcome""#), "{welcome}");
    socket
}

/// Milliseconds between exports: soon, and a test waits for several.
const OFTEN: &str = "100";
const BINARY: &str = env!("CARGO_BIN_EXE_signaling");
