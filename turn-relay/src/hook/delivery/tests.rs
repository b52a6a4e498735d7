//! Over tokio's paused clock: seconds pass at once.

use std::cell::RefCell;

use serde_json::Value;

use super::super::usage::{UsageKind, open};
use super::*;
use crate::relay::AllocationId;

fn event(n: u64) -> UsageEvent {
    UsageEvent {
        event: UsageKind::End,
        id: AllocationId(n),
        time: 1_700_000_000_123,
        user: "alice".into(),
        transport: "udp",
        family: "ipv4",
        seconds: 60,
        to_peer_bytes: 1,
        to_peer_packets: 2,
        to_client_bytes: 3,
        to_client_packets: 4,
        reason: Some("released"),
        addresses: None,
    }
}

/// Posts `events` to a hook that answers with each of `answers` in turn and accepts the rest; tells what was posted when.
async fn post(events: u64, answers: Vec<Called>) -> (Vec<(Duration, Value)>, UsageCounts) {
    let counts = UsageCounts::default();
    let (queue, receiver) = open(&counts);
    for n in 0..events {
        queue.put(event(n));
    }
    drop(queue);
    let (start, posted) = (Instant::now(), RefCell::new(vec![]));
    let answers = RefCell::new(answers.into_iter());
    Delivery::new(receiver, counts.clone())
        .post_with(|body| {
            posted.borrow_mut().push((start.elapsed(), serde_json::from_slice(&body).expect("JSON")));
            std::future::ready(answers.borrow_mut().next().unwrap_or(Called::Accepted(vec![])))
        })
        .await;
    (posted.into_inner(), counts)
}

#[tokio::test(start_paused = true)]
async fn events_are_posted_in_batches_and_in_order() {
    let (posted, counts) = post(1201, vec![]).await;
    let sizes: Vec<usize> =
        posted.iter().map(|(_, batch)| batch["events"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [500, 500, 201]);
    let ids = posted.iter().flat_map(|(_, batch)| batch["events"].as_array().unwrap());
    for (n, event) in ids.enumerate() {
        assert_eq!(event["id"], format!("{n:016x}"));
    }
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&posted[0].1["events"][0]),
        "event family id reason seconds time to_client_bytes to_client_packets to_peer_bytes to_peer_packets transport user"
    );
    assert_eq!(posted[0].1["events"][0]["event"], "end");
    assert_ne!(posted[0].1["batch"], posted[1].1["batch"]);
    assert_eq!(counts.delivered.get(), 1201);
}

#[tokio::test(start_paused = true)]
async fn batch_that_failed_is_posted_again_unchanged_and_ever_more_slowly() {
    let failed = || Called::Failed("status 503".into());
    let (posted, counts) = post(600, (0..10).map(|_| failed()).collect()).await;
    assert_eq!(posted.len(), 12, "eleven times the first, once the second");
    for (_, batch) in &posted[1..11] {
        assert_eq!(batch, &posted[0].1);
    }
    let pauses: Vec<Duration> = posted[..11].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    for (n, pause) in (0..).zip(&pauses) {
        let longest = FIRST_PAUSE.saturating_mul(1 << n).min(LONGEST_PAUSE);
        assert!((longest / 2..=longest + Duration::from_millis(2)).contains(pause), "pause {n}: {pause:?}");
    }
    assert_eq!((counts.delivered.get(), counts.rejected.get()), (600, 0));
}

#[tokio::test(start_paused = true)]
async fn batch_that_the_hook_will_never_take_is_counted_and_the_next_one_goes_on() {
    let (posted, counts) = post(501, vec![Called::Refused(400)]).await;
    assert_eq!(posted.len(), 2);
    assert_eq!((counts.delivered.get(), counts.rejected.get()), (1, 500));
}
