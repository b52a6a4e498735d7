//! Clients that break the rules: each gets its documented end, and nobody else notices.

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Bytes, Message, Utf8Bytes,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::{Client, closed, config, metric, metric_becomes, next_message, open, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_frame_that_is_no_hello_is_answered_and_closed() {
    let server = start(config());
    for (first, code, error) in [
        ("not json", 4200, "bad_frame"),
        (r#"{"type":"ack","seq":0,"ack":0}"#, 4202, "bad_hello"),
        (r#"{"type":"hello","seq":0,"ack":0,"secret":"x","instance":"i"}"#, 4202, "bad_hello"),
    ] {
        let mut socket = open(&server, "lobby").await;
        socket.send(Message::text(first)).await.expect("sent");
        assert_eq!(closed(&mut socket).await, (code, Some(error.into())), "{first}");
    }
    metric_becomes(&server, "signaling_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_not_json_closes_its_connection_only() {
    let server = start(config());
    let mut bad = Client::join(&server, "lobby", 1).await;
    let mut good = Client::join(&server, "lobby", 2).await;
    bad.send_raw("not json").await;
    assert_eq!(bad.closed().await, (4200, Some("bad_frame".into())));
    assert_eq!(good.until("peer_changed").await["state"], "away");
    good.send(json!({"type": "dance"})).await;
    assert_eq!(good.next().await["code"], "unknown_type");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_message_is_no_frame() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    client.socket.send(Message::binary(vec![0xff])).await.expect("sent");
    assert_eq!(client.closed().await, (4200, Some("bad_frame".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_type_is_answered_and_the_connection_stays() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    for _ in 0..3 {
        client.send(json!({"type": "dance"})).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["re"]), (&json!("unknown_type"), &json!(client.sent)));
    }
    metric_becomes(&server, "signaling_frame_errors_total{code=\"unknown_type\"}", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_1_mib_is_refused_with_its_code() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    client
        .socket
        .send(Message::text("x".repeat(1 << 20)))
        .await
        .expect("the whole message is taken off the wire");
    assert_eq!(client.closed().await, (4201, Some("too_large".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_1_mib_in_small_pieces_is_refused_alike() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    for piece in 0..64 {
        let kind = if piece == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(Bytes::from(vec![b'x'; 16 * 1024]), OpCode::Data(kind), piece == 63);
        client.socket.send(Message::Frame(frame)).await.expect("taken off the wire");
    }
    assert_eq!(client.closed().await, (4201, Some("too_large".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_message_of_1_mib_is_refused_alike() {
    let server = start(config());
    let mut socket = open(&server, "lobby").await;
    socket.send(Message::text("x".repeat(1 << 20))).await.expect("the whole message is taken off the wire");
    assert_eq!(closed(&mut socket).await, (4201, Some("too_large".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_says_hello_is_closed() {
    let server = start(config());
    let mut socket = open(&server, "lobby").await;
    assert_eq!(closed(&mut socket).await, (4003, Some("hello_timeout".into())));
    metric_becomes(&server, "signaling_closes_total{code=\"hello_timeout\"}", 1).await;
    assert_eq!(metric(&server, "signaling_sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_control_frames_is_dropped() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    for _ in 0..200 {
        let _ = client.socket.send(Message::Ping(Bytes::new())).await;
    }
    loop {
        match next_message(&mut client.socket).await {
            Some(Message::Close(Some(close))) => break assert_eq!(u16::from(close.code), 1002),
            Some(Message::Pong(_)) => {}
            other => panic!("a close frame was expected, not {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_costs_a_bounded_amount_and_is_given_up() {
    let config =
        signaling::Config { messages_per_second: Some(100_000), message_burst: Some(100_000), ..config() };
    let server = start(config);
    let mut ada = Client::join(&server, "lobby", 1).await;
    let stuck = Client::join(&server, "lobby", 2).await;
    let (mut eve, mut dan) =
        (Client::join(&server, "other", 3).await, Client::join(&server, "other", 4).await);
    eve.until("peer_joined").await;
    ada.until("peer_joined").await;

    // 64 MiB for a client that has stopped reading, until Ada is told that it is away.
    let payload = json!("x".repeat(32 * 1024));
    let mut most = 0;
    let mut away = false;
    for n in 0..2048 {
        ada.signal(&stuck.peer(), payload.clone()).await;
        if n % 16 == 0 {
            most = most.max(held(&server).await);
            dan.signal(&eve.peer(), json!(n)).await;
            assert_eq!(eve.next().await["description"], n, "other rooms go on");
        }
        away |= drain_until_away(&mut ada).await;
    }
    assert!(away || ada.until("peer_changed").await["state"] == "away");
    assert!(most <= 1024 * 1024, "the server held {most} bytes for it");
    metric_becomes(&server, "signaling_connections", 3).await;
    metric_becomes(&server, "signaling_outbox_bytes", 0).await;
    assert!(held(&server).await <= 256 * 1024 + 64 * 1024);
    assert_eq!(metric(&server, "signaling_closes_total{code=\"slow_reader\"}").await, 1);
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_a_ping_without_acknowledging_what_came_before_is_told_so() {
    let server = start(signaling::Config { ping_interval_seconds: Some(1), ..config() });
    let mut ada = Client::join(&server, "lobby", 1).await;
    let _bob = Client::join(&server, "lobby", 2).await;
    ada.until("peer_joined").await;
    // What a client writes who never counts.
    ada.seen = 0;
    let error = ada.until("error").await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("slow_reader"), &json!("what was sent before the ping is not acknowledged"))
    );
    assert_eq!(ada.closed().await.0, 4002);
}

async fn held(server: &signaling::Server) -> i64 {
    metric(server, "signaling_outbox_bytes").await + metric(server, "signaling_replay_bytes").await
}

/// Takes what has arrived without waiting for more; says whether a peer went away.
async fn drain_until_away(client: &mut Client) -> bool {
    use futures_util::{FutureExt as _, StreamExt as _};
    let mut away = false;
    while let Some(message) = client.socket.next().now_or_never() {
        let Some(Ok(Message::Text(text))) = message else { panic!("a text was expected, not {message:?}") };
        away |= note(client, &text).await;
    }
    away
}

async fn note(client: &mut Client, text: &Utf8Bytes) -> bool {
    let frame: serde_json::Value = serde_json::from_str(text).expect("JSON");
    client.seen = client.seen.max(frame["seq"].as_u64().expect("a seq"));
    if frame["type"] == "ping" {
        client.send_raw(&json!({"type": "pong", "seq": 0, "ack": client.seen}).to_string()).await;
    }
    frame["type"] == "peer_changed" && frame["state"] == "away"
}
