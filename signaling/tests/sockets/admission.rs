//! Who may enter, over real sockets: tokens in hello and header, on every transport, and renewed while connected.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use signaling::{Config, Server};
use tempfile::NamedTempFile;

use super::requests::{Http, json_of, text};
use super::{Client, config, open, request, requests, start};

pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A server that asks for tokens. The file has to live as long as it starts.
pub(super) fn guarded(more: Config) -> Server {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("# made for this test\n{SECRET}\n")).expect("it is written");
    start(Config { token_secret_file: Some(file.path().into()), ..more })
}

fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("a date of our days") + seconds
}

/// A token for rooms that begin with `lob`.
pub(super) fn token(more: &Value) -> String {
    signed(more, &Header::default(), &EncodingKey::from_secret(SECRET.as_bytes()))
}

/// The same, signed with another key.
pub(super) fn signed(more: &Value, header: &Header, key: &EncodingKey) -> String {
    let mut claims = json!({"sub": "ada", "exp": seconds_from_now(600), "room": "lob*"});
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    encode(header, &claims, key).expect("a token")
}

pub(super) fn hello(seed: u8, token: Option<String>) -> String {
    requests::hello(seed, &token.map_or_else(|| json!({}), |token| json!({"token": token})))
}

/// How a first frame on a WebSocket is answered that is refused.
pub(super) async fn refusal(server: &Server, room: &str, hello: &str) -> (Value, u16) {
    let mut client = Client::of(open(server, room).await);
    client.send_raw(hello).await;
    let error = client.next().await;
    let (code, _) = client.closed().await;
    (error, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_hello_opens_the_room_and_says_what_its_bearer_may_do() {
    let server = guarded(config());
    let more = json!({"name": "Ada L", "role": "host", "may_kick": true});
    let mut ada = Client::hello(&server, "lobby", 1, json!({"name": "?", "token": token(&more)})).await;
    let granted = &ada.welcome["granted"];
    assert_eq!(
        (&granted["role"], &granted["may_kick"], &granted["may_lock"]),
        (&json!("host"), &json!(true), &json!(false))
    );
    let rest = granted["expires_in_ms"].as_u64().expect("a time");
    assert!((600_000..=630_000).contains(&rest), "{rest}");

    let mut bob = Client::hello(&server, "lobby", 2, json!({"token": token(&json!({"sub": "bob"}))})).await;
    let seen = &bob.welcome["room"]["peers"][0];
    assert_eq!((&seen["name"], &seen["role"]), (&json!("Ada L"), &json!("host")));

    // Bob may not, Ada may.
    ada.until("peer_joined").await;
    bob.send(json!({"type": "kick", "to": ada.peer()})).await;
    assert_eq!(bob.until("error").await["code"], "not_permitted");
    ada.send(json!({"type": "kick", "to": bob.peer(), "reason": "enough"})).await;
    assert_eq!(bob.until("error").await["message"], "enough");
    assert_eq!(bob.closed().await.0, 4204);
    assert_eq!(ada.until("peer_left").await["reason"], "kicked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_token_or_a_bad_one_does_not_enter() {
    let server = guarded(config());
    for (room, shown, name, code) in [
        ("lobby", None, "unauthorized", 4207),
        ("lobby", Some("not.a.token".to_owned()), "unauthorized", 4207),
        ("hall", Some(token(&json!({}))), "unauthorized", 4207),
        ("lobby", Some(token(&json!({"exp": seconds_from_now(-60)}))), "token_expired", 4208),
        ("lobby", Some("x".repeat(8193)), "bad_hello", 4202),
    ] {
        let (error, closed) = refusal(&server, room, &hello(1, shown)).await;
        assert_eq!((&error["code"], closed), (&json!(name), code), "{error}");
        assert_eq!(error["temporary"], false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_header_does_as_well_on_every_transport() {
    let server = guarded(config());
    let bearer = format!("Bearer {}", token(&json!({})));
    let mut handshake = request(server.address(), "lobby");
    handshake.headers_mut().insert("authorization", bearer.parse().expect("a header value"));
    let (socket, _) = tokio_tungstenite::connect_async(handshake).await.expect("an upgrade");
    let mut client = Client::of(socket);
    client.send_raw(&hello(1, None)).await;
    assert_eq!(client.next().await["type"], "welcome");

    let mut http = Http::connect(&server).await;
    for (seed, headers, first) in [
        (2, vec![("authorization", bearer.as_str())], "welcome"),
        (3, vec![], "error"),
        // A password that a proxy asked for is none of our business.
        (4, vec![("authorization", "Basic YTpi")], "error"),
    ] {
        let answer = json_of(http.post("/v1/rooms/lobby/poll", &headers, hello(seed, None)).await).await;
        assert_eq!(answer["frames"][0]["type"], first, "{answer}");
        if first == "error" {
            assert_eq!(answer["close"], json!({"code": 4207, "reason": "unauthorized"}));
        }
    }
    for bad in ["Bearer ", "Bearer a b", "Bearer \u{e9}"] {
        let response = http.post("/v1/rooms/lobby/poll", &[("authorization", bad)], hello(5, None)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{bad}");
        assert!(text(response).await.contains("bearer token"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_resumed_without_a_token_and_renewed_by_one() {
    let server = guarded(config());
    let ada = Client::hello(&server, "lobby", 1, json!({"token": token(&json!({}))})).await;
    let resumption = ada.resumption();
    drop(ada);
    let mut ada = Client::hello(&server, "lobby", 1, resumption).await;
    assert_eq!(ada.welcome["outcome"], "resumed");

    let longer = token(&json!({"exp": seconds_from_now(6000), "may_lock": true}));
    ada.send_raw(&json!({"type": "token", "seq": 0, "ack": 0, "token": longer}).to_string()).await;
    let granted = ada.until("granted").await;
    assert!(granted["expires_in_ms"].as_u64() > Some(5_000_000), "{granted}");
    assert_eq!(granted["may_lock"], true);

    for bad in [token(&json!({"sub": "eve"})), token(&json!({"room": "hall"})), "nonsense".to_owned()] {
        ada.send_raw(&json!({"type": "token", "seq": 0, "ack": 1, "token": bad}).to_string()).await;
        assert_eq!(ada.until("error").await["code"], "token_refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_its_token_does() {
    let server = guarded(config());
    // The leeway is thirty seconds.
    let short = token(&json!({"exp": seconds_from_now(-28)}));
    let mut ada = Client::hello(&server, "lobby", 1, json!({"token": short})).await;
    assert_eq!(ada.until("error").await["code"], "token_expired");
    assert_eq!(ada.closed().await.0, 4208);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_grant_of_the_relay_there_are_no_credentials() {
    let relay = Config { no_embedded_relay: None, relay_listen: Some("127.0.0.1:0".into()), ..config() };
    let server = guarded(relay);
    let with = Client::hello(&server, "lobby", 1, json!({"token": token(&json!({}))})).await;
    assert_eq!(with.welcome["ice"]["servers"].as_array().map(Vec::len), Some(2));
    let without = Client::hello(&server, "lobby", 2, json!({"token": token(&json!({"turn": false}))})).await;
    let servers = without.welcome["ice"]["servers"].as_array().expect("a list");
    assert!(servers.iter().all(|server| server.get("credential").is_none()), "{servers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_of_keys_that_is_down_lets_nobody_in_and_asks_for_patience() {
    let server = start(Config {
        // Nothing listens there: port 9 is discard.
        token_keys: Some("http://127.0.0.1:9/keys".into()),
        token_audience: vec!["here".into()],
        ..config()
    });
    let header = r#"{"alg":"EdDSA","kid":"a"}"#;
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let token = format!("{}.e30.e30", URL_SAFE_NO_PAD.encode(header));
    let (error, code) = refusal(&server, "lobby", &hello(1, Some(token))).await;
    assert_eq!((&error["code"], &error["temporary"], code), (&json!("unverified"), &json!(true), 4103));
    assert!(error["retry_after_ms"].as_u64() > Some(0), "{error}");
}
