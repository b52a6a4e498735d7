//! Who meets whom, and what they say.

use serde_json::json;

use super::{Client, config, metric, metric_becomes, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_meet_and_exchange_signals() {
    let server = start(config());
    let mut ada = Client::hello(&server, "lobby", 1, json!({"name": "Ada"})).await;
    let mut bob = Client::join(&server, "lobby", 2).await;

    let joined = ada.next().await;
    assert_eq!((&joined["type"], &joined["peer"]), (&json!("peer_joined"), &bob.peer()));
    let seen = &bob.welcome["room"]["peers"][0];
    assert_eq!((&seen["peer"], &seen["name"], &seen["state"]), (&ada.peer(), &json!("Ada"), &json!("here")));
    assert_ne!(seen["polite"], joined["polite"], "exactly one of a pair is polite");

    let (to_ada, to_bob) = (ada.peer(), bob.peer());
    ada.signal(&to_bob, json!({"type": "offer", "sdp": "v=0\r\n"})).await;
    let offer = bob.next().await;
    assert_eq!((&offer["type"], &offer["from"]), (&json!("signal"), &to_ada));
    assert_eq!(offer["description"], json!({"type": "offer", "sdp": "v=0\r\n"}));
    bob.signal(&to_ada, json!({"type": "answer"})).await;
    assert_eq!(ada.next().await["from"], to_bob);
    assert_eq!(metric(&server, "signaling_connections").await, 2);
    metric_becomes(&server, "signaling_signals_total", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_do_not_hear_each_other() {
    let server = start(config());
    let mut here = Client::join(&server, "here", 1).await;
    let there = Client::join(&server, "there", 2).await;
    here.signal(&there.peer(), json!(1)).await;
    let error = here.next().await;
    assert_eq!(
        (&error["type"], &error["code"], &error["re"]),
        (&json!("error"), &json!("no_such_peer"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_bye_has_left_and_a_signal_to_it_is_refused() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut bob = Client::join(&server, "lobby", 2).await;
    let gone = bob.peer();
    bob.send(json!({"type": "bye"})).await;
    assert_eq!(bob.closed().await, (1000, None));
    let left = ada.until("peer_left").await;
    assert_eq!((&left["peer"], &left["reason"]), (&gone, &json!("bye")));
    ada.signal(&gone, json!(1)).await;
    assert_eq!(ada.next().await["code"], "no_such_peer");
    metric_becomes(&server, "signaling_connections", 1).await;
    metric_becomes(&server, "signaling_closes_total{code=\"bye\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_the_same_peer_after_a_restart_of_the_server() {
    let before = start(config());
    let peer = Client::join(&before, "lobby", 1).await.peer();
    before.stop().await;
    let after = start(config());
    assert_eq!(Client::join(&after, "lobby", 1).await.peer(), peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_held_for_a_room_after_everyone_said_bye() {
    let server = start(config());
    for seed in 1..=3 {
        let mut client = Client::join(&server, "lobby", seed).await;
        client.send(json!({"type": "bye"})).await;
        client.closed().await;
    }
    for gauge in ["connections", "sessions", "rooms", "outbox_bytes", "replay_bytes"] {
        metric_becomes(&server, &format!("signaling_{gauge}"), 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_welcome_names_the_embedded_relay_with_credentials() {
    let config =
        signaling::Config { no_embedded_relay: None, relay_listen: Some("127.0.0.1:0".into()), ..config() };
    let server = start(config);
    let relay = *server.relay_addresses().first().expect("a relay");
    let client = Client::join(&server, "lobby", 1).await;
    let servers = &client.welcome["ice"]["servers"];
    assert_eq!(servers[0]["urls"], json!([format!("stun:{relay}")]));
    let urls = ["udp", "tcp"].map(|transport| format!("turn:{relay}?transport={transport}"));
    assert_eq!(servers[1]["urls"], json!(urls));
    let username = servers[1]["username"].as_str().expect("a username");
    let session = client.welcome["session"].as_str().expect("a session");
    assert!(username.ends_with(&format!(":{session}")), "{username} is bound to {session}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_allocation_failure_is_counted_and_changes_nothing() {
    let server = start(config());
    let mut client = Client::join(&server, "lobby", 1).await;
    let report =
        json!({"type": "report", "seq": 0, "ack": 0, "kind": "turn_error", "url": "turn:a", "code": 401});
    client.send_raw(&report.to_string()).await;
    client.send(json!({"type": "dance"})).await;
    assert_eq!(client.next().await["code"], "unknown_type");
    assert_eq!(metric(&server, "signaling_turn_errors_reported_total{code=\"401\"}").await, 1);
}
