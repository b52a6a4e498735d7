//! Sessions that outlive their connections.

use serde_json::{Value, json};

use super::{Client, config, metric_becomes, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_resumed_over_a_new_socket_loses_and_repeats_nothing() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut bob = Client::join(&server, "lobby", 2).await;
    let to_bob = bob.peer();
    ada.until("peer_joined").await;
    ada.signal(&to_bob, json!(0)).await;
    assert_eq!(bob.next().await["description"], 0);

    // Bob's connection is cut without a word; what he sends next is lost with it, as far as he can know.
    let resumption = bob.resumption();
    let (session, seen) = (bob.welcome["session"].clone(), bob.seen);
    bob.signal(&ada.peer(), json!("unacknowledged")).await;
    assert_eq!(ada.until("signal").await["description"], "unacknowledged");
    drop(bob);
    assert_eq!(ada.until("peer_changed").await["state"], "away");
    for n in 1..=5 {
        ada.signal(&to_bob, json!(n)).await;
    }

    let mut bob = Client::hello(&server, "lobby", 2, resumption).await;
    assert_eq!((&bob.welcome["outcome"], &bob.welcome["session"]), (&json!("resumed"), &session));
    bob.seen = seen;
    assert_eq!(ada.until("peer_changed").await["state"], "here");
    let mut heard = Vec::new();
    while heard.len() < 5 {
        let frame = bob.next().await;
        if frame["type"] == "signal" {
            heard.push(frame["description"].clone());
        }
    }
    assert_eq!(heard, [1, 2, 3, 4, 5].map(Value::from));

    // Bob repeats the frame of which he does not know whether it arrived; `ack` in the welcome says that it did.
    assert_eq!(bob.welcome["ack"], 1);
    bob.signal(&ada.peer(), json!("unacknowledged")).await;
    bob.signal(&ada.peer(), json!("fresh")).await;
    assert_eq!(ada.until("signal").await["description"], "fresh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_still_stands_is_taken_over_at_once() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut old = Client::join(&server, "lobby", 2).await;
    ada.until("peer_joined").await;
    let mut new = Client::hello(&server, "lobby", 2, old.resumption()).await;
    assert_eq!(new.welcome["outcome"], "resumed");
    assert_eq!(old.closed().await, (4203, Some("replaced".into())));

    // Nobody else noticed: the next that Ada hears is a signal.
    new.signal(&ada.peer(), json!("still me")).await;
    assert_eq!(ada.next().await["description"], "still me");
    metric_becomes(&server, "signaling_closes_total{code=\"replaced\"}", 1).await;
    metric_becomes(&server, "signaling_connections", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_forgot_its_token_replaces_itself_and_the_others_are_told() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut old = Client::join(&server, "lobby", 2).await;
    ada.until("peer_joined").await;
    let new = Client::join(&server, "lobby", 2).await;
    assert_eq!(old.closed().await, (4203, Some("replaced".into())));
    assert_eq!(new.peer(), old.peer());
    let joined = ada.until("peer_joined").await;
    assert_eq!((&joined["peer"], &joined["resync"]), (&new.peer(), &json!(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_server_gives_a_resync() {
    let before = start(config());
    let resumption = Client::join(&before, "lobby", 1).await.resumption();
    before.stop().await;
    let after = start(config());
    let client = Client::hello(&after, "lobby", 1, resumption).await;
    assert_eq!(
        (&client.welcome["outcome"], &client.welcome["reason"]),
        (&json!("resync"), &json!("unknown"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_tells_every_client_to_come_back_at_once() {
    let server = start(config());
    let mut ada = Client::join(&server, "lobby", 1).await;
    let mut silent = super::open(&server, "lobby").await;
    let stopped = tokio::spawn(server.stop());
    assert_eq!(ada.closed().await, (4000, Some("going_away".into())));
    assert_eq!(super::closed(&mut silent).await, (4000, Some("going_away".into())));
    drop((ada, silent));
    stopped.await.expect("the server stops");
}
