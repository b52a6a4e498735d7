//! The admin API: every example of `ADMIN.md`, who is not let in, and what clients notice of it.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use signaling::{Config, Server, Settings};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::{Client, PATIENCE, config, http};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A server whose admin API takes [`TOKEN`]; a reload allows one more origin.
struct Bench {
    server: Server,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let mut config = Config {
            admin_token_file: Some(token),
            admin_host: vec!["signaling-1.internal".into()],
            shards: Some(2),
            ..config()
        };
        change(&mut config);
        let changed = Config { allow_origin: vec!["https://app.example.org".into()], ..config.clone() };
        let settings = Settings::try_from(config).expect("a good configuration");
        let source = Box::new(move || Settings::try_from(changed.clone()));
        let server = Server::start_reloadable(settings, None, source).expect("the server starts");
        Self { server, folder }
    }

    fn admin(&self) -> SocketAddr {
        self.server.admin().expect("an admin port")
    }

    async fn call(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        self.call_with(method, target, &format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"), body)
            .await
    }

    async fn call_with(&self, method: &str, target: &str, headers: &str, body: &str) -> (u16, Value) {
        read(&http(self.admin(), &written(method, target, headers, body)).await)
    }

    async fn peers(&self, room: &str) -> Vec<Value> {
        let (status, room) = self.call("GET", &format!("/v1/rooms/{room}"), "").await;
        assert_eq!(status, 200, "{room}");
        room["peers"].as_array().expect("peers").clone()
    }
}

fn written(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn read(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
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

/// Method, target and body of a `curl` line of the page.
fn parsed(line: &str) -> (&str, &str, &str) {
    assert!(line.contains("-H \"Authorization: Bearer $TOKEN\""), "{line}");
    let method = line.split_once("-X ").map_or("GET", |(_, rest)| rest.split(' ').next().expect("a method"));
    let target = line.split_once("http://127.0.0.1:8081").expect("a URL").1;
    let target = target.split([' ', '"']).next().expect("a path");
    let body = line.split_once(" -d '").map_or("", |(_, rest)| rest.trim_end_matches('\''));
    (method, target, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_the_page_is_answered_as_it_says() {
    let page = include_str!("../../ADMIN.md");
    let mut played = 0;
    for section in page.split("\n### ").skip(1) {
        let heading = section.lines().next().expect("a heading");
        let line = section.lines().find(|line| line.starts_with("curl ")).expect(heading);
        let json =
            section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect(heading);
        let bench = Bench::new();
        let _bo = Client::hello(&bench.server, "lobby", 1, json!({"name": "Bo"})).await;
        let ada = Client::hello(&bench.server, "lobby", 2, json!({"name": "Ada"})).await;
        let cy = Client::hello(&bench.server, "lobby", 3, json!({"name": "Cy"})).await;
        let cy = cy.peer().as_str().expect("a peer").to_owned();
        let ban = json!({"peer": cy, "ban_seconds": 3600}).to_string();
        assert_eq!(bench.call("POST", "/v1/rooms/lobby/kick", &ban).await.0, 200);
        let (method, target, body) = parsed(line);
        let body = body.replace("RWihKyg-JAfjKb8X6tqGQj", ada.peer().as_str().expect("a peer"));
        let target = target.replace("g3S0VhDbVxqHJBYUgx0yqo", &cy);
        let (status, answer) = bench.call(method, &target, &body).await;
        assert_eq!(status, 200, "{heading}: {answer}");
        assert_eq!(shape(&answer), shape(&serde_json::from_str(json).expect(heading)), "{heading}: {answer}");
        played += 1;
    }
    assert!(played >= 9, "{played} examples");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_without_the_token_or_by_a_name_that_is_not_ours() {
    let bench = Bench::new();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (headers, status, code) in [
        ("Host: localhost\r\n".to_owned(), 401, "unauthorized"),
        (format!("Host: localhost\r\n{}", bearer("0123456789abcdef0123456789abcdee")), 401, "unauthorized"),
        (format!("Host: evil.example\r\n{}", bearer(TOKEN)), 421, "misdirected"),
    ] {
        for (method, target) in [("GET", "/v1/rooms"), ("POST", "/v1/drain"), ("GET", "/v1/nothing")] {
            let (answered, problem) = bench.call_with(method, target, &headers, "").await;
            assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{method} {target}: {problem}");
        }
    }
    let named = format!("Host: Signaling-1.internal:8081\r\n{}", bearer(TOKEN));
    assert_eq!(bench.call_with("GET", "/v1/numbers", &named, "").await.0, 200);
    assert_eq!(bench.call_with("GET", "/metrics", "Host: evil.example\r\n", "").await.0, 200);

    let closed = Bench::with(|config| config.admin_token_file = None);
    let (status, problem) = closed.call("GET", "/v1/numbers", "").await;
    assert_eq!((status, &problem["code"]), (403, &json!("closed")), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_open_the_socket_needs_no_token() {
    let mut path = PathBuf::new();
    let folder = tempfile::tempdir().expect("a folder");
    path.push(folder.path());
    path.push("admin.sock");
    let bench = Bench::with(|config| {
        config.admin = Some(format!("unix:{}", path.display()));
        config.admin_token_file = None;
    });
    let exchange = async {
        let mut stream = UnixStream::connect(&path).await.expect("connects");
        let request = written("GET", "/v1/numbers", "Host: localhost\r\n", "");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        read(&answer)
    };
    let (status, numbers) = timeout(PATIENCE, exchange).await.expect("in time");
    assert_eq!((status, &numbers["shards"]), (200, &json!(2)));
    bench.server.stop().await;
    assert!(!path.exists(), "it goes with the server");
    drop(bench.folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named() {
    let bench = Bench::new();
    let _here = Client::join(&bench.server, "lobby", 1).await;
    let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(20_000));
    for (method, target, body, status, code) in [
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("DELETE", "/v1/rooms", "", 405, "method_not_allowed"),
        ("GET", "/v1/rooms?limt=3", "", 400, "bad_request"),
        ("GET", "/v1/rooms?limit=0", "", 400, "bad_request"),
        ("GET", "/v1/rooms?cursor=x", "", 400, "bad_request"),
        ("GET", "/v1/rooms/hall", "", 404, "not_found"),
        ("GET", "/v1/rooms/a%20b", "", 400, "bad_request"),
        ("POST", "/v1/rooms/hall/notice", r#"{"text":"x"}"#, 404, "not_found"),
        ("POST", "/v1/rooms/lobby/notice", r#"{"text":""}"#, 400, "bad_request"),
        ("POST", "/v1/rooms/lobby/notice", r#"{"text":"x","txet":"y"}"#, 400, "bad_request"),
        ("POST", "/v1/rooms/lobby/notice", &huge, 413, "bad_body"),
        ("POST", "/v1/rooms/hall/door", r#"{"door":"locked"}"#, 404, "not_found"),
        ("POST", "/v1/rooms/lobby/door", r#"{"door":"ajar"}"#, 400, "bad_request"),
        ("POST", "/v1/rooms/lobby/kick", r#"{"peer":"4IWcmX3pZURISnMilXPPaO"}"#, 404, "not_found"),
        ("POST", "/v1/rooms/lobby/kick", r#"{"peer":"nobody"}"#, 400, "bad_request"),
        (
            "POST",
            "/v1/rooms/lobby/kick",
            r#"{"peer":"4IWcmX3pZURISnMilXPPaO","ban_seconds":604801}"#,
            400,
            "bad_request",
        ),
    ] {
        let (answered, problem) = bench.call(method, target, body).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{method} {target}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_has_every_room_of_all_shards_page_by_page() {
    let bench = Bench::new();
    let mut clients = Vec::new();
    for number in 0..25 {
        clients.push(Client::join(&bench.server, &format!("room-{number}"), 1).await);
    }
    let (mut rooms, mut shards, mut cursor) = (BTreeSet::new(), BTreeSet::new(), String::new());
    loop {
        let (_, page) = bench.call("GET", &format!("/v1/rooms?limit=3{cursor}"), "").await;
        for room in page["rooms"].as_array().expect("rooms") {
            assert!(rooms.insert(room["room"].to_string()), "twice: {room}");
            assert_eq!((&room["peer_count"], &room["here"]), (&json!(1), &json!(1)), "{room}");
        }
        let Some(next) = page["next"].as_str() else { break };
        shards.insert(next.split('-').next().expect("a shard").to_owned());
        cursor = format!("&cursor={next}");
    }
    assert_eq!((rooms.len(), shards.len()), (25, 2), "25 names are spread over both shards");
    assert_eq!(bench.call("GET", "/v1/numbers", "").await.1["rooms"], 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_reaches_who_is_here_and_who_comes_back() {
    let bench = Bench::new();
    let mut bo = Client::join(&bench.server, "lobby", 1).await;
    let ada = Client::join(&bench.server, "lobby", 2).await;
    let resumption = ada.resumption();
    drop(ada);
    while bo.until("peer_changed").await["state"] != "away" {}
    let (status, answer) = bench.call("POST", "/v1/rooms/lobby/notice", r#"{"text":"good bye"}"#).await;
    assert_eq!((status, &answer["peers"]), (200, &json!(2)), "{answer}");
    assert_eq!(bo.until("notice").await["text"], "good bye");
    let mut ada = Client::hello(&bench.server, "lobby", 2, resumption).await;
    assert_eq!(ada.welcome["outcome"], "resumed");
    assert_eq!(ada.until("notice").await["text"], "good bye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_locks_a_room_and_removes_a_peer_for_a_time() {
    let bench = Bench::new();
    let mut bo = Client::join(&bench.server, "lobby", 1).await;
    let mut ada = Client::join(&bench.server, "lobby", 2).await;
    let (status, answer) = bench.call("POST", "/v1/rooms/lobby/door", r#"{"door":"locked"}"#).await;
    assert_eq!((status, &answer["door"]), (200, &json!("locked")), "{answer}");
    assert_eq!(bo.until("room_changed").await["door"], "locked");
    assert_eq!(bench.call("GET", "/v1/rooms", "").await.1["rooms"][0]["door"], "locked");

    let body = json!({"peer": ada.peer(), "ban_seconds": 60, "reason": "spam"}).to_string();
    let (status, answer) = bench.call("POST", "/v1/rooms/lobby/kick", &body).await;
    assert_eq!((status, &answer["kicked"]), (200, &json!(true)), "{answer}");
    assert_eq!(ada.closed().await, (4205, Some("banned".into())));
    assert_eq!(bo.until("peer_left").await["reason"], "kicked");
    let peers = bench.peers("lobby").await;
    assert_eq!((peers.len(), &peers[0]["peer"]), (1, &bo.peer()));
    assert!(peers[0]["frames_sent"].as_u64().expect("a number") >= 3, "{}", peers[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_sees_who_is_banned_and_lets_it_in_again() {
    let bench = Bench::new();
    let mut ada = Client::join(&bench.server, "lobby", 2).await;
    let peer = ada.peer().as_str().expect("a peer").to_owned();
    let bans = "/v1/rooms/lobby/bans";
    assert_eq!(bench.call("GET", bans, "").await, (200, json!({"room": "lobby", "bans": []})));
    for wrong in ["", "?peer=no-peer", "?subject=", &format!("?peer={peer}&subject=ada"), "?whom=ada"] {
        assert_eq!(bench.call("DELETE", &format!("{bans}{wrong}"), "").await.0, 400, "{wrong}");
    }
    let this = format!("{bans}?peer={peer}");
    assert_eq!(bench.call("DELETE", &this, "").await.0, 404);

    let ban = json!({"peer": peer, "ban_seconds": 3600}).to_string();
    assert_eq!(bench.call("POST", "/v1/rooms/lobby/kick", &ban).await.0, 200);
    assert_eq!(ada.closed().await.0, 4205);
    let (_, listed) = bench.call("GET", bans, "").await;
    let seconds = listed["bans"][0]["seconds"].as_u64().expect("a number");
    assert!((3_500..=3_600).contains(&seconds), "{listed}");
    assert_eq!(listed["bans"], json!([{"peer": peer, "subject": null, "seconds": seconds}]));

    assert_eq!(bench.call("DELETE", &this, "").await, (200, json!({"room": "lobby", "lifted": 1})));
    assert_eq!(bench.call("DELETE", &this, "").await.0, 404);
    assert_eq!(Client::join(&bench.server, "lobby", 2).await.peer(), json!(peer));
}
