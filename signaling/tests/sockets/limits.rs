//! What clients may do is bounded, for one address and for all: each bound has its answer and its metric.

use futures_util::SinkExt as _;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Client, PATIENCE, closed, config, doors::assert_not_served_because, metric, metric_becomes, next_message,
    open, request, requests::hello, start,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_connections_are_held_that_have_not_said_hello() {
    let server = start(signaling::Config { max_pending: Some(2), ..config() });
    let _client = Client::join(&server, "lobby", 1).await;
    let _first = TcpStream::connect(server.address()).await.expect("connects");
    let _second = open(&server, "lobby").await;
    assert_not_served_because(&server, "pending").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_connects_too_often_is_refused() {
    let server = start(signaling::Config { handshakes_per_second_per_address: Some(1), ..config() });
    for seed in 0..5 {
        drop(Client::join(&server, "lobby", seed).await);
    }
    let refused = async {
        // A token comes back each second, so that the sixth may be admitted on a machine that stood still.
        while tokio_tungstenite::connect_async(request(server.address(), "lobby")).await.is_ok() {}
    };
    timeout(PATIENCE, refused).await.expect("it is refused");
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"rate\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_too_fast_wait_and_are_served() {
    let server = start(signaling::Config { handshakes_per_second: Some(4), ..config() });
    for seed in 0..3 {
        Client::join(&server, "lobby", seed).await;
    }
    assert!(metric(&server, "signaling_handshakes_delayed_total").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_only_so_many_sessions_also_while_they_are_away() {
    let server = start(signaling::Config { max_sessions_per_address: Some(2), shards: Some(1), ..config() });
    let first = Client::join(&server, "lobby", 1).await;
    let mut second = Client::join(&server, "another", 2).await;
    let resumption = first.resumption();
    drop(first);
    metric_becomes(&server, "signaling_connections", 1).await;

    let mut third = open(&server, "lobby").await;
    let hello = hello(3, &json!({}));
    third.send(Message::text(hello)).await.expect("sent");
    let Some(Message::Text(error)) = next_message(&mut third).await else { panic!("no error frame") };
    let error: serde_json::Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!((&error["code"], &error["retry_after_ms"]), (&json!("rate_limited"), &json!(5000)));
    assert_eq!(closed(&mut third).await.0, 4101);
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"sessions\"}").await, 1);

    let back = Client::hello(&server, "lobby", 1, resumption).await;
    assert_eq!(back.welcome["outcome"], "resumed");
    second.send(json!({"type": "bye"})).await;
    assert_eq!(second.closed().await.0, 1000);
    Client::join(&server, "lobby", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_an_address_send_only_so_much_together() {
    let server = start(signaling::Config { messages_per_second_per_address: Some(1), ..config() });
    let (mut first, mut second) =
        (Client::join(&server, "lobby", 1).await, Client::join(&server, "lobby", 2).await);
    // A burst is four seconds' worth; a token may come back meanwhile.
    let mut error = serde_json::Value::Null;
    for _ in 0..PLENTY {
        let sent = second.socket.send(Message::text(r#"{"type":"ack","seq":0,"ack":0}"#)).await;
        let _ = first.socket.send(Message::text(r#"{"type":"ack","seq":0,"ack":0}"#)).await;
        if sent.is_err() {
            break;
        }
    }
    while error["type"] != "error" {
        error = second.next().await;
    }
    assert_eq!(error["code"], "rate_limited");
    assert!(error["retry_after_ms"].as_u64().is_some_and(|wait| (1..=5_000).contains(&wait)), "{error}");
    assert_eq!(second.closed().await.0, 4101);
    assert!(metric(&server, "signaling_refused_total{reason=\"frames\"}").await > 0);
}

/// More frames than any burst here.
const PLENTY: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_is_small_and_what_follows_may_be_large() {
    let server = start(config());
    let mut socket = open(&server, "lobby").await;
    socket.send(Message::text("x".repeat(16_385))).await.expect("sent");
    assert_eq!(closed(&mut socket).await, (4201, Some("too_large".into())));

    let (mut first, mut second) =
        (Client::join(&server, "lobby", 1).await, Client::join(&server, "lobby", 2).await);
    let large = "x".repeat(60_000);
    let to = first.peer();
    second.signal(&to, json!(large)).await;
    assert_eq!(first.until("signal").await["description"], large);
}
