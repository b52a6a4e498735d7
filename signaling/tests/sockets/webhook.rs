//! The webhook over real HTTP, and the one line that the log has of each session.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use futures_util::SinkExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use signaling::Config;
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Client, PATIENCE, closed, config, metric, next_message,
    process::{Process, terminate},
    request,
    requests::hello,
    start,
};

pub(super) const SECRET: &str = "a-secret-that-both-sides-know";

/// A program of the operator's, which first answers with these statuses.
pub(super) struct Program {
    pub(super) url: String,
    batches: mpsc::UnboundedReceiver<Value>,
}

type Answers = Arc<Mutex<Vec<StatusCode>>>;

impl Program {
    pub(super) async fn start(mut answers: Vec<StatusCode>) -> Self {
        answers.reverse();
        let (sender, batches) = mpsc::unbounded_channel();
        let answers: Answers = Arc::new(Mutex::new(answers));
        let routes = Router::new().route("/hook", post(hook)).with_state((sender, answers));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, batches }
    }

    pub(super) async fn next(&mut self) -> Value {
        timeout(PATIENCE, self.batches.recv()).await.expect("a call in time").expect("it runs")
    }
}

async fn hook(
    State((batches, answers)): State<(mpsc::UnboundedSender<Value>, Answers)>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let signature = headers["signaling-signature"].to_str().expect("text");
    let (time, tag) =
        signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).expect("a signature");
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key");
    let expected = mac.chain_update(time).chain_update(".").chain_update(&body).finalize().into_bytes();
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    let answer = answers.lock().expect("not poisoned").pop().unwrap_or(StatusCode::OK);
    // A wrong signature shows as a batch that nobody sent.
    let batch = if tag == expected { serde_json::from_slice(&body).expect("JSON") } else { json!("forged") };
    let _ = batches.send(batch);
    answer
}

pub(super) fn words(batch: &Value) -> Vec<String> {
    let events = batch["events"].as_array().unwrap_or_else(|| panic!("a batch, not {batch}"));
    events
        .iter()
        .map(|event| {
            let reason = event["reason"].as_str().unwrap_or_default();
            format!("{} {reason}", event["event"].as_str().expect("a kind")).trim_end().to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_and_peers_are_told_signed_in_order_and_again_until_they_are_taken() {
    let mut program = Program::start(vec![StatusCode::SERVICE_UNAVAILABLE]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    let server =
        start(Config { webhook: Some(program.url.clone()), webhook_secret_file: Some(secret), ..config() });
    let ada = Client::hello(&server, "lobby", 1, json!({"name": "Ada"})).await;
    let first = program.next().await;
    assert_eq!(words(&first), ["room_started", "peer_joined"]);
    assert_eq!(program.next().await, first, "the same batch again, after the 503");
    let joined = &first["events"][1];
    assert_eq!(
        (&joined["room"], &joined["peer"], &joined["session"]),
        (&json!("lobby"), &ada.peer(), &ada.welcome["session"])
    );
    assert!(!first.to_string().contains("Ada"), "what a client calls itself is nobody's business: {first}");

    let mut bo = Client::join(&server, "lobby", 2).await;
    bo.send(json!({"type": "bye"})).await;
    assert_eq!(bo.closed().await, (1000, None));
    let mut more = Vec::new();
    while more.len() < 2 {
        more.extend(words(&program.next().await));
    }
    assert_eq!(more, ["peer_joined", "peer_left bye"]);

    let _still_here = ada;
    let posted = metric(&server, "signaling_webhook_events_total{outcome=\"delivered\"}").await;
    assert!(posted >= 2, "{posted}");
    server.stop().await;
    assert_eq!(words(&program.next().await), ["peer_left shutdown", "room_ended"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_leaves_one_line_in_the_log_that_names_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).expect("created");
    let mut process = Process::start_logging(&["--log-format", "json"], file);
    let (mut socket, _) =
        tokio_tungstenite::connect_async(request(process.address, "secret-room")).await.expect("connects");
    socket.send(Message::text(hello(1, &json!({"name": "Ada"})))).await.expect("sent");
    let Some(Message::Text(welcome)) = next_message(&mut socket).await else { panic!("a welcome") };
    let welcome: Value = serde_json::from_str(&welcome).expect("JSON");
    socket.send(Message::text(r#"{"type":"bye","seq":1,"ack":0}"#)).await.expect("sent");
    assert_eq!(closed(&mut socket).await.0, 1000);
    terminate(&process);
    assert_eq!(process.ended().await, Some(0));

    let text = std::fs::read_to_string(&log).expect("read");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let ended: Vec<&Value> = lines.iter().filter(|line| line["message"] == "session ended").collect();
    let [ended] = ended.as_slice() else { panic!("one line: {text}") };
    assert_eq!(ended["session"], welcome["session"]);
    for (key, value) in [
        ("reason", json!("bye")),
        ("transport", json!("websocket")),
        ("received", json!(1)),
        ("sent", json!(1)),
        ("level", json!("INFO")),
    ] {
        assert_eq!(ended[key], value, "{ended}");
    }
    assert!(ended["seconds"].is_u64(), "{ended}");
    let personal = ["secret-room", "Ada", welcome["peer"].as_str().expect("a peer")];
    assert!(personal.iter().all(|word| !text.contains(word)), "{text}");
}
